"""Settings that decide what a build writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from pipelines.build_shards.encoding import Encoding
from pipelines.build_shards.exclusions import Exclusions
from pipelines.build_shards.filters import Filters
from pipelines.sources.record import redacted
from schemas.training import SCHEMA_VERSION

PARTITION_BYTES = 16 * 2**20
MOST_PARTITIONS = 1024


class Source(str, Enum):
    """Format of the records; see `pipelines.sources`."""

    MP16 = "mp16"
    YFCC100M = "yfcc100m"
    WEBDATASET = "webdataset"


class Route(str, Enum):
    """Way from a record to its image."""

    FOLDER = "folder"  # ROOT/IMG_ID
    HASH = "hash"  # ROOT/HHH/HHH/HASH.jpg
    MESSAGES = "messages"  # by an index of msgpack shards
    TARS = "tars"  # by an index of plain tars
    DOWNLOAD = "download"  # by a list of addresses, or the row's own
    TAR = "tar"  # beside the metadata


@dataclass(frozen=True)
class InputFile:
    """A file of metadata.

    Attributes:
        url: Path or URL of the file.
        bytes: Size in bytes, by which a resumed build notices another file.
    """

    url: str
    bytes: int | None

    @property
    def name(self) -> str:
        """Last part of the URL."""
        url = redacted(self.url) if self.url.startswith(("http://", "https://")) else self.url
        return url.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Inputs:
    """Files that are read.

    Attributes:
        source: Format of the records.
        route: Way to the images.
        metadata: Lists of records, or tars.
        links: Lists that tell where the image of a photo is: hashes, addresses, msgpack shards.
        root: Root of the images; empty where they have none in common.
    """

    source: Source
    route: Route
    metadata: tuple[InputFile, ...]
    links: tuple[InputFile, ...] = ()
    root: str = ""


@dataclass(frozen=True)
class Rules:
    """Rules that decide which photos are kept, and how.

    Attributes:
        filters: Rules on one record.
        encoding: Settings of the stored photos.
        author_cap: Most photos per photographer; 0 means any number.
        cell_cap: Most photos per cell; 0 means any number.
        cell_degrees: Size of the cells in degrees.
        val_fraction: Fraction of the photographers whose photos are for validation.
        shard_size: Approximate number of photos per shard.
        encoder: Name of the encoder whose embeddings are stored beside the photos, or None.
        seed: Seed of all random choices.
        hash_keys: Whether the keys in the shards are hashes of the names.
    """

    filters: Filters = field(default_factory=Filters)
    encoding: Encoding = field(default_factory=Encoding)
    author_cap: int = 0
    cell_cap: int = 0
    cell_degrees: float = 0.25
    val_fraction: float = 0.02
    shard_size: int = 4000
    encoder: str | None = None
    seed: int = 0
    hash_keys: bool = False


@dataclass(frozen=True)
class Settings:
    """Settings of a build.

    Attributes:
        inputs: Files that are read.
        rules: Rules that decide what is kept.
        exclusions: Lists of what must not be learnt.
    """

    inputs: Inputs
    rules: Rules = field(default_factory=Rules)
    exclusions: Exclusions = field(default_factory=Exclusions)

    @property
    def partitions(self) -> int:
        """Number of parts of the records, each of which fits into memory."""
        most = max(_total(self.inputs.metadata), _total(self.inputs.links))
        if self.inputs.route in (Route.TAR, Route.MESSAGES, Route.TARS):
            most //= 100  # pixels
        return max(1, min(MOST_PARTITIONS, -(-most // PARTITION_BYTES)))

    def to_dict(self) -> dict[str, Any]:
        """Returns what decides the bytes of a build, without places on a disk, for run.json."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "source": self.inputs.source.value,
            "route": self.inputs.route.value,
            "metadata": _names(self.inputs.metadata),
            "links": _names(self.inputs.links),
            "exclude": [
                {
                    "name": one.name,
                    "sha256": one.sha256,
                    "photos": len(one.ids),
                    "authors": len(one.authors),
                }
                for one in self.exclusions.lists
            ],
            **asdict(self.rules),
        }
        if self.rules.encoder:
            document["encoder"] = redacted(self.rules.encoder)
        plain: dict[str, Any] = json.loads(json.dumps(document))
        return plain

    @property
    def hash(self) -> str:
        """SHA-256 of the settings, by which a resumed build knows its own files."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def _total(files: Sequence[InputFile]) -> int:
    return sum((file.bytes or 0) * (5 if file.url.endswith(".bz2") else 1) for file in files)


def _names(files: Sequence[InputFile]) -> list[list[object]]:
    return [[file.name, file.bytes] for file in files]

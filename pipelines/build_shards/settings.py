"""Everything that decides what a build writes."""

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
from schemas.training import SCHEMA_VERSION


class Source(str, Enum):
    """Where records come from; see `pipelines.sources`."""

    MP16 = "mp16"
    YFCC100M = "yfcc100m"
    WEBDATASET = "webdataset"


class Route(str, Enum):
    """How the image of a record is found."""

    FOLDER = "folder"  # ROOT/IMG_ID
    HASH = "hash"  # ROOT/HHH/HHH/HASH.jpg
    MESSAGES = "messages"  # by an index of msgpack shards
    DOWNLOAD = "download"  # by a list of addresses, or the row's own
    TAR = "tar"  # beside the metadata


@dataclass(frozen=True)
class InputFile:
    """A file of metadata.

    Attributes:
        url: Where it lies.
        bytes: Its size, by which a resumed build notices another one.
    """

    url: str
    bytes: int | None

    @property
    def name(self) -> str:
        """The last part of its URL."""
        return self.url.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Inputs:
    """What is read.

    Attributes:
        source: Of the records.
        route: To their images.
        metadata: Lists of records, or tars.
        links: Lists that tell where the image of a photo is: hashes, addresses, msgpack shards.
        root: Of the images; empty where they have none in common.
    """

    source: Source
    route: Route
    metadata: tuple[InputFile, ...]
    links: tuple[InputFile, ...] = ()
    root: str = ""


@dataclass(frozen=True)
class Rules:
    """What is kept, and as what.

    Attributes:
        filters: On one record.
        encoding: Of the photos.
        author_cap, cell_cap: Most photos per photographer and per cell; 0: any number.
        cell_degrees: Size of the cells.
        val_fraction: Of the photographers, whose photos are for validation.
        shard_size: Photos per shard, about.
        encoder: Whose embeddings are stored beside the photos, or None.
        seed: Of everything that is left to chance.
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


@dataclass(frozen=True)
class Settings:
    """A build.

    Attributes:
        inputs: What is read.
        rules: What is kept.
        exclusions: Lists of what must not be learnt.
    """

    inputs: Inputs
    rules: Rules = field(default_factory=Rules)
    exclusions: Exclusions = field(default_factory=Exclusions)

    @property
    def partitions(self) -> int:
        """In how many parts the records are looked at; each fits into memory."""
        return partitions(self.inputs)

    def to_dict(self) -> dict[str, Any]:
        """For run.json: all that decides bytes, as it comes back from JSON; no place on a disk."""
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
        plain: dict[str, Any] = json.loads(json.dumps(document))
        return plain

    @property
    def hash(self) -> str:
        """SHA-256 by which a resumed build knows its own."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


PARTITION_BYTES = 16 * 2**20
MOST_PARTITIONS = 1024


def partitions(inputs: Inputs) -> int:
    """See `Settings.partitions`; follows from the input alone, so that file names do, too."""
    most = max(_total(inputs.metadata), _total(inputs.links))
    if inputs.route in (Route.TAR, Route.MESSAGES):
        most //= 100  # pixels
    return max(1, min(MOST_PARTITIONS, -(-most // PARTITION_BYTES)))


def _total(files: Sequence[InputFile]) -> int:
    return sum((file.bytes or 0) * (5 if file.url.endswith(".bz2") else 1) for file in files)


def _names(files: Sequence[InputFile]) -> list[list[object]]:
    return [[file.name, file.bytes] for file in files]

"""Names and fields of manifests. The name alone tells whether a shard is finished as it is now.

    <shard>.<mark>.json             done
    <shard>.<mark>-<formats>.json   done, but photos in it have no reader among these formats
    <shard>.<mark>-unread.json      not all of it could be read

A mark is a digest of the configuration and of the shard's version. One listing therefore tells what
is left to do, and a manifest is read only where its name leaves a question.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from locdiffusion.photos.tar import TarStatus
from pipelines.geotag.tables import FAILED, LAYERS
from schemas.geotags import Status

SURPRISES = ("not_understood", "estimates", "unfamiliar")
"""Counts that older manifests may lack: documents that are not understood, photos with a position
of ours, and those that are unlike the photos that the checkpoint is for."""
COUNTS = ("photos", "predictions", "photo_errors", "shard_errors")
MOST_COUNT = 2**80
"""A number that no count of ours reaches, not even a sum of some."""
UNREAD = "unread"
_STATUSES, _TAR_STATUSES = ({one.value for one in kind} for kind in (Status, TarStatus))
_NAME = re.compile(rf"(.+)\.([0-9a-f]{{16}})(?:-({UNREAD}|[0-9a-f]{{8}}))?\.json", re.DOTALL)


class ManifestName(NamedTuple):
    """What the name of a manifest says.

    Attributes:
        shard: Id of the shard.
        mark: Digest of configuration and version; empty in a name that no run of ours gave.
        state: Empty if the shard is done; UNREAD; or `formats_digest`.
    """

    shard: str
    mark: str = ""
    state: str = ""

    @classmethod
    def parse(cls, file: str) -> ManifestName:
        """Reads the name of a file that ends in `.json`."""
        match = _NAME.fullmatch(file)
        return cls(*match.groups(default="")) if match else cls(file.removesuffix(".json"))

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> ManifestName:
        """Makes the name of a manifest from its fields."""
        state = UNREAD if manifest["read_failed"] else ""
        if not state and Status.NO_READER.value in manifest["errors_by_status"]:
            state = formats_digest(manifest["readable_formats"])
        mark = manifest_mark(manifest["config_hash"], manifest["version"])
        return cls(manifest["shard"], mark, state)

    @property
    def file(self) -> str:
        """Name of the file."""
        return ".".join(filter(None, [self.shard, "-".join(filter(None, self[1:])), "json"]))

    @property
    def rank(self) -> tuple[bool, bool]:
        """Order of several manifests of one shard: the least one counts."""
        return self.state == UNREAD, self.state != ""


def first_of_each(names: Iterable[ManifestName]) -> dict[str, ManifestName]:
    """Returns the manifest that counts of each shard: a bundle that ran twice may leave two."""
    found: dict[str, ManifestName] = {}
    for name in sorted(names, key=lambda name: (name.shard, name.rank)):
        found.setdefault(name.shard, name)
    return found


def manifest_mark(config_hash: str, version: str) -> str:
    """Computes the 16 hexadecimal digits of a configuration and a shard's version."""
    return hashlib.sha256(f"{config_hash}\n{version}".encode()).hexdigest()[:16]


def formats_digest(formats: Iterable[str]) -> str:
    """Computes 8 hexadecimal digits of the formats that could be read."""
    return hashlib.sha256("\n".join(sorted(formats)).encode()).hexdigest()[:8]


def as_manifest(document: Mapping[str, Any] | None, shard_id: str) -> dict[str, Any] | None:
    """Returns a document if it is the manifest of this shard, with every field that is read.

    Older versions lack some of them.
    """
    left_out = (document or {}).get("left_out", {})
    if document is None or document.get("shard") != shard_id or not isinstance(left_out, dict):
        return None
    tables = [
        document.get("errors_by_status"),
        document.get("layers", {}),
        left_out.get("by_kind", {}),
        *(document.get(name, {}) for name in FAILED),
    ]
    lists = [
        left_out.get("named", []),
        *(document.get(name, []) for name in ("problems", "readable_formats")),
        [document.get(name) for name in ("source", "tar_status")],
        [document.get(name, "") for name in ("tar_message", "version", "config_hash")],
    ]
    if not all(map(is_counts, tables)) or not all(map(is_texts, lists)):
        return None
    counts = [document.get(name) for name in COUNTS]
    counts += [document.get(name, 0) for name in SURPRISES]
    named = _STATUSES.issuperset(tables[0] or ()) and set(LAYERS).issuperset(tables[1] or ())
    named = named and document["tar_status"] in _TAR_STATUSES
    return dict(document) if named and all(map(is_count, counts)) else None


def is_counts(value: object) -> bool:
    """Whether a value of JSON is a table of counts."""
    return isinstance(value, dict) and all(map(is_count, value.values()))


def is_count(value: object) -> bool:
    """Whether a value of JSON is a count."""
    return type(value) is int and 0 <= value < MOST_COUNT


def is_texts(value: object) -> bool:
    """Whether a value of JSON is a list of texts."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)

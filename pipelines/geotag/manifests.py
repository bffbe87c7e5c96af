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

from pipelines.geotag.tables import FAILED
from schemas.geotags import Status

SURPRISES = ("not_understood", "estimates", "unfamiliar")
"""Counts that older manifests may lack: documents that are not understood, photos with a position
of ours, and those that are unlike the photos that the checkpoint is for."""
COUNTS = ("photos", "predictions", "photo_errors", "shard_errors")
UNREAD = "unread"
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


def is_manifest(document: Mapping[str, Any], shard_id: str) -> bool:
    """Returns whether a document is the manifest of this shard, with every field that is read."""
    left_out = document.get("left_out", {})
    tables = [
        document.get("errors_by_status"),
        left_out.get("by_kind", {}) if isinstance(left_out, dict) else None,
        document.get("layers", {}),  # older versions have none
        *(document.get(name, {}) for name in FAILED),
    ]
    if document.get("shard") != shard_id or not all(isinstance(table, dict) for table in tables):
        return False
    counts = [document.get(name) for name in COUNTS]
    counts += [document.get(name, 0) for name in SURPRISES]
    counts += [count for table in tables if table for count in table.values()]
    texts = [document.get(name) for name in ("source", "tar_status")]
    return all(isinstance(count, int) and count >= 0 for count in counts) and all(
        isinstance(text, str) for text in texts
    )

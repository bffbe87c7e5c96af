"""The output directory of a geotag run: Parquet files and a manifest for each shard.

    predictions/part-<shard>.parquet    GeoParquet, also where there is no row
    errors/part-<shard>.parquet
    regions/ thumbnails/                likewise, if they were asked for
    _manifest/<shard>.json              written last: a shard without one is not done
    _attempts/<shard>.json              only while the shard is in work, see `attempts`
    run.json                            written first: the configuration of the run
    summary.json, `PAGES`               written by `pipelines.geotag` after the job

The bytes depend only on the photos, the model and the settings, not on the time, the path of the
output or the order of arrival. (Another batch size may change the last bits of a real network.)
Knows no Beam.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from locdiffusion.photos.image_formats import readable_formats
from locdiffusion.photos.left_out import MOST_NAMED
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.names import is_archive
from locdiffusion.photos.storage import exists
from locdiffusion.photos.tar import TarStatus
from pipelines.geotag.batches import PhotoBatch, ShardEnding
from pipelines.geotag.tables import (
    FAILED,
    LAYERS,
    PREDICTIONS,
    Extras,
    ShardTables,
    parquet_bytes,
    shard_tables,
)
from pipelines.writing.directory import MANIFESTS, SUMMARY, OutputDirectory, OutputError, to_json
from schemas.geotags import SCHEMA_VERSION, ErrorRow, Status

ATTEMPTS = "_attempts"
MAP_PNG, MAP_HTML, REPORT_HTML = "map.png", "map.html", "report.html"
PAGES = (MAP_PNG, MAP_HTML, REPORT_HTML)
_QUOTED = re.compile(r"""\bb(['"])(?:\\.|(?!\1).)*(?:\1|$)""", re.DOTALL)
"""Bytes in a message, as Python writes them."""
COUNTS = ("photos", "predictions", "photo_errors", "shard_errors")


@dataclass(frozen=True)
class RunConfiguration:
    """Everything but the photos that decides what a prediction is.

    Attributes:
        model_id: Name of the model, in every row.
        checkpoint_hash: SHA-256 of the checkpoint's files.
        seed: Seed of the run.
        settings: Further settings, JSON-able: encoder, mode, samples, steps, ...
    """

    model_id: str
    checkpoint_hash: str
    seed: int
    settings: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The configuration as read from run.json: lists for tuples, strings for enums."""
        document = {
            "model_id": self.model_id,
            "checkpoint_hash": self.checkpoint_hash,
            "seed": self.seed,
            "schema_version": SCHEMA_VERSION,
            **self.settings,
        }
        plain: dict[str, Any] = json.loads(to_json(document))
        return plain

    @property
    def hash(self) -> str:
        """SHA-256 by which a resumed run recognises its own shards."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Output(OutputDirectory):
    """The output directory of a geotag run."""

    FOLDERS: ClassVar[Mapping[str, str]] = {
        MANIFESTS: "*.json",
        ATTEMPTS: "*.json",
        **dict.fromkeys(LAYERS, "part-*.parquet"),
    }
    FILES: ClassVar[tuple[str, ...]] = (SUMMARY, *PAGES)

    def part(self, layer: str, shard_id: str) -> str:
        """Path of a shard's file in a layer."""
        return self.path(layer, f"part-{shard_id}.parquet")

    def prepare(
        self,
        configuration: RunConfiguration,
        shards: Sequence[Shard],
        overwrite: bool = False,
        retry_failed: bool = False,
    ) -> dict[str, int]:
        """Makes the directory this run's own, keeping the shards that the same run finished.

        Removed are groups of folders that are grouped otherwise now, shards that are gone, and
        what a stopped run left.

        Args:
            configuration: What decides the rows.
            shards: Shards of the run.
            overwrite: Whether to delete first what earlier runs wrote here.
            retry_failed: Whether shards with photos among the errors are done again.

        Returns:
            Number of photos of each source that is gone.

        Raises:
            OutputError: The directory holds another run, files of somebody else, or the photos
                of a folder in which one of these folders lies.
        """
        gone: dict[str, int] = {}
        if self.claim(configuration.to_dict(), overwrite):
            gone = self._remove_stale(shards, retry_failed)
            self._remove_notes(shards, retry_failed)
            for layer, name in self.orphans(self.manifest_names()):  # a stopped run left these
                self.remove(layer, name)
        return gone

    def finished(self, shard: Shard, configuration: RunConfiguration) -> bool:
        """Whether a run with this configuration has written the shard before."""
        manifest = self.manifest(shard.id)
        return (
            manifest is not None
            and _is_current(manifest, shard, configuration)
            and all(self.exists(layer, f"part-{shard.id}.parquet") for layer in manifest["layers"])
        )

    def photos_kept(self, shards: Sequence[Shard], configuration: RunConfiguration) -> int:
        """Number of photos that are here already and that a run over these shards keeps."""
        shard_of = {shard.id: shard for shard in shards}
        return sum(
            manifest["photos"]
            for manifest in self.manifests()
            if (shard := shard_of.get(manifest["shard"])) is None
            or _is_current(manifest, shard, configuration)
        )

    def manifest(self, name: str) -> dict[str, Any] | None:
        """The manifest of a shard; None if there is none, or it is not what was written there."""
        document = super().manifest(name)
        return document if document and _is_manifest(document, name) else None

    def orphans(self, done: Collection[str]) -> list[tuple[str, str]]:
        """Layer and name of each part of a shard other than these."""
        known = {f"part-{shard}.parquet" for shard in done}
        return [
            (layer, name)
            for layer in LAYERS
            for name in self.names(layer, self.FOLDERS[layer])
            if name not in known
        ]

    def _refuse_other(self, earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        version = earlier.get("schema_version")
        if version != SCHEMA_VERSION:
            raise OutputError(
                f"--output {self.root} holds files of schema version {version}, and this release "
                f"writes version {SCHEMA_VERSION}, with other columns; choose another --output, or "
                "start anew here with --overwrite"
            )
        super()._refuse_other(earlier, settings)

    def _remove_stale(self, shards: Sequence[Shard], retry_failed: bool) -> dict[str, int]:
        """Deletes manifests of what is gone, grouped otherwise or to be tried again.

        Raises:
            OutputError: Photos of a folder are here already, as photos of a folder around it.
        """
        folders = {_real(shard.folder) for shard in shards if shard.photos}  # that can be listed
        around = {above: folder for folder in folders for above in _with_those_around(folder)}
        current = {shard.id for shard in shards}
        asked = {_host(shard.url) for shard in shards}
        gone: dict[str, int] = {}
        stale = []

        @functools.cache
        def replaced(folder: str) -> bool:
            """Whether photos of a folder come again, as those of one of these folders."""
            if folder in folders or folders.isdisjoint(_with_those_around(folder)):
                return folder in folders
            return any(
                f"{root}/{photo.path}".startswith(f"{folder}/")
                for shard in shards
                for root in (_real(shard.folder),)
                for photo in shard.photos
            )

        for manifest in list(self.manifests()):
            source, known = manifest["source"], manifest["shard"] in current
            folder = "" if is_archive(source) else source.rpartition("#")[0]
            unread = manifest["tar_status"] == TarStatus.UNREADABLE.value
            if known and not (retry_failed and (manifest["photo_errors"] or unread)):
                continue
            if not known and not replaced(_real(folder)):
                if _host(source) not in asked | {""} or _is_there(source):
                    if inner := around.get(_real(folder)):
                        raise OutputError(
                            f"--output {self.root} holds the photos of {folder}, and would hold "
                            f"those of {inner} twice; give {folder} again, or another --output"
                        )
                    continue
                gone[folder or source] = gone.get(folder or source, 0) + manifest["photos"]
            stale.append(manifest["shard"])
        for shard in stale:
            self.remove(MANIFESTS, f"{shard}.json")
        return gone

    def _remove_notes(self, shards: Sequence[Shard], retry_failed: bool) -> None:
        """Deletes notes of attempts, but those on shards of this run that are not done."""
        open_shards = {shard.id for shard in shards}.difference(self.manifest_names())
        for name in self.names(ATTEMPTS, self.FOLDERS[ATTEMPTS]):
            if retry_failed or name.removesuffix(".json") not in open_shards:
                self.remove(ATTEMPTS, name)

    def not_in(self, shards: Sequence[Shard]) -> list[dict[str, Any]]:
        """Returns the manifests of shards that are not among these."""
        others = set(self.manifest_names()).difference(shard.id for shard in shards)
        found = (self.manifest(name) for name in sorted(others))
        return [manifest for manifest in found if manifest is not None]


def write_shard(
    output: Output,
    configuration: RunConfiguration,
    batches: Sequence[PhotoBatch],
    extras: Extras | None = None,
) -> dict[str, Any]:
    """Writes one shard from all its decoded batches, in any order; returns its manifest.

    The manifest is written last, after the file of each layer.
    """
    if configuration.settings.get("no_positions", False):
        batches = [_without_quotes(batch) for batch in batches]
    last = max(batches, key=lambda batch: batch.index)
    shard, ending = last.shard, last.ending
    assert ending is not None and len(batches) == ending.batches, "batches of a shard are missing"
    made = shard_tables(configuration.model_id, batches, extras or Extras())
    errors = [error for batch in batches for error in batch.errors]
    manifest = _manifest(configuration, shard, ending, made, errors)
    metadata = {
        b"schema_version": SCHEMA_VERSION.encode(),
        b"config": to_json(configuration.to_dict()),
        b"checkpoint_hash": configuration.checkpoint_hash.encode(),
        b"seed": str(configuration.seed).encode(),
    }
    for layer, table in made.tables.items():
        data = parquet_bytes(layer, table, metadata)
        output.write(layer, f"part-{shard.id}.parquet", data=data)
    output.write(MANIFESTS, f"{shard.id}.json", data=to_json(manifest))
    return manifest


def _without_quotes(batch: PhotoBatch) -> PhotoBatch:
    """Leaves out the bytes that messages quote: a document may be called like a photo or a tar."""
    errors = (e._replace(message=_QUOTED.sub("…", e.message)) for e in batch.errors)
    ending = batch.ending
    if ending is not None:
        ending = replace(ending, tar_message=_QUOTED.sub("…", ending.tar_message))
    return replace(batch, errors=tuple(errors), ending=ending)


def _manifest(
    configuration: RunConfiguration,
    shard: Shard,
    ending: ShardEnding,
    made: ShardTables,
    errors: Sequence[ErrorRow],
) -> dict[str, Any]:
    predictions = made.tables[PREDICTIONS].num_rows
    photo_errors = Counter(row.status.value for row in errors if not row.status.of_shard)
    shard_errors = Counter(row.status.value for row in errors if row.status.of_shard)
    assert ending.photos == predictions + photo_errors.total(), (
        f"shard {shard.id}: {ending.photos} photos came in, {predictions} predictions and "
        f"{photo_errors.total()} errors came out"
    )
    without = configuration.settings.get("no_positions", False)
    return {
        "shard": shard.id,
        "source": shard.url,
        "version": ending.version,
        "tar_status": ending.tar_status.value,
        "tar_message": ending.tar_message,
        "read_failed": ending.read_failed,
        "left_out": ending.left_out.to_dict(),
        "not_understood": len(ending.problems),
        # Their texts quote what stands in the documents.
        "problems": [] if without else list(ending.problems[:MOST_NAMED]),
        "estimates": made.estimates,
        "photos": ending.photos,
        "predictions": predictions,
        "photo_errors": photo_errors.total(),
        "shard_errors": shard_errors.total(),
        "errors_by_status": dict(sorted((photo_errors + shard_errors).items())),
        "layers": {layer: table.num_rows for layer, table in made.tables.items()},
        **made.failed,
        "config_hash": configuration.hash,
        "schema_version": SCHEMA_VERSION,
        "readable_formats": list(readable_formats()),
        "versions": {name: importlib.metadata.version(name) for name in ("pillow", "pyarrow")},
    }


def _is_current(manifest: Mapping[str, Any], shard: Shard, configuration: RunConfiguration) -> bool:
    """Whether a manifest describes the shard as it is now, done with this configuration."""
    return (
        not manifest.get("read_failed")
        and manifest.get("config_hash") == configuration.hash
        and manifest.get("version") == shard.version
        and not (
            Status.NO_READER.value in manifest["errors_by_status"]
            and set(readable_formats()).difference(manifest.get("readable_formats", ()))
        )
    )


def _real(folder: str | None) -> str:
    """One spelling for a folder, without links."""
    return os.path.realpath(folder) if folder and "://" not in folder else folder or ""


def _host(url: str) -> str:
    """Protocol and host or bucket of a URL, empty for a path: a manifest sends no run to others."""
    return "/".join(url.split("/")[:3]) if "://" in url else ""


def _with_those_around(folder: str) -> Iterator[str]:
    """Yields a folder, and all folders in which it lies; nothing for no folder."""
    while folder.strip("/"):
        yield folder
        folder = folder.rpartition("/")[0]


def _is_there(source: str) -> bool:
    """Whether a tar or the folder of a group still exists; True where nobody can say.

    On a disk that is not mounted nothing is left around it either: that is not gone.
    """
    places = [place for place in (source, source.rpartition("#")[0]) if place]
    try:
        found = any(exists(place) for place in places)
        return found or ("://" not in source and not os.listdir(os.path.dirname(places[-1])))
    except Exception:  # each file system has its own
        return True


def _is_manifest(document: Mapping[str, Any], shard_id: str) -> bool:
    """Whether a document is the manifest of this shard, with every field that is read."""
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
    counts += [document.get(name, 0) for name in ("not_understood", "estimates")]
    counts += [count for table in tables if table for count in table.values()]
    texts = [document.get(name) for name in ("source", "tar_status")]
    return all(isinstance(count, int) and count >= 0 for count in counts) and all(
        isinstance(text, str) for text in texts
    )

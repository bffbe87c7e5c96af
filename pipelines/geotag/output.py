"""The output directory: per shard its Parquet files, then the manifest that declares them done.

    predictions/part-<shard>.parquet    GeoParquet, also where there is no row
    errors/part-<shard>.parquet
    regions/ thumbnails/                the same, if they were asked for
    _manifest/<shard>.json              written last: a shard without one is not done
    run.json                            written first: whose directory this is
    summary.json, `PAGES`               written by `pipelines.geotag` after the job

Bytes depend on the photos, the model and the settings, and on nothing else: no time, no path of
the output, no order of arrival. (Another batch size may move a real network's last bits.) Each file
appears whole or not at all. Knows no Beam.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fsspec

from locdiffusion.files import LEFT_OVER, write_atomically
from locdiffusion.photos.listing import Shard
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
from schemas.geotags import SCHEMA_VERSION, ErrorRow

MANIFESTS = "_manifest"
RUN, SUMMARY = "run.json", "summary.json"
MAP_PNG, MAP_HTML, REPORT_HTML = "map.png", "map.html", "report.html"
PAGES = (MAP_PNG, MAP_HTML, REPORT_HTML)
COUNTS = ("photos", "predictions", "photo_errors", "shard_errors")
READERS = 16
"""Threads that read small files: from a cloud storage one after the other would take too long."""


class OutputError(ValueError):
    """The output directory belongs to something else; the message names the remedy."""


@dataclass(frozen=True)
class RunConfiguration:
    """Everything but the photos that decides what a prediction is.

    Attributes:
        model_id: Name of the model, in every row.
        checkpoint_hash: Of the weights.
        seed: Of the run.
        settings: JSON-able, for example encoder, mode, samples and steps.
    """

    model_id: str
    checkpoint_hash: str
    seed: int
    settings: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As it comes back from run.json: with lists for tuples and strings for enums."""
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
        """SHA-256 by which a resumed run knows its own."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Output:
    """An output directory, local or wherever fsspec can write.

    Attributes:
        root: Path or URL.
    """

    root: str

    def path(self, *names: str) -> str:
        """Joins names to the root."""
        return "/".join([self.root.rstrip("/"), *names])

    def part(self, layer: str, shard_id: str) -> str:
        """Path of a shard's file in a layer."""
        return self.path(layer, f"part-{shard_id}.parquet")

    def prepare(
        self, configuration: RunConfiguration, shards: Sequence[Shard], overwrite: bool = False
    ) -> None:
        """Makes the directory this run's own, keeping the shards that the same run finished.

        Args:
            configuration: Of this run.
            shards: Its input.
            overwrite: Whether to delete first what earlier runs of this command wrote here.

        Raises:
            OutputError: If the directory holds another run, or files of somebody else.
        """
        run = self.read_json(self.path(RUN))
        if run is None:
            self._refuse_foreign()
        elif overwrite:
            self._clear()
        else:
            self._refuse_other_run(run, configuration, shards)
            self._remove_stale_groups(shards)
            self._remove_unfinished()
        self._remove_temporary()
        self.write(RUN, data=to_json(configuration.to_dict()))

    def finished(self, shard: Shard, configuration: RunConfiguration) -> bool:
        """Whether this run, configured alike, has written the shard before."""
        manifest = self.manifest(shard.id)
        filesystem, _ = fsspec.core.url_to_fs(self.root)
        return (
            manifest is not None
            and _is_current(manifest, shard, configuration)
            and all(filesystem.exists(self.part(layer, shard.id)) for layer in manifest["layers"])
        )

    def photos_kept(self, shards: Sequence[Shard], configuration: RunConfiguration) -> int:
        """How many photos are here that a run over these shards will not do again."""
        shard_of = {shard.id: shard for shard in shards}
        return sum(
            manifest["photos"]
            for manifest in self.manifests()
            if (shard := shard_of.get(manifest["shard"])) is None
            or _is_current(manifest, shard, configuration)
        )

    def finished_shards(self) -> list[str]:
        """Ids of all shards that have a manifest, sound or not, in order."""
        paths = self._glob(MANIFESTS, "*.json")
        return [path.rpartition("/")[2].removesuffix(".json") for path in paths]

    def manifest(self, shard_id: str) -> dict[str, Any] | None:
        """Of one shard; None if there is none, or it is not what was written there."""
        document = self.read_json(self.path(MANIFESTS, f"{shard_id}.json"))
        return document if document and _is_manifest(document, shard_id) else None

    def manifests(self) -> Iterator[dict[str, Any]]:
        """The manifests of all finished shards, in order of their names."""
        with ThreadPoolExecutor(READERS) as pool:
            for manifest in pool.map(self.manifest, self.finished_shards()):
                if manifest is not None:
                    yield manifest

    def orphans(self, done: Collection[str]) -> list[str]:
        """Parts of shards other than these."""
        known = set(done)
        return [
            path
            for folder in LAYERS
            for path in self._glob(folder, "part-*.parquet")
            if path.rpartition("/part-")[2].removesuffix(".parquet") not in known
        ]

    def read_json(self, path: str) -> dict[str, Any] | None:
        """A JSON object, or None if there is no such file or it holds something else."""
        try:
            filesystem, name = fsspec.core.url_to_fs(path)
            document = json.loads(filesystem.cat_file(name))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    def write(self, *names: str, data: bytes) -> None:
        """Writes a file that appears whole or not at all."""
        write_atomically(self.path(*names), data)

    def _glob(self, folder: str, pattern: str) -> list[str]:
        filesystem, path = fsspec.core.url_to_fs(self.path(folder).rstrip("/"))
        filesystem.invalidate_cache()  # workers write behind the launcher's back
        names = filesystem.glob(f"{_escape(path)}/{pattern}")
        return sorted(filesystem.unstrip_protocol(name) for name in names)

    def _remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            filesystem, name = fsspec.core.url_to_fs(path)
            if filesystem.exists(name):
                filesystem.rm_file(name)

    def _refuse_foreign(self) -> None:
        filesystem, path = fsspec.core.url_to_fs(self.root)
        if filesystem.isfile(path):
            raise OutputError(f"--output {self.root} is a file, wanted a directory to create")
        ours = (*LAYERS, MANIFESTS, SUMMARY, *PAGES)
        found = [name for name in ours if filesystem.exists(f"{path}/{name}")]
        if found:
            raise OutputError(
                f"--output {self.root} already holds {', '.join(found)} but no {RUN}, so this "
                "command did not write it; choose another --output"
            )

    def _refuse_other_run(
        self, run: Mapping[str, Any], configuration: RunConfiguration, shards: Sequence[Shard]
    ) -> None:
        remedy = "choose another --output, or start anew here with --overwrite"
        wanted = configuration.to_dict()
        version = run.get("schema_version")
        if version != SCHEMA_VERSION:
            raise OutputError(
                f"--output {self.root} holds files of schema version {version}, and this release "
                f"writes version {SCHEMA_VERSION}, with other columns; {remedy}"
            )
        different = [
            f"{name} {run.get(name)!r} there, {wanted.get(name)!r} now"
            for name in sorted({*run, *wanted})
            if run.get(name) != wanted.get(name)
        ]
        if different:
            raise OutputError(
                f"--output {self.root} holds another run: {'; '.join(different)}; {remedy}"
            )
        sources = {manifest["shard"]: manifest["source"] for manifest in self.manifests()}
        for shard in shards:
            source = sources.get(shard.id, shard.url)
            if source != shard.url:
                raise OutputError(
                    f"--output {self.root} holds another run: its shard {shard.id!r} came from "
                    f"{source}, now it is {shard.url}; {remedy}"
                )

    def _remove_stale_groups(self, shards: Sequence[Shard]) -> None:
        """Forgets groups of photos in these folders that are grouped otherwise now."""
        folders = {shard.folder for shard in shards if shard.folder is not None}
        current = {shard.id for shard in shards}
        self._remove(
            self.path(MANIFESTS, f"{manifest['shard']}.json")
            for manifest in list(self.manifests())
            if manifest["source"].rpartition("#")[0] in folders and manifest["shard"] not in current
        )

    def _remove_unfinished(self) -> None:
        """Deletes what a stopped run left: parts without a manifest."""
        self._remove(self.orphans(self.finished_shards()))

    def _remove_temporary(self) -> None:
        """Deletes the files that a killed run was just writing."""
        for folder in ("", *LAYERS, MANIFESTS):
            self._remove(self._glob(folder, LEFT_OVER))

    def _clear(self) -> None:
        """Deletes our own files and no others; run.json stays, to be replaced."""
        self._remove(self._glob(MANIFESTS, "*.json"))  # first: nothing may look finished
        self._remove_unfinished()
        self._remove(self.path(name) for name in (SUMMARY, *PAGES))


def write_shard(
    output: Output,
    configuration: RunConfiguration,
    batches: Sequence[PhotoBatch],
    extras: Extras | None = None,
) -> dict[str, Any]:
    """Writes one shard: its layers, then the manifest.

    Args:
        output: Where to.
        configuration: Of the run.
        batches: All of one shard, in any order, decoded.
        extras: What else is wanted; None for nothing.

    Returns:
        The manifest.
    """
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
    return {
        "shard": shard.id,
        "source": shard.url,
        "source_bytes": ending.source_bytes,
        "tar_status": ending.tar_status.value,
        "tar_message": ending.tar_message,
        "read_failed": ending.read_failed,
        "ignored_members": ending.ignored_members,
        "photos": ending.photos,
        "predictions": predictions,
        "photo_errors": photo_errors.total(),
        "shard_errors": shard_errors.total(),
        "errors_by_status": dict(sorted((photo_errors + shard_errors).items())),
        "layers": {layer: table.num_rows for layer, table in made.tables.items()},
        **made.failed,
        "config_hash": configuration.hash,
        "schema_version": SCHEMA_VERSION,
        "versions": {name: importlib.metadata.version(name) for name in ("pillow", "pyarrow")},
    }


def _is_current(manifest: Mapping[str, Any], shard: Shard, configuration: RunConfiguration) -> bool:
    """Whether it tells of the shard as it is now, done by such a run."""
    return (
        not manifest.get("read_failed")
        and manifest.get("config_hash") == configuration.hash
        and manifest["source"] == shard.url
        and manifest.get("source_bytes") == shard.bytes
    )


def _is_manifest(document: Mapping[str, Any], shard_id: str) -> bool:
    """Whether it is this shard's, with every field that is read again."""
    tables = [
        document.get("errors_by_status"),
        document.get("layers", {}),  # older versions have none
        *(document.get(name, {}) for name in FAILED),
    ]
    if document.get("shard") != shard_id or not all(isinstance(table, dict) for table in tables):
        return False
    counts = [document.get(name) for name in COUNTS]
    counts += [count for table in tables if table for count in table.values()]
    texts = [document.get(name) for name in ("source", "tar_status")]
    return all(isinstance(count, int) and count >= 0 for count in counts) and all(
        isinstance(text, str) for text in texts
    )


def to_json(document: Mapping[str, Any]) -> bytes:
    """An object as indented JSON, keys in their own order."""
    return (json.dumps(document, indent=1) + "\n").encode()


def _escape(path: str) -> str:
    """A path whose own brackets and stars mean themselves in a glob."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)

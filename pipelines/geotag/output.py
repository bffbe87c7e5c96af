"""The output directory of a geotag run: Parquet files and a manifest for each shard.

    predictions/part-<shard>.parquet    GeoParquet, also where there is no row
    errors/part-<shard>.parquet
    regions/ thumbnails/                likewise, if they were asked for
    _manifest/<shard>.<mark>.json       written last: a shard without one is not done
    _attempts/<shard>.json              only while the shard is in work, see `attempts`
    _retries/<shard>.json               its manifest, until photos in errors are done again
    _shards/<job>-<number>.jsonl.gz     only while a large job runs, see `shard_lists`
    run.json                            written first: the configuration of the run
    digest.parquet                      what the summary and the pages need, see `digest`
    provenance.json                     how it came to be, see `provenance`
    summary.json, `PAGES`               written by `pipelines.geotag` after the job

The bytes depend only on the photos, the model and the settings, not on the time, the path of the
output or the order of arrival, but for provenance.json. (Another batch size may change the last
bits of a real network.) Knows no Beam.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from locdiffusion.photos.image_formats import readable_formats
from locdiffusion.photos.left_out import MOST_NAMED
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.tar import TarStatus
from pipelines.geotag.batches import PhotoBatch, ShardEnding
from pipelines.geotag.manifests import (
    UNREAD,
    ManifestName,
    as_manifest,
    first_of_each,
    formats_digest,
    manifest_mark,
)
from pipelines.geotag.places import Places, folder_of
from pipelines.geotag.tables import (
    ERRORS,
    LAYERS,
    PREDICTIONS,
    Extras,
    ShardTables,
    parquet_bytes,
    shard_tables,
)
from pipelines.writing.directory import (
    MANIFESTS,
    SUMMARY,
    OutputDirectory,
    OutputError,
    at_once,
    to_json,
)
from schemas.geotags import SCHEMA_VERSION, ErrorRow

ATTEMPTS, RETRIES, SHARD_LISTS = "_attempts", "_retries", "_shards"
DIGEST, PROVENANCE = "digest.parquet", "provenance.json"
MAP_PNG, MAP_HTML, REPORT_HTML = "map.png", "map.html", "report.html"
PAGES = (MAP_PNG, MAP_HTML, REPORT_HTML)


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
class Prepared:
    """What a run finds in its output directory.

    Attributes:
        unfinished: Shards of the run that are left to do.
        gone: Number of photos of each source that no longer exists, whose rows are removed.
        others: Manifests of shards that are not in the input, whose rows stay.
    """

    unfinished: tuple[Shard, ...]
    gone: Mapping[str, int] = field(default_factory=dict)
    others: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Output(OutputDirectory):
    """The output directory of a geotag run."""

    FOLDERS: ClassVar[Mapping[str, str]] = {
        MANIFESTS: "*.json",
        ATTEMPTS: "*.json",
        RETRIES: "*.json",
        SHARD_LISTS: "*.jsonl.gz",
        **dict.fromkeys(LAYERS, "part-*.parquet"),
    }
    FILES: ClassVar[tuple[str, ...]] = (SUMMARY, DIGEST, PROVENANCE, *PAGES)

    def part(self, layer: str, shard_id: str) -> str:
        """Path of a shard's file in a layer."""
        return self.path(layer, f"part-{shard_id}.parquet")

    def prepare(
        self,
        configuration: RunConfiguration,
        shards: Sequence[Shard],
        overwrite: bool = False,
        retry_failed: bool = False,
    ) -> Prepared:
        """Makes the directory this run's own, keeping the shards that the same run finished.

        One listing of each folder tells what is finished. Removed are the files of shards that are
        to be done again, of groups of folders that are grouped otherwise now, of shards that are
        gone, and what a stopped run left.

        Args:
            configuration: What decides the rows.
            shards: Shards of the run.
            overwrite: Whether to delete first what earlier runs wrote here.
            retry_failed: Whether photos among the errors are done again.

        Raises:
            OutputError: The directory holds another run, files of somebody else, or the photos
                of a folder in which one of these folders lies.
        """
        if not self.claim(configuration.to_dict(), overwrite):
            return Prepared(tuple(shards))
        listed = self._listed()
        found = first_of_each(listed)
        parts = {layer: set(self.names(layer, self.FOLDERS[layer])) for layer in LAYERS}
        done = self._finished_of(shards, found, parts, configuration)
        for manifest in self.manifests(list(done.values())) if retry_failed else ():
            unread = manifest["tar_status"] == TarStatus.UNREADABLE.value
            if manifest["photo_errors"] or unread:
                del done[manifest["shard"]]
            if manifest["photo_errors"] and not unread:  # the rows of its other photos stay
                self.write(RETRIES, f"{manifest['shard']}.json", data=to_json(manifest))
        known = {shard.id for shard in shards}
        rest = {shard: name for shard, name in found.items() if shard not in known}
        places = Places(shards, configuration.settings.get("from_embeddings", False))
        gone, others = self._fates(rest, places)
        kept = {**done, **rest}
        for stale in set(listed).difference(kept.values()):
            self.remove(MANIFESTS, stale.file)
        unfinished = tuple(shard for shard in shards if shard.id not in done)
        open_notes = set() if retry_failed else {f"{shard.id}.json" for shard in unfinished}
        for note in set(self.names(ATTEMPTS, self.FOLDERS[ATTEMPTS])).difference(open_notes):
            self.remove(ATTEMPTS, note)
        noted, todo = self._retried(), {shard.id for shard in unfinished}
        for left in noted - todo:  # by a stopped run
            self.remove(RETRIES, f"{left}.json")
        for left in () if unfinished else self.names(SHARD_LISTS, self.FOLDERS[SHARD_LISTS]):
            self.remove(SHARD_LISTS, left)  # of jobs that nobody waited for
        ours = {f"part-{shard}.parquet" for shard in {*kept, *(noted & todo)}}
        for layer, names in parts.items():
            for name in names - ours:
                self.remove(layer, name)
        return Prepared(unfinished, gone, tuple(others))

    def kept(
        self, shard: Shard, configuration: RunConfiguration, version: str | None = None
    ) -> dict[str, Any] | None:
        """The manifest of a shard that is finished; no folder is listed for it."""
        mark = manifest_mark(configuration.hash, version or shard.version)
        for state in ("", formats_digest(readable_formats())):
            manifest = self.manifest(shard.id, ManifestName(shard.id, mark, state))
            if manifest is not None:
                part = f"part-{shard.id}.parquet"
                whole = all(self.exists(layer, part) for layer in manifest.get("layers", ()))
                return manifest if whole else None
        return None

    def manifest(self, name: str, file: ManifestName | None = None) -> dict[str, Any] | None:
        """The manifest of a shard; None if there is none, or it is not what was written there.

        Args:
            name: Id of the shard.
            file: Name of the manifest; without it, the folder is listed.
        """
        file = file or self.manifest_files().get(name)
        return as_manifest(file and self.read_json(MANIFESTS, file.file), name)

    def manifest_files(self) -> dict[str, ManifestName]:
        """The name of the manifest of each shard that is done, in the order of the shards."""
        return first_of_each(self._listed())

    def manifest_names(self) -> list[str]:
        """Ids of the shards that are done, sorted."""
        return list(self.manifest_files())

    def manifests(self, files: Collection[ManifestName] | None = None) -> Iterator[dict[str, Any]]:
        """All readable manifests, or those of these names, in the order of the shards."""
        names = self.manifest_files().values() if files is None else files
        for manifest in at_once(lambda name: self.manifest(name.shard, name), names):
            if manifest is not None:
                yield manifest

    def _retried(self) -> set[str]:
        """Ids of the shards of which only the photos in errors are done again."""
        return {name.removesuffix(".json") for name in self.names(RETRIES, "*.json")}

    def _listed(self) -> list[ManifestName]:
        return [ManifestName.parse(name) for name in self.names(MANIFESTS, "*.json")]

    def sizes_of_shards(self) -> dict[str, dict[str, int]]:
        """Sizes in bytes of all manifests that count and of their parts, by folder and name.

        Parts without a manifest are told, too, unless their photos in errors are done again.
        """
        found = {name: self.sizes(name, self.FOLDERS[name]) for name in (MANIFESTS, *LAYERS)}
        names = first_of_each(map(ManifestName.parse, found[MANIFESTS]))
        found[MANIFESTS] = {name.file: found[MANIFESTS][name.file] for name in names.values()}
        for shard in self._retried().difference(names):
            for layer in LAYERS:
                found[layer].pop(f"part-{shard}.parquet", None)
        return found

    def _refuse_other(self, earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        version = earlier.get("schema_version")
        if version != SCHEMA_VERSION:
            raise OutputError(
                f"--output {self.root} holds files of schema version {version}, and this release "
                f"writes version {SCHEMA_VERSION}, with other columns; choose another --output, or "
                "start anew here with --overwrite"
            )
        super()._refuse_other(earlier, settings)

    def _finished_of(
        self,
        shards: Sequence[Shard],
        found: Mapping[str, ManifestName],
        parts: Mapping[str, Collection[str]],
        configuration: RunConfiguration,
    ) -> dict[str, ManifestName]:
        """The names of those manifests whose shards are finished as they are now, by shard."""
        settings, config_hash = configuration.settings, configuration.hash
        layers = [name for name in LAYERS if name in (PREDICTIONS, ERRORS) or settings.get(name)]
        now = readable_formats()

        def current(shard: Shard) -> bool:
            name = found[shard.id]
            if name.mark != manifest_mark(config_hash, shard.version) or name.state == UNREAD:
                return False
            if name.state in ("", formats_digest(now)):
                return True
            manifest = self.manifest(shard.id, name) or {}
            return set(now).issubset(manifest.get("readable_formats", ()))

        whole = [
            shard
            for shard in shards
            if shard.id in found
            and all(f"part-{shard.id}.parquet" in parts[layer] for layer in layers)
        ]
        answers = zip(whole, at_once(current, whole), strict=True)
        return {shard.id: found[shard.id] for shard, as_it_is in answers if as_it_is}

    def _fates(
        self, rest: dict[str, ManifestName], places: Places
    ) -> tuple[dict[str, int], list[dict[str, Any]]]:
        """Takes out of the shards that are not in the input what is gone or comes otherwise.

        Returns:
            Number of photos of each source that is gone, and the manifests of what stays.

        Raises:
            OutputError: Photos of a folder are here already, as photos of a folder around it.
        """
        gone: dict[str, int] = {}
        others = []
        for manifest in self.manifests(list(rest.values())):
            source = manifest["source"]
            if not places.comes_again(source):
                if places.is_there(source):
                    if inner := places.twice(source):
                        folder = folder_of(source)
                        raise OutputError(
                            f"--output {self.root} holds the photos of {folder}, and would hold "
                            f"those of {inner} twice; give {folder} again, or another --output"
                        )
                    others.append(manifest)
                    continue
                place = folder_of(source) or source
                gone[place] = gone.get(place, 0) + manifest["photos"]
            del rest[manifest["shard"]]
        return gone, others

    def not_in(self, shards: Sequence[Shard]) -> list[dict[str, Any]]:
        """Returns the manifests of shards that are not among these."""
        known = {shard.id for shard in shards}
        files = self.manifest_files().items()
        return list(self.manifests([file for shard, file in files if shard not in known]))


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
        batches = [batch.without_quotes() for batch in batches]
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
    output.write(MANIFESTS, ManifestName.of(manifest).file, data=to_json(manifest))
    if ending.kept is not None:
        output.remove(RETRIES, f"{shard.id}.json")
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
        "unfamiliar": made.unfamiliar(configuration.settings.get("unfamiliar")),
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

"""Checks the files of a shard against its manifest, and digests them. Knows no Beam."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from locdiffusion.evaluate.known_positions import KINDS
from locdiffusion.files import file_system
from locdiffusion.photos.left_out import LeftOut
from locdiffusion.photos.listing import shard_stem
from locdiffusion.photos.tar import TarStatus
from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.geotag.digest import CREDIBLE, LEFT_OUT, RunDigest, error_counts
from pipelines.geotag.manifests import COUNTS, SURPRISES, ManifestName
from pipelines.geotag.output import Output
from pipelines.geotag.sample import COLUMNS, Sample
from pipelines.geotag.tables import ERRORS, FAILED, PREDICTIONS, THUMBNAILS
from pipelines.writing.directory import MANIFESTS
from schemas.geotags import Status
from schemas.layers import THUMBNAIL_SCHEMA

TABLES = ("errors_by_status", "layers", *FAILED)
"""Fields of a manifest that count by name."""
MISMATCHES = "mismatches"
THUMBNAIL_ROWS = 256
READ_AT_ONCE_BYTES = 2**22
"""Most bytes of a part that is read at once: one request to a storage, not one for each column."""


def shard_group(shard: str) -> str:
    """The group of a shard: its stem without a number at the end, as in `val-003` -> `val`."""
    stem = shard_stem(shard)
    return re.sub(r"[-_.]?\d+\Z", "", stem) or stem


def digest_shard(output: Output, name: ManifestName) -> RunDigest:
    """Digests a shard that is done, from the manifest of this name and its parts.

    What is wrong with them is told in the digest's list of mismatches.
    """
    digest, shard = RunDigest(), name.shard
    place = output.path(MANIFESTS, name.file)
    filesystem, path = file_system(place)
    filesystem.invalidate_cache()  # other workers write too
    manifest = output.manifest(shard, name)
    if manifest is None:
        digest.tell(MISMATCHES, shard, f"{place} is not what was written there; delete it")
        return digest
    digest.cover_file(MANIFESTS, name.file, filesystem.size(path))
    _add_manifest(digest, manifest)
    if manifest["photos"] != manifest["predictions"] + manifest["photo_errors"]:
        digest.tell(
            MISMATCHES,
            shard,
            f"shard {shard}: {manifest['photos']} photos are not {manifest['predictions']} "
            f"predictions + {manifest['photo_errors']} errors",
        )
    stated = {PREDICTIONS: manifest["predictions"], ERRORS: 0, **other_layers(manifest)}
    for layer, count in stated.items():
        path = output.part(layer, shard)
        try:
            with open_part(path) as file:
                if layer == ERRORS:
                    pairs = _errors(manifest, file)
                else:
                    pairs = [(f"{file.metadata.num_rows} rows", f"{count} rows")]
                if layer == PREDICTIONS:
                    add_predictions(digest, shard, file)
                elif layer == THUMBNAILS:
                    add_thumbnails(digest.sample, file)
                digest.cover_file(layer, path.rpartition("/")[2], file.size)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            digest.tell(MISMATCHES, shard, f"shard {shard}: {path} cannot be read ({error})")
            continue
        for held, told in pairs:
            if held != told:
                text = f"shard {shard}: {path} holds {held}, the manifest says {told}"
                digest.tell(MISMATCHES, shard, text)
    if digest.told[MISMATCHES]:
        digest.accuracy = {}
    return digest


class Part(pq.ParquetFile):
    """The file of a shard in a layer; `size` is its size in bytes."""

    size: int


@contextmanager
def open_part(path: str) -> Iterator[Part]:
    """Opens a part, wherever it is.

    Raises:
        OSError: There is no such file.
        ValueError: It is no Parquet file.
    """
    filesystem, there = file_system(path)
    with filesystem.open(there, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        whole = pa.BufferReader(file.read()) if size <= READ_AT_ONCE_BYTES else None
        with Part(whole or file, pre_buffer=True) as part:
            part.size = size
            yield part


def _add_manifest(digest: RunDigest, manifest: Mapping[str, Any]) -> None:
    """Adds what a manifest counts and tells."""
    shard, source = manifest["shard"], manifest["source"]
    counts = digest.counts
    counts["totals"].update({name: manifest[name] for name in COUNTS})
    counts["totals"].update({name: manifest.get(name, 0) for name in SURPRISES})
    counts["shards"][manifest["tar_status"]] += 1
    for name in TABLES:
        counts[name].update(other_layers(manifest) if name == "layers" else manifest.get(name, {}))
    left_out = LeftOut.from_dict(manifest.get("left_out", {}))
    counts[LEFT_OUT].update(left_out.counts)
    for name in left_out.named:
        digest.tell(LEFT_OUT, shard, f"{source}/{name}")
    for why in manifest.get("problems", ()):
        digest.tell("problems", shard, source.rpartition("#")[0] or source, why)
    if manifest.get("read_failed"):
        digest.tell("read_again", shard)
    if message := manifest.get("tar_message"):
        status = manifest["tar_status"]
        complete = status == TarStatus.COMPLETE.value
        digest.tell("notes" if complete else "damaged", shard, source, status, str(message))


def other_layers(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Number of rows of the layers that only some runs write."""
    layers: Mapping[str, int] = manifest.get("layers", {})
    return {layer: rows for layer, rows in layers.items() if layer not in (PREDICTIONS, ERRORS)}


def add_predictions(digest: RunDigest, shard: str, file: pq.ParquetFile) -> None:
    """Adds the predictions of a shard: rows to the sample, errors where positions are known."""
    names = set(file.schema_arrow.names)
    kinds = [kind for kind in KINDS if f"{kind}_latitude" in names]
    first = 0
    columns = [name for name in COLUMNS if name in names]
    for batch in file.iter_batches(columns=columns, use_threads=False):  # shards are parallel
        digest.sample.add(shard, first, batch)
        first += len(batch)
        for kind in kinds:
            _add_errors(digest, shard, kind, batch)


def _add_errors(digest: RunDigest, shard: str, kind: str, batch: pa.RecordBatch) -> None:
    if batch[f"{kind}_latitude"].null_count == len(batch):
        return
    names = ("latitude", "longitude", f"{kind}_latitude", f"{kind}_longitude", *CREDIBLE)
    columns = [np.asarray(batch[name], np.float64) for name in names]
    rows = np.stack([great_circle_km(*columns[:4]), *columns[4:]], axis=1)
    rows = rows[np.isfinite(rows[:, 0])]
    if len(rows):
        groups = digest.accuracy.setdefault(kind, {})
        groups.setdefault(shard_group(shard), Counter()).update(error_counts(rows))


def add_thumbnails(sample: Sample, file: pq.ParquetFile) -> None:
    """Adds thumbnails to the sample of their shard."""
    for batch in file.iter_batches(THUMBNAIL_ROWS, columns=["key", "jpeg"]):
        sample.add_thumbnails(
            *(batch[name].cast(THUMBNAIL_SCHEMA.field(name).type) for name in ("key", "jpeg"))
        )


def _errors(manifest: Mapping[str, Any], file: pq.ParquetFile) -> list[tuple[str, str]]:
    """Pairs of what a file of errors holds and what the manifest says."""
    table = file.read(columns=["key", "status"], use_threads=False)
    photos = table.num_rows - table["key"].null_count
    held = Counter(table["status"].to_pylist())
    tar = Counter({status: n for status, n in held.items() if Status(status).of_shard})
    complete = manifest["tar_status"] == TarStatus.COMPLETE.value
    stated = Counter() if complete else Counter([f"shard_{manifest['tar_status']}"])
    return [
        (
            f"{table.num_rows} rows, {photos} of photos",
            f"{manifest['photo_errors'] + manifest['shard_errors']} rows, "
            f"{manifest['photo_errors']} of photos",
        ),
        (_counted(held), _counted(manifest["errors_by_status"])),
        (f"of the shard {_counted(tar)}", f"of the shard {_counted(stated)}"),
    ]


def _counted(by_status: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(by_status.items())) or "none"

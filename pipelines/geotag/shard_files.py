"""Checks the files of shards against their manifests, and digests them. Knows no Beam.

Files are read shard by shard; what they hold is added up for many shards at once.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from locdiffusion.evaluate.known_positions import KINDS
from locdiffusion.files import file_system
from locdiffusion.photos.listing import shard_stem
from locdiffusion.photos.tar import TarStatus
from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.geotag.digest import CREDIBLE, LEFT_OUT, RunDigest, error_counts
from pipelines.geotag.manifests import COUNTS, SURPRISES, ManifestName, as_manifest
from pipelines.geotag.output import Output
from pipelines.geotag.sample import COLUMNS, ROWS_SCHEMA, rows_of_shard, with_thumbnails
from pipelines.geotag.tables import ERRORS, FAILED, PREDICTIONS, THUMBNAILS, UNREADABLE
from pipelines.writing.directory import MANIFESTS, READERS, json_object
from schemas.geotags import Status

TABLES = ("errors_by_status", "layers", *FAILED)
"""Fields of a manifest that count by name."""
MISMATCHES = "mismatches"
READ_AT_ONCE_BYTES = 2**22
"""Most bytes of a part that is read at once: one request to a storage, not one for each column."""
SHARDS_AT_ONCE, BYTES_AT_ONCE = 256, 2**24
"""Shards, and bytes of their files, after which what was read is added up."""


@dataclass
class ShardFiles:
    """What the files of a shard hold.

    Attributes:
        shard: Id of the shard.
        manifest: Its manifest; None if there is none.
        sizes: Size in bytes of each file that could be read, by folder and name.
        rows: Table of ROWS_SCHEMA of the predictions; None if they could not be read.
        wrong: Sentences that say what is wrong with the files.
    """

    shard: str
    manifest: Mapping[str, Any] | None = None
    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    rows: pa.Table | None = None
    wrong: list[str] = field(default_factory=list)


def shard_group(shard: str) -> str:
    """The group of a shard: its stem without a number at the end, as in `val-003` -> `val`."""
    stem = shard_stem(shard)
    return re.sub(r"[-_.]?\d+\Z", "", stem) or stem


def digest_shards(output: Output, names: Sequence[ManifestName]) -> RunDigest:
    """Digests shards that are done, from the manifests of these names and their parts.

    What is wrong with them is told in the digest's list of mismatches.
    """
    digest = RunDigest()
    read: list[ShardFiles] = []
    size = 0
    for files in _read_ahead(output, names):
        read.append(files)
        size += sum(files.sizes.values())
        if len(read) >= SHARDS_AT_ONCE or size >= BYTES_AT_ONCE:
            add_shards(digest, read)
            read, size = [], 0
    add_shards(digest, read)
    return digest


def _read_ahead(output: Output, names: Sequence[ManifestName]) -> Iterator[ShardFiles]:
    """Reads shards in their order; those on a cloud storage with several threads."""
    read = functools.partial(read_shard, output)
    local = isinstance(file_system(output.root)[0], LocalFileSystem)
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(names), READERS):  # no more shards at a time than readers
            yield from (map if local else pool.map)(read, names[start : start + READERS])


def read_shard(output: Output, name: ManifestName) -> ShardFiles:
    """Reads the manifest of this name and the parts of its shard, and checks them."""
    files = ShardFiles(name.shard)
    place = output.path(MANIFESTS, name.file)
    file_system(place)[0].invalidate_cache()  # other workers write too
    content = output.read_bytes(MANIFESTS, name.file)
    manifest = as_manifest(json_object(content), name.shard)
    if content is None or manifest is None:
        files.wrong.append(f"{place} is not what was written there; delete it")
        return files
    files.manifest, files.sizes[MANIFESTS, name.file] = manifest, len(content)
    if manifest["photos"] != manifest["predictions"] + manifest["photo_errors"]:
        files.wrong.append(
            f"shard {name.shard}: {manifest['photos']} photos are not {manifest['predictions']} "
            f"predictions + {manifest['photo_errors']} errors"
        )
    stated = {PREDICTIONS: manifest["predictions"], ERRORS: 0, **other_layers(manifest)}
    for layer, count in stated.items():
        path = output.part(layer, name.shard)
        try:
            part, size = open_part(path)
            if layer == ERRORS:
                pairs = _errors(manifest, part)
            else:
                pairs = [(f"{part.metadata.num_rows} rows", f"{count} rows")]
            if layer == PREDICTIONS:
                files.rows = read_predictions(part)
            elif layer == THUMBNAILS and files.rows is not None:
                files.rows = with_thumbnails(files.rows, part.read(["key", "jpeg"]))
            files.sizes[layer, path.rpartition("/")[2]] = size
        except UNREADABLE as error:
            files.wrong.append(f"shard {name.shard}: {path} cannot be read ({error})")
            continue
        for held, told in pairs:
            if held != told:
                files.wrong.append(
                    f"shard {name.shard}: {path} holds {held}, the manifest says {told}"
                )
    return files


def add_shards(digest: RunDigest, shards: Sequence[ShardFiles]) -> None:
    """Adds shards to a digest."""
    for files in shards:
        if files.manifest is not None:
            _add_manifest(digest, files.manifest)
        for (folder, name), size in files.sizes.items():
            digest.cover_file(folder, name, size)
        for text in files.wrong:
            digest.tell(MISMATCHES, files.shard, text)
    read = {files.shard: files.rows for files in shards if files.rows is not None}
    digest.sample.add(read)
    _add_errors(digest, {f.shard: read[f.shard] for f in shards if f.shard in read and not f.wrong})
    digest.bound()


def open_part(path: str, dictionaries: Sequence[str] = ()) -> tuple[pq.ParquetFile, int]:
    """Opens a part, wherever it is; returns its size in bytes, too.

    Args:
        path: Path or URL of the part.
        dictionaries: Columns of text that are read as dictionaries.

    Raises:
        OSError: There is no such file.
        ValueError: It is no Parquet file.
    """
    filesystem, there = file_system(path)
    local = isinstance(filesystem, LocalFileSystem)
    if local and not os.path.isfile(there):  # on a pipe, opening might never end
        raise FileNotFoundError(f"there is no file {there}")
    file = pa.OSFile(there) if local else pa.PythonFile(filesystem.open(there, "rb"), mode="r")
    size = file.size()
    whole = file.read_buffer() if size <= READ_AT_ONCE_BYTES else file
    return pq.ParquetFile(whole, pre_buffer=True, read_dictionary=list(dictionaries)), size


def _add_manifest(digest: RunDigest, manifest: Mapping[str, Any]) -> None:
    """Adds what a manifest counts and tells."""
    shard, source = manifest["shard"], manifest["source"]
    counts = digest.counts
    tables = {
        "totals": {name: manifest.get(name, 0) for name in (*COUNTS, *SURPRISES)},
        "shards": {manifest["tar_status"]: 1},
        **{name: manifest.get(name, {}) for name in TABLES},
        "layers": other_layers(manifest),
        LEFT_OUT: manifest.get("left_out", {}).get("by_kind", {}),
    }
    for table, ours in tables.items():
        for name, count in ours.items():  # faster than Counter.update
            counts[table][name] += count
    for name in manifest.get("left_out", {}).get("named", ()):
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


def read_predictions(part: pq.ParquetFile) -> pa.Table:
    """Reads what a sample keeps of predictions; a table of ROWS_SCHEMA."""
    return rows_of_shard(part.read(columns=list(COLUMNS), use_threads=False))


def _add_errors(digest: RunDigest, tables: Mapping[str, pa.Table]) -> None:
    """Adds the distances to known positions, by group of shards; tables by shard."""
    table = pa.concat_tables([ROWS_SCHEMA.empty_table(), *tables.values()])
    groups, of_shard = np.unique([shard_group(shard) for shard in tables], return_inverse=True)
    group = np.repeat(of_shard, [len(one) for one in tables.values()])
    for kind in KINDS:
        known = np.asarray(table[f"{kind}_latitude"].is_valid())
        columns = ("latitude", "longitude", f"{kind}_latitude", f"{kind}_longitude", *CREDIBLE)
        degrees = [np.asarray(table[name], np.float64)[known] for name in columns]
        rows = np.stack([great_circle_km(*degrees[:4]), *degrees[4:]], axis=1)
        finite = np.isfinite(rows[:, 0])
        rows, of_row = rows[finite], group[known][finite]
        for one in np.unique(of_row):
            counts = digest.accuracy.setdefault(kind, {}).setdefault(str(groups[one]), Counter())
            counts.update(error_counts(rows[of_row == one]))


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

"""Reads the directory of a build, checks that its counts add up, and summarises it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from locdiffusion.cli.terminal import printable
from locdiffusion.files import file_system
from pipelines.build_shards.density_map import CELLS
from pipelines.build_shards.filters import licence_code
from pipelines.build_shards.output import (
    CANDIDATES,
    DROPPED,
    INDEX,
    METADATA,
    BuildOutput,
    split_of,
)
from pipelines.writing.progress import duration
from schemas.training import Split

READERS = 16
COLUMNS = ["author", "licence", "latitude", "longitude", "cell"]


@dataclass
class Found:
    """Counts of what is on disk, added up shard by shard.

    Photos, shards, bytes and photographers are by split, `caps` by cell of the build, `density` by
    cell of the map; `mismatches` are sentences about counts that do not add up.
    """

    planned: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    photos: Counter[str] = field(default_factory=Counter)
    shards: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    authors: dict[str, Counter[str]] = field(
        default_factory=lambda: {split.value: Counter() for split in Split}
    )
    licences: Counter[str] = field(default_factory=Counter)
    caps: Counter[str] = field(default_factory=Counter)
    density: Counter[int] = field(default_factory=Counter)
    mismatches: list[str] = field(default_factory=list)


def summarise(output: BuildOutput) -> tuple[dict[str, Any], Counter[int]]:
    """Counts what is on disk.

    Returns:
        Summary for JSON, whose `mismatches` is empty if all counts add up, and the number of photos
        by cell of the map.
    """
    metadata = output.manifest(METADATA) or {}
    planned: Mapping[str, int] = metadata.get("shards", {})
    found, unfinished = Found(), []
    for shard, manifest in _manifests(output, planned):
        if manifest is None:
            unfinished.append(shard)
        else:
            _add(found, shard, manifest, output)
            if manifest["planned"] != planned[shard]:
                told = f"{planned[shard]} photos are planned and {manifest['planned']} were done"
                found.mismatches.append(f"shard {shard}: {told}")
    dropped = found.dropped + Counter(metadata.get("dropped", {}))
    read = metadata.get("read", 0)
    if not unfinished:
        _check_total(found, read, dropped.total(), output, set(planned))
    return {
        "finished": bool(metadata) and not unfinished,
        "read": read,
        "kept": found.kept,
        "dropped": dropped.total(),
        "dropped_by_reason": dict(sorted(dropped.items())),
        "links_read": metadata.get("links_read", 0),
        "links_unusable": metadata.get("links_unusable", 0),
        "splits": {split.value: _split(found, split.value) for split in Split},
        "photographers_in_both_splits": len(
            found.authors[Split.TRAIN.value].keys() & found.authors[Split.VAL.value].keys()
        ),
        "licences": dict(sorted(found.licences.items())),
        "cells": len(found.caps),
        "most_photos_in_a_cell": max(found.caps.values(), default=0),
        "shards_planned": len(planned),
        "shards_unfinished": len(unfinished),
        "mismatches": found.mismatches,
        "configuration": output.read_json("run.json") or {},
    }, found.density


def _manifests(
    output: BuildOutput, planned: Mapping[str, int]
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    with ThreadPoolExecutor(READERS) as pool:
        yield from zip(planned, pool.map(output.manifest, planned), strict=True)


def _split(found: Found, split: str) -> dict[str, int]:
    authors = found.authors[split]
    return {
        "photos": found.photos[split],
        "shards": found.shards[split],
        "bytes": found.bytes[split],
        "photographers": len(authors),
        "most_photos_of_a_photographer": max(authors.values(), default=0),
    }


def _add(found: Found, shard: str, manifest: Mapping[str, Any], output: BuildOutput) -> None:
    split, kept, dropped = split_of(shard), manifest["kept"], Counter(manifest["dropped"])
    found.planned += manifest["planned"]
    found.kept += kept
    found.dropped += dropped
    found.photos[split] += kept
    found.shards[split] += int(kept > 0)
    found.bytes[split] += manifest["tar_bytes"]
    if manifest["planned"] != kept + dropped.total():
        found.mismatches.append(
            f"shard {shard}: {manifest['planned']} photos are not {kept} kept + "
            f"{dropped.total()} dropped"
        )
    if not kept:
        return
    tar = _size(output.path(split, f"{shard}.tar"))
    if tar != manifest["tar_bytes"]:
        found.mismatches.append(
            f"shard {shard}: its tar has {tar} bytes, the manifest says {manifest['tar_bytes']}"
        )
    try:
        table = output.read_table(INDEX, f"part-{shard}.parquet", columns=COLUMNS)
    except (OSError, pa.ArrowInvalid) as error:
        found.mismatches.append(f"shard {shard}: its index cannot be read ({error})")
        return
    if len(table) != kept:
        found.mismatches.append(
            f"shard {shard}: its index has {len(table)} rows, the manifest says {kept}"
        )
    _add_rows(found, split, table)


def _add_rows(found: Found, split: str, table: pa.Table) -> None:
    authors = table["author"].filter(pc.not_equal(table["author"], ""))
    found.authors[split].update(_counts(authors))
    found.caps.update(_counts(table["cell"]))
    for licence, number in _counts(table["licence"]).items():
        found.licences[licence_code(licence)] += number
    places = (table[name].to_numpy() for name in ("latitude", "longitude"))
    cells, numbers = np.unique(CELLS.index(*places), return_counts=True)
    found.density.update(dict(zip(cells.tolist(), numbers.tolist(), strict=True)))


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    counted = pc.value_counts(column.combine_chunks())
    return {row["values"]: row["counts"] for row in counted.to_pylist()}


def _check_total(
    found: Found, read: int, dropped: int, output: BuildOutput, shards: set[str]
) -> None:
    """Checks kept + dropped = read, by manifests and by rows on disk."""
    if read != found.kept + dropped:
        found.mismatches.append(f"{read} records are not {found.kept} kept + {dropped} dropped")
    parts = [output.path(DROPPED, name) for name in output.names(DROPPED, "*.parquet")]
    with ThreadPoolExecutor(READERS) as pool:
        rows = sum(pool.map(_rows, parts))
    if rows != dropped:
        found.mismatches.append(f"{DROPPED} has {rows} rows, the manifests say {dropped}")
    known = {f"part-{shard}.parquet" for shard in shards}
    strange = sorted(set(output.names(INDEX, "*.parquet")) - known)
    found.mismatches += [f"{INDEX}/{name} belongs to no shard" for name in strange]


def _rows(path: str) -> int:
    filesystem, name = file_system(path)
    with filesystem.open(name, "rb") as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def _size(path: str) -> int | None:
    filesystem, name = file_system(path)
    filesystem.invalidate_cache()
    try:
        return int(filesystem.size(name))
    except FileNotFoundError:
        return None


def summary_table(summary: Mapping[str, Any]) -> str:
    """Formats a summary for a terminal."""
    lines = [
        f"read     {summary['read']:>12,}",
        f"kept     {summary['kept']:>12,}",
        f"dropped  {summary['dropped']:>12,}",
    ]
    reasons = summary["dropped_by_reason"].items()
    lines += [f"  {name:<17} {number:>12,}" for name, number in reasons]
    for name, split in summary["splits"].items():
        lines.append(
            f"{name:<8} {split['photos']:>12,} photos by {split['photographers']:,} photographers "
            f"in {split['shards']:,} shards, {split['bytes'] / 1e6:,.1f} MB"
        )
    if summary["links_unusable"]:
        unusable, links = summary["links_unusable"], summary["links_read"]
        lines.append(f"of {links:,} entries that tell where images are, {unusable:,} are unusable")
    if summary["finished"]:
        equal = "=" if summary["read"] == summary["kept"] + summary["dropped"] else "IS NOT"
        lines.append(
            f"{summary['kept']:,} kept + {summary['dropped']:,} dropped {equal} "
            f"{summary['read']:,} read"
        )
    else:
        left, of = summary["shards_unfinished"], summary["shards_planned"]
        lines.append(f"not finished: {left:,} of {of:,} shards are to be done")
    lines += [f"COUNT MISMATCH: {sentence}" for sentence in summary["mismatches"]]
    return "\n".join(map(printable, lines))


class BuildProgress:
    """Tells how far a build is, from what lies in its directory."""

    def __init__(self, output: BuildOutput) -> None:
        self.output = output
        self._planned: dict[str, int] = {}
        self._before: tuple[float, int] | None = None

    def line(self, seconds: float) -> str:
        """Returns a line of progress, this many seconds after the start."""
        if not self._planned:
            self._planned = (self.output.manifest(METADATA) or {}).get("shards", {})
        if not self._planned:
            return f"{duration(seconds):>7}  reading metadata"
        fetched = self._photos(CANDIDATES)
        total = sum(self._planned.values())
        if fetched == total:
            done = set(self.output.manifest_names()) - {METADATA}
            return f"{duration(seconds):>7}  {len(done):,}/{len(self._planned):,} shards finished"
        line = f"{duration(seconds):>7}  {fetched:,}/{total:,} photos fetched"
        if self._before is None:
            self._before = seconds, fetched
        start, photos = self._before
        if fetched > photos and seconds > start:
            rate = (fetched - photos) / (seconds - start)
            left = duration((total - fetched) / rate)
            line += f", {rate:,.1f} photos/s, about {left} left"
        return line

    def _photos(self, folder: str) -> int:
        names = (name.removesuffix(".json") for name in self.output.names(folder, "*.json"))
        return sum(self._planned.get(name, 0) for name in names)

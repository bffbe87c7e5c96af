"""Removes duplicates from the candidates and writes the shards."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa

from locdiffusion.photos.storage import open_stream
from pipelines.build_shards.candidates import CANDIDATE
from pipelines.build_shards.fingerprints import Alike
from pipelines.build_shards.output import CANDIDATES, DROPPED, INDEX, BuildOutput, split_of
from pipelines.build_shards.settings import Settings
from pipelines.build_shards.shard_writer import copy_without
from pipelines.writing.directory import MANIFESTS, to_json
from schemas.training import DropReason, DropRow, drop_table, index_table

VERSIONS = ("numpy", "pillow", "pyarrow")


class Duplicate(NamedTuple):
    """A photo that is dropped as a duplicate.

    Attributes:
        rank: Rank of the photo.
        reason: EXACT_DUPLICATE or NEAR_DUPLICATE.
        like: Id of the photo of smaller rank that it is like.
    """

    rank: int
    reason: DropReason
    like: str


def named(
    shard: str, alike: Iterable[Alike], output: BuildOutput
) -> Iterator[tuple[str, Duplicate]]:
    """Names the photos of a shard that others are like.

    Args:
        shard: Name of the shard.
        alike: Photos, of any shard, that are like photos of this one.
        output: Output directory of the build, with the candidates.

    Yields:
        Name of the shard of each duplicate, and the duplicate.
    """
    table = output.read_table(CANDIDATES, f"{shard}.parquet", columns=["rank", "photo"])
    photos = dict(zip(table["rank"].to_pylist(), table["photo"].to_pylist(), strict=True))
    for one in alike:
        yield one.shard, Duplicate(one.rank, one.reason, photos[one.like])


def finish_shard(
    shard: str, found: Iterable[Duplicate], settings: Settings, output: BuildOutput
) -> dict[str, Any]:
    """Writes a shard without its duplicates, then its manifest, unless that was done before."""
    done = output.manifest(shard)
    if done is not None and done["config_hash"] == settings.hash:
        return done
    table = output.read_table(CANDIDATES, f"{shard}.parquet")
    gone = one_per_photo(found)
    stays = np.array([rank not in gone for rank in table["rank"].to_pylist()], bool)
    leaving, staying = table.filter(pa.array(~stays)), table.filter(pa.array(stays))
    drops = _drop_rows(output.read_table(CANDIDATES, f"{shard}.dropped.parquet"))
    for rank, key in zip(
        *(leaving[name].to_pylist() for name in ("rank", "source_key")), strict=True
    ):
        like = f"{_ALIKE[gone[rank].reason]} photo {gone[rank].like}"
        drops.append(DropRow(key, gone[rank].reason, like, ""))
    tar = _write_tar(shard, set(leaving["key"].to_pylist()), len(staying), output)
    if len(staying):
        output.write_table(_index(staying, shard), INDEX, f"part-{shard}.parquet")
    if drops:
        output.write_table(drop_table(drops), DROPPED, f"part-{shard}.parquet")
    planned = (output.read_json(CANDIDATES, f"{shard}.json") or {})["planned"]
    assert planned == len(staying) + len(drops), (
        f"shard {shard}: {planned} photos were planned, {len(staying)} are kept and {len(drops)} "
        "dropped"
    )
    manifest = {
        "shard": shard,
        "planned": planned,
        "kept": len(staying),
        "dropped": dict(sorted(Counter(drop.reason.value for drop in drops).items())),
        **tar,
        "config_hash": settings.hash,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }
    output.write(MANIFESTS, f"{shard}.json", data=to_json(manifest))
    output.remove(CANDIDATES, f"{shard}.tar")
    return manifest


_ALIKE = {DropReason.EXACT_DUPLICATE: "the same file as", DropReason.NEAR_DUPLICATE: "looks like"}


def one_per_photo(found: Iterable[Duplicate]) -> dict[int, Duplicate]:
    """Returns one duplicate per photo, by its rank: an exact one first, then by name."""
    chosen: dict[int, Duplicate] = {}
    for one in sorted(found, key=lambda one: (one.reason is not DropReason.EXACT_DUPLICATE, one)):
        chosen.setdefault(one.rank, one)
    return chosen


def _drop_rows(table: pa.Table) -> list[DropRow]:
    return [
        DropRow(row["key"], DropReason(row["reason"]), row["detail"], row["line"])
        for row in table.to_pylist()
    ]


def _write_tar(shard: str, gone: set[str], kept: int, output: BuildOutput) -> dict[str, Any]:
    """Copies the candidate; an empty shard has no tar, because readers refuse those."""
    names = (split_of(shard), f"{shard}.tar")
    if not kept:
        output.remove(*names)
        return {"tar_bytes": 0, "tar_sha256": None}
    source = open_stream(output.path(CANDIDATES, f"{shard}.tar"))
    with source, output.writing(*names) as file:
        target = _Hashed(file)
        copy_without(source, cast(BinaryIO, target), gone)
    return {"tar_bytes": target.bytes, "tar_sha256": target.digest.hexdigest()}


class _Hashed(io.BufferedIOBase):
    """A file that computes the size and the SHA-256 of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: Any, /) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        return int(self._file.write(data))

    def tell(self) -> int:
        return self.bytes


def _index(table: pa.Table, shard: str) -> pa.Table:
    made = {name: table[name].to_pylist() for name in CANDIDATE.names}
    return index_table({**made, "split": [split_of(shard)] * len(table)})

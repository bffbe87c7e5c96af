"""Spreads the fingerprints of photos over partitions, and finds the duplicates in each.

Of a photo, 93 bytes cross the shuffle: five packed rows with its rank, its split, and 16 bytes of
its SHA-256 or its dHash. Its shard follows from rank and split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.build_shards import duplicates
from pipelines.build_shards.metadata import shard_names, shard_numbers
from pipelines.build_shards.output import split_of
from schemas.training import DropReason, Split

COLUMNS = ("rank", "sha256", "dhash")
"""Columns of a candidate's table from which fingerprints are made."""

BY_BYTES = "bytes"
BY_BANDS = tuple(f"band{number}" for number in range(duplicates.BANDS))

SHA = np.dtype([("rank", "<u8"), ("held_out", "?"), ("high", "<u8"), ("low", "<u8")])
LOOK = np.dtype([("rank", "<u8"), ("held_out", "?"), ("dhash", "<u8")])

PARTITION_ROWS = 2_000_000
"""Rows of a partition, which are compared in some hundred megabytes."""

Key = tuple[str, int]
"""BY_BYTES or one of BY_BANDS, and number of the partition."""


class Alike(NamedTuple):
    """A photo that is like another one.

    Attributes:
        shard: Name of its shard.
        rank: Rank of the photo.
        reason: EXACT_DUPLICATE or NEAR_DUPLICATE.
        like: Rank of the photo that it is like, which is smaller.
    """

    shard: str
    rank: int
    reason: DropReason
    like: int


def partitions(shards: Mapping[str, int], shard_size: int) -> int:
    """Computes the number of partitions.

    Args:
        shards: Number of shards of each split.
        shard_size: Approximate number of photos per shard.
    """
    return max(1, -(-sum(shards.values()) * shard_size // PARTITION_ROWS))


def spread(shard: str, table: pa.Table, parts: int) -> Iterator[tuple[Key, bytes]]:
    """Divides the fingerprints of a shard: photos that may be alike come together.

    Args:
        shard: Name of the shard.
        table: Table with COLUMNS.
        parts: Number of partitions.

    Yields:
        Key, and packed rows.
    """
    digests = b"".join(bytes.fromhex(digest)[:16] for digest in table["sha256"].to_pylist())
    sha = np.zeros(len(table), SHA)
    sha["rank"], sha["held_out"] = table["rank"].to_numpy(), split_of(shard) == Split.VAL
    sha["high"], sha["low"] = np.frombuffer(digests, "<u8").reshape(-1, 2).T
    yield from _divided(BY_BYTES, sha, sha["high"], parts)
    hashes = table["dhash"].to_numpy()
    told = ~duplicates.tells_nothing(hashes)
    look = np.zeros(told.sum(), LOOK)
    look["rank"], look["held_out"], look["dhash"] = (
        sha["rank"][told],
        sha["held_out"][told],
        hashes[told],
    )
    for number, name in enumerate(BY_BANDS):
        yield from _divided(name, look, duplicates.band(look["dhash"], number), parts)


def _divided(
    by: str, rows: np.ndarray, values: np.ndarray, parts: int
) -> Iterator[tuple[Key, bytes]]:
    numbers = values % np.uint64(parts)
    for part in np.unique(numbers).tolist():
        yield (by, part), rows[numbers == part].tobytes()


def find_duplicates(
    by: str, packed: Iterable[bytes], shards: Mapping[str, int]
) -> Iterator[tuple[str, Alike]]:
    """Finds the photos of a partition that are like one of smaller rank.

    Args:
        by: BY_BYTES or one of BY_BANDS.
        packed: Rows of the partition.
        shards: Number of shards of each split.

    Yields:
        Name of the shard of the photo of smaller rank, and the photo that is like it.
    """
    if by == BY_BYTES:
        rows, reason = np.frombuffer(b"".join(packed), SHA), DropReason.EXACT_DUPLICATE
        high, low = (np.unique(rows[half], return_inverse=True)[1] for half in ("high", "low"))
        first = duplicates.first_alike(high * len(rows) + low, rows["rank"])
    else:
        rows, reason = np.frombuffer(b"".join(packed), LOOK), DropReason.NEAR_DUPLICATE
        first = duplicates.first_near(rows["dhash"], rows["rank"], BY_BANDS.index(by))
    ranks, names = rows["rank"], shard_names(shards)
    numbers = shard_numbers(ranks, rows["held_out"], shards)
    found = np.flatnonzero(first < ranks)
    order = np.argsort(ranks)
    likes = order[np.searchsorted(ranks, first[found], sorter=order)]
    for row, like in zip(found.tolist(), likes.tolist(), strict=True):
        alike = Alike(names[numbers[row]], int(ranks[row]), reason, int(ranks[like]))
        yield names[numbers[like]], alike

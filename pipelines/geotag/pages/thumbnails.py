"""The small pictures of a run, as many as a page can carry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from schemas.layers import THUMBNAIL_SCHEMA

FEW = 256
FILE_BYTES = 40_000
"""Of each file that is read at all, at least so much."""


def read_thumbnails(
    filesystem: Any, names: Sequence[str], row_of: Mapping[tuple[str, str], int], limit_bytes: int
) -> dict[int, bytes]:
    """The thumbnails of some photos, spread evenly over the files if not all fit.

    Args:
        filesystem: Of fsspec.
        names: Files of the layer on it.
        row_of: Number of a row by its shard and key; other photos are passed over.
        limit_bytes: Most bytes of all together.

    Returns:
        JPEG by number of row, rising.
    """
    found: dict[int, bytes] = {}
    every = max(1, math.ceil(len(names) * FILE_BYTES / limit_bytes))
    chosen = names[::every]
    share = limit_bytes // max(1, len(chosen))
    for name in chosen:
        left = share
        with pq.ParquetFile(name, filesystem=filesystem) as file:
            for batch in file.iter_batches(FEW, columns=THUMBNAIL_SCHEMA.names):
                for thumbnail in batch.to_pylist():
                    row = row_of.get((thumbnail["shard"], thumbnail["key"]))
                    if row is None or len(thumbnail["jpeg"]) > left:
                        continue
                    left -= len(thumbnail["jpeg"])
                    found[row] = thumbnail["jpeg"]
    return dict(sorted(found.items()))

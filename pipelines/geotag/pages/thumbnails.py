"""Reads the thumbnails of a run, as many as a page can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from schemas.layers import THUMBNAIL_SCHEMA

BATCH_ROWS = 256
FILE_BYTES = 40_000
"""Fewest bytes of thumbnails that are taken from a file; with many files, some are skipped."""


def read_thumbnails(
    filesystem: Any, names: Sequence[str], row_of: Mapping[tuple[str, str], int], limit_bytes: int
) -> dict[int, bytes]:
    """Reads thumbnails of photos, spread evenly over the files if not all fit.

    Args:
        filesystem: File system of fsspec.
        names: Paths of the layer's files on the file system.
        row_of: Number of a photo's row by its shard and key. Other photos are left out.
        limit_bytes: Most bytes of all thumbnails together.

    Returns:
        JPEGs by the number of the row, in rising order.
    """
    found: dict[int, bytes] = {}
    every = max(1, math.ceil(len(names) * FILE_BYTES / limit_bytes))
    chosen = names[::every]
    share = limit_bytes // max(1, len(chosen))
    for name in chosen:
        left = share
        with pq.ParquetFile(name, filesystem=filesystem) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=THUMBNAIL_SCHEMA.names):
                for thumbnail in batch.to_pylist():
                    row = row_of.get((thumbnail["shard"], thumbnail["key"]))
                    if row is None or len(thumbnail["jpeg"]) > left:
                        continue
                    left -= len(thumbnail["jpeg"])
                    found[row] = thumbnail["jpeg"]
    return dict(sorted(found.items()))

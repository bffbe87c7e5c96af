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
    """Reads the JPEGs of photos, spread evenly over the layer's files if not all fit.

    Photos are named by shard and key; those that `row_of` does not know are left out.
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

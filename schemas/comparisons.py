"""Rows that `compare` writes: what became of each photo between two outputs of `geotag`."""

from __future__ import annotations

from enum import Enum

import pyarrow as pa

BEFORE, AFTER = "before", "after"
"""The first and the second output."""


class Fate(str, Enum):
    """What became of a photo."""

    KEPT = "kept"
    ANSWERED = "answered"
    FAILED = "failed"
    ERROR = "error"
    NEW = "new"
    GONE = "gone"


COMPARED = (
    pa.field("status", pa.string()),
    pa.field("latitude", pa.float64()),
    pa.field("longitude", pa.float64()),
    pa.field("radius_50_km", pa.float64()),
    pa.field("radius_90_km", pa.float64()),
    pa.field("country_code", pa.string()),
    pa.field("familiarity", pa.float32()),
)
"""Columns of which each output has its own; `status` is that of an error, null with an answer."""

COMPARISON_SCHEMA = pa.schema(
    [
        pa.field("photo_id", pa.string()),
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("fate", pa.string(), nullable=False),
        pa.field("distance_km", pa.float64()),
        pa.field("distance_in_radii", pa.float64()),
        pa.field("radius_ratio", pa.float64()),
        *(
            pa.field(f"{field.name}_{side}", field.type)
            for field in COMPARED
            for side in (BEFORE, AFTER)
        ),
    ]
)
"""`distance_in_radii` is the distance as a multiple of the 90 % radius before; `radius_ratio` is
the 90 % radius after as a multiple of that before."""

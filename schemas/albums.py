"""Rows that an albums job writes: predictions, and how the other photos of an album changed them.

A row has all columns of a prediction (`schemas.geotags`), which may be null here, and those of the
album. Its position is that of the album where the album gives one, and else that of the photo
alone. A photo without either has nulls; `standing` says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas import geoparquet
from schemas.geotags import PREDICTION_SCHEMA, with_kept

ALBUMS = "albums"
"""Folder of the rows in an output directory."""


class Standing(str, Enum):
    """How a photo stands in its album."""

    ANCHOR = "anchor"
    PLACED = "placed"
    CONTRADICTS = "contradicts"
    NO_TIME = "no_time"
    ALONE = "alone"


ALONE_COLUMNS = ("alone_latitude", "alone_longitude", "alone_radius_50_km", "alone_radius_90_km")
"""What the photo alone gives: the columns of its prediction without `alone_`."""
SHARE_COLUMNS = ("share_anchors", "share_neighbours", "share_own")
"""How much of an album's answer came from where; they sum to 1."""
GAP_COLUMNS = ("hours_before", "hours_after")
"""Hours from a photo to the anchors before and after it, 0 for an anchor."""

ALBUM_SCHEMA = pa.schema(
    [
        *(field.with_nullable(field.name != "key") for field in PREDICTION_SCHEMA),
        pa.field("album", pa.string(), nullable=False),
        pa.field("standing", pa.string(), nullable=False),
        *(pa.field(name, pa.float64()) for name in GAP_COLUMNS),
        *(pa.field(name, pa.float32()) for name in SHARE_COLUMNS),
        *(pa.field(name, pa.float64()) for name in ALONE_COLUMNS),
    ]
)


def album_table(columns: Mapping[str, Any], keep: Sequence[str] = ()) -> pa.Table:
    """Builds a table of the rows of albums, in the order of the columns.

    Args:
        columns: Columns by name, with N values each: those of ALBUM_SCHEMA but `geometry` and
            `bbox`, as arrays of numbers (NaN for null), lists or Arrow arrays. Columns that are
            missing are null, unless they may not be.
        keep: Names of fields of documents that were taken along, columns of text.

    Returns:
        A table of ALBUM_SCHEMA and the columns of `keep`, with the `geo` metadata.

    Raises:
        ValueError: Half of a position is there, or a position is infinite.
        KeyError: A column is missing that has no nulls.
    """
    count = len(columns["key"])
    longitude, latitude = (
        _array(columns, ALBUM_SCHEMA.field(name), count) for name in ("longitude", "latitude")
    )
    placed = pc.is_valid(longitude)
    if not placed.equals(pc.is_valid(latitude)):
        raise ValueError("a row has half a position, wanted both coordinates or neither")
    there = longitude.drop_null().to_pylist(), latitude.drop_null().to_pylist()
    number = pc.subtract(pc.cumulative_sum(placed.cast(pa.int64())), 1)
    taken = pc.if_else(placed, number, pa.scalar(None, pa.int64()))
    given = {
        **columns,
        geoparquet.GEOMETRY: geoparquet.encode_points(*there).take(taken),
        geoparquet.BBOX: pa.StructArray.from_arrays(
            geoparquet.bbox_column(longitude.fill_null(0.0), latitude.fill_null(0.0)).flatten(),
            fields=list(geoparquet.BBOX_TYPE),
            mask=pc.invert(placed),
        ),
    }
    schema = with_kept(ALBUM_SCHEMA, keep)
    arrays = [_array(given, field, count) for field in schema]
    table = pa.Table.from_arrays(arrays, schema=schema)
    metadata = {geoparquet.METADATA_KEY: geoparquet.create_metadata(*there)}
    return table.replace_schema_metadata(metadata)


def _array(given: Mapping[str, Any], field: pa.Field, count: int) -> pa.Array:
    """A column as Arrow has it; NaN is null where the schema allows nulls."""
    values = given.get(field.name) if field.nullable else given[field.name]
    if values is None:
        return pa.nulls(count, field.type)
    if isinstance(values, pa.Array):
        return values if values.type == field.type else values.cast(field.type)
    return pa.array(values, type=field.type, from_pandas=field.nullable)

"""Rows that `aggregate` writes: how many photos are expected in each area, and how far off that is.

A row is an area and a class of photos. Rows of a rest hold what lies in no area, so that the
numbers of a class add up to its photos; they have no geometry, and neither have areas whose borders
are not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from schemas import geoparquet

AGGREGATE_SCHEMA = pa.schema(
    [
        pa.field("area", pa.string()),
        pa.field("rest", pa.string()),
        pa.field("by", pa.string()),
        pa.field("photos_expected", pa.float64(), nullable=False),
        pa.field("standard_error", pa.float64()),
        pa.field("area_km2", pa.float64()),
        pa.field("photos_per_km2", pa.float64()),
        pa.field(geoparquet.GEOMETRY, pa.binary()),
        pa.field(geoparquet.BBOX, geoparquet.BBOX_TYPE),
    ]
)
REST_COARSER = "coarser"
"""Rest of what is known only to a cell that would be spread over too many of those asked for. Its
standard error is null."""


def aggregate_table(
    columns: Mapping[str, Any],
    wkb: Sequence[bytes | None],
    bounds: Sequence[Sequence[float] | None],
) -> pa.Table:
    """Builds a table of AGGREGATE_SCHEMA with the `geo` metadata.

    Args:
        columns: The columns before `geometry`, by name, with N values each.
        wkb: Polygon or multipolygon of each row, N of them; None where there is none.
        bounds: West, south, east and north of each row in degrees; None where there is none.
    """
    boxes = [
        None if box is None else dict(zip(geoparquet.BBOX_FIELDS, map(float, box), strict=True))
        for box in bounds
    ]
    given = {**columns, geoparquet.GEOMETRY: list(wkb), geoparquet.BBOX: boxes}
    arrays = [
        pa.array(given[field.name], field.type, from_pandas=True) for field in AGGREGATE_SCHEMA
    ]
    drawn = [(w, b) for w, b in zip(wkb, bounds, strict=True) if w is not None and b is not None]
    geo = geoparquet.create_polygon_metadata([w for w, _ in drawn], [b for _, b in drawn])
    table = pa.Table.from_arrays(arrays, schema=AGGREGATE_SCHEMA)
    return table.replace_schema_metadata({geoparquet.METADATA_KEY: geo})

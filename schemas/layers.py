"""Layers that a geotag run writes beside its predictions on demand: regions and thumbnails.

A region is the smallest one found that holds the true position with a stated probability. A
thumbnail is a small picture to look at. Both are joined to the predictions by `shard` and `key`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from schemas import geoparquet

THUMBNAIL_SIDE = 96
"""Length of a thumbnail's longer side in pixels, at most."""

REGION_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("level", pa.float64(), nullable=False),
        pa.field(geoparquet.GEOMETRY, pa.binary(), nullable=False),
        pa.field(geoparquet.BBOX, geoparquet.BBOX_TYPE, nullable=False),
        pa.field("area_km2", pa.float64(), nullable=False),
        pa.field("probability", pa.float64(), nullable=False),
    ]
)

THUMBNAIL_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("jpeg", pa.binary(), nullable=False),
    ]
)


class Region(NamedTuple):
    """One credible region of a photo.

    Attributes:
        level: Stated probability.
        wkb: Polygon or multipolygon in degrees, cut at the antimeridian.
        bounds: Its west, south, east and north in degrees.
        area_km2: Its area on the mean sphere.
        probability: Probability inside it by quadrature.
    """

    level: float
    wkb: bytes
    bounds: tuple[float, float, float, float]
    area_km2: float
    probability: float


class Thumbnail(NamedTuple):
    """A small picture of a photo, as a JPEG."""

    key: str
    jpeg: bytes


def region_table(shard: str, rows: Sequence[tuple[str, Region]]) -> pa.Table:
    """Builds the table of one shard's regions, rows as they come.

    Args:
        shard: Id of the shard, for every row.
        rows: Pairs of a photo's key and one of its regions.

    Returns:
        A table of REGION_SCHEMA with the `geo` metadata.

    Raises:
        ValueError: A geometry is no polygon.
    """
    regions = [region for _, region in rows]
    wkb, bounds = [region.wkb for region in regions], [region.bounds for region in regions]
    columns = {
        "key": [key for key, _ in rows],
        "shard": [shard] * len(rows),
        "level": [region.level for region in regions],
        geoparquet.GEOMETRY: wkb,
        geoparquet.BBOX: geoparquet.boxes_column(bounds),
        "area_km2": [region.area_km2 for region in regions],
        "probability": [region.probability for region in regions],
    }
    metadata = {geoparquet.METADATA_KEY: geoparquet.create_polygon_metadata(wkb, bounds)}
    return pa.table(columns, schema=REGION_SCHEMA).replace_schema_metadata(metadata)


def thumbnail_table(shard: str, thumbnails: Sequence[Thumbnail]) -> pa.Table:
    """Builds the table of one shard's thumbnails, rows as they come."""
    columns = {
        "key": [thumbnail.key for thumbnail in thumbnails],
        "shard": [shard] * len(thumbnails),
        "jpeg": [thumbnail.jpeg for thumbnail in thumbnails],
    }
    return pa.table(columns, schema=THUMBNAIL_SCHEMA)

"""Layers that a geotag run writes on demand: regions, areas, thumbnails and embeddings.

A region is the smallest one found that holds the true position with a stated probability. An area
is a country, a part of one, a polygon of the user's or a cell of H3, with its probability. A
thumbnail is a small picture to look at. An embedding is what the network is given of a photo, so
that another run needs no photo. All are joined to the predictions by `photo_id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

import pyarrow as pa

from schemas import geoparquet
from schemas.geotags import CAPTURE_FIELDS, with_kept

THUMBNAIL_SIDE = 96
"""Length of a thumbnail's longer side in pixels, at most."""

REGION_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("photo_id", pa.string(), nullable=False),
        pa.field("level", pa.float64(), nullable=False),
        pa.field(geoparquet.GEOMETRY, pa.binary(), nullable=False),
        pa.field(geoparquet.BBOX, geoparquet.BBOX_TYPE, nullable=False),
        pa.field("area_km2", pa.float64(), nullable=False),
        pa.field("probability", pa.float64(), nullable=False),
    ]
)

LEAST_AREA = 0.01
"""Areas with less probability are added up."""

FINEST_H3 = 9
"""Finest resolution of H3 that may be asked for: cells of 0.1 km²."""

SEA, ELSEWHERE = "sea", "elsewhere"
"""What is left of a photo's probability: that of the open sea, and that of all other places."""

AREA_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("photo_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("area", pa.string()),
        pa.field("rest", pa.string()),
        pa.field("probability", pa.float64(), nullable=False),
    ]
)

THUMBNAIL_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("photo_id", pa.string(), nullable=False),
        pa.field("jpeg", pa.binary(), nullable=False),
    ]
)


EMBEDDING = "embedding"


def embedding_schema(width: int, keep: Sequence[str] = ()) -> pa.Schema:
    """The columns of embeddings: numbers in half precision, known positions, times, own priors.

    Args:
        width: Length of an embedding.
        keep: Names of fields of documents that are taken along.
    """
    texts, degrees = pa.string(), pa.float64()
    schema = pa.schema(
        [
            pa.field("key", texts, nullable=False),
            pa.field("shard", texts, nullable=False),
            pa.field("photo_id", texts, nullable=False),
            pa.field("path", texts, nullable=False),
            pa.field("sha256", texts),
            pa.field(EMBEDDING, pa.list_(pa.float16(), width), nullable=False),
            pa.field("exif_latitude", degrees),
            pa.field("exif_longitude", degrees),
            pa.field("exif_source", texts),
            pa.field("truth_latitude", degrees),
            pa.field("truth_longitude", degrees),
            pa.field("truth_source", texts),
            *CAPTURE_FIELDS,
            pa.field("prior", texts),
        ]
    )
    return with_kept(schema, keep)


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


class AreaKind(str, Enum):
    """Kinds of areas: ISO 3166-1, ISO 3166-2, polygons of the user's, and cells of H3."""

    COUNTRY = "country"
    REGION = "region"
    ADMIN = "admin"
    H3 = "h3"


class AreaMass(NamedTuple):
    """The probability that a photo was taken in an area.

    Attributes:
        kind: Kind of the area.
        area: Code or name of the area; None for a rest.
        rest: SEA or ELSEWHERE; None for an area.
        probability: Probability, 0 to 1. Those of one photo and kind sum to 1.
    """

    kind: AreaKind
    area: str | None
    rest: str | None
    probability: float


class Thumbnail(NamedTuple):
    """A small picture of a photo, as a JPEG."""

    key: str
    jpeg: bytes


def region_table(
    shard: str, rows: Sequence[tuple[str, Region]], photo_ids: Mapping[str, str]
) -> pa.Table:
    """Builds the table of one shard's regions, rows as they come.

    Args:
        shard: Id of the shard, for every row.
        rows: Pairs of a photo's key and one of its regions.
        photo_ids: Identity of each photo by its key.

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
        "photo_id": [photo_ids[key] for key, _ in rows],
        "level": [region.level for region in regions],
        geoparquet.GEOMETRY: wkb,
        geoparquet.BBOX: geoparquet.boxes_column(bounds),
        "area_km2": [region.area_km2 for region in regions],
        "probability": [region.probability for region in regions],
    }
    metadata = {geoparquet.METADATA_KEY: geoparquet.create_polygon_metadata(wkb, bounds)}
    return pa.table(columns, schema=REGION_SCHEMA).replace_schema_metadata(metadata)


def area_table(shard: str, rows: Sequence[tuple[str, str, AreaMass]]) -> pa.Table:
    """Builds the table of one shard's areas, rows as they come.

    Args:
        shard: Id of the shard, for every row.
        rows: A photo's `photo_id`, its key and one of its areas.
    """
    columns = {
        "photo_id": [photo_id for photo_id, _, _ in rows],
        "key": [key for _, key, _ in rows],
        "shard": [shard] * len(rows),
        "kind": [one.kind.value for *_, one in rows],
        "area": [one.area for *_, one in rows],
        "rest": [one.rest for *_, one in rows],
        "probability": [one.probability for *_, one in rows],
    }
    return pa.table(columns, schema=AREA_SCHEMA)


def embedding_table(
    shard: str, values: Any, columns: Mapping[str, Any], keep: Sequence[str] = ()
) -> pa.Table:
    """Builds the table of one shard's embeddings, rows in the order of the columns.

    Args:
        shard: Id of the shard, for every row.
        values: Embeddings, float16 ``(N, E)``.
        columns: `key`, `photo_id`, `path`, `sha256`, `prior` and the columns of positions and
            times, N values each; NaN and None where unknown. Also a column for each name in
            `keep`.
        keep: Names of fields of documents that are taken along.
    """
    schema = embedding_schema(max(1, values.shape[1]), keep)
    numbers = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), max(1, values.shape[1]))
    given = {**columns, "shard": [shard] * len(values), EMBEDDING: numbers}
    arrays = [
        given[field.name]
        if field.name == EMBEDDING
        else pa.array(given[field.name], field.type, from_pandas=True)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def thumbnail_table(
    shard: str, thumbnails: Sequence[Thumbnail], photo_ids: Mapping[str, str]
) -> pa.Table:
    """Builds the table of one shard's thumbnails, rows as they come.

    Args:
        shard: Id of the shard, for every row.
        thumbnails: Thumbnails of some of its photos.
        photo_ids: Identity of each photo by its key.
    """
    columns = {
        "key": [thumbnail.key for thumbnail in thumbnails],
        "shard": [shard] * len(thumbnails),
        "photo_id": [photo_ids[thumbnail.key] for thumbnail in thumbnails],
        "jpeg": [thumbnail.jpeg for thumbnail in thumbnails],
    }
    return pa.table(columns, schema=THUMBNAIL_SCHEMA)

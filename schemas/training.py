"""Rows that a build of training shards writes: records that it keeps, and records that it drops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, NamedTuple

import pyarrow as pa

from schemas import geoparquet

SCHEMA_VERSION = "1"
MAX_LINE_CHARACTERS = 200
"""Length of the part of a raw line that goes into the table of drops."""


class Split(str, Enum):
    """Use of a photo; all photos of one photographer have the same."""

    TRAIN = "train"
    VAL = "val"


class DropReason(str, Enum):
    """Reason why a record is in no shard."""

    MALFORMED_ROW = "malformed_row"
    NO_COORDINATES = "no_coordinates"
    BAD_COORDINATES = "bad_coordinates"
    ZERO_COORDINATES = "zero_coordinates"
    NOT_A_PHOTO = "not_a_photo"
    LOW_ACCURACY = "low_accuracy"
    LICENCE = "licence"
    EXCLUDED_ID = "excluded_id"
    EXCLUDED_AUTHOR = "excluded_author"
    DUPLICATE_ID = "duplicate_id"
    AUTHOR_CAP = "author_cap"
    CELL_CAP = "cell_cap"
    NO_IMAGE = "no_image"
    FETCH_FAILED = "fetch_failed"
    BROKEN_IMAGE = "broken_image"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    UNUSABLE_SHARD = "unusable_shard"


class DropRow(NamedTuple):
    """A row of the table of drops; `key` is None if the line holds none."""

    key: str | None
    reason: DropReason
    detail: str
    line: str


def _field(name: str, kind: pa.DataType, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable)


INDEX_SCHEMA = pa.schema(
    [
        _field("key", pa.string()),  # in the tar: the photo id
        _field("source_key", pa.string()),  # as the source spells it
        _field("source", pa.string()),
        _field(geoparquet.GEOMETRY, pa.binary()),
        _field(geoparquet.BBOX, geoparquet.BBOX_TYPE),
        _field("latitude", pa.float64()),
        _field("longitude", pa.float64()),
        _field("author", pa.string()),  # photographer, empty if unknown: guards need it
        _field("split", pa.string()),
        _field("shard", pa.string()),
        _field("licence", pa.string(), nullable=True),
        _field("accuracy", pa.int8(), nullable=True),
        _field("width", pa.int32()),  # of the image in the shard
        _field("height", pa.int32()),
        _field("sha256", pa.string()),  # of the source's bytes
        _field("dhash", pa.uint64()),
        _field("cell", pa.string()),
    ]
)

DROP_SCHEMA = pa.schema(
    [
        _field("key", pa.string(), nullable=True),
        _field("reason", pa.string()),
        _field("detail", pa.string()),
        _field("line", pa.string()),
    ]
)


def index_table(columns: Mapping[str, Any]) -> pa.Table:
    """Builds a table of kept records, sorted by key.

    Args:
        columns: N values for every column of INDEX_SCHEMA but geometry and bbox, which follow from
            `latitude` and `longitude` in degrees.

    Returns:
        A table of INDEX_SCHEMA with the `geo` metadata.

    Raises:
        ValueError: A position is not finite.
        KeyError: A column is missing.
    """
    longitude, latitude = columns["longitude"], columns["latitude"]
    made: dict[str, Any] = {
        **columns,
        geoparquet.GEOMETRY: geoparquet.encode_points(longitude, latitude),
        geoparquet.BBOX: geoparquet.bbox_column(longitude, latitude),
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, type=field.type)
        for field in INDEX_SCHEMA
        for column in [made[field.name]]
    ]
    table = pa.Table.from_arrays(arrays, schema=INDEX_SCHEMA).sort_by("key")
    metadata = {geoparquet.METADATA_KEY: geoparquet.create_metadata(longitude, latitude)}
    return table.replace_schema_metadata(metadata)


def drop_table(drops: Iterable[DropRow]) -> pa.Table:
    """Builds a table of DROP_SCHEMA in a fixed order: rows without a key first, then by key."""
    rows = sorted(drops, key=lambda row: (row.key is not None, row.key or "", *row[1:]))
    columns = [
        [row.key for row in rows],
        [row.reason.value for row in rows],
        [row.detail for row in rows],
        [row.line for row in rows],
    ]
    return pa.table(columns, schema=DROP_SCHEMA)

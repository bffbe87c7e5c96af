"""Rows that a geotag run writes: predictions, errors, and the closed set of statuses.

Regions and thumbnails, which a run writes on demand, are in `schemas.layers`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

import pyarrow as pa

from schemas import geoparquet

SCHEMA_VERSION = "6"
"""Version 1 lacks `land_probability` and `admin`, and its rows are in the order of their keys.
Version 2 has them, and its rows are in spatial order. Version 3 adds FOUND_BY_COLUMNS, and ids of
shards that do not depend on other shards. Version 4 adds FAMILIARITY, version 5 CAPTURE_COLUMNS.
Version 6 adds IDENTITY_COLUMNS, also to errors and layers, AREA_COLUMNS, ADMIN_FIELDS,
BEST_COLUMNS and PRIOR_MASS.
Versions 2 to 4 have the columns `hybrid_latitude` and `hybrid_longitude`, the answer of a gallery,
which is now part of the one answer."""

MAX_MESSAGE_LENGTH = 4096
"""Most characters of a message; what quotes a file or an error may be any length."""

THRESHOLDS_KM = (1, 25, 200, 750, 2500)
"""Distances within which the field counts a prediction as right."""

PROBABILITY_COLUMNS = tuple(f"prob_{kilometres}km" for kilometres in THRESHOLDS_KM)
FAMILIARITY = "familiarity"
PRIOR_MASS = "prior_mass"
HINTS_RIGHT = 0.9
"""Probability that a hint is right, if nobody says another."""
UNFAMILIAR = 0.02
"""Familiarity below which a photo counts as unlike those that a checkpoint is for."""
OPTIONAL_COLUMNS = ("exif_latitude", "exif_longitude", "truth_latitude", "truth_longitude")
FOUND_BY_COLUMNS = ("country_found_by", "exif_source", "truth_source")
CAPTURE_FIELDS = (
    pa.field("captured_at", pa.timestamp("us")),
    pa.field("captured_utc_offset_min", pa.int16()),
    pa.field("captured_at_source", pa.string()),
    pa.field("camera", pa.string()),
)
"""When a photo was taken, by the wall clock of its camera, and with which."""
CAPTURE_COLUMNS = tuple(field.name for field in CAPTURE_FIELDS)
AREA_FIELDS = (
    pa.field("country_probability", pa.float32()),
    pa.field("region", pa.string()),
    pa.field("region_probability", pa.float32()),
)
"""How likely it is that the photo was taken in the country and in the region of the answer."""
AREA_COLUMNS = tuple(field.name for field in AREA_FIELDS)
ADMIN_FIELDS = (pa.field("admin_code", pa.string()), pa.field("admin_probability", pa.float32()))
"""Code of the user's polygon around the answer, and how likely the photo was taken in it."""
ADMIN_COLUMNS = ("admin", *(field.name for field in ADMIN_FIELDS))
MODE_FIELDS = ("latitude", "longitude", "probability", "radius_km")
MODE_TYPE = pa.struct([pa.field(name, pa.float64()) for name in MODE_FIELDS])


IDENTITY_COLUMNS = ("photo_id", "path", "stem", "sha256")
"""Which photo a row is about: its identity, its path, the name of its file without the ending, and
a hash of its bytes."""


class BestSource(str, Enum):
    """Where the best position of a photo stands; the first that is there counts."""

    DOCUMENT = "document"
    PHOTO = "photo"
    PERSON = "person"
    ALBUM = "album"
    MODEL = "model"


BEST_COLUMNS = ("best_latitude", "best_longitude", "best_source")
"""The best position of a photo, in degrees, and where it stands."""


class Status(str, Enum):
    """Why a photo or, if it begins with `SHARD_`, a whole shard has no prediction."""

    MISSING_IMAGE = "missing_image"
    DUPLICATE_KEY = "duplicate_key"
    NAME_TOO_LONG = "name_too_long"
    TRUNCATED = "truncated"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    NOT_AN_IMAGE = "not_an_image"
    BROKEN_IMAGE = "broken_image"
    INCOMPLETE_IMAGE = "incomplete_image"
    EMPTY_FILE = "empty_file"
    NO_READER = "no_reader"
    TOO_SLOW = "too_slow"
    TOO_LARGE = "too_large"
    BAD_METADATA = "bad_metadata"
    BAD_PRIOR = "bad_prior"
    INFERENCE_FAILED = "inference_failed"
    SHARD_TRUNCATED = "shard_truncated"
    SHARD_CORRUPT = "shard_corrupt"
    SHARD_UNREADABLE = "shard_unreadable"

    @property
    def of_shard(self) -> bool:
        """Whether the row describes a whole shard instead of one photo."""
        return self.value.startswith("shard_")


class Stage(str, Enum):
    """Step of the pipeline in which a photo failed."""

    READ = "read"
    PHOTO = "photo"
    EMBED = "embed"
    SAMPLE = "sample"
    DECODE = "decode"


class ErrorRow(NamedTuple):
    """A row of the table of errors.

    Attributes:
        key: Name of the photo; None exactly if `status.of_shard`.
        stage: Where the photo was lost.
        status: Why it was lost.
        message: What was found, what was wanted, what to do.
        photo_id: Identity of the photo; None where its bytes could not be read.
        path: Path of the photo in its archive or folder; None where a shard is meant.
    """

    key: str | None
    stage: Stage
    status: Status
    message: str
    photo_id: str | None = None
    path: str | None = None


def _field(name: str, kind: pa.DataType, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable)


PREDICTION_SCHEMA = pa.schema(
    [
        _field("key", pa.string()),
        _field("shard", pa.string()),
        *(_field(name, pa.string()) for name in IDENTITY_COLUMNS[:3]),
        _field(IDENTITY_COLUMNS[3], pa.string(), nullable=True),
        _field(geoparquet.GEOMETRY, pa.binary()),
        _field(geoparquet.BBOX, geoparquet.BBOX_TYPE),
        _field("latitude", pa.float64()),
        _field("longitude", pa.float64()),
        _field("radius_50_km", pa.float64()),
        _field("radius_90_km", pa.float64()),
        *(_field(name, pa.float32()) for name in PROBABILITY_COLUMNS),
        _field("information_nats", pa.float32()),
        _field("land_probability", pa.float32()),
        _field(FAMILIARITY, pa.float32(), nullable=True),
        _field(PRIOR_MASS, pa.float32(), nullable=True),
        _field("modes", pa.list_(MODE_TYPE)),
        _field("country_code", pa.string(), nullable=True),
        _field("country_found_by", pa.string(), nullable=True),
        *AREA_FIELDS,
        _field("admin", pa.string(), nullable=True),
        *ADMIN_FIELDS,
        *(_field(name, pa.float64(), nullable=True) for name in OPTIONAL_COLUMNS[:2]),
        _field("exif_source", pa.string(), nullable=True),
        *(_field(name, pa.float64(), nullable=True) for name in OPTIONAL_COLUMNS[2:]),
        _field("truth_source", pa.string(), nullable=True),
        *(_field(name, pa.float64()) for name in BEST_COLUMNS[:2]),
        _field(BEST_COLUMNS[2], pa.string()),
        *CAPTURE_FIELDS,
        _field("model_id", pa.string()),
    ]
)

NUMBER_COLUMNS = tuple(
    field.name
    for field in PREDICTION_SCHEMA
    if pa.types.is_floating(field.type) and not field.nullable and field.name not in BEST_COLUMNS
)
"""Columns with a number for every photo, PROBABILITY_COLUMNS among them, in the schema's order."""

ERROR_SCHEMA = pa.schema(
    [
        _field("key", pa.string(), nullable=True),
        _field("shard", pa.string()),
        *(_field(name, pa.string(), nullable=True) for name in IDENTITY_COLUMNS[:2]),
        _field("stage", pa.string()),
        _field("status", pa.string()),
        _field("message", pa.string()),
    ]
)


def with_kept(schema: pa.Schema, keep: Sequence[str]) -> pa.Schema:
    """Adds columns of text for fields of documents that are taken along, which may be null."""
    return pa.schema([*schema, *(_field(name, pa.string(), nullable=True) for name in keep)])


def prediction_table(
    shard: str, model_id: str, columns: Mapping[str, Any], keep: Sequence[str] = ()
) -> pa.Table:
    """Builds the table of one shard's predictions, rows in the order of the columns.

    Args:
        shard: Id of the shard, in every row.
        model_id: Name of the model, in every row.
        columns: Columns by name, with N values each: `key`, IDENTITY_COLUMNS, NUMBER_COLUMNS,
            `modes` (N lists of objects with MODE_FIELDS), OPTIONAL_COLUMNS (degrees, NaN where
            unknown) and, if known, FAMILIARITY, `country_code`, ADMIN_COLUMNS, AREA_COLUMNS,
            FOUND_BY_COLUMNS and CAPTURE_COLUMNS (None where there is none), and BEST_COLUMNS, which
            are else the model's answer. Also a column for each name in `keep`.
        keep: Names of fields of documents that are taken along.

    Returns:
        A table of PREDICTION_SCHEMA and the columns of `keep`, with the `geo` metadata.

    Raises:
        ValueError: A position is not finite.
        KeyError: A column is missing.
    """
    count = len(columns["key"])
    longitude, latitude = columns["longitude"], columns["latitude"]
    masses = (PRIOR_MASS, *ADMIN_COLUMNS, *AREA_COLUMNS)
    optional = (FAMILIARITY, "country_code", *masses, *FOUND_BY_COLUMNS)
    unknown = dict.fromkeys((*optional, *CAPTURE_COLUMNS, IDENTITY_COLUMNS[3]), [None] * count)
    answer = (latitude, longitude, [BestSource.MODEL.value] * count)
    given = {
        **unknown,
        **dict(zip(BEST_COLUMNS, answer, strict=True)),
        **columns,
        "shard": [shard] * count,
        "model_id": [model_id] * count,
        "modes": _mode_lists(columns["modes"]),
        geoparquet.GEOMETRY: geoparquet.encode_points(longitude, latitude),
        geoparquet.BBOX: geoparquet.bbox_column(longitude, latitude),
    }
    schema = with_kept(PREDICTION_SCHEMA, keep)
    arrays = [_array(given[field.name], field) for field in schema]
    table = pa.Table.from_arrays(arrays, schema=schema)
    metadata = {geoparquet.METADATA_KEY: geoparquet.create_metadata(longitude, latitude)}
    return table.replace_schema_metadata(metadata)


def error_table(shard: str, errors: Iterable[ErrorRow]) -> pa.Table:
    """Builds the table of one shard's errors, in a fixed order: shard rows first, then by key."""
    rows = sorted(errors, key=lambda row: (row.key is not None, row.key or "", *row[1:4]))
    columns = [
        [row.key for row in rows],
        [shard] * len(rows),
        [row.photo_id for row in rows],
        [row.path for row in rows],
        [row.stage.value for row in rows],
        [row.status.value for row in rows],
        [row.message[:MAX_MESSAGE_LENGTH] for row in rows],
    ]
    return pa.table(columns, schema=ERROR_SCHEMA)


def _array(values: Any, field: pa.Field) -> pa.Array:
    """A column as Arrow has it; NaN is null where the schema allows nulls."""
    if isinstance(values, pa.Array):
        return values
    return pa.array(values, type=field.type, from_pandas=field.nullable)


def _mode_lists(rows: Sequence[Sequence[Any]]) -> pa.Array:
    """N lists of modes, by column: a dictionary for each mode would be most of a shard's memory."""
    ends = itertools.accumulate((len(modes) for modes in rows), initial=0)
    fields = [
        pa.array((float(getattr(mode, name)) for modes in rows for mode in modes), pa.float64())
        for name in MODE_FIELDS
    ]
    values = pa.StructArray.from_arrays(fields, fields=list(MODE_TYPE))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)

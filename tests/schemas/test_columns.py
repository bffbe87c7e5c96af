"""The columns are those that readers were promised, and others can read them."""

from __future__ import annotations

import json
import struct

import pyarrow as pa
import pytest
import shapely

from locdiffusion.decoding.answers import Mode
from locdiffusion.decoding.credible_regions import CredibleRegion
from pipelines.geotag.late_results import written_region
from schemas import geoparquet
from schemas.albums import ALBUM_SCHEMA, SHARE_COLUMNS, Standing, album_table
from schemas.bigquery import bigquery_schema
from schemas.geotags import (
    ERROR_SCHEMA,
    PREDICTION_SCHEMA,
    PROBABILITY_COLUMNS,
    ErrorRow,
    Stage,
    Status,
    error_table,
    prediction_table,
)
from schemas.layers import region_table

BIG_ENDIAN, LITTLE_ENDIAN = 0, 1
"""The first byte of WKB."""

PROMISED = [
    "key",
    "shard",
    "photo_id",
    "path",
    "stem",
    "sha256",
    "geometry",
    "bbox",
    "latitude",
    "longitude",
    "radius_50_km",
    "radius_90_km",
    "prob_1km",
    "prob_25km",
    "prob_200km",
    "prob_750km",
    "prob_2500km",
    "information_nats",
    "land_probability",
    "familiarity",
    "prior_mass",
    "modes",
    "country_code",
    "country_found_by",
    "country_probability",
    "region",
    "region_probability",
    "admin",
    "admin_code",
    "admin_probability",
    "exif_latitude",
    "exif_longitude",
    "exif_source",
    "truth_latitude",
    "truth_longitude",
    "truth_source",
    "best_latitude",
    "best_longitude",
    "best_source",
    "captured_at",
    "captured_utc_offset_min",
    "captured_at_source",
    "camera",
    "model_id",
]


def columns(count: int) -> dict[str, object]:
    numbers = [float(index) for index in range(count)]
    return {
        "key": [f"k{count - index}" for index in range(count)],
        **{name: ["x"] * count for name in ("photo_id", "path", "stem")},
        **{name: numbers for name in ("latitude", "longitude", "radius_50_km", "radius_90_km")},
        "information_nats": numbers,
        "land_probability": numbers,
        **{name: [0.1 * (i + 1)] * count for i, name in enumerate(PROBABILITY_COLUMNS)},
        "modes": [[Mode(1.0, 2.0, 0.5, 10.0)]] * count,
        **{f"{kind}_latitude": [float("nan")] * count for kind in ("exif", "truth")},
        **{f"{kind}_longitude": [float("nan")] * count for kind in ("exif", "truth")},
    }


def test_columns_are_those_of_the_design() -> None:
    assert PREDICTION_SCHEMA.names == PROMISED
    assert ERROR_SCHEMA.names == ["key", "shard", "photo_id", "path", "stage", "status", "message"]
    by_type = {str(field.type) for field in PREDICTION_SCHEMA if field.name.startswith("prob_")}
    assert by_type == {"float"}
    nullable = {field.name for field in PREDICTION_SCHEMA if field.nullable}
    assert nullable == {
        "familiarity",
        "prior_mass",
        "country_code",
        "country_found_by",
        "country_probability",
        "region",
        "region_probability",
        "admin_code",
        "admin_probability",
        "admin",
        "camera",
        "sha256",
        *(name for name in PROMISED if name.startswith(("exif", "truth", "captured"))),
    }


@pytest.mark.parametrize("count", [0, 1, 3])
def test_prediction_table(count: int) -> None:
    table = prediction_table("s", "m", columns(count))
    assert table.schema.equals(PREDICTION_SCHEMA)
    geoparquet.validate(table.schema)
    keys = table["key"].to_pylist()
    assert keys == columns(count)["key"]
    assert table["truth_latitude"].null_count == count  # NaN is not a number to a reader
    document = json.loads(table.schema.metadata[b"geo"])
    assert ("bbox" in document["columns"]["geometry"]) == (count > 0)
    table.validate(full=True)


def test_album_table_has_points_where_there_is_a_position() -> None:
    nan = float("nan")
    given = {
        "key": ["a", "b", "c"],
        "album": ["x"] * 3,
        "standing": [Standing.NO_TIME.value, Standing.PLACED.value, Standing.ALONE.value],
        "latitude": [nan, 2.0, nan],
        "longitude": [nan, 3.0, nan],
        "modes": [None, [{"latitude": 2.0, "longitude": 3.0}], []],
        **dict.fromkeys(SHARE_COLUMNS, pa.array([None, 0.5, None])),
    }
    table = album_table(given)
    table.validate(full=True)
    geoparquet.validate(table.schema)
    assert table.schema.equals(ALBUM_SCHEMA)
    assert ALBUM_SCHEMA.names[: len(PROMISED)] == PROMISED
    assert table["latitude"].to_pylist() == [None, 2.0, None]
    points = table[geoparquet.GEOMETRY].to_pylist()
    assert points[::2] == [None, None] and shapely.from_wkb(points[1]) == shapely.Point(3.0, 2.0)
    assert [box and box["xmax"] for box in table["bbox"].to_pylist()] == [None, 3.0, None]
    assert table["hours_before"].null_count == 3
    with pytest.raises(ValueError, match="half a position"):
        album_table({**given, "latitude": [nan] * 3})
    with pytest.raises(KeyError, match="album"):
        album_table({"key": ["a"], "standing": ["alone"]})
    assert album_table({"key": [], "album": [], "standing": []}).num_rows == 0
    modes = {field["name"]: field["mode"] for field in bigquery_schema(ALBUM_SCHEMA)}
    assert modes["geometry"] == "NULLABLE" and modes["modes"] == "REPEATED"


def test_error_table_has_a_fixed_order() -> None:
    rows = [
        ErrorRow("b", Stage.READ, Status.DUPLICATE_KEY, "m"),
        ErrorRow("a", Stage.EMBED, Status.INFERENCE_FAILED, "m"),
        ErrorRow(None, Stage.READ, Status.SHARD_CORRUPT, "m"),
    ]
    assert error_table("s", rows).equals(error_table("s", rows[::-1]))
    assert error_table("s", rows)["key"].to_pylist() == [None, "a", "b"]
    assert error_table("s", []).schema.equals(ERROR_SCHEMA)


def test_points_agree_with_shapely() -> None:
    longitude, latitude = [0.0, -180.0, 13.4], [0.0, 90.0, -52.5]
    ours = geoparquet.encode_points(longitude, latitude).to_pylist()
    points = shapely.points(longitude, latitude)
    assert ours == shapely.to_wkb(points, byte_order=LITTLE_ENDIAN).tolist()
    decoded = shapely.get_coordinates(shapely.from_wkb(ours)).tolist()
    assert decoded == [list(pair) for pair in zip(longitude, latitude, strict=True)]


SQUARE, FAR_SQUARE = shapely.box(-180.0, -52.5, -170.0, 10.0), shapely.box(170.0, 0.0, 180.0, 90.0)


@pytest.mark.parametrize("shape", [SQUARE, shapely.MultiPolygon([SQUARE, FAR_SQUARE])])
def test_regions_agree_with_shapely(shape: shapely.Geometry) -> None:
    region = written_region(CredibleRegion(0.9, shape, 1e4, 0.9))
    assert region.wkb == shapely.to_wkb(shape, byte_order=LITTLE_ENDIAN)
    (written,) = region_table("s", [("k", region)], {"k": "x"})[geoparquet.GEOMETRY].to_pylist()
    assert shapely.equals_exact(shapely.from_wkb(written), shape, tolerance=0.0)


@pytest.mark.parametrize("byte_order", [BIG_ENDIAN, LITTLE_ENDIAN])
def test_types_are_read_in_either_byte_order(byte_order: int) -> None:
    for shape in (shapely.Point(3.0, 4.0), SQUARE, shapely.MultiPolygon([SQUARE, FAR_SQUARE])):
        wkb = shapely.to_wkb(shape, byte_order=byte_order)
        assert wkb[0] == byte_order and geoparquet.geometry_type(wkb) == shape.geom_type
    assert geoparquet.geometry_type(struct.pack(">BIdd", 0, 1, 3.0, 4.0)) == "Point"


@pytest.mark.parametrize("wkb", [b"", b"\x01\x01", struct.pack("<BIdd", 1, 2, 0, 0)])
def test_other_geometries_are_refused(wkb: bytes) -> None:
    with pytest.raises(ValueError, match="WKB"):
        geoparquet.geometry_type(wkb)


def test_a_position_that_is_not_finite_is_no_point() -> None:
    with pytest.raises(ValueError, match="error row"):
        geoparquet.encode_points([float("nan")], [0.0])


def test_validate_says_what_is_wrong() -> None:
    table = prediction_table("s", "m", columns(1))
    with pytest.raises(ValueError, match="no 'geo'"):
        geoparquet.validate(table.schema.remove_metadata())
    geo = json.loads(table.schema.metadata[b"geo"])
    for key, value in (("version", "0.4.0"), ("primary_column", "point")):
        changed = table.schema.with_metadata({b"geo": json.dumps({**geo, key: value}).encode()})
        with pytest.raises(ValueError, match=str(value)):
            geoparquet.validate(changed)
    renamed = pa.schema([pa.field("geometry", pa.string()), PREDICTION_SCHEMA.field("bbox")])
    with pytest.raises(ValueError, match="binary"):
        geoparquet.validate(renamed.with_metadata(table.schema.metadata))


def test_statuses_of_shards_carry_no_key() -> None:
    assert {status for status in Status if status.of_shard} == {
        Status.SHARD_CORRUPT,
        Status.SHARD_TRUNCATED,
        Status.SHARD_UNREADABLE,
    }

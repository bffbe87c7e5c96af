"""GeoParquet 1.1: WKB points and polygons, the `bbox` covering column and the `geo` metadata.

The coordinate system is OGC:CRS84 (longitude, latitude, WGS84). It is what the format takes a
missing `crs` to be, so the metadata leave it out.
A polygon across the antimeridian is cut there, and its box spans ±180°: readers that compare a
file's statistics would lose a box whose west is greater than its east.
Source: https://geoparquet.org/releases/v1.1.0/
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

METADATA_KEY = b"geo"
VERSION = "1.1.0"
GEOMETRY = "geometry"
BBOX = "bbox"
BBOX_FIELDS = ("xmin", "ymin", "xmax", "ymax")
BBOX_TYPE = pa.struct([pa.field(name, pa.float64(), nullable=False) for name in BBOX_FIELDS])

POINT = "Point"
POLYGONS = POLYGON, MULTIPOLYGON = ("Polygon", "MultiPolygon")

_POINT = struct.Struct("<BIdd")  # little endian flag, geometry type, x, y
_TYPE_NAMES = {1: POINT, 3: POLYGON, 6: MULTIPOLYGON}


def encode_points(longitude: Sequence[float], latitude: Sequence[float]) -> pa.Array:
    """Encodes positions as WKB points.

    Args:
        longitude: Longitudes x in degrees, N of them.
        latitude: Latitudes y in degrees, N of them.

    Returns:
        A binary Arrow array of N points, 21 bytes each.

    Raises:
        ValueError: The columns differ in length, or a coordinate is not finite.
    """
    if len(longitude) != len(latitude):
        raise ValueError(f"{len(longitude)} longitudes and {len(latitude)} latitudes, wanted pairs")
    points = [(float(x), float(y)) for x, y in zip(longitude, latitude, strict=True)]
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"point ({x}, {y}) is not finite; write it as an error row instead")
    return pa.array([_POINT.pack(1, 1, x, y) for x, y in points], type=pa.binary())


def geometry_type(wkb: bytes) -> str:
    """Reads the type of a WKB geometry, one of those that this project writes.

    Raises:
        ValueError: The bytes are of no such type.
    """
    number = struct.unpack("<I" if wkb[:1] == b"\x01" else ">I", wkb[1:5])[0] if len(wkb) > 5 else 0
    if number not in _TYPE_NAMES:
        known = ", ".join(f"{name} ({kind})" for kind, name in _TYPE_NAMES.items())
        raise ValueError(f"WKB geometry type {number} is none of {known}")
    return _TYPE_NAMES[number]


def bbox_column(longitude: Sequence[float], latitude: Sequence[float]) -> pa.Array:
    """Builds the covering column of N points in degrees: boxes without extent."""
    x = pa.array(longitude, type=pa.float64())
    y = pa.array(latitude, type=pa.float64())
    return pa.StructArray.from_arrays([x, y, x, y], fields=list(BBOX_TYPE))


def boxes_column(bounds: Sequence[Sequence[float]]) -> pa.Array:
    """Builds the covering column of N boxes: west, south, east, north in degrees."""
    sides = [
        pa.array([float(box[side]) for box in bounds], pa.float64())
        for side in range(len(BBOX_FIELDS))
    ]
    return pa.StructArray.from_arrays(sides, fields=list(BBOX_TYPE))


def create_metadata(longitude: Sequence[float], latitude: Sequence[float]) -> bytes:
    """Builds the value of the `geo` key of a file of points.

    Args:
        longitude: Longitudes in degrees; without any, the optional extent is left out.
        latitude: Latitudes in degrees.
    """
    extent = None
    if len(longitude):
        extent = (min(longitude), min(latitude), max(longitude), max(latitude))
    return _document([POINT], extent)


def create_polygon_metadata(wkb: Sequence[bytes], bounds: Sequence[Sequence[float]]) -> bytes:
    """Builds the value of the `geo` key of a file of polygons, outer rings anticlockwise.

    Args:
        wkb: Polygons or multipolygons; without any, extent and types are left open.
        bounds: Their boxes: west, south, east, north in degrees.
    """
    extent = None
    if len(bounds):
        west, south, east, north = zip(*bounds, strict=True)
        extent = (min(west), min(south), max(east), max(north))
    types = sorted({geometry_type(one) for one in wkb})
    return _document(types, extent, orientation="counterclockwise")


def _document(types: Sequence[str], extent: Sequence[float] | None, **more: str) -> bytes:
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": list(types),
        "covering": {"bbox": {name: [BBOX, name] for name in BBOX_FIELDS}},
        **more,
    }
    if extent is not None:
        column["bbox"] = [float(value) for value in extent]
    document = {"version": VERSION, "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
    return json.dumps(document, sort_keys=True).encode()


def validate(schema: pa.Schema, types: Sequence[str] = (POINT,)) -> None:
    """Checks that a file's schema is the GeoParquet that this project writes.

    Args:
        schema: Schema of the file with its metadata.
        types: Types of geometry that may be in the file.

    Raises:
        ValueError: The schema differs; the message says what was found and what is wanted.
    """
    text = (schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise ValueError("the schema has no 'geo' metadata: this is Parquet, not GeoParquet")
    document = json.loads(text)
    if document.get("version") != VERSION:
        raise ValueError(f"GeoParquet version {document.get('version')!r}, wanted {VERSION!r}")
    primary = document.get("primary_column")
    column = document.get("columns", {}).get(primary)
    if primary != GEOMETRY or column is None:
        raise ValueError(f"primary column is {primary!r}, wanted {GEOMETRY!r} and its description")
    found = column.get("geometry_types")
    if column.get("encoding") != "WKB" or found is None or not set(found) <= set(types):
        raise ValueError(f"geometry is {column}, wanted WKB of {' or '.join(types)}")
    if schema.field(GEOMETRY).type != pa.binary() or schema.field(BBOX).type != BBOX_TYPE:
        raise ValueError("columns geometry and bbox must be binary and a struct of four doubles")

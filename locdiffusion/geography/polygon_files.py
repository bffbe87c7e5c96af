"""Reads files of polygons: GeoJSON, GeoParquet, GeoPackage, and a shapefile in a zip.

Which of them a file is, is told by its first bytes, never by its name. Each format is read here, by
libraries that open nothing besides: GDAL, which reads these and 80 more, follows what a file says
to other files and to servers. The files come from strangers, so `geography.borders` calls this in
a child process; what is checked here is what must not depend on that.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import re
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import shapely

from locdiffusion.geography.coordinate_systems import defined_system, named_system
from locdiffusion.geography.polygon_rows import MOST_ROWS, WANTED, PolygonRows
from locdiffusion.geography.polygons import PolygonError
from locdiffusion.geography.shapefile import read_shapefile
from locdiffusion.geography.wkb import polygons_from_wkb
from locdiffusion.isolation.parquet import flat_table


def read_rows(data: bytes) -> PolygonRows:
    """Reads the rows of a file by its content.

    Raises:
        PolygonError: It is none of the four formats, or damaged.
    """
    for start, read in _READERS.items():
        if data.startswith(start):
            return read(data)
    if data.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{":
        return read_geojson(data)
    raise PolygonError(f"it begins with {data[:4]!r}; {WANTED}")


# ------------------------------------------------------------------------------------- GeoJSON


def read_geojson(data: bytes) -> PolygonRows:
    """Reads a FeatureCollection, a Feature or a polygon (RFC 7946, and `crs` of 2008)."""
    try:
        # Each polygon becomes a shape as soon as it is read: its lists would take ten times more.
        content = json.loads(data, object_hook=_shaped)
    except PolygonError:
        raise
    except (RecursionError, ValueError) as error:
        raise PolygonError(f"it is no GeoJSON ({error}); {WANTED}") from error
    crs = None
    if isinstance(content, shapely.Geometry):
        features: Any = [{"geometry": content}]
    else:
        features = [content] if content.get("type") == "Feature" else content.get("features")
        crs = _geojson_crs(content.get("crs"))
    if not isinstance(features, list) or not all(isinstance(one, dict) for one in features):
        raise PolygonError(f"it is JSON of the type {content.get('type')!r:.40}; {WANTED}")
    shapes = np.empty(len(features), object)
    for row, feature in enumerate(features):
        shape = feature.get("geometry")
        shapes[row] = shape if isinstance(shape, shapely.Geometry) else None
    properties = [feature.get("properties") for feature in features]
    return PolygonRows(shapes, [p if isinstance(p, dict) else {} for p in properties], crs)


def _shaped(item: dict[str, Any]) -> Any:
    """Makes the shape of a JSON object that is one; other objects stay as they are."""
    kind, coordinates, members = map(item.get, ("type", "coordinates", "geometries"))
    try:
        if kind == "Polygon" and coordinates:
            return _polygon(coordinates)
        if kind == "MultiPolygon" and coordinates:
            return shapely.MultiPolygon([_polygon(rings) for rings in coordinates if rings])
    except (IndexError, OverflowError, TypeError, ValueError, shapely.GEOSException) as error:
        raise PolygonError(f"it holds a damaged {kind}: {str(error)[:200]}") from error
    if kind == "GeometryCollection" and isinstance(members, list):
        shapes = [member for member in members if isinstance(member, shapely.Geometry)]
        if any(shape.geom_type == "GeometryCollection" for shape in shapes):
            raise PolygonError("it holds a GeometryCollection within another; want polygons.")
        return shapely.GeometryCollection(shapes)
    return item


def _polygon(rings: Any) -> shapely.Polygon:
    shell, *holes = (np.array([xy[:2] for xy in ring], np.float64) for ring in rings)
    return shapely.Polygon(shell, holes)


def _geojson_crs(crs: Any) -> str | None:
    if crs is None:
        return None
    properties = crs.get("properties") if isinstance(crs, dict) else None
    name = properties.get("name") if isinstance(properties, dict) else None
    found = re.fullmatch(r"(?:urn:ogc:def:crs:)?(\w{2,10}):(?:[\d.]*:)?(\w{1,20})", str(name))
    if found is None:
        raise PolygonError(f"its `crs` is {str(crs)[:100]}; want a name such as EPSG:3857.")
    return named_system(*found.groups())


# ---------------------------------------------------------------------------------- GeoParquet


def read_geoparquet(data: bytes) -> PolygonRows:
    """Reads the geometry and all plain columns of a GeoParquet file."""
    try:
        table = flat_table(pa.py_buffer(data))
        about = json.loads((table.schema.metadata or {})[b"geo"])
        geometry = about["primary_column"]
        encoding, crs = (about["columns"][geometry].get(key) for key in ("encoding", "crs"))
        blobs = table[geometry].to_pylist()
    except (pa.ArrowException, AttributeError, LookupError, TypeError, ValueError) as error:
        raise PolygonError(f"it is no GeoParquet ({str(error)[:200]}); {WANTED}") from error
    if encoding != "WKB" or len(blobs) > MOST_ROWS:
        raise PolygonError(
            f"its {len(blobs):,} geometries are in {encoding!r:.40}; want at most {MOST_ROWS:,}, "
            "in WKB."
        )
    plain = [f.name for f in table.schema if f.name != geometry and _is_plain(f.type)]
    values = table.select(plain).to_pylist() if plain else [{} for _ in blobs]
    system = defined_system(json.dumps(crs), crs.get("id")) if isinstance(crs, dict) else None
    return PolygonRows(polygons_from_wkb(blobs), values, system)


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_boolean)
    return any(test(kind) for test in (*tests, pa.types.is_large_string))


# ---------------------------------------------------------------------------------- GeoPackage


def read_geopackage(data: bytes) -> PolygonRows:
    """Reads the first layer of a GeoPackage, which is a database of SQLite.

    Only tables are read, no views, and no function runs: the file cannot ask for any.
    """
    try:
        with _database(data) as database:
            return _first_layer(database)
    except (sqlite3.Error, OverflowError, UnicodeError) as error:
        raise PolygonError(f"it is no GeoPackage that can be read ({error}); {WANTED}") from error


@contextlib.contextmanager
def _database(data: bytes) -> Iterator[sqlite3.Connection]:
    """Opens a database for reading. Its file is gone when it is open, however the process ends."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "borders")
        path.write_bytes(data)
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    with contextlib.closing(connection):
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        if sys.version_info >= (3, 11):  # no value is longer than the file that holds it
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(len(data), 10_000))
        connection.set_authorizer(_only_reading)
        yield connection


def _only_reading(action: int, *_: str | None) -> int:
    allowed = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ)
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _first_layer(database: sqlite3.Connection) -> PolygonRows:
    layers = "SELECT table_name, column_name, srs_id FROM gpkg_geometry_columns"
    table, geometry, system = database.execute(layers).fetchone() or ("", "", None)
    kept = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND name = ?"
    if database.execute(kept, (table,)).fetchone() is None:
        raise PolygonError(f"its layer {table!r:.100} is no table; {WANTED}")
    cursor = database.execute('SELECT * FROM "{}"'.format(table.replace('"', '""')))
    columns = [name for name, *_ in cursor.description]
    if geometry not in columns:
        raise PolygonError(f"its layer has no column {geometry!r:.100}.")
    at = columns.index(geometry)
    blobs: list[bytes | None] = []
    values: list[Mapping[str, Any]] = []
    for row in cursor:
        if len(blobs) == MOST_ROWS:
            raise PolygonError(f"it has more than {MOST_ROWS:,} rows.")
        blobs.append(_wkb_of_geopackage(row[at]))
        plain = (None if isinstance(value, bytes) else value for value in row)
        values.append({n: v for n, v in zip(columns, plain, strict=True) if n != geometry})
    systems = (
        "SELECT organization, organization_coordsys_id, definition FROM gpkg_spatial_ref_sys "
        "WHERE srs_id = ?"
    )
    found = database.execute(systems, (system,)).fetchone() if system not in (None, 0, -1) else None
    crs = found and defined_system(str(found[2]), {"authority": found[0], "code": found[1]})
    return PolygonRows(polygons_from_wkb(blobs), values, crs)


def _wkb_of_geopackage(blob: Any) -> bytes | None:
    """Cuts off the header of a geometry: `GP`, version, flags, system, and an envelope."""
    if blob is None:
        return None
    if not isinstance(blob, bytes) or blob[:2] != b"GP" or len(blob) < 8 or blob[3] & 0x20:
        raise PolygonError("it holds a geometry that is not GeoPackage's own.")
    return blob[8 + (0, 32, 48, 48, 64, 0, 0, 0)[blob[3] >> 1 & 7] :]


_READERS: Mapping[bytes, Callable[[bytes], PolygonRows]] = {
    b"PAR1": read_geoparquet,
    b"SQLite format 3\0": read_geopackage,
    b"PK\x03\x04": read_shapefile,
}

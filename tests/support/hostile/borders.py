"""Files of polygons that reach for other files, or take all memory and time; made by code."""

from __future__ import annotations

import io
import json
import sqlite3
import struct
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

SERVER = "http://127.0.0.1:9"
SECRET = "/etc/hostname"
SQUARE = [[[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]]


def geojson(shapes: Sequence[Any], names: Sequence[Any] | None = None, **members: Any) -> bytes:
    """A FeatureCollection of geometries, each with a name."""
    features = [
        {"type": "Feature", "properties": {"name": name}, "geometry": shape}
        for shape, name in zip(shapes, names or range(len(shapes)), strict=True)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features, **members}).encode()


def polygon(rings: Any) -> dict[str, Any]:
    """A GeoJSON polygon."""
    return {"type": "Polygon", "coordinates": rings}


def geoparquet(blobs: Any, names: Any, crs: Any = None) -> bytes:
    """A GeoParquet of geometries as WKB."""
    column = {"encoding": "WKB", "geometry_types": [], **({"crs": crs} if crs else {})}
    geo = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": column}}
    table = pa.table({"name": names, "geometry": blobs})
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), sink)
    return sink.getvalue()


def repeated(value: bytes | str) -> pa.DictionaryArray:
    """One value, 300,000 times, as a dictionary writes it."""
    return pa.DictionaryArray.from_arrays(np.zeros(300_000, np.int32), [value])


def nested_wkb(depth: int) -> bytes:
    """Collections in collections, around a polygon."""
    inner = shapely.to_wkb(shapely.box(0, 0, 2, 2))
    return struct.pack("<BII", 1, 7, 1) * depth + inner


def geopackage(script: str = "", table: str = "units") -> bytes:
    """A GeoPackage of one square; `script` does what a stranger likes."""
    blob = b"GP\0\1" + struct.pack("<i", 4326) + shapely.to_wkb(shapely.box(0, 0, 2, 2))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.gpkg")
        base = sqlite3.connect(path)
        base.executescript(
            "CREATE TABLE gpkg_geometry_columns (table_name, column_name, srs_id);"
            "CREATE TABLE gpkg_spatial_ref_sys"
            " (srs_id, organization, organization_coordsys_id, definition);"
            "INSERT INTO gpkg_spatial_ref_sys VALUES (4326, 'EPSG', 4326, '');"
            "CREATE TABLE units (name, geom);"
        )
        base.execute("INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 4326)", (table,))
        base.execute("INSERT INTO units VALUES ('a', ?)", (blob,))
        base.executescript(script)
        base.commit()
        base.close()
        return path.read_bytes()


def shapefile(rings: Sequence[Any], prj: bytes = b"", **others: bytes) -> bytes:
    """A zip with a shapefile of one shape of given rings; `others` are members by their names."""
    points = np.concatenate([np.asarray(ring, float) for ring in rings])
    starts = np.cumsum([0, *map(len, rings)])[:-1]
    body = struct.pack("<i4dii", 5, 0, 0, 0, 0, len(rings), len(points))
    body += starts.astype("<i4").tobytes() + points.astype("<f8").tobytes()
    shp = struct.pack(">i", 9994) + bytes(96) + struct.pack(">ii", 1, len(body) // 2) + body
    field = b"name".ljust(11, b"\0") + b"C" + bytes(4) + bytes([4]) + bytes(15)
    dbf = bytes([3, 0, 0, 0]) + struct.pack("<IHH", 1, 65, 5) + bytes(20) + field + b"\r a   "
    return zipped({"units.shp": shp, "units.dbf": dbf, "units.prj": prj, **others})


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return sink.getvalue()


def vrt(source: str) -> bytes:
    """An OGR VRT, which names another source, in which polygons are made of its rows."""
    return (
        f'<OGRVRTDataSource><OGRVRTLayer name="x"><SrcDataSource>{source}</SrcDataSource>'
        "</OGRVRTLayer></OGRVRTDataSource>"
    ).encode()


GRID = f"+proj=longlat +datum=WGS84 +nadgrids={SECRET} +type=crs"
BOUND = (
    'GEOGCS["x",DATUM["D",SPHEROID["WGS_1984",6378137,298.25]],PRIMEM["Greenwich",0],'
    f'UNIT["Degree",0.0174532925199433],EXTENSION["PROJ4","{GRID}"]]'
)
STAR = [[int(17 * k * k % 359) - 179, int(23 * k * k % 173) - 86] for k in range(4_000)]

FOREIGN: dict[str, Callable[[], bytes]] = {
    "vrt.geojson": lambda: vrt(SECRET),
    "vrt_http.geojson": lambda: vrt(f"/vsicurl/{SERVER}/a.csv"),
    "wfs.geojson": lambda: f"<OGRWFSDataSource><URL>{SERVER}</URL></OGRWFSDataSource>".encode(),
    "algorithm.geojson": lambda: json.dumps(
        {"type": "gdal_streamed_alg", "command_line": f"gdal vector read {SERVER}/a"}
    ).encode(),
    "stac.geojson": lambda: json.dumps(
        {"stac_version": "1.0.0", "type": "Catalog", "links": [{"href": SERVER}]}
    ).encode(),
    "esri.geojson": lambda: json.dumps(
        {"geometryType": "esriGeometryPolygon", "exceededTransferLimit": True, "features": 1}
    ).encode(),
    "topology.geojson": lambda: b'{"type":"Topology","objects":{},"arcs":[]}',
    "lines.geojson": lambda: geojson([polygon(SQUARE)]) + b"\n" + geojson([polygon(SQUARE)]),
    "kml.parquet": lambda: f'<kml><NetworkLink><href>{SERVER}"/></kml>'.encode(),
    "csv.gpkg": lambda: b"name,WKT\na,POLYGON((0 0,1 0,1 1,0 0))\n",
    "link.geojson": lambda: geojson(
        [polygon(SQUARE)], crs={"type": "link", "properties": {"href": SERVER}}
    ),
    "grid.geojson": lambda: geojson(
        [polygon(SQUARE)], crs={"type": "name", "properties": {"name": GRID}}
    ),
    "grid.shp.zip": lambda: shapefile(SQUARE, BOUND.encode()),
    "grid.parquet": lambda: geoparquet(
        [shapely.to_wkb(shapely.box(0, 0, 2, 2))], ["a"], {"type": "x", "name": GRID}
    ),
    "long.shp.zip": lambda: shapefile(SQUARE, b"GEOGCS[" * 2**20),
    "view.gpkg": lambda: geopackage("CREATE VIEW v AS SELECT * FROM units;", "v"),
    "virtual.gpkg": lambda: geopackage("CREATE VIRTUAL TABLE v USING fts4(name, geom);", "v"),
    "nowhere.gpkg": lambda: geopackage("", "sqlite_master"),
    "vrt.zip": lambda: zipped({"a.vrt": vrt(SECRET), "../b.vrt": vrt(SECRET)}),
    "zip.zip": lambda: zipped({"inner.zip": shapefile(SQUARE)}),
    "two.zip": lambda: shapefile(SQUARE, **{"/etc/other.shp": b"", "../up.shp": b""}),
}
"""Files that name other files or servers, or are of formats that are not read."""

HEAVY: dict[str, Callable[[], bytes]] = {
    "nested.parquet": lambda: geoparquet([nested_wkb(10_000)], ["a"]),
    "many.parquet": lambda: geoparquet(
        repeated(shapely.to_wkb(shapely.Point(0, 0).buffer(1, 450))), repeated("a")
    ),
    "names.parquet": lambda: geoparquet(
        repeated(shapely.to_wkb(shapely.box(0, 0, 2, 2))), repeated("x" * 2**20)
    ),
    "counts.parquet": lambda: geoparquet([struct.pack("<BII", 1, 6, 2**32 - 1)], ["a"]),
    "rings.parquet": lambda: geoparquet([struct.pack("<BIII", 1, 3, 1, 2**31)], ["a"]),
    "blob.gpkg": lambda: geopackage(
        f"UPDATE units SET geom = x'{(b'GP' + bytes(6) + nested_wkb(10_000)).hex()}';"
    ),
    "generated.gpkg": lambda: geopackage(
        "CREATE TABLE big (geom, name AS (zeroblob(1000000000))); INSERT INTO big VALUES (NULL);",
        "big",
    ),
    "deep.geojson": lambda: b'{"a":' + b"[" * 1_000_000,
    "collections.geojson": lambda: geojson(
        [
            {
                "type": "GeometryCollection",
                "geometries": [{"type": "GeometryCollection", "geometries": [polygon(SQUARE)]}],
            }
        ]
    ),
    "infinite.geojson": lambda: geojson([polygon([[[0, 0], [1, 0], [1, float("inf")]]])]),
    "nan.geojson": lambda: geojson([polygon([[[0, 0], [1, 0], [1, float("nan")]]])]),
    "huge.geojson": lambda: geojson([polygon([[[0, 0], [1e308, 0], [1e308, 1e308]]])]),
    "digits.geojson": lambda: geojson([polygon(SQUARE)]).replace(b"2", b"9" * 5_000),
    "one.geojson": lambda: geojson([polygon([[[0, 0]]])] * 1_000),
    "name.geojson": lambda: geojson([polygon(SQUARE)], ["x" * 1_000_001]),
    "overlap.geojson": lambda: geojson(
        [polygon([[[-9, -9 - k / 1e4], [9, 0], [0, 9]]]) for k in range(2_000)]
    ),
    "shared.shp.zip": lambda: overlapping_rings(),
    "damaged.shp.zip": lambda: zipped({"a.shp": struct.pack(">i", 9994) + b"\xff" * 200}),
    "lies.shp.zip": lambda: zipped(
        {"a.shp": struct.pack(">i", 9994) + bytes(96), "a.dbf": b"\3" + b"\xff" * 40}
    ),
    "bomb.shp.zip": lambda: zipped({"a.shp": bytes(30_000_000)}),
}
"""Files that would take all memory, all time or the process."""

BORDERS = FOREIGN | HEAVY


def overlapping_rings() -> bytes:
    """A shapefile whose rings all claim the same points, so that n bytes have n² corners."""
    data = shapefile([SQUARE[0]] * 1_000)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        shp = bytearray(file.read("units.shp"))
    shp[108 + 44 : 108 + 44 + 4_000] = np.tile([0, 4_900], 500).astype("<i4").tobytes()
    return zipped({"units.shp": bytes(shp)})

"""Reads polygons from files, finds the polygon around a point, and rasters polygons.

Polygons lie in the plane of longitude and latitude and have straight edges there, which GeoJSON and
GeoParquet call planar. A polygon across the antimeridian is cut there, or continues beyond ±180°.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
from collections.abc import Sequence
from typing import Any

import fsspec
import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between, unit_vectors, wrap_longitude

_PARQUET = (".parquet", ".geoparquet", ".pq")

_LONGEST_EDGE_DEG = 0.1
"""Edges are divided to this length in degrees; on the sphere, pieces are then straight."""


class PolygonError(ValueError):
    """A file of polygons cannot be used; the message says why and what to do."""


class PolygonIndex:
    """Finds the name of the polygon around a point; where polygons overlap, the first one counts.

    Attributes:
        parts: Single polygons, of which a multipolygon has several.
    """

    def __init__(self, names: Sequence[str | None], geometries: ArrayLike) -> None:
        """Splits multipolygons, so that a point is compared only with polygons near it.

        Args:
            names: Names of the N geometries.
            geometries: N polygons or multipolygons in degrees, within ±180.
        """
        self.parts, owner = shapely.get_parts(geometries, return_index=True)
        shapely.prepare(self.parts)
        self._names = np.array([*(names[i] for i in owner), None], object)

    @property
    def part_names(self) -> list[str | None]:
        """The name of each of `parts`."""
        names: list[str | None] = self._names[:-1].tolist()
        return names

    @classmethod
    def from_file(cls, path: str, column: str | None = None) -> PolygonIndex:
        """Reads the polygons of a file, named by one of its columns.

        Args:
            path: Path or URL of GeoJSON, GeoParquet or another format that GeoPandas reads.
            column: Column with the names; by default `name`, or the only column of text.

        Raises:
            PolygonError: The file, or the column, cannot be used.
        """
        table = read_polygons(path)
        values = table[_name_column(table, path, column)]
        names = [
            None if missing else str(v) for v, missing in zip(values, values.isna(), strict=True)
        ]
        return cls(names, table.geometry.values)

    def __call__(self, latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> list[str | None]:
        """Looks up the polygon around each of N points; None outside all of them."""
        return self.names_of(self.parts_around(latitude_deg, longitude_deg))

    def names_of(self, parts: NDArray[np.int64]) -> list[str | None]:
        """Returns the names of parts by their numbers; None for -1."""
        names: list[str | None] = self._names[parts].tolist()
        return names

    def parts_around(self, latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> NDArray[np.int64]:
        """Returns the number of the part around each of N points; -1 outside all of them."""
        points = shapely.points(wrap_longitude(longitude_deg), np.asarray(latitude_deg, float))
        part, point = shapely.STRtree(points).query(self.parts, predicate="intersects")
        found = np.full(len(points), -1)
        found[point[::-1]] = part[::-1]  # parts come in order: the first one stays
        return found

    def nearest_parts(
        self, latitude_deg: ArrayLike, longitude_deg: ArrayLike, within_km: float
    ) -> NDArray[np.int64]:
        """Returns the number of the named part with the nearest edge to each of N points.

        Args:
            latitude_deg: Latitude in degrees, ``(N,)``.
            longitude_deg: Longitude in degrees, ``(N,)``; multiples of 360 may be added.
            within_km: Largest great-circle distance; -1 is returned where no edge is so near.
        """
        points = unit_vectors(latitude_deg, longitude_deg)
        tree, start, end, owner = self._edges
        reach = within_km / EARTH_RADIUS_KM + math.radians(_LONGEST_EDGE_DEG)
        found = np.full(len(points), -1)
        for row, near in enumerate(tree.query_ball_point(points, reach)):
            if not near:
                continue
            a, b = start[near], end[near]
            along = np.einsum("ij,ij->i", points[row] - a, b - a)
            share = along / np.maximum(np.einsum("ij,ij->i", b - a, b - a), 1e-30)
            foot = a + np.clip(share, 0.0, 1.0)[:, None] * (b - a)
            foot /= np.linalg.norm(foot, axis=1, keepdims=True)
            angle = angle_between(points[row], foot)
            best = int(angle.argmin())
            if angle[best] * EARTH_RADIUS_KM <= within_km:
                found[row] = owner[near[best]]
        return found

    @functools.cached_property
    def _edges(self) -> tuple[cKDTree, NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Tree of the starts of all short edges of named parts; starts, ends, numbers of parts."""
        named = np.flatnonzero(self._names[:-1] != np.array(None))
        rings, owner = shapely.get_rings(self.parts[named], return_index=True)
        degrees, ring = shapely.get_coordinates(
            shapely.segmentize(rings, _LONGEST_EDGE_DEG), return_index=True
        )
        points = unit_vectors(degrees[:, 1], degrees[:, 0])
        same = ring[1:] == ring[:-1]
        start, end = points[:-1][same], points[1:][same]
        return cKDTree(start), start, end, named[owner][ring[1:][same]]


def _name_column(table: Any, path: str, column: str | None) -> str:
    columns = [str(name) for name in table.columns if name != table.geometry.name]
    if column is not None:
        if column not in columns:
            raise PolygonError(f"{path} has no column {column!r}; want one of {columns}.")
        return column
    texts = [name for name in columns if table[name].map(lambda v: isinstance(v, str)).any()]
    named = [name for name in columns if name.lower() == "name"]
    for choice in (named, texts):
        if len(choice) == 1:
            return choice[0]
    raise PolygonError(f"Which column of {path} holds the names? Choose one of {columns}.")


def read_polygons(path: str) -> Any:
    """Reads a GeoDataFrame of valid (multi)polygons in degrees, cut at ±180.

    Args:
        path: Path or URL of GeoJSON, GeoParquet or another format that GeoPandas reads. Rows whose
            geometry is no polygon are left out.

    Raises:
        PolygonError: The file cannot be read, holds no polygon, or does not hold degrees.
    """
    import geopandas

    try:
        data = io.BytesIO(_bytes(path))
        parquet = path.lower().endswith(_PARQUET)
        table = geopandas.read_parquet(data) if parquet else geopandas.read_file(data)
        if table.crs is not None:
            table = table.to_crs("OGC:CRS84")
        shapes = table.geometry.values
    except Exception as error:  # each reader has its own kinds
        reason = " ".join(str(error).split())[:300]
        raise PolygonError(
            f"{path} cannot be read ({type(error).__name__}: {reason}); want GeoJSON or GeoParquet "
            "with polygons."
        ) from error
    polygonal = shapely.get_dimensions(shapes) == 2
    table = table[polygonal & ~shapely.is_empty(shapes)].reset_index(drop=True)
    if not len(table):
        raise PolygonError(f"{path} holds no polygon among its {len(shapes)} rows.")
    west, south, east, north = table.total_bounds
    if not (west >= -540 and east <= 540 and south >= -90.001 and north <= 90.001):
        raise PolygonError(
            f"{path} spans {west:g} to {east:g} in longitude and {south:g} to {north:g} in "
            "latitude; want degrees. Are the coordinates projected, or swapped?"
        )
    return table.set_geometry([within_world(shape) for shape in table.geometry.values])


def file_identity(path: str) -> str:
    """Names a file for the record of a run: its name and the SHA-256 of its bytes.

    The folder does not count: if the file is moved, it is still the same run.

    Raises:
        PolygonError: There is no such file.
    """
    return f"{path.rpartition('/')[2]} sha256:{fingerprint(path)}"


def fingerprint(path: str) -> str:
    """Computes the SHA-256 of a file's bytes, by which a resumed run recognises the file."""
    return hashlib.sha256(_bytes(path)).hexdigest()


def _bytes(path: str) -> bytes:
    try:
        with fsspec.open(path, "rb") as file:
            content: bytes = file.read()
    except OSError as error:
        raise PolygonError(f"{path} cannot be read: {error}") from error
    return content


def within_world(shape: shapely.Geometry) -> shapely.Geometry:
    """Makes polygons valid, and moves what lies beyond ±180° to the other side."""
    valid = shape if shape.is_valid else shapely.make_valid(shape)
    west, south, east, north = valid.bounds
    if west < -180.0 or east > 180.0 or south < -90.0 or north > 90.0:
        turns = [
            shapely.transform(
                shapely.clip_by_rect(valid, -180.0 + turn, -90.0, 180.0 + turn, 90.0),
                lambda xy, turn=turn: xy - (turn, 0.0),
            )
            for turn in (-360.0, 0.0, 360.0)
        ]
        valid = shapely.union_all(shapely.make_valid(turns))
    return polygons_of(valid)


def polygons_of(shape: shapely.Geometry) -> shapely.Geometry:
    """Keeps the (multi)polygon of a shape without its lines and points; empty if there is none."""
    if shape.geom_type in ("Polygon", "MultiPolygon"):
        return shape
    parts = [p for p in _leaves(shape) if p.geom_type == "Polygon" and not p.is_empty]
    return shapely.union_all(parts) if parts else shapely.MultiPolygon()


def _leaves(shape: shapely.Geometry) -> list[shapely.Geometry]:
    if not hasattr(shape, "geoms"):
        return [shape]
    return [leaf for part in shape.geoms for leaf in _leaves(part)]


def signed_edges(geometries: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lists the edges of polygons, directed so that the inside lies to their left.

    Args:
        geometries: Valid polygons or multipolygons.

    Returns:
        Starts and ends of the edges, longitude and latitude in degrees, ``(E, 2)`` each.
    """
    polygons = shapely.get_parts(np.atleast_1d(np.asarray(geometries, object)))
    rings, owner = shapely.get_rings(polygons, return_index=True)
    hole = np.append(False, owner[1:] == owner[:-1])[: len(rings)]
    points, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    start, end, ring = points[:-1][same], points[1:][same], ring[1:][same]
    turned = (shapely.is_ccw(rings) == hole)[ring][:, None]
    return np.where(turned, end, start), np.where(turned, start, end)


def raster_share(
    geometries: ArrayLike, rows: int, columns: int, lines: int = 4
) -> NDArray[np.float64]:
    """Computes which share of each cell of an equal-area raster lies in polygons.

    The shares are exact along parallels, of which `lines` cross each row of cells.

    Args:
        geometries: Valid (multi)polygons within ±180. Where several overlap, their shares add up.
        rows: Number of rows, even in sin(latitude) from north to south.
        columns: Number of columns, even in longitude from -180°.
        lines: Number of parallels per row.

    Returns:
        Shares from 0 to 1, ``(rows, columns)``.
    """
    start, end = signed_edges(geometries)
    z = 1.0 - 2.0 * (np.arange(rows * lines) + 0.5) / (rows * lines)
    latitude = np.degrees(np.arcsin(z))
    # Parallels first..last cross an edge. Southward edges bound the polygon in the west.
    first = np.searchsorted(-latitude, -np.maximum(start[:, 1], end[:, 1]), side="right")
    last = np.searchsorted(-latitude, -np.minimum(start[:, 1], end[:, 1]), side="right")
    count = last - first
    edge = np.repeat(np.arange(len(start)), count)
    line = first[edge] + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    (x0, y0), (x1, y1) = start[edge].T, end[edge].T
    x = x0 + (x1 - x0) * (latitude[line] - y0) / (y1 - y0)
    place = np.clip((x + 180.0) * (columns / 360.0), 0.0, columns)
    column = np.minimum(place.astype(int), columns - 1)
    sign = np.where(y1 < y0, 1.0, -1.0)
    row, east = line // lines, column + 1.0 - place
    # East of a crossing the polygon begins (or ends): the cell of the crossing counts in part.
    jumps = np.zeros((rows, columns + 1))
    np.add.at(jumps, (row, column), sign * east)
    np.add.at(jumps, (row, column + 1), sign * (1.0 - east))
    share: NDArray[np.float64] = np.cumsum(jumps[:, :-1], axis=1) / lines
    return np.where(share < 1e-9, 0.0, share)

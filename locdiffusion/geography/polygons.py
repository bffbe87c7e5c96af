"""Finds the polygon around a point, mends polygons, and rasters them.

Polygons lie in the plane of longitude and latitude and have straight edges there, which GeoJSON and
GeoParquet call planar. A polygon across the antimeridian is cut there, or continues beyond ±180°.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from locdiffusion.files import file_system
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between, unit_vectors, wrap_longitude

_BYTES_AT_ONCE = 2**20
_POINTS_AT_ONCE = 1_000
_CROSSINGS_AT_ONCE = 1_000_000

_SMALL_CELLS = 1e-6
"""Cells below which the area of a polygon is lost in rounding."""

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

    def __call__(self, latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> list[str | None]:
        """Looks up the polygon around each of N points; None outside all of them."""
        return self.names_of(self.parts_around(latitude_deg, longitude_deg))

    def names_of(self, parts: NDArray[np.int64]) -> list[str | None]:
        """Returns the names of parts by their numbers; None for -1."""
        names: list[str | None] = self._names[parts].tolist()
        return names

    def parts_around(self, latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> NDArray[np.int64]:
        """Returns the number of the part around each of N points; -1 outside all of them."""
        longitude, latitude = wrap_longitude(longitude_deg), np.asarray(latitude_deg, float)
        points = shapely.points(longitude, latitude)
        found = np.full(len(points), -1)
        for at in range(0, len(points), _POINTS_AT_ONCE):
            point, part = self._tree.query(points[at : at + _POINTS_AT_ONCE])
            point += at
            inside = shapely.intersects_xy(self.parts[part], longitude[point], latitude[point])
            point, part = point[inside], part[inside]
            last_first = np.argsort(part)[::-1]
            found[point[last_first]] = part[last_first]  # the first one stays
        return found

    @functools.cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.parts)

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


def file_identity(path: str) -> str:
    """Names a file for the record of a run: its name and the SHA-256 of its bytes.

    The folder does not count: if the file is moved, it is still the same run.

    Raises:
        PolygonError: There is no such file.
    """
    return f"{path.rpartition('/')[2]} sha256:{fingerprint(path)}"


def fingerprint(path: str) -> str:
    """Computes the SHA-256 of a file's bytes, by which a resumed run recognises the file."""
    digest = hashlib.sha256()
    try:
        filesystem, place = file_system(path)
        with filesystem.open(place, "rb") as file:
            while part := file.read(_BYTES_AT_ONCE):
                digest.update(part)
    except (ImportError, OSError, ValueError) as error:
        raise PolygonError(f"{path} cannot be read: {error}") from error
    return digest.hexdigest()


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
    start, end, _ = _edges_of(geometries)
    return start, end


def _edges_of(geometries: ArrayLike) -> tuple[NDArray[Any], ...]:
    """Lists `signed_edges`, and the number of the geometry to which each belongs."""
    shapes = np.atleast_1d(np.asarray(geometries, object))
    polygons, shape = shapely.get_parts(shapes, return_index=True)
    rings, owner = shapely.get_rings(polygons, return_index=True)
    hole = np.append(False, owner[1:] == owner[:-1])[: len(rings)]
    points, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    start, end, ring = points[:-1][same], points[1:][same], ring[1:][same]
    turned = (shapely.is_ccw(rings) == hole)[ring][:, None]
    start, end = np.where(turned, end, start), np.where(turned, start, end)
    return start, end, shape[owner[ring]]


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
    share = _raster(signed_edges(geometries), _even_in_sine(rows * lines), columns, lines)
    most = share.max(axis=1, keepdims=True)  # what rounding leaves is less than 1e-9 of it
    return np.where(share < 1e-9 * most, 0.0, share)


def polygon_share(
    geometries: ArrayLike, weights: ArrayLike | None, rows: int, columns: int, lines: int = 16
) -> NDArray[np.float64]:
    """Rasters polygons as the places from which photos come. A small one takes the cell around it.

    Args:
        geometries: N valid (multi)polygons within ±180.
        weights: Relative numbers of photos from each polygon, ``(N,)``, spread evenly over its
            area. None gives equal weight to every place in any of the polygons.
        rows: Number of rows, as for `raster_share`.
        columns: Number of columns.
        lines: Number of parallels per row.

    Returns:
        Relative numbers of photos, ``(rows, columns)``; 0 outside the polygons.

    Raises:
        ValueError: A weight is negative or not finite, or nothing is left.
    """
    shapes = np.atleast_1d(np.asarray(geometries, object))
    if weights is None:
        whole = shapely.union_all(shapes)
        share = raster_share(whole, rows, columns, lines)
        return share if share.any() else _cells_within(np.array([whole]), np.ones(1), rows, columns)
    weights = np.asarray(weights, np.float64)
    if not np.all(np.isfinite(weights)) or np.any(weights < 0) or not np.any(weights > 0):
        raise ValueError(
            f"The weights of the polygons are {weights[:10].tolist()}; want numbers of at least 0, "
            "one of them above."
        )
    shapes, weights = shapes[weights > 0], weights[weights > 0]
    *edges, owner = _edges_of(shapes)
    cells = np.zeros(len(shapes))
    parallels = _even_in_sine(rows * lines)
    for edge, _, sign, place in _crossings(edges, parallels, columns):
        np.add.at(cells, owner[edge], sign * (columns - place) / lines)
    small = cells < _SMALL_CELLS
    factors = np.where(small, 0.0, weights) / np.where(small, 1.0, cells)
    total = _raster(edges, parallels, columns, lines, factors[owner])
    total[raster_share(shapes, rows, columns, lines) == 0.0] = 0.0  # what is left of rounding
    return total.clip(0.0) + _cells_within(shapes[small], weights[small], rows, columns)


def _cells_within(
    shapes: NDArray[np.object_], weights: NDArray[np.float64], rows: int, columns: int
) -> NDArray[np.float64]:
    """Puts the weight of each polygon into the cell around a place within it."""
    longitude, latitude = shapely.get_coordinates(shapely.point_on_surface(shapes)).T
    row = ((1.0 - np.sin(np.radians(latitude))) * (rows / 2)).astype(int)
    column = ((longitude + 180.0) * (columns / 360)).astype(int)
    total = np.zeros((rows, columns))
    np.add.at(total, (row.clip(0, rows - 1), column.clip(0, columns - 1)), weights)
    return total


def value_raster(
    geometries: ArrayLike, values: NDArray[np.float64], rows: int, columns: int, lines: int = 4
) -> NDArray[np.float64]:
    """Computes the mean of values that polygons have, over each cell of a raster of even degrees.

    Args:
        geometries: N valid (multi)polygons within ±180. Where several overlap, they add up.
        values: Value of each polygon, ``(N,)``; outside of all it is 0.
        rows: Number of rows, even in latitude from north to south.
        columns: Number of columns, even in longitude from -180°.
        lines: Number of parallels per row, along which the mean is exact.

    Returns:
        Means, ``(rows, columns)``.
    """
    *edges, owner = _edges_of(geometries)
    parallels = 90.0 - 180.0 * (np.arange(rows * lines) + 0.5) / (rows * lines)
    return _raster(edges, parallels, columns, lines, values[owner])


def _even_in_sine(count: int) -> NDArray[np.float64]:
    """Latitudes of the middles of strips of equal area, from north to south."""
    return np.degrees(np.arcsin(1.0 - 2.0 * (np.arange(count) + 0.5) / count))


def _raster(
    edges: Sequence[NDArray[np.float64]],
    parallels: NDArray[np.float64],
    columns: int,
    lines: int,
    factors: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Sums up what lies to the left of edges, each times its factor."""
    jumps = np.zeros((len(parallels) // lines, columns + 1))
    for edge, line, sign, place in _crossings(edges, parallels, columns):
        height = sign if factors is None else sign * factors[edge]
        _add_jumps(jumps, line // lines, place, height)
    share: NDArray[np.float64] = np.cumsum(jumps[:, :-1], axis=1) / lines
    return share


def coverage(
    row: NDArray[np.int64],
    west: NDArray[np.float64],
    east: NDArray[np.float64],
    height: NDArray[np.float64],
    rows: int,
    columns: int,
) -> NDArray[np.float64]:
    """Sums up the part of each cell of a raster that lies in stretches of parallels.

    Args:
        row: Row of each of N stretches, ``(N,)``.
        west: Where each begins, in columns from -180°, ``(N,)``.
        east: Where it ends, at most at the number of columns, ``(N,)``.
        height: Part of its row for which each stands, ``(N,)``.
        rows: Number of rows.
        columns: Number of columns.

    Returns:
        Parts from 0 to 1, ``(rows, columns)``.
    """
    jumps = np.zeros((rows, columns + 1))
    _add_jumps(jumps, row, west, height)
    _add_jumps(jumps, row, east, -height)
    share: NDArray[np.float64] = np.cumsum(jumps[:, :-1], axis=1)
    most = share.max(axis=1, keepdims=True)  # what rounding leaves is less than 1e-9 of it
    return np.where(share < 1e-9 * most, 0.0, share)


def _add_jumps(
    jumps: NDArray[np.float64],
    row: NDArray[np.int64],
    place: NDArray[np.float64],
    height: NDArray[np.float64],
) -> None:
    """Adds what begins at places: the cell of a place counts in part, all to its east in full."""
    column = np.minimum(place.astype(int), jumps.shape[1] - 2)
    east = column + 1.0 - place
    np.add.at(jumps, (row, column), height * east)
    np.add.at(jumps, (row, column + 1), height * (1.0 - east))


def _crossings(
    edges: Sequence[NDArray[np.float64]], latitude: NDArray[np.float64], columns: int
) -> Iterator[
    tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]
]:
    """Yields the crossings of edges with parallels, about a million at once.

    Yields:
        Numbers of the edges and of the parallels; 1 where a polygon begins to the east, -1 where
        it ends; places in columns from -180°.
    """
    start, end = edges
    # Parallels first..last cross an edge. Southward edges bound the polygon in the west.
    first = np.searchsorted(-latitude, -np.maximum(start[:, 1], end[:, 1]), side="right")
    last = np.searchsorted(-latitude, -np.minimum(start[:, 1], end[:, 1]), side="right")
    total = np.cumsum(last - first)
    cuts = np.arange(0, (total[-1] if len(total) else 0) + _CROSSINGS_AT_ONCE, _CROSSINGS_AT_ONCE)
    for a, b in itertools.pairwise(np.searchsorted(total, cuts, side="right")):
        count = (last - first)[a:b]
        edge = np.repeat(np.arange(a, b), count)
        line = first[edge] + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        (x0, y0), (x1, y1) = start[edge].T, end[edge].T
        x = x0 + (x1 - x0) * (latitude[line] - y0) / (y1 - y0)
        place = np.clip((x + 180.0) * (columns / 360.0), 0.0, columns)
        yield edge, line, np.where(y1 < y0, 1.0, -1.0), place

"""Credible regions: the smallest places that hold 50 % or 90 % of a posterior, as polygons.

A region is where the density exceeds a threshold. Its border is drawn by straight lines through the
cells of `locdiffusion.decoding.adaptive_mesh`, and the threshold is chosen so that the *drawn*
region holds the probability. Polygons lie in the plane of longitude and latitude, with edges that
are straight there, as in GeoJSON and GeoParquet. They are valid, cut at the antimeridian, and run
along the edge at ±90° where they contain a pole.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import ArrayLike
from torch import Tensor

from locdiffusion.decoding.adaptive_mesh import AdaptiveDensity, Cells, Float, Int, Mesh
from locdiffusion.density.base_measure import EXCLUDED, BaseMeasure
from locdiffusion.geography.polygons import polygons_of, signed_edges
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

LEVELS = (0.5, 0.9)
"""Probabilities of the regions."""

MASS_TOLERANCE = 0.001
"""How far the mass inside a region may be from its level."""

_STEEP, _EXCLUDED_DEPTH = 1.0, 9.0
"""Differences from the threshold in nats are clipped to ±_STEEP before the border is interpolated,
and count as -_EXCLUDED_DEPTH at corners that q₀ excludes."""

_SMOOTHING = 0.05
"""Tolerance of the simplification of borders, in sides of the smallest cell that one cuts."""

_WALKED = -2
"""Stands for the next edge of one that a line already has."""

_PARTS = 4
"""A cut cell's mass is measured at _PARTS x _PARTS points."""


@dataclass(frozen=True)
class CredibleRegion:
    """A region in which a photo was taken with a stated probability.

    Attributes:
        level: The stated probability.
        geometry: Valid Polygon or MultiPolygon in degrees, within ±180 and ±90; outer rings run
            anticlockwise, as in GeoJSON.
        area_km2: Area on the mean sphere.
        probability: Probability inside the geometry by quadrature.
    """

    level: float
    geometry: shapely.Geometry
    area_km2: float
    probability: float


class RegionFinder:
    """Finds regions of densities of degree L, on the CPU; holds no learned parameter.

    Several threads may use one finder.
    """

    def __init__(self, max_degree: int, base_measure: BaseMeasure | None = None) -> None:
        """Builds the tables for degree L over a base measure q₀; None is the uniform measure."""
        self.mesh = Mesh(max_degree, base_measure)
        self.support = (
            _support(base_measure) if base_measure is not None and base_measure.excludes else None
        )
        shapely.prepare(self.support)
        self._lock = threading.Lock()  # GEOS prepares further while it compares

    def __call__(self, natural: Tensor) -> list[tuple[CredibleRegion, ...]]:
        """Finds the regions of N photos.

        Args:
            natural: Natural parameters ``(N, K, d)``; the K densities of a photo are mixed.

        Returns:
            One tuple for each photo with one region for each of `LEVELS`.
        """
        natural = natural.float().cpu()
        return [self._regions(self.mesh.measure(one)) for one in natural]

    def _regions(self, density: AdaptiveDensity) -> tuple[CredibleRegion, ...]:
        contour = _Contour(density, max(LEVELS))
        return tuple(self._region(contour, level) for level in LEVELS)

    def _region(self, contour: _Contour, level: float) -> CredibleRegion:
        geometry, probability = contour.region(level)
        if self.support is not None:
            with self._lock:
                covered = shapely.covers(self.support, geometry)
                if not covered:
                    # The border may cross a bay of excluded places narrower than a cell.
                    geometry = polygons_of(shapely.intersection(geometry, self.support))
        # Normal form has a fixed first corner and part, and outer rings clockwise.
        geometry = shapely.reverse(shapely.normalize(geometry))
        return CredibleRegion(level, geometry, area_km2(geometry), probability)


class _Contour:
    """Superlevel sets of one density, drawn through its cells."""

    def __init__(self, density: AdaptiveDensity, most: float) -> None:
        """Evaluates the corners of all cells that a region of probability `most` may contain."""
        self.density = density
        log_p = density.log_density()
        mass = np.exp(log_p + density.cells.log_area)
        order = np.argsort(-log_p)
        cumulative = np.cumsum(mass[order])
        self._sorted = cumulative, log_p[order]
        least = self._threshold(most + 0.5 * (1.0 - most)) - _STEEP
        near = np.flatnonzero(density.highest() >= least)
        self.cells: Cells = density.cells.take(near)
        self.mass = mass[near]
        x, y = self.cells.x, self.cells.y
        self.x = np.stack([x, x + self.cells.width, x + self.cells.width, x])
        self.y = np.stack([y, y, y + self.cells.height, y + self.cells.height])
        self.corners = density.at_corners(self.cells, self.x, self.y)
        self.lowest, self.highest = self.corners.min(0), self.corners.max(0)
        # Points of cells that a border has cut, their shares, and which cells these are
        self._known = np.empty((3, _PARTS**2, 0))
        self._place = np.full(len(near), -1)

    def _threshold(self, probability: float) -> float:
        return float(np.interp(probability, *self._sorted))

    def region(self, level: float) -> tuple[shapely.Geometry, float]:
        """Draws the region that holds a level; returns it and the probability it holds."""
        # Fixed-point iteration on the level aimed at; bisection where that leaves the bracket
        aim, holds, miss = level, 0.0, np.inf
        low, high = 0.0, 1.0
        for _ in range(12):
            threshold = self._threshold(aim)
            border = self._border(threshold)
            found = self._mass_within(*border)
            if abs(found - level) < miss:
                best, holds, miss = border, found, abs(found - level)
            if miss < MASS_TOLERANCE or high - low < 1e-6:
                break
            low, high = (aim, high) if found < level else (low, aim)
            aim += level - found
            if not low < aim < high:
                aim = (low + high) / 2.0
        return self._drawn(*best), holds

    def _mass_within(self, cut: Int, full: Int, pieces: Float) -> float:
        x, y, share = self._points(cut)
        inside = np.ones(x.shape, bool)
        x0, y0 = pieces.T
        dx, dy = np.roll(x0, -1, 0) - x0, np.roll(y0, -1, 0) - y0
        beyond = dx * y0 - dy * x0
        for i in range(8):  # a piece is convex
            inside &= dx[i] * y - dy[i] * x >= beyond[i]
        return float(self.mass[full].sum() + (share * inside).sum(0) @ self.mass[cut])

    def _border(self, threshold: float) -> tuple[Int, Int, Float]:
        """Returns cells that the border cuts, cells inside it, and `_parts` of the former."""
        within = self.lowest >= threshold
        cut = np.flatnonzero((self.highest >= threshold) & ~within)
        # Where the density is steep the border lies half way between corners; where q₀ excludes one
        # of them, nearer to the other.
        corners = self.corners[:, cut]
        above = np.clip(corners - threshold, -_STEEP, _STEEP)
        above[np.isneginf(corners)] = -_EXCLUDED_DEPTH
        return cut, np.flatnonzero(within), _parts(self.x[:, cut], self.y[:, cut], above)

    def _points(self, cells: Int) -> Float:
        """Returns x and y of points in cells, and shares of the cell's mass, ``(3, 16, P)``."""
        new = cells[self._place[cells] < 0]
        # Shifted differently in each cell: a border along a parallel must not pass many at once.
        shift = np.mod(np.outer([0.7548776662, 0.5698402910], new) + 0.5, 1.0)
        across, down = (a.ravel()[:, None] for a in np.meshgrid(*[np.arange(_PARTS)] * 2))
        x = self.cells.x[new] + (across + shift[0]) / _PARTS * self.cells.width[new]
        y = self.cells.y[new] + (down + shift[1]) / _PARTS * self.cells.height[new]
        log_p = self.density.log_density_at(x, y)
        p = np.exp((log_p - log_p.max(0, initial=-np.inf)).clip(-80.0))
        self._place[new] = np.arange(len(new)) + self._known.shape[2]
        self._known = np.concatenate([self._known, np.stack([x, y, p / p.sum(0)])], 2)
        return self._known[:, :, self._place[cells]]

    def _drawn(self, cut: Int, full: Int, pieces: Float) -> shapely.Geometry:
        boxes = _merged(self.x[0, full], self.y[0, full], self.x[2, full], self.y[2, full])
        whole = _joined(np.concatenate([_walks(pieces), _walks(boxes)]))
        mesh = self.density.mesh
        degrees = shapely.transform(whole, mesh.longitude_latitude)
        finest = np.minimum(self.cells.width[cut], self.cells.height[cut]).min(initial=2**20)
        simple = shapely.simplify(degrees, _SMOOTHING * float(finest) * mesh.degree)
        return polygons_of(simple if simple.is_valid else shapely.make_valid(degrees))


def _parts(x: Int, y: Int, above: Float) -> Float:
    """Cuts cells where values ``(4, P)`` that are linear along their edges change sign.

    Corners run clockwise from the north-western one. The parts with values of at least 0 have three
    to six corners, some of them repeated, ``(P, 8, 2)``; two opposite corners inside are joined.
    """
    # Each edge is cut from its western or northern end, so that both its cells cut it alike.
    first, second = np.array([0, 1, 3, 0]), np.array([1, 2, 2, 3])
    drop = above[first] - above[second]
    share = (above[first] / np.where(drop == 0.0, 1.0, drop)).clip(0.02, 0.98)
    points = np.empty((x.shape[1], 8, 2))
    for axis, corner in enumerate((x, y)):
        points[:, ::2, axis] = corner.T
        points[:, 1::2, axis] = np.rint(corner[first] + share * (corner[second] - corner[first])).T
    inside = above >= 0.0
    used = np.empty((x.shape[1], 8), bool)
    used[:, ::2], used[:, 1::2] = inside.T, (inside != inside[[1, 2, 3, 0]]).T
    before = np.maximum.accumulate(np.where(used, np.arange(8), -1), axis=1)
    before = np.where(before < 0, before[:, -1:], before)
    return np.take_along_axis(points, before[..., None], axis=1)


def _walks(corners: Float) -> Float:
    """Returns the edges ``(P·C, 2, 2)``, start and end, of polygons ``(P, C, 2)``."""
    return np.stack([corners, np.roll(corners, -1, axis=1)], 2).reshape(-1, 2, 2)


def _support(base_measure: BaseMeasure) -> shapely.Geometry:
    """Draws the cells of a base measure's raster that it does not exclude, in degrees."""
    rows, columns = base_measure.log_weight.shape
    row, column = np.nonzero(base_measure.log_weight.cpu().numpy() > EXCLUDED)
    whole = _joined(_walks(_merged(column, row, column + 1, row + 1)))

    def degrees(points: Float) -> Float:
        latitude = np.degrees(np.arcsin(1.0 - points[:, 1] * (2.0 / rows)))
        return np.stack([points[:, 0] * (360.0 / columns) - 180.0, latitude], -1)

    return shapely.transform(whole, degrees)


def _joined(edges: Float) -> shapely.Geometry:
    """Unites polygons that do not overlap, from their edges ``(E, 2, 2)`` of whole numbers."""
    points, line = _lines(_outline(edges))
    return shapely.build_area(shapely.multilinestrings(shapely.linestrings(points, indices=line)))


def _lines(edges: Float) -> tuple[Float, Int]:
    """Joins edges ``(E, 2, 2)`` end to end into lines that run from one branching to another.

    Returns:
        The points of all lines, ``(P, 2)``, and the number of the line of each, ``(P,)``.
    """
    key = (edges[..., 0].astype(np.int64) << 31) + edges[..., 1].astype(np.int64)
    first_of, ends = np.unique(key, return_inverse=True)
    start, end = ends.reshape(key.shape).T
    out, into = (np.bincount(ends, minlength=len(first_of)) for ends in (start, end))
    through = (out == 1) & (into == 1)
    leaving = np.empty(len(first_of), np.int64)
    leaving[start] = np.arange(len(start))
    # The edge that goes on from each edge, -1 at a branching
    onward = np.where(through[end], leaving[end], -1).tolist()
    walked: list[int] = []
    stops: list[int] = []
    for edge in [*np.flatnonzero(~through[start]).tolist(), *range(len(onward))]:
        if onward[edge] != _WALKED:
            while edge >= 0 and onward[edge] != _WALKED:
                walked.append(edge)
                onward[edge], edge = _WALKED, onward[edge]
            stops.append(len(walked))
    # Each line is the starts of its edges and the end of the last.
    order, last = np.array(walked, np.int64), np.array(stops, np.int64)
    points = np.insert(edges[order, 0], last, edges[order[last - 1], 1], 0)
    return points, np.repeat(np.arange(len(last)), np.diff(last, prepend=0) + 1)


def _outline(edges: Float) -> Float:
    """Removes the edges ``(E, 2, 2)`` that two polygons share.

    Every edge has its polygon to the same side. Those along meridians and parallels are divided
    wherever another one ends.
    """
    sheer = edges[:, 0] == edges[:, 1]
    kept = [edges[~sheer.any(1)]]
    for axis in (0, 1):
        along = edges[sheer[:, axis] & ~sheer[:, 1 - axis]]
        line, ends = along[:, 0, axis], along[:, :, 1 - axis]
        sign = np.where(ends[:, 1] > ends[:, 0], 1, -1)
        line, place = np.tile(line, 2), np.concatenate([ends.min(1), ends.max(1)])
        order = np.lexsort((place, line))
        line, place = line[order], place[order]
        walked = np.cumsum(np.concatenate([sign, -sign])[order])
        between = (walked[:-1] != 0) & (place[1:] > place[:-1])
        part = np.empty((between.sum(), 2, 2))
        part[:, :, axis] = line[:-1][between][:, None]
        part[:, :, 1 - axis] = np.stack([place[:-1], place[1:]], 1)[between]
        kept.append(part)
    return np.concatenate(kept)


def _merged(west: Int, north: Int, east: Int, south: Int) -> Float:
    """Merges cells into boxes ``(B, 4, 2)``: runs along parallels, then along meridians."""
    boxes = np.stack([west, north, east, south])
    for a, b, c, d in ((0, 1, 2, 3), (1, 0, 3, 2)):
        boxes = boxes[:, np.lexsort((boxes[a], boxes[d], boxes[b]))]
        starts = np.ones(boxes.shape[1], bool)
        starts[1:] = (
            (boxes[a, 1:] != boxes[c, :-1])
            | (boxes[b, 1:] != boxes[b, :-1])
            | (boxes[d, 1:] != boxes[d, :-1])
        )
        first = np.flatnonzero(starts)
        last = np.append(first[1:], boxes.shape[1])[: len(first)] - 1
        far, boxes = boxes[c, last], boxes[:, first]
        boxes[c] = far
    corners = boxes[[0, 1, 2, 1, 2, 3, 0, 3]].T.astype(float)
    return corners.reshape(-1, 4, 2)


def area_km2(geometries: ArrayLike) -> float:
    """Computes the area of polygons with straight edges in longitude and latitude.

    On the mean sphere it is R² ∮ sin(latitude) d(longitude), in closed form along each edge.
    """
    start, end = (np.radians(a) for a in signed_edges(geometries))
    middle, half = (start[:, 1] + end[:, 1]) / 2.0, (end[:, 1] - start[:, 1]) / 2.0
    height = np.sin(middle) * np.sinc(half / np.pi)
    return float(EARTH_RADIUS_KM**2 * np.sum(height * (start[:, 0] - end[:, 0])))

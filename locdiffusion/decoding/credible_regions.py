"""Credible regions: the smallest places that hold 50 % or 90 % of a posterior, as polygons.

A region is where the density exceeds a threshold. Its border is drawn by contourpy on the grid of
`locdiffusion.decoding.adaptive_mesh`, and the threshold is chosen so that the *drawn* region holds
the probability. Polygons lie in the plane of longitude and latitude, with edges that are straight
there, as in GeoJSON and GeoParquet. They are valid, cut at the antimeridian, and run along the edge
at ±90° where they contain a pole.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import contourpy
import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from locdiffusion.decoding.adaptive_mesh import AdaptiveDensity, Mesh
from locdiffusion.density.base_measure import EXCLUDED, BaseMeasure
from locdiffusion.geography.polygons import polygons_of, signed_edges
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

Float = NDArray[np.float64]

LEVELS = (0.5, 0.9)
"""Probabilities of the regions."""

MASS_TOLERANCE = 0.0005
"""How far the mass inside a region may be from its level."""

_DEEPEST, _BINS = 15.0, 2048
"""Thresholds are looked for in this many nats below the peak, in so many steps."""

_STEEP = 3.0
"""Corners of cells that the border cuts count as at most so many nats below the threshold."""

_TILT = 1e-7
"""So much is added to log densities at the north pole: of equal ones the northern is higher."""


def _within(parts: int) -> Float:
    """Returns the weights of a cell's corners at parts x parts points in it, ``(parts², 4)``."""
    at = (np.arange(parts) + 0.5) / parts
    along = np.stack([1.0 - at, at], -1)
    weights: Float = np.einsum("ia,jb->ijab", along, along).reshape(-1, 4)
    return weights


_COARSE, _FINE = _within(2), _within(4)
"""Points at which cells are counted for a first threshold, and cells that the border cuts."""


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
        excludes = base_measure is not None and base_measure.excludes
        self.support = _support(base_measure) if base_measure is not None and excludes else None
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
        return [self.regions(self.mesh.measure(one)) for one in natural]

    def regions(self, density: AdaptiveDensity) -> tuple[CredibleRegion, ...]:
        """Finds the regions of a density on a grid, one for each of `LEVELS`."""
        contour = _Contour(density)
        return tuple(self._region(contour, level) for level in LEVELS)

    def _region(self, contour: _Contour, level: float) -> CredibleRegion:
        geometry, probability = contour.region(level)
        if self.support is not None:
            with self._lock:
                covered = shapely.covers(self.support, geometry)
            if not covered:
                geometry = polygons_of(shapely.intersection(geometry, self.support))
        # Normal form has a fixed first corner and part, and outer rings clockwise.
        geometry = shapely.reverse(shapely.normalize(geometry))
        return CredibleRegion(level, geometry, area_km2(geometry), probability)


class _Contour:
    """Superlevel sets of one density, drawn through its cells."""

    def __init__(self, density: AdaptiveDensity) -> None:
        x, y = density.longitude, density.latitude
        log_p = density.log_density + _TILT * np.sin(np.radians(y))[:, None]
        self._drawer = _drawer(x, y, log_p)
        self._top = float(log_p.max()) + 1.0
        self._mass = density.mass.ravel()
        corners = log_p[:-1, :-1], log_p[:-1, 1:], log_p[1:, :-1], log_p[1:, 1:]
        self._corners = np.stack(corners).reshape(4, -1)
        self._least, self._most = self._corners.min(0), self._corners.max(0)
        # Probability above each of many thresholds, each cell counted as four points
        self._peak = float(self._most.max(where=self._mass > 0.0, initial=-np.inf))
        step = min(_DEEPEST, self._peak - float(log_p.min())) / _BINS
        points = _COARSE @ self._corners
        number = ((self._peak - points) / step).clip(0, _BINS - 1).astype(np.intp)
        mass = self._mass * _shares(points)
        self._held = np.append(0.0, np.bincount(number.ravel(), mass.ravel(), _BINS).cumsum())
        self._thresholds = self._peak - step * np.arange(_BINS + 1)

    def region(self, level: float) -> tuple[shapely.Geometry, float]:
        """Draws the region that holds a level; returns it and the probability it holds."""
        # Fixed-point iteration on the level aimed at, which settles most; then false position and
        # bisection in turns, as the probability may fall by steps
        low, high = (float(self._thresholds[-1]), 1.0), (self._peak, 0.0)
        aim, holds = level, np.inf
        for turn in range(80):
            threshold = float(np.interp(aim, self._held, self._thresholds))
            if turn > 2:
                share = 0.5 if turn % 2 else (low[1] - level) / (low[1] - high[1])
                threshold = low[0] + share * (high[0] - low[0])
            found = self._mass_above(threshold)
            if abs(found - level) < abs(holds - level):
                best, holds = threshold, found
            if abs(holds - level) < MASS_TOLERANCE:
                break
            if found < level:
                high = min(high, (threshold, found))
            else:
                low = max(low, (threshold, found))
            aim += level - found
        return self._drawn(best), holds

    def _mass_above(self, threshold: float) -> float:
        whole = self._least >= threshold
        cut = np.flatnonzero((self._most > threshold) & ~whole)
        corners = self._corners[:, cut].clip(min=threshold - _STEEP)
        points = _FINE @ corners
        # A point stands for the square around it, across which the density changes.
        south_west, south_east, north_west, north_east = corners
        change = np.abs(south_east + north_east - south_west - north_west)
        change += np.abs(north_west + north_east - south_west - south_east)
        above = ((points - threshold) / (change / 8.0 + 1e-15) + 0.5).clip(0.0, 1.0)
        share = (above * _shares(points)).sum(0)
        return float(self._mass[whole].sum() + share @ self._mass[cut])

    def _drawn(self, threshold: float) -> shapely.Geometry:
        points, offsets = self._drawer.filled(threshold, self._top)
        # A polygon is one outer ring and its holes.
        sizes = np.concatenate([np.diff(one) for one in offsets])
        ring = np.repeat(np.arange(len(sizes)), sizes)
        polygon = np.repeat(np.arange(len(offsets)), [len(one) - 1 for one in offsets])
        # Points on an edge at ±180° or ±90° may lie beyond it by a rounding.
        corners = np.concatenate(points).clip((-180.0, -90.0), (180.0, 90.0))
        rings = shapely.linearrings(corners, indices=ring)
        polygons = shapely.polygons(rings, indices=polygon)
        whole = polygons[0] if len(polygons) == 1 else shapely.multipolygons(polygons)
        return whole if whole.is_valid else polygons_of(shapely.make_valid(whole))


def _drawer(x: Float, y: Float, log_p: Float) -> Any:
    """Returns a contour generator that interpolates linearly along the edges of cells.

    `contourpy.contour_generator` builds the same, after a search for masked values that takes
    longer than to draw.
    """
    generator: Any = contourpy.SerialContourGenerator
    return generator(
        *np.meshgrid(x, y),
        log_p,
        None,
        corner_mask=False,
        line_type=contourpy.LineType.SeparateCode,
        fill_type=contourpy.FillType.OuterOffset,
        quad_as_tri=False,
        z_interp=contourpy.ZInterp.Linear,
        x_chunk_size=0,
        y_chunk_size=0,
    )


def _shares(points: Float) -> Float:
    """Parts each cell's probability among n points in it with log densities ``(n, P)``."""
    p = np.exp(points - points.max(0, initial=-np.inf))
    shares: Float = p / p.sum(0)
    return shares


def _support(base_measure: BaseMeasure) -> shapely.Geometry:
    """Draws the cells of a base measure's raster that it does not exclude, in degrees."""
    rows, columns = base_measure.log_weight.shape
    allowed = np.pad(base_measure.log_weight.cpu().numpy() > EXCLUDED, ((0, 0), (1, 1)))
    change = np.diff(allowed.astype(np.int8), axis=1)
    row, west = np.nonzero(change > 0)
    _, east = np.nonzero(change < 0)
    whole = shapely.simplify(shapely.union_all(shapely.box(west, row, east, row + 1.0)), 0.0)

    def degrees(points: Float) -> Float:
        latitude = np.degrees(np.arcsin(1.0 - points[:, 1] * (2.0 / rows)))
        return np.stack([points[:, 0] * (360.0 / columns) - 180.0, latitude], -1)

    return shapely.transform(whole, degrees)


def area_km2(geometries: ArrayLike) -> float:
    """Computes the area of polygons with straight edges in longitude and latitude.

    On the mean sphere it is R² ∮ sin(latitude) d(longitude), in closed form along each edge.
    """
    start, end = (np.radians(a) for a in signed_edges(geometries))
    middle, half = (start[:, 1] + end[:, 1]) / 2.0, (end[:, 1] - start[:, 1]) / 2.0
    height = np.sin(middle) * np.sinc(half / np.pi)
    return float(EARTH_RADIUS_KM**2 * np.sum(height * (start[:, 0] - end[:, 0])))

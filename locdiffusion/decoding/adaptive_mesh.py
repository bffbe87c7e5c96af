"""Adaptive mesh: densities on cells of longitude and latitude, small where the probability is.

It integrates over regions of any size, from 10 km to the whole Earth; the decoder's product grid is
too coarse for small ones. Coordinates are whole numbers of mesh units: x to the east from -180°, y
to the south from the north pole. So cells of different size share their edges exactly, and no cell
lies across a pole or the antimeridian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates, spline_filter
from torch import Tensor

from locdiffusion.density.base_measure import EXCLUDED, BaseMeasure, log_or_excluded
from locdiffusion.density.shdd import max_degree_of
from locdiffusion.density.transforms import ProductTransform
from locdiffusion.sphere.grids import LatLonGrid

Float = NDArray[np.float64]
Int = NDArray[np.int64]

UNITS = 2**20
"""Units per root cell: the finest cell is 0.1 m wide."""

MOST_MASS = 1e-3
"""Cells that may hold more probability are split."""

NEGLIGIBLE = 1e-4 * MOST_MASS
"""Cells that hold less are never split, whatever the other cells turn out to hold."""

BORDER_MASS = MOST_MASS / 8.0
"""`MOST_MASS` of cells in which q₀ falls to zero, so that regions follow that border."""


class Mesh:
    """Root cells for densities of degree L, and q₀ on them.

    Attributes:
        rows: Number n of rows; the root cells are n x 2n squares of 180/n degrees.
        log_q0: Log of the mean q₀ of each root cell, ``(n, 2n)``.
        row_log_area, row_log_square: `log_areas` of the root cells of each row, ``(n,)``.
        corner_log_q0: Log q₀ at their corners, ``(n + 1, 2n + 1)``.
        corner_log_weight: The same with `tilt`.
    """

    def __init__(self, max_degree: int, base_measure: BaseMeasure | None = None) -> None:
        """Builds the tables for degree L over a base measure q₀; None is the uniform measure."""
        # Nine nodes on the shortest wave: a cubic spline is then off by less than 1e-3 of it.
        self.rows = n = 4 * (max_degree + 1) + 16
        self.degree = 180.0 / n / UNITS
        theta = np.pi * (np.arange(n) + 0.5) / n
        longitude = np.pi * ((np.arange(2 * n) + 0.5) / n - 1.0)
        area = 2.0 * math.sin(math.pi / (2 * n)) * np.sin(theta) * np.pi / n
        grid = LatLonGrid(np.cos(theta), longitude, area)
        self.transform = ProductTransform(grid, max_degree)
        self.base_measure: BaseMeasure | None = None
        self.log_q0 = np.zeros((n, 2 * n))
        if base_measure is not None and bool(
            (base_measure.log_weight != base_measure.log_weight[0, 0]).any()
        ):
            self.base_measure = base_measure
            self.log_q0 = base_measure.on_grid(grid).double().cpu().numpy().reshape(n, 2 * n)
        y, side = np.arange(n) * UNITS, np.full(n, UNITS)
        self.row_log_area, self.row_log_square = self.log_areas(y, side, side)
        corner = np.meshgrid(np.arange(2 * n + 1) * UNITS, np.arange(n + 1) * UNITS)
        self.corner_log_q0 = self.log_q0_at(*corner)
        self.corner_log_weight = self.corner_log_q0 + self.tilt(corner[1])

    def log_q0_at(self, x: Float | Int, y: Float | Int) -> Float:
        """Looks log q₀ up at points in units."""
        if self.base_measure is None:
            return np.zeros(np.broadcast(x, y).shape)
        rows, columns = self.base_measure.log_weight.shape
        column = x * (columns / (2.0 * self.rows * UNITS))
        # 1 - cos θ = 2 sin²(θ/2)
        row = np.sin(y * (math.pi / (2.0 * self.rows * UNITS))) ** 2 * rows
        place = (torch.from_numpy(np.asarray(a)) for a in (row, column))
        found: Float = self.base_measure.at(*place).double().cpu().numpy()
        return found

    def log_areas(self, y: Int, width: Int, height: Int) -> tuple[Float, Float]:
        """Computes logs ``(P,)`` of the shares of the sphere in cells, and in their squares.

        Cells at a pole are thin wedges; the square of a cell has its longer side.
        """
        narrow = self.narrowing(y, height)
        half = height * (math.pi / (2.0 * self.rows * UNITS))
        share = narrow * np.sin(half) * (width / (2.0 * self.rows * UNITS))
        return np.log(share), np.log(share * np.maximum(height / (width * narrow), 1.0))

    def narrowing(self, y: Int, height: Int) -> Float:
        """Computes the length of a degree of longitude in cells relative to the equator."""
        narrow: Float = np.sin((y + height / 2.0) * (math.pi / (self.rows * UNITS)))
        return narrow

    def tilt(self, y: ArrayLike) -> Float:
        """Returns what is added to log densities, so that of equal ones the northern is higher."""
        tilt: Float = 1e-7 * np.cos(np.asarray(y) * (math.pi / (self.rows * UNITS)))
        return tilt

    def longitude_latitude(self, points: Float) -> Float:
        """Converts points ``(..., 2)`` in units to degrees."""
        return np.stack(
            [points[..., 0] * self.degree - 180.0, 90.0 - points[..., 1] * self.degree], -1
        )

    def measure(self, natural: Tensor) -> AdaptiveDensity:
        """Measures the mixture of K densities with natural parameters ``(K, d)``."""
        assert max_degree_of(natural.shape[-1]) == self.transform.max_degree
        on_roots = self.transform.synthesis(natural).double().cpu().numpy()
        return AdaptiveDensity.measure(self, Fields(on_roots))


class Fields:
    """K band-limited fields, interpolated by cubic splines.

    As functions of colatitude and longitude, both from 0 to 2π, fields are trigonometric
    polynomials, which are periodic and smooth at the poles.

    Attributes:
        on_roots: Values at the centres of the root cells, ``(K, n, 2n)``.
    """

    def __init__(self, on_roots: Float) -> None:
        self.on_roots = on_roots
        # F(-θ, φ) = F(θ, φ + π)
        behind = np.roll(on_roots[:, ::-1], on_roots.shape[1], axis=2)
        whole = np.concatenate([on_roots, behind], axis=1)
        self._spline = [spline_filter(f, 3, mode="grid-wrap") for f in whole]

    def corners(self) -> Float:
        """Evaluates the fields at the corners of the root cells, ``(K, n + 1, 2n + 1)``."""
        n = self.on_roots.shape[1]
        values = np.stack(self._spline).swapaxes(1, 2)
        for count in (n + 1, 2 * n + 1):  # half way between two nodes
            wrapped = np.concatenate([values[..., -2:], values, values[..., :2]], axis=2)
            one, two, three, four = (wrapped[..., i : i + count] for i in range(4))
            values = ((one + 23.0 * (two + three) + four) / 48.0).swapaxes(1, 2)
        return values.swapaxes(1, 2)

    def __call__(self, x: Float, y: Float) -> Float:
        """Evaluates the fields ``(K, ...)`` at points in units."""
        at = np.stack([y / UNITS - 0.5, x / UNITS - 0.5])
        values = [
            map_coordinates(f, at, order=3, mode="grid-wrap", prefilter=False) for f in self._spline
        ]
        return np.stack(values)


@dataclass(frozen=True)
class Cells:
    """P cells that cover the sphere.

    Attributes:
        x, y: North-western corners in units, ``(P,)``.
        width, height: Sizes in units, ``(P,)``.
        field: F at the centres, ``(K, P)``.
        slack: How much higher F may be elsewhere in the cell, ``(K, P)``.
        log_q0: Log of the mean q₀, ``(P,)``.
        log_area, log_square: Logs of shares of the sphere, see `Mesh.log_areas`, ``(P,)``.
        border: Whether q₀ excludes a part of the cell but not all, ``(P,)``.
    """

    x: Int
    y: Int
    width: Int
    height: Int
    field: Float
    slack: Float
    log_q0: Float
    log_area: Float
    log_square: Float
    border: NDArray[np.bool_]

    def log_mass(self) -> Float:
        """Computes log ∫ q₀ exp F dΩ / 4π of each cell, ``(K, P)``."""
        return self.field + (self.log_area + self.log_q0)

    def log_highest(self) -> Float:
        """Bounds `log_mass` from above, with cells counted as squares, ``(K, P)``."""
        return self.field + self.slack + (self.log_square + self.log_q0)

    def log_limit(self) -> Float:
        """Returns the log of the probability above which each cell is split, ``(P,)``."""
        limit = np.where(self.border, math.log(BORDER_MASS), math.log(MOST_MASS))
        limit[np.minimum(self.width, self.height) <= 1] = np.inf
        return limit

    def take(self, chosen: NDArray[np.bool_] | Int) -> Cells:
        """Selects cells by mask or index."""
        return Cells(*(getattr(self, f.name)[..., chosen] for f in fields(self)))

    @classmethod
    def joined(cls, parts: list[Cells]) -> Cells:
        """Concatenates cells."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts], -1) for f in fields(cls)))


@dataclass(frozen=True)
class AdaptiveDensity:
    """The equal-weight mixture of K densities.

    Attributes:
        mesh: Mesh of the density's degree and base measure.
        fields: Field F of each density.
        cells: Cells on which the density was measured. Those with less than `NEGLIGIBLE` are not
            among them: together they hold less than half a per cent, and no region reaches them, as
            a density below 4e-3 of the mean is below each threshold.
        log_z: Log Z of each density, ``(K,)``.
    """

    mesh: Mesh
    fields: Fields
    cells: Cells
    log_z: Float

    @classmethod
    def measure(cls, mesh: Mesh, of: Fields, rounds: int = 24) -> AdaptiveDensity:
        """Splits cells until none may hold more than `MOST_MASS`; drops those that hold little."""
        cells, log_z = _roots(mesh, of)
        chosen = np.arange(len(cells.x))
        log_mass, highest, limit = cells.log_mass(), cells.log_highest(), cells.log_limit()
        for left in range(rounds, -1, -1):
            # Z of each density so far
            whole = np.logaddexp(log_z, log_sum_exp(log_mass))
            most = log_mean_exp(highest - whole[:, None])
            split = most > limit
            if not left or not split.any():
                break
            # What is far too little now will not be much when the rest is known better.
            done = most < math.log(NEGLIGIBLE)
            log_z = np.logaddexp(log_z, log_sum_exp(log_mass[:, done]))
            parts = _split(mesh, of, cells.take(chosen[split]))
            kept = ~(split | done)
            chosen = np.append(chosen[kept], np.arange(len(parts.x)) + len(cells.x))
            log_mass = np.concatenate([log_mass[:, kept], parts.log_mass()], 1)
            highest = np.concatenate([highest[:, kept], parts.log_highest()], 1)
            limit = np.append(limit[kept], parts.log_limit())
            cells = Cells.joined([cells, parts])
        return cls(mesh, of, cells.take(chosen), whole)

    def log_density(self) -> Float:
        """Computes the mean log density of each cell, ``(P,)``."""
        middle = self.cells.y + self.cells.height / 2.0
        return self._mixed(self.cells.field) + self.cells.log_q0 + self.mesh.tilt(middle)

    def highest(self) -> Float:
        """Bounds the log density in each cell from above, ``(P,)``."""
        most = 0.0 if self.mesh.base_measure is None else self.mesh.base_measure.bounds()[1]
        return self._mixed(self.cells.field + self.cells.slack) + most

    def at_corners(self, cells: Cells, x: Int, y: Int) -> Float:
        """Evaluates the log density at corners ``(4, P)`` of cells; -inf where q₀ excludes them.

        Args:
            cells: P cells.
            x: Their corners in units, clockwise from the north-western one, ``(4, P)``.
            y: The same to the south.
        """
        # Corners of root cells from tables, all others from the splines
        log_p = np.empty(x.shape)
        is_root = (cells.width == UNITS) & (cells.height == UNITS)
        roots, inner = np.flatnonzero(is_root), np.flatnonzero(~is_root)
        if len(roots):
            table = self._mixed(self.fields.corners()) + self.mesh.corner_log_weight
            table[self.mesh.corner_log_q0 <= EXCLUDED] = -np.inf
            columns = table.shape[1]
            first = cells.y[roots] // UNITS * columns + cells.x[roots] // UNITS
            step = np.array([0, 1, columns + 1, columns])[:, None]
            log_p[:, roots] = table.ravel().take(first + step)
        if len(inner):
            inner_x, inner_y = x[:, inner].astype(float), y[:, inner].astype(float)
            log_q0 = self.mesh.log_q0_at(inner_x, inner_y)
            at = self._mixed(self.fields(inner_x, inner_y)) + log_q0 + self.mesh.tilt(inner_y)
            log_p[:, inner] = np.where(log_q0 <= EXCLUDED, -np.inf, at)
        return log_p

    def log_density_at(self, x: Float, y: Float) -> Float:
        """Evaluates the log density ``(...)`` at points in units."""
        return self._mixed(self.fields(x, y)) + self.mesh.log_q0_at(x, y)

    def _mixed(self, field: Float) -> Float:
        offset = self.log_z.reshape(-1, *[1] * (field.ndim - 1))
        if len(field) == 1:
            return (field - offset)[0]
        mixed: Float = np.logaddexp.reduce(field - offset, axis=0) - math.log(len(field))
        return mixed


def log_sum_exp(values: Float) -> Float:
    """Computes `logsumexp` over the last axis, each term at least e^-80 of the largest."""
    if not values.shape[-1]:
        return np.full(values.shape[:-1], -np.inf)
    largest = values.max(-1, keepdims=True)
    summed: Float = np.log(np.exp((values - largest).clip(-80.0)).sum(-1)) + largest[..., 0]
    return summed


def log_mean_exp(values: Float) -> Float:
    """Computes the log of the mean of exponentials over the first axis, each within e^±80."""
    if len(values) == 1:
        return values[0]
    logarithm: Float = np.log(np.exp(values.clip(-80.0, 80.0)).mean(0))
    return logarithm


def _roots(mesh: Mesh, of: Fields) -> tuple[Cells, Float]:
    """Returns the root cells that may hold something, and log Z of all others, ``(K,)``."""
    n = mesh.rows
    field = of.on_roots
    west_east = np.abs(field - np.roll(field, 1, 2))
    np.maximum(west_east, np.roll(west_east, -1, 2), out=west_east)
    around = np.concatenate(
        [np.roll(field[:, :1], n, 2), field, np.roll(field[:, -1:], n, 2)], axis=1
    )
    steps = np.abs(np.diff(around, axis=1))
    slack = np.maximum(west_east, np.maximum(steps[:, 1:], steps[:, :-1]))
    log_mass = field + (mesh.log_q0 + mesh.row_log_area[:, None])
    whole = log_sum_exp(log_mass.reshape(len(field), -1))
    highest = field + slack + (mesh.log_q0 + mesh.row_log_square[:, None])
    kept = log_mean_exp(highest - whole[:, None, None]) >= math.log(NEGLIGIBLE)
    i, j = np.nonzero(kept)
    y, x, size = i * UNITS, j * UNITS, np.full(len(i), UNITS)
    border = np.zeros(len(i), bool)
    if mesh.base_measure is not None and mesh.base_measure.excludes:
        border = mesh.log_q0[kept] > EXCLUDED  # inside as well: no harm
        border &= _mean_q0(mesh, x, y, size, size)[1]
    areas = mesh.row_log_area[i], mesh.row_log_square[i]
    log_q0 = mesh.log_q0[kept]
    cells = Cells(x, y, size, size, field[:, kept], slack[:, kept], log_q0, *areas, border)
    return cells, log_sum_exp(log_mass[:, ~kept])


def _split(mesh: Mesh, of: Fields, cells: Cells) -> Cells:
    """Splits cells into halves or quarters, so that they stay about as wide as they are high."""
    wide = cells.width * mesh.narrowing(cells.y, cells.height)
    across = (wide > 0.7 * cells.height) & (cells.width > 1)
    down = (cells.height > 0.7 * wide) & (cells.height > 1)
    across |= ~down & (cells.width > 1)
    parts = []
    for i in (0, 1):
        for j in (0, 1):
            kept = np.flatnonzero((across | (i == 0)) & (down | (j == 0)))
            width = np.where(across, cells.width // 2, cells.width)[kept]
            height = np.where(down, cells.height // 2, cells.height)[kept]
            parts.append(
                (kept, cells.x[kept] + i * width, cells.y[kept] + j * height, width, height)
            )
    parent, x, y, width, height = (np.concatenate(column) for column in zip(*parts, strict=True))
    field = of(x + width / 2.0, y + height / 2.0)
    slack = np.maximum(np.abs(field - cells.field[:, parent]), cells.slack[:, parent] / 4.0)
    log_q0, border = _mean_q0(mesh, x, y, width, height)
    areas = mesh.log_areas(y, width, height)
    return Cells(x, y, width, height, field, slack, log_q0, *areas, border)


def _mean_q0(
    mesh: Mesh, x: Int, y: Int, width: Int, height: Int
) -> tuple[Float, NDArray[np.bool_]]:
    """Averages q₀ over 3 x 3 points in each cell: its log, and whether q₀ excludes some of them."""
    if mesh.base_measure is None:
        return np.zeros(len(x)), np.zeros(len(x), bool)
    at = (np.arange(3) + 0.5) / 3.0
    across = (x + np.outer(at, width))[:, None]
    down = (y + np.outer(at, height))[None, :]
    log_q0 = mesh.log_q0_at(across, down).reshape(9, -1)
    border = (log_q0.min(0) <= EXCLUDED) & (log_q0.max(0) > EXCLUDED)
    mean = np.exp(log_q0).mean(0)
    return log_or_excluded(mean), border

"""Adaptive mesh: one density on a grid of meridians and parallels, close where the probability is.

It integrates over regions of any size, from 10 km to the whole Earth; the decoder's product grid is
too coarse for small ones. As functions of colatitude θ and longitude φ, fields of degree L are
trigonometric polynomials, so two small products evaluate a field on any such grid, without error:

    F(θ_i, φ_j) = Σ_m [ Σ_k a_km cos kθ_i + b_km sin kθ_i ] T_m(φ_j)

A first grid, the same for all photos, shows where probability may be and how sharply fields bend
there. The strips between its lines are then divided a few times. Grids are degrees of longitude
``(X + 1,)`` and of latitude ``(Y + 1,)``, both increasing; they have X·Y cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from locdiffusion.density.base_measure import EXCLUDED, BaseMeasure
from locdiffusion.density.raster import interpolated_grid
from locdiffusion.density.shdd import max_degree_of
from locdiffusion.density.transforms import pad
from locdiffusion.sphere.harmonics import associated_legendre

Float = NDArray[np.float64]

STEP = 0.25
"""Widest strip, in standard deviations of the sharpest peak that it crosses."""

PITCH_DEG, WORTH_PITCH = 0.75, 1e-3
"""Widest strip over a base measure with borders, whose raster has cells as wide, if one of its
cells may hold so much probability; wider ones hold less."""

STEEP = 3.0
"""Most nats by which a density may fall across a cell where a prior excludes places."""

WORTH_DIVIDING = 2e-4
"""Strips are divided if one of their cells may hold more probability."""

NEGLIGIBLE = 1e-8
"""Strips of which no cell can hold more are joined, and count as empty."""

MOST_PARTS, MOST_CELLS = 10, 400_000
"""A strip is divided into so many parts at once; a grid of more cells is not made."""

_OVERSHOOT = 0.2
"""By this share of its second difference a field may rise above a node nearby. The shortest wave
has four nodes of the first grid; half way between two of them it rises by 0.2 of that."""


@dataclass(frozen=True)
class AdaptiveDensity:
    """A density on a grid.

    Attributes:
        longitude: Meridians of the grid in degrees, ``(X + 1,)``.
        latitude: Parallels of the grid in degrees, ``(Y + 1,)``.
        log_density: Log density at the corners of cells, relative to the uniform one,
            ``(Y + 1, X + 1)``. Where q₀ excludes a place, it is that of the nearest other place.
        mass: Probability of each cell, ``(Y, X)``; their sum is 1.
    """

    longitude: Float
    latitude: Float
    log_density: Float
    mass: Float


@dataclass(frozen=True)
class _Strips:
    """Strips between parallels or between meridians.

    Attributes:
        at: Lines in degrees, ``(S + 1,)``.
        bend: Most by which the slope of F changes across each strip, in nats per square degree.
        empty: Whether a strip counts as empty, ``(S,)``.
    """

    at: Float
    bend: Float
    empty: NDArray[np.bool_]

    def slack(self) -> Float:
        """Computes how much higher than at its corners F may be within a cell, ``(S,)``."""
        slack: Float = np.diff(self.at) ** 2 * self.bend / 8.0
        return slack

    def divided(
        self, most: Float, pitch_deg: float, least: Float | float, borders: Float | None
    ) -> _Strips:
        """Divides strips that are too wide, and joins empty ones; itself if none is too wide.

        Args:
            most: Most probability that a cell of each strip may hold, ``(S,)``.
            pitch_deg: Widest strip.
            least: Parts into which the strips are divided at least, ``(S,)``.
            borders: Lines along which strips are divided before all others.
        """
        empty = self.empty | (most < NEGLIGIBLE)
        width = np.diff(self.at)
        along_borders = np.sqrt((most / WORTH_PITCH).clip(max=1.0)) / pitch_deg
        wanted = np.maximum(width * np.maximum(np.sqrt(self.bend) / STEP, along_borders), least)
        wanted[empty | (most <= WORTH_DIVIDING)] = 1.0
        if (wanted <= 1.0).all():
            return self
        # Many parts come in two goes of about as many.
        parts = np.where(wanted > MOST_PARTS, np.sqrt(wanted).clip(max=MOST_PARTS), wanted)
        parts = np.ceil(parts).astype(int).clip(1)
        kept = np.ones(len(self.at), bool)
        kept[1:-1] = ~(empty[1:] & empty[:-1])
        lines = [self.at[kept]]
        if borders is not None:
            strip = np.searchsorted(self.at, borders) - 1
            free = np.minimum(borders - self.at[strip], self.at[strip + 1] - borders) > 1e-6
            free &= parts[strip] > 1
            lines.append(borders[free])
            parts[strip[free]] = 1
        strip = np.repeat(np.arange(len(parts)), parts - 1)
        number = np.arange(len(strip)) - np.searchsorted(strip, strip) + 1
        lines.append(self.at[strip] + number * (width / parts)[strip])
        at = np.sort(np.concatenate(lines))
        strip = np.searchsorted(self.at, at[:-1], side="right") - 1
        return _Strips(at, self.bend[strip], empty[strip])


class Mesh:
    """Tables for densities of degree L over a base measure q₀."""

    def __init__(self, max_degree: int, base_measure: BaseMeasure | None = None) -> None:
        """Builds the tables for degree L over a base measure q₀; None is the uniform measure."""
        self.max_degree = max_degree
        base = None if base_measure is None else _Base(base_measure)
        self._base = base if base and (base.excludes or base.pitch_deg < math.inf) else None
        self._series = _series_table(max_degree)
        n = 2 * (max_degree + 1)
        self._first = np.linspace(-180.0, 180.0, 2 * n + 1), np.linspace(-90.0, 90.0, n + 1)
        self._waves = self._rows(self._first[1]), self._columns(self._first[0])
        self._weight = _to_corners(self.area(*self._first)) * self.q0(*self._first)
        # Log of the most that a cell beside each node may hold where F = log Z
        room = np.log(_rectangles(*self._first))
        if self._base is not None:
            room += self._base.highest(*self._first)
        self._room = _highest(np.pad(room, 1, mode="edge"))

    def measure(self, natural: Tensor) -> AdaptiveDensity:
        """Measures the equal-weight mixture of K densities with natural parameters ``(K, d)``."""
        assert max_degree_of(natural.shape[-1]) == self.max_degree
        padded = pad(natural, self.max_degree).permute(2, 0, 1).double().numpy()
        series = (padded @ self._series).transpose(1, 2, 0)
        x, y, most = self._surveyed(series)
        finer = self._finer(x, y, most, None)
        while True:
            x, y = finer
            # p_k ∝ exp(F_k) at corners, then their mixture with q₀
            q0 = self.q0(x.at, y.at)
            area = self.area(x.at, y.at) * ~(y.empty[:, None] | x.empty)
            weight = _to_corners(area)
            field = self._rows(y.at) @ series @ self._columns(x.at)
            largest = _largest(field, weight)
            p = np.exp((field - largest).clip(max=STEEP))
            z = (p * (weight * q0)).sum((1, 2), keepdims=True)
            density = (p / z).mean(0) * q0
            slack = np.add.outer(y.slack(), x.slack())
            cell = _highest(density) * area * np.exp(slack.clip(max=500.0))
            most = cell.max(0), cell.max(1)
            finer = self._finer(x, y, most, self._parts(density, cell))
            if finer[0] is x and finer[1] is y:
                break
        # Corners and centres, weighed so that their errors cancel
        centre = self._rows(_middle(y.at)) @ series @ self._columns(_middle(x.at))
        p_centre = np.exp((centre - largest).clip(max=STEEP)) * cell_mean(q0)
        mass = (np.stack([cell_mean(one * q0) for one in p]) + 2.0 * p_centre) * (area / 3.0)
        z = mass.sum((1, 2), keepdims=True)
        density = (p / z).mean(0) * q0
        log_density = np.log(density.clip(np.finfo(float).tiny))
        return AdaptiveDensity(x.at, y.at, log_density, (mass / z).mean(0))

    def field(self, natural: Tensor, longitude: Float, latitude: Float) -> Float:
        """Evaluates the fields of natural parameters ``(K, d)`` on a grid, ``(K, Y, X)``."""
        padded = pad(natural, self.max_degree).permute(2, 0, 1).double().cpu().numpy()
        series = (padded @ self._series).transpose(1, 2, 0)
        found: Float = self._rows(latitude) @ series @ self._columns(longitude)
        return found

    def _surveyed(self, series: Float) -> tuple[_Strips, _Strips, tuple[Float, Float]]:
        """Returns the strips of the first grid, and the most that their cells may hold."""
        n = len(self._first[1]) - 1
        field = self._waves[0] @ series @ self._waves[1]
        # Second differences, around the Earth and across the poles
        wide = np.concatenate([field[..., -2:-1], field, field[..., 1:2]], 2)
        bend_x = np.abs(wide[..., 2:] + wide[..., :-2] - 2.0 * field)
        beyond = np.concatenate([field[:, [1, -2], n:-1], field[:, [1, -2], : n + 1]], 2)
        high = np.concatenate([beyond[:, :1], field, beyond[:, 1:]], 1)
        bend_y = np.abs(high[:, 2:] + high[:, :-2] - 2.0 * field)
        largest = _largest(field, self._weight)
        z = (np.exp((field - largest).clip(max=STEEP)) * self._weight).sum((1, 2), keepdims=True)
        most = field - (largest + np.log(z)) + _OVERSHOOT * (bend_x + bend_y) + self._room
        matters = most > math.log(WORTH_DIVIDING)
        most = np.exp(most.max(0).clip(max=500.0))
        square = (180.0 / n) ** 2
        bends = ((bend * matters).max(0) / square for bend in (bend_x, bend_y))
        strips, held = [], []
        for axis, at, bend in zip((0, 1), self._first, bends, strict=True):
            held.append(_pairs(most.max(axis)))
            strips.append(_Strips(at, _pairs(bend.max(axis)), np.zeros(len(at) - 1, bool)))
        return strips[0], strips[1], (held[0], held[1])

    def _finer(
        self, x: _Strips, y: _Strips, most: tuple[Float, Float], parts: tuple[Float, Float] | None
    ) -> tuple[_Strips, _Strips]:
        """Divides the strips where it is needed; returns the same if nowhere, or for too many."""
        base = self._base
        pitch, borders = (base.pitch_deg, base.borders) if base else (math.inf, (None, None))
        found = []
        for axis, strips in enumerate((x, y)):
            least = 0.0 if parts is None else parts[axis]
            found.append(strips.divided(most[axis], pitch, least, borders[axis]))
        fits = len(found[0].bend) * len(found[1].bend) <= MOST_CELLS
        return (found[0], found[1]) if fits else (x, y)

    def _parts(self, density: Float, cell: Float) -> tuple[Float, Float] | None:
        """Returns into how many parts strips have to be divided that the density falls across."""
        if self._base is None or not self._base.excludes:
            return None
        log_p = np.log(density.clip(np.finfo(float).tiny))
        matters = cell > WORTH_DIVIDING
        fall_x = (_pairs(np.abs(np.diff(log_p, axis=1))) * matters).max(0)
        fall_y = (_pairs(np.abs(np.diff(log_p, axis=0)).T).T * matters).max(1)
        # To less than half of what is allowed, so that one turn is enough
        parts_x, parts_y = (np.where(f > STEEP, f * (2.0 / STEEP), 0.0) for f in (fall_x, fall_y))
        return parts_x, parts_y

    def _rows(self, latitude: Float) -> Float:
        """Computes cos kθ and sin kθ, ``(R, 2L + 2)``."""
        powers = _powers(np.radians(90.0 - latitude), self.max_degree)
        return np.concatenate([powers.real, powers.imag]).T

    def _columns(self, longitude: Float) -> Float:
        """Computes T_m(φ) as of `harmonics.trigonometric`, ``(2L + 1, C)``."""
        powers = _powers(np.radians(longitude), self.max_degree)
        powers[1:] *= math.sqrt(2.0)
        return np.concatenate([powers.imag[:0:-1], powers.real])

    def q0(self, longitude: Float, latitude: Float) -> Float:
        """Computes q₀ at the nodes of a grid, ``(Y + 1, X + 1)``, or 1 for all."""
        return np.ones((1, 1)) if self._base is None else self._base(longitude, latitude)

    def area(self, longitude: Float, latitude: Float) -> Float:
        """Computes the share of the sphere in each cell that q₀ does not exclude, ``(Y, X)``."""
        if self._base is None or not self._base.excludes:
            return _rectangles(longitude, latitude)
        return self._base.allowed_area(longitude, latitude)


class _Base:
    """A base measure on grids of longitude and latitude.

    Attributes:
        excludes: Whether places are excluded.
        pitch_deg: Widest strip that follows the changes of q₀.
        borders: Meridians and parallels between the cells of a raster that excludes places.
    """

    def __init__(self, base_measure: BaseMeasure) -> None:
        self._surface = base_measure.surface.double().cpu().numpy()
        self._log_weight = base_measure.log_weight.double().cpu()
        self.excludes = base_measure.excludes
        self.borders: tuple[Float, Float] | tuple[None, None] = (None, None)
        weight = self._log_weight.numpy()
        if self.excludes:
            rows, columns = weight.shape
            allowed = weight > EXCLUDED
            self._integral = np.zeros((rows + 1, columns + 1))
            self._integral[1:, 1:] = allowed.cumsum(0).cumsum(1) / allowed.size
            parallels = np.degrees(np.arcsin(1.0 - 2.0 * np.arange(rows - 1, 0, -1) / rows))
            self.borders = 360.0 * np.arange(1, columns) / columns - 180.0, parallels
            nearest = distance_transform_edt(~allowed, return_distances=False, return_indices=True)
            weight = weight[tuple(nearest)]
        self._nearest = np.exp(weight)
        self.pitch_deg = PITCH_DEG if np.ptp(weight) > 0.0 else math.inf

    def __call__(self, longitude: Float, latitude: Float) -> Float:
        """Looks q₀ up; where it excludes a place, that of the nearest other place."""
        row, column = self._place(longitude, latitude)
        if not self.excludes:
            return interpolated_grid(self._surface, row, column)
        rows, columns = self._nearest.shape
        i, j = row.astype(int).clip(max=rows - 1), column.astype(int).clip(max=columns - 1)
        return self._nearest[i][:, j]

    def allowed_area(self, longitude: Float, latitude: Float) -> Float:
        """Computes the share of the sphere in each cell that is not excluded, ``(Y, X)``."""
        row, column = self._place(longitude, latitude)
        rows, columns = self._log_weight.shape
        i, j = row.astype(int).clip(max=rows - 1), column.astype(int).clip(max=columns - 1)
        # From the north pole and -180° to each node
        table = self._integral
        south = table[i] + (row - i)[:, None] * (table[i + 1] - table[i])
        whole = south[:, j] + (column - j) * (south[:, j + 1] - south[:, j])
        area: Float = -np.diff(np.diff(whole, axis=0), axis=1)
        return np.where(area < 1e-6 * _rectangles(longitude, latitude), 0.0, area)

    def highest(self, longitude: Float, latitude: Float) -> Float:
        """Returns the highest log q₀ in each cell of a grid, ``(Y, X)``."""
        rows, columns = self._log_weight.shape
        z = 1.0 - 2.0 * (np.arange(rows) + 0.5) / rows
        i = np.searchsorted(latitude, np.degrees(np.arcsin(z))) - 1
        j = np.searchsorted(longitude, 360.0 * (np.arange(columns) + 0.5) / columns - 180.0) - 1
        found = np.full((len(latitude) - 1, len(longitude) - 1), EXCLUDED)
        np.maximum.at(found, (i[:, None], j), self._log_weight.numpy())
        if self.excludes:
            return found
        return np.maximum(found, _highest(np.log(self(longitude, latitude))))

    def _place(self, longitude: Float, latitude: Float) -> tuple[Float, Float]:
        rows, columns = self._log_weight.shape
        row = (1.0 - np.sin(np.radians(latitude))) * (rows / 2.0)
        return row, (longitude + 180.0) * (columns / 360.0)


def _series_table(max_degree: int) -> Float:
    """Returns a_km and b_km of each harmonic, ``(2L + 1, L + 1, 2L + 2)``: by order and degree.

    P̄_l|m| is a sum of cosines of colatitude for even orders, and of sines for odd ones.
    """
    n = 2 * (max_degree + 1)
    theta = np.pi * (np.arange(n) + 0.5) / n
    order = np.arange(-max_degree, max_degree + 1)
    legendre = associated_legendre(np.cos(theta), max_degree)[:, :, np.abs(order)]
    powers = _powers(theta, max_degree)
    powers[1:] *= 2.0
    waves = np.where(order % 2 == 0, powers.real[..., None], powers.imag[..., None])
    # ∫ P̄ cos kθ dθ by the midpoint rule, which is exact here
    table = np.einsum("kim,ilm->mlk", waves, legendre) * (math.sqrt(4.0 * math.pi) / n)
    odd = (order % 2 == 1)[:, None, None]
    return np.concatenate([np.where(odd, 0.0, table), np.where(odd, table, 0.0)], 2)


def _powers(angle: Float, max_degree: int) -> NDArray[np.complex128]:
    """Computes exp(ikα) for k = 0..L, ``(L + 1, A)``."""
    powers = np.empty((max_degree + 1, len(angle)), complex)
    powers[0], powers[1:] = 1.0, np.exp(1j * angle)
    return np.multiply.accumulate(powers, axis=0)


def _largest(field: Float, weight: Float) -> Float:
    """Takes the maximum of each field ``(K, Y + 1, X + 1)`` where weights are positive.

    Far higher values where q₀ excludes places are of no interest.
    """
    largest: Float = field.max((1, 2), keepdims=True, where=weight > 0.0, initial=-np.inf)
    return largest


def _rectangles(longitude: Float, latitude: Float) -> Float:
    """Computes the share of the sphere in each cell of a grid, ``(Y, X)``."""
    return np.outer(np.diff(np.sin(np.radians(latitude))), np.diff(longitude)) / 720.0


def _middle(at: Float) -> Float:
    return (at[1:] + at[:-1]) / 2.0


def _pairs(values: Float) -> Float:
    return np.maximum(values[1:], values[:-1])


def _highest(corner: Float) -> Float:
    """Takes the highest corner of each cell."""
    return _pairs(_pairs(corner).T).T


def cell_mean(corner: Float) -> Float:
    """Takes the mean of the corners of each cell."""
    if corner.size == 1:
        return corner
    two = corner[1:] + corner[:-1]
    mean: Float = 0.25 * (two[:, 1:] + two[:, :-1])
    return mean


def _to_corners(cell: Float) -> Float:
    """Gives a quarter of each cell's value to each of its corners, ``(Y + 1, X + 1)``."""
    around = np.zeros((cell.shape[0] + 2, cell.shape[1] + 2))
    around[1:-1, 1:-1] = cell
    return cell_mean(around)

r"""Kriging: predicts appearance between places with photos, tile by tile.

Appearance is a Gaussian process over the sphere, the same for each discriminant, with the Matérn
covariance of smoothness 3/2 (Rasmussen & Williams 2006, §4.2.1) of the chord d:

    k(d) = (1 + √3 d/ℓ) exp(-√3 d/ℓ),   ẑ(y) = k_yᵀ (K + N)⁻¹ z,   v(y) = 1 - k_yᵀ (K + N)⁻¹ k_y

N holds the noise of each place relative to the signal. Each tile of a few cells uses the nearest
places only, since those screen the others off: time is linear in the number of cells, and memory
does not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial import cKDTree

from locdiffusion.appearance.cell_grid import CellGrid
from locdiffusion.appearance.places import Observations
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

Float = NDArray[np.float64]


@dataclass(frozen=True)
class KrigingConfig:
    """Settings of the Gaussian process.

    Attributes:
        length_km: Length ℓ of the covariance.
        noise: Variance of photos of one place relative to that of the signal.
        augmented_noise: The same for photos whose colours were varied.
        average_km: Size of the cells within which photos are averaged.
        neighbours: Number of places that a tile uses.
        tile_km: Size of a tile.
    """

    length_km: float = 400.0
    noise: float = 0.1
    augmented_noise: float = 0.3
    average_km: float = 20.0
    neighbours: int = 160
    tile_km: float = 160.0

    def __post_init__(self) -> None:
        """Checks the values."""
        if min(self.length_km, self.noise, self.augmented_noise) <= 0.0 or self.neighbours < 1:
            raise ValueError(
                f"Length, noise and neighbours must be positive: {self}; try the defaults."
            )


def matern(chord: Float, length_km: float) -> Float:
    """Computes the covariance of places at chords on the unit sphere."""
    scaled = chord * (math.sqrt(3.0) * EARTH_RADIUS_KM / length_km)
    return (1.0 + scaled) * np.exp(-scaled)


class Kriging:
    """Predicts appearance and its variance at places."""

    def __init__(self, observed: Observations, config: KrigingConfig) -> None:
        """Indexes the places with photos."""
        self.observed, self.config = observed, config
        self._tree = cKDTree(observed.vectors)

    def at(self, vectors: Float) -> tuple[Float, Float]:
        """Predicts places that lie near each other.

        Args:
            vectors: Unit vectors ``(n, 3)``; those of a tile.

        Returns:
            Appearance ẑ ``(n, C)`` and variance v from 0 to 1 ``(n,)``.
        """
        middle = vectors.mean(0)
        middle /= np.linalg.norm(middle)
        count = min(self.config.neighbours, len(self.observed.vectors))
        near = np.atleast_1d(self._tree.query(middle, k=count)[1])
        known, noise = self.observed.vectors[near], self.observed.noise[near]
        covariance = matern(_chords(known, known), self.config.length_km)
        covariance[np.diag_indices(count)] = 1.0 + noise
        towards = matern(_chords(known, vectors), self.config.length_km)
        weights = cho_solve(cho_factor(covariance, lower=True, check_finite=False), towards)
        appearance = weights.T @ self.observed.appearance[near]
        return appearance, np.clip(1.0 - (weights * towards).sum(0), 0.0, 1.0)

    def over(
        self, grid: CellGrid, held: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.intp], Float, Float]]:
        """Predicts cells, tile by tile.

        Args:
            grid: Grid of the cells.
            held: Numbers of the wanted cells, ``(M,)``.

        Yields:
            Indices into `held` ``(n,)``, appearance ``(n, C)`` and variance ``(n,)``.
        """
        centres = grid.centres[held]
        tile = CellGrid(max(self.config.tile_km, grid.cell_km)).cells(centres)
        order = np.argsort(tile, kind="stable")
        starts = np.flatnonzero(np.diff(tile[order], prepend=-1))
        for rows in np.split(order, starts[1:]):
            yield (rows, *self.at(centres[rows]))


def _chords(one: Float, other: Float) -> Float:
    return np.sqrt(np.maximum(2.0 - 2.0 * (one @ other.T), 0.0))

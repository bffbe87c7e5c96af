"""Averages training photos of the same small cell, one chunk of photos at a time.

A Gaussian process needs neither all photos nor their order: photos within a cell that is much
smaller than its length are one observation, whose noise is smaller the more photos there are.
The memory depends on the number of cells with photos, not on that of photos.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from locdiffusion.appearance.cell_grid import CellGrid

Float32 = NDArray[np.float32]
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Observations:
    """Averaged photos of P places.

    Attributes:
        vectors: Unit vectors of their mean positions, ``(P, 3)``.
        appearance: Mean discriminants, ``(P, C)``.
        noise: Variance of the mean relative to that of the signal, ``(P,)``.
        photos: Number of photos that were averaged.
    """

    vectors: Float
    appearance: Float32
    noise: Float
    photos: int


class PlaceSums:
    """Sums photos by the cell of their position, weighted by the inverse of their noise."""

    def __init__(self, components: int, cell_km: float) -> None:
        """Begins without photos.

        Args:
            components: Number C of discriminants.
            cell_km: Size of the cells within which photos are averaged.
        """
        self.grid = CellGrid(cell_km)
        self.photos = 0
        self._slot = np.full(len(self.grid), -1, np.int32)
        # One row per place: Σ w, Σ w · position, Σ w · discriminants.
        self._sums = np.zeros((1024, 4 + components))
        self._used = 0

    def add(self, appearance: Float32, vectors: Float, noise: float) -> None:
        """Adds a chunk of photos.

        Args:
            appearance: Discriminants, ``(N, C)``.
            vectors: Unit vectors of the positions, ``(N, 3)``.
            noise: Variance of the photos at one place relative to that of the signal.
        """
        if not noise > 0.0:
            raise ValueError(f"noise is {noise}; want more than 0, for example 0.1.")
        found, place = np.unique(self.grid.cells(vectors), return_inverse=True)
        new = found[self._slot[found] < 0]
        self._slot[new] = np.arange(self._used, self._used + len(new))
        self._used += len(new)
        while self._used > len(self._sums):
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
        n = len(vectors)
        columns = np.concatenate([np.ones((n, 1)), vectors, appearance], 1)
        share = csr_array((np.full(n, 1.0 / noise), (place, np.arange(n))), (len(found), n))
        self._sums[self._slot[found]] += share @ columns
        self.photos += n

    def observations(self) -> Observations:
        """Returns the averages.

        Raises:
            ValueError: There was no photo.
        """
        if not self._used:
            raise ValueError("There is no training photo; name shards that hold some.")
        sums = self._sums[: self._used]
        weight, position = sums[:, :1], sums[:, 1:4]
        vectors = position / np.linalg.norm(position, axis=1, keepdims=True)
        appearance = (sums[:, 4:] / weight).astype(np.float32)
        return Observations(vectors, appearance, 1.0 / weight[:, 0], self.photos)

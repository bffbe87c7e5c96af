"""The appearance map: predicted discriminants and their variance on the cells of the land.

Each cell has C bytes of discriminants, with one scale for each of them, and a byte of variance.
Only cells that are land, beside land, or hold training photos are kept; a bit per cell says which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from locdiffusion.appearance.cell_grid import CellGrid
from locdiffusion.appearance.gaussian_process import Kriging
from locdiffusion.density.base_measure import land_share
from locdiffusion.density.raster import looked_up, raster_centres

UNKNOWN = 0.97
"""Cells whose variance is above this share of the signal's tell nothing and are left out."""

LEAST_LOG_VARIANCE = -8.0
_STEPS = 127


@dataclass(frozen=True)
class AppearanceMap:
    """Predicted appearance of photos by place.

    Attributes:
        grid: Grid of the cells.
        held: Numbers of the M cells that are kept, ``(M,)`` increasing.
        values: Predicted discriminants in units of `scale`, int8 ``(M, C)``.
        scale: Unit of each discriminant, float32 ``(C,)``.
        log_variance: Logarithm of the variance in parts of `LEAST_LOG_VARIANCE`, uint8 ``(M,)``.
    """

    grid: CellGrid
    held: NDArray[np.int64]
    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    log_variance: NDArray[np.uint8]

    @classmethod
    def fit(
        cls, kriging: Kriging, cell_km: float, on_tile: Callable[[int], object] = lambda cells: None
    ) -> AppearanceMap:
        """Predicts all cells of the land from training photos.

        Args:
            kriging: Gaussian process of the training photos.
            cell_km: Size of the cells.
            on_tile: Function that is called with the number of cells of each finished tile.
        """
        grid = CellGrid(cell_km)
        land = land_cells(grid)
        land[grid.cells(kriging.observed.vectors)] = True
        held = np.flatnonzero(grid.around(land))
        # Predictions are means of what was observed: none is much larger.
        largest = np.abs(kriging.observed.appearance).max(0)
        scale = np.maximum(1e-6, largest / _STEPS).astype(np.float32)
        values = np.zeros((len(held), len(scale)), np.int8)
        variance = np.ones(len(held))
        for rows, appearance, unknown in kriging.over(grid, held):
            values[rows] = np.clip(np.rint(appearance / scale), -_STEPS, _STEPS)
            variance[rows] = unknown
            on_tile(len(rows))
        kept = variance < UNKNOWN
        part = np.log(np.maximum(variance[kept], 1e-12)) / LEAST_LOG_VARIANCE
        log_variance = np.rint(255.0 * np.clip(part, 0.0, 1.0)).astype(np.uint8)
        return cls(grid, held[kept], values[kept], scale, log_variance)

    @property
    def appearance(self) -> NDArray[np.float32]:
        """Predicted discriminants, float32 ``(M, C)``."""
        return self.values * self.scale

    @property
    def variance(self) -> NDArray[np.float32]:
        """Variance of the prediction relative to that of the signal, float32 ``(M,)``."""
        return np.exp(self.log_variance.astype(np.float32) * (LEAST_LOG_VARIANCE / 255.0))

    def first(self, components: int) -> AppearanceMap:
        """Keeps the first discriminants only."""
        few = slice(components)
        return AppearanceMap(
            self.grid, self.held, self.values[:, few], self.scale[few], self.log_variance
        )

    def save(self, file: Path) -> int:
        """Writes the map; returns the size of the file in bytes."""
        bits = np.zeros(len(self.grid), bool)
        bits[self.held] = True
        save_file(
            {
                "held": np.packbits(bits),
                "values": np.ascontiguousarray(self.values),
                "scale": np.ascontiguousarray(self.scale),
                "log_variance": self.log_variance,
                "cell_km": np.array([self.grid.cell_km]),
            },
            file,
        )
        return file.stat().st_size

    @classmethod
    def load(cls, file: Path) -> AppearanceMap:
        """Reads a map that `save` wrote.

        Raises:
            ValueError: The tensors of the file do not fit each other.
        """
        found = load_file(file)
        try:
            grid = CellGrid(float(found["cell_km"][0]))
            held = np.flatnonzero(np.unpackbits(found["held"], count=len(grid)))
            made = cls(grid, held, found["values"], found["scale"], found["log_variance"])
            sound = made.values.shape == (len(held), len(made.scale))
            sound &= made.log_variance.shape == (len(held),)
        except (KeyError, IndexError) as error:
            raise ValueError(
                f"{file} is no appearance map ({error}); fit one with --output."
            ) from error
        if not sound:
            raise ValueError(
                f"{file} marks {len(held)} cells but has values of shape {made.values.shape} and "
                f"variances of shape {made.log_variance.shape}; fit the map again."
            )
        return made


def land_cells(grid: CellGrid) -> NDArray[np.bool_]:
    """Tells which cells of a grid ``(cells,)`` have land in them."""
    share = land_share()
    z, longitude = raster_centres(*share.shape)
    row, column = np.nonzero(share > 0.0)
    flat = np.sqrt(1.0 - z[row] ** 2)
    vectors = [flat * np.cos(longitude[column]), flat * np.sin(longitude[column]), z[row]]
    land = np.zeros(len(grid), bool)
    land[grid.cells(np.stack(vectors, -1))] = True
    # A cell that is smaller than a pixel of the land raster may hold no centre of one.
    centres = torch.from_numpy(grid.centres)
    land |= looked_up(torch.from_numpy(share.astype(np.float32)), centres).numpy() > 0.0
    return land

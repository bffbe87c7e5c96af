"""The appearance map: predicted discriminants and their variance on the cells of the land.

Each cell has C bytes of discriminants, with one scale for each of them, and a byte of variance.
Only cells that are land, beside land, or hold training photos are kept; a bit per cell says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from locdiffusion.appearance.cell_grid import LARGEST_CELL_KM, CellGrid
from locdiffusion.appearance.gaussian_process import Kriging
from locdiffusion.density.base_measure import land_share
from locdiffusion.density.raster import looked_up, raster_centres

UNKNOWN = 0.97
"""Cells whose variance is above this share of the signal's tell nothing and are left out."""

LEAST_LOG_VARIANCE = -8.0
_STEPS = 127

SMALLEST_STORED_KM = 20.0
"""Smallest cell of a map in a file. Below, its tables grow to some hundred megabytes."""

STORED = {
    "held": (np.uint8, 1),
    "values": (np.int8, 2),
    "scale": (np.float32, 1),
    "log_variance": (np.uint8, 1),
    "cell_km": (np.float64, 1),
}
"""Types and numbers of axes of the arrays of a map in a file."""


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
    def components(self) -> int:
        """Number C of discriminants."""
        return len(self.scale)

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

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns all that is stored, by name; a bit per cell of the grid tells which are kept."""
        bits = np.zeros(len(self.grid), bool)
        bits[self.held] = True
        return {
            "held": np.packbits(bits),
            "values": np.ascontiguousarray(self.values),
            "scale": self.scale,
            "log_variance": self.log_variance,
            "cell_km": np.array([self.grid.cell_km]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> AppearanceMap:
        """Reads what `arrays` returned.

        Args:
            arrays: Arrays by name.

        Raises:
            ValueError: An array is missing, unknown, of another type or shape, or not finite.
        """
        _check_types(arrays)
        cell_km, scale = arrays["cell_km"], arrays["scale"]
        # The tables of smaller cells may need any memory.
        if cell_km.shape != (1,) or not SMALLEST_STORED_KM <= cell_km[0] <= LARGEST_CELL_KM:
            raise ValueError(
                f"cell_km is {cell_km[:3]}, wanted one number from {SMALLEST_STORED_KM:g} to "
                f"{LARGEST_CELL_KM:g}"
            )
        grid = CellGrid(float(cell_km[0]))
        _check_shape(arrays, "held", (-(-len(grid) // 8),))
        held = np.flatnonzero(np.unpackbits(arrays["held"], count=len(grid)))
        _check_shape(arrays, "values", (len(held), len(scale)))
        _check_shape(arrays, "log_variance", (len(held),))
        if not arrays["values"].size:
            raise ValueError("the map has no cell, or no discriminant")
        if not (np.isfinite(scale).all() and (scale > 0.0).all()):
            raise ValueError("scale must hold finite numbers above 0")
        return cls(grid, held, arrays["values"], scale, arrays["log_variance"])

    def save(self, file: Path) -> int:
        """Writes the map; returns the size of the file in bytes."""
        save_file(self.arrays(), file)
        return file.stat().st_size

    @classmethod
    def load(cls, file: Path) -> AppearanceMap:
        """Reads a map that `save` wrote.

        Raises:
            ValueError: The tensors of the file do not fit each other.
        """
        try:
            return cls.from_arrays(load_file(file))
        except ValueError as error:
            raise ValueError(
                f"{file} is no appearance map ({error}); fit the map again."
            ) from error


def _check_types(arrays: Mapping[str, NDArray[Any]]) -> None:
    if set(arrays) != set(STORED):
        raise ValueError(f"a map has the tensors {sorted(STORED)}, found {sorted(arrays)}")
    for name, (kind, axes) in STORED.items():
        found = arrays[name]
        if found.dtype != kind or found.ndim != axes:
            raise ValueError(
                f"{name} has type {found.dtype} and shape {found.shape}, wanted {np.dtype(kind)} "
                f"with {axes} axes"
            )


def _check_shape(arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...]) -> None:
    if arrays[name].shape != shape:
        raise ValueError(f"size mismatch: {name} has shape {arrays[name].shape}, wanted {shape}")


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

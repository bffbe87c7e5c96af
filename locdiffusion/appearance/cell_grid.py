"""Cells of nearly equal shape on the sphere: rows even in latitude, fewer columns near the poles.

The equal-area rasters of `locdiffusion.density.raster` have cells that are twice as high as wide at
60° and ten times at 72°. A map that is interpolated needs cells that are as wide as high.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

Float = NDArray[np.float64]
Index = NDArray[np.int64]

SMALLEST_CELL_KM, LARGEST_CELL_KM = 2.0, 2000.0


@dataclass(frozen=True)
class CellGrid:
    """A division of the sphere into cells, numbered row by row from north and 180° W.

    Attributes:
        cell_km: Height of a row, and about the width of a cell, in km.
    """

    cell_km: float

    def __post_init__(self) -> None:
        """Checks the size."""
        if not SMALLEST_CELL_KM <= self.cell_km <= LARGEST_CELL_KM:
            raise ValueError(
                f"cell_km is {self.cell_km}; want {SMALLEST_CELL_KM:g} to {LARGEST_CELL_KM:g} km."
            )

    @property
    def rows(self) -> int:
        """Number of rows."""
        return round(math.pi * EARTH_RADIUS_KM / self.cell_km)

    @cached_property
    def columns(self) -> Index:
        """Number of cells in each row, ``(rows,)``."""
        polar_angle = (np.arange(self.rows) + 0.5) * (math.pi / self.rows)
        return np.maximum(4, np.rint(2.0 * self.rows * np.sin(polar_angle))).astype(np.int64)

    @cached_property
    def first(self) -> Index:
        """Number of the first cell of each row, ``(rows,)``."""
        return np.concatenate([[0], np.cumsum(self.columns)[:-1]])

    def __len__(self) -> int:
        """Number of cells."""
        return int(self.columns.sum())

    @cached_property
    def centres(self) -> Float:
        """Unit vectors of the centres of all cells, ``(cells, 3)``."""
        row = np.repeat(np.arange(self.rows), self.columns)
        column = np.arange(len(self)) - self.first[row]
        theta = (row + 0.5) * (math.pi / self.rows)
        longitude = 2.0 * math.pi * ((column + 0.5) / self.columns[row] - 0.5)
        flat = np.sin(theta)
        return np.stack([flat * np.cos(longitude), flat * np.sin(longitude), np.cos(theta)], -1)

    def cells(self, vectors: Float) -> Index:
        """Finds the cell ``(n,)`` that holds each unit vector ``(n, 3)``."""
        theta = np.arccos(np.clip(vectors[:, 2], -1.0, 1.0))
        row = np.clip((theta * (self.rows / math.pi)).astype(np.int64), 0, self.rows - 1)
        turn = np.arctan2(vectors[:, 1], vectors[:, 0]) / (2.0 * math.pi) + 0.5
        column = (turn * self.columns[row]).astype(np.int64)
        return self.first[row] + np.clip(column, 0, self.columns[row] - 1)

    def around(self, held: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Adds the neighbours of cells: those that an interpolation within them reads.

        Args:
            held: Which cells are wanted, ``(cells,)``.
        """
        wider = held.copy()
        centres = self.centres[held]
        step = math.pi / self.rows
        theta = np.arccos(np.clip(centres[:, 2], -1.0, 1.0))
        longitude = np.arctan2(centres[:, 1], centres[:, 0])
        for south in (-1.0, 0.0, 1.0):
            beside = np.clip(theta + south * step, step / 2, math.pi - step / 2)
            for east in (-1.0, 0.0, 1.0):
                turned = longitude + east * step / np.maximum(np.sin(beside), step)
                flat = np.sin(beside)
                there = [flat * np.cos(turned), flat * np.sin(turned), np.cos(beside)]
                wider[self.cells(np.stack(there, -1))] = True
        return wider


def cubic_weights(share: Tensor) -> Tensor:
    """Computes the weights ``(..., 4)`` of cubic convolution (Keys 1981, a = -1/2).

    It passes through the values and is exact for quadratic functions of an even raster.

    Args:
        share: Place between the second and the third of four values, from 0 to 1, ``(...)``.
    """
    t = share
    return torch.stack(
        [
            ((2.0 - t) * t - 1.0) * t / 2.0,
            ((3.0 * t - 5.0) * t * t + 2.0) / 2.0,
            ((4.0 - 3.0 * t) * t + 1.0) * t / 2.0,
            (t - 1.0) * t * t / 2.0,
        ],
        -1,
    )


class CellTaps:
    """Cells and weights with which values at places are interpolated from a grid's cells."""

    def __init__(self, grid: CellGrid) -> None:
        """Takes the tables of a grid."""
        self.rows = grid.rows
        self.columns = torch.from_numpy(grid.columns).to(torch.int32)
        self.first = torch.from_numpy(grid.first).to(torch.int32)

    def __call__(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Finds the 4 × 4 cells around places.

        Args:
            vectors: Unit vectors ``(..., 3)``.

        Returns:
            Numbers of the cells ``(..., 16)`` and their weights ``(..., 16)``, which sum to 1.
        """
        row, west, columns, weight = self.placed(vectors)
        column = west[..., None] + torch.arange(4, dtype=torch.int32, device=west.device)
        first = self.first.to(vectors.device)[row]
        cell = first[..., None] + torch.remainder(column, columns[..., None])
        return cell.flatten(-2), weight

    def placed(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Finds rows and columns of the 4 × 4 cells around places.

        Args:
            vectors: Unit vectors ``(..., 3)``.

        Returns:
            Rows ``(..., 4)``, the first of four columns in each row ``(..., 4)``, which are to be
            wrapped around, the number of columns in each row ``(..., 4)``, and the weights of the
            cells ``(..., 16)``.
        """
        x, y, z = vectors.unbind(-1)
        place = torch.atan2(torch.hypot(x, y), z) * (self.rows / math.pi) - 0.5
        turn = torch.atan2(y, x) / (2.0 * math.pi) + 0.5
        above = place.floor()
        by_row = cubic_weights(place - above)
        offset = torch.arange(-1, 3, dtype=torch.int32, device=vectors.device)
        row = (above.int()[..., None] + offset).clamp_(0, self.rows - 1)
        columns = self.columns.to(vectors.device)[row]
        along = turn[..., None] * columns - 0.5
        left = along.floor()
        weight = by_row[..., None] * cubic_weights(along - left)
        return row, left.int() - 1, columns, weight.flatten(-2)

"""Compares photos with the cells of an appearance map that lie around a place.

Squared distances to cells are interpolated, not appearances: cubic convolution of these numbers is
exact where appearance is linear in the place, and it reads one number for each cell instead of C.
Only cells within reach of a photo's place are compared, some hundreds of the map's many thousands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor, nn

from locdiffusion.appearance.appearance_map import AppearanceMap
from locdiffusion.appearance.cell_grid import CellTaps
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

TAPS, READ = 2, 4
"""Most rows or columns to one side of a place that an interpolation reads, and how many in all."""


@dataclass(frozen=True)
class Comparison:
    """N photos and the cells around their places: rows of cells, each with a run of columns.

    Attributes:
        top: Number of the northernmost row of the grid, ``(N, 1)``.
        west: Number of the first column in each row, ``(N, H)``; it may be below 0.
        width: Number of columns in each row, ``(N, H)``.
        start: Place of the first column of each row among all cells, ``(N, H)``.
        residual: Squared distance of the photo's and the cell's discriminants, ``(N, W)``.
        log_v: Logarithm of the variance of each cell, ``(N, W)``.
    """

    top: Tensor
    west: Tensor
    width: Tensor
    start: Tensor
    residual: Tensor
    log_v: Tensor

    def take(self, rows: slice) -> Comparison:
        """Selects photos."""
        return Comparison(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


class MapLookup(nn.Module):
    """Compares photos with an appearance map, and interpolates between its cells."""

    values: Tensor
    scale: Tensor
    square: Tensor
    log_v: Tensor
    slot: Tensor
    polar: Tensor

    def __init__(self, appearance_map: AppearanceMap, reach_km: float) -> None:
        """Builds the tables of a map.

        Args:
            appearance_map: The map.
            reach_km: Distance from a photo's place within which it is compared.
        """
        super().__init__()
        grid = appearance_map.grid
        self.components = appearance_map.values.shape[1]
        self.reach = reach_km / EARTH_RADIUS_KM
        self.step = math.pi / grid.rows
        self.height = min(grid.rows, 2 * (math.ceil(self.reach / self.step) + TAPS) + 1)
        self.taps = CellTaps(grid)
        appearance = appearance_map.appearance
        log_v = np.log(appearance_map.variance)
        # One more entry stands for places without a map: nothing is known there.
        tables = {
            "values": np.pad(appearance_map.values, ((0, 1), (0, 0))),
            "scale": np.asarray(appearance_map.scale, np.float32),
            "square": np.pad(np.square(appearance).sum(1), (0, 1)).astype(np.float32),
            "log_v": np.pad(log_v, (0, 1)).astype(np.float32),
            "slot": _slots(appearance_map).astype(np.int32),
            "polar": ((np.arange(grid.rows) + 0.5) * self.step).astype(np.float32),
        }
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def compare(self, appearance: Tensor, place: Tensor) -> Comparison:
        """Compares photos with the cells around places.

        Args:
            appearance: Discriminants of the photos, ``(N, C)``.
            place: Unit vectors of the places, ``(N, 3)``.
        """
        top, row, west, width = self._window(place)
        columns = self.taps.columns.to(place.device)[row]
        end = width.cumsum(1)
        start = end - width
        number = torch.arange(int(end[:, -1].max()), device=place.device)
        number = number.expand(len(place), -1).contiguous()
        of_row = torch.searchsorted(end, number, right=True).clamp_(max=row.shape[1] - 1)
        along = number - start.gather(1, of_row) + west.gather(1, of_row)
        first = self.taps.first.to(place.device)[row]
        cell = first.gather(1, of_row) + torch.remainder(along, columns.gather(1, of_row))
        slot = self.slot[cell]
        values = self.values.index_select(0, slot.flatten()).to(appearance)
        weighted = (appearance * self.scale)[..., None]
        product = (values.view(*slot.shape, -1) @ weighted)[..., 0]
        norm = appearance.square().sum(1, keepdim=True)
        residual = self.square[slot].add_(norm).sub_(product, alpha=2.0)
        return Comparison(top, west, width, start, residual, self.log_v[slot])

    def _window(self, place: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Finds the rows and columns around places: `top`, rows, `west` and `width`."""
        x, y, z = place.unbind(-1)
        polar, longitude = torch.atan2(torch.hypot(x, y), z)[:, None], torch.atan2(y, x)[:, None]
        rows = len(self.polar)
        top = (polar / self.step).int() - self.height // 2
        top = top.clamp(0, rows - self.height)
        row = top + torch.arange(self.height, dtype=torch.int32, device=place.device)
        # cos ρ = cos θ cos θ₀ + sin θ sin θ₀ cos Δφ, with ρ wider by what interpolation reads
        theta, reach = self.polar[row], self.reach + (TAPS + 1) * self.step
        cosine = math.cos(reach) - theta.cos() * polar.cos()
        half = (cosine / (theta.sin() * polar.sin()).clamp(min=1e-6)).clamp(-1.0, 1.0).acos()
        columns = self.taps.columns.to(place.device)[row]
        per_radian = columns / (2.0 * math.pi)
        west = ((longitude - half + math.pi) * per_radian).floor().int() - TAPS
        width = (2.0 * half * per_radian).ceil().int() + 2 * TAPS + 1
        # Where a row is whole its first columns stand behind its last once more.
        return top, row, west, torch.minimum(width, columns + READ - 1)

    def at(self, compared: Comparison, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolates between cells.

        Args:
            compared: Photos and the cells around their places.
            vectors: Unit vectors within reach of the places, ``(N, n, 3)``. Farther ones get
                values of cells at the rim.

        Returns:
            Squared distances and logarithms of the variance, ``(N, n)`` each.
        """
        row, first, columns, weight = self.taps.placed(vectors)
        of_row = (row - compared.top[:, :, None]).clamp_(0, compared.width.shape[1] - 1)
        of_row = of_row.flatten(1).long()
        west, width, start = (
            getattr(compared, name).gather(1, of_row).view(row.shape)
            for name in ("west", "width", "start")
        )
        along = torch.remainder(first - west, columns)
        along = torch.minimum(along, width - READ).clamp_(min=0).add_(start).long()
        number = along[..., None] + torch.arange(READ, device=along.device)
        number = number.view(len(vectors), -1).clamp_(max=compared.residual.shape[1] - 1)
        residual, log_v = (
            torch.linalg.vecdot(table.gather(1, number).view(weight.shape), weight)
            for table in (compared.residual, compared.log_v)
        )
        return residual.clamp_(min=0.0), log_v.clamp_(max=0.0)


def _slots(appearance_map: AppearanceMap) -> NDArray[np.int64]:
    """Finds the entry of the map that stands for each cell ``(cells,)`` of the grid.

    A cell without an entry takes that of the nearest cell if that is a neighbour, and M otherwise.
    """
    grid, held = appearance_map.grid, appearance_map.held
    slot = np.full(len(grid), len(held), np.int64)
    if not len(held):
        return slot
    slot[held] = np.arange(len(held))
    missing = np.flatnonzero(slot == len(held))
    centres = grid.centres
    reach = 1.8 * math.pi / grid.rows
    tree = cKDTree(centres[held])
    slot[missing] = tree.query(centres[missing], distance_upper_bound=reach)[1]
    return slot

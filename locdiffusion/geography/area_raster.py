"""Area raster: which area each cell of a fine raster of longitude and latitude belongs to.

A density has its mass on thousands of nodes, and to compare each with polygons would take far
longer than the density itself. A cell belongs to the area around its centre, so an area's mass is
exact to the half of a cell at its borders, to both sides alike. Rows go from north to south and
columns from west to east, both even in degrees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from torch import Tensor

OUTSIDE = -1
"""Number of cells that no polygon holds."""

_POLYGONS_AT_ONCE = 500
_CELLS_AT_ONCE = 20_000_000


@dataclass(frozen=True)
class Box:
    """A raster's frame.

    Attributes:
        west: Meridian of the first column's western edge in degrees.
        north: Parallel of the first row's northern edge in degrees.
        cell_deg: Height and width of a cell in degrees.
        rows: Number of rows.
        columns: Number of columns.
    """

    west: float
    north: float
    cell_deg: float
    rows: int
    columns: int

    @classmethod
    def around(cls, bounds: tuple[float, float, float, float], cell_deg: float) -> Box:
        """Frames bounds (west, south, east, north) by whole cells."""
        west, south, east, north = bounds
        rows = max(1, math.ceil((north - south) / cell_deg - 1e-9))
        return cls(west, north, cell_deg, rows, max(1, math.ceil((east - west) / cell_deg - 1e-9)))

    def centres(
        self, row: NDArray[np.int64], column: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns latitude and longitude of the centres of cells in degrees, ``(N,)`` each."""
        middle = np.stack([row, column]).astype(np.float64) + 0.5
        return self.north - middle[0] * self.cell_deg, self.west + middle[1] * self.cell_deg


@dataclass(frozen=True)
class AreaRaster:
    """Numbers of areas on a raster.

    Attributes:
        box: Frame of the raster.
        ids: Number of each cell's area, an integer tensor ``(rows, columns)``.
        outside: Number of all places beyond the frame.
    """

    box: Box
    ids: Tensor
    outside: int

    def __call__(self, vectors: Tensor) -> Tensor:
        """Looks the numbers ``(...)`` of the areas around unit vectors ``(..., 3)`` up."""
        box = self.box
        x, y, z = vectors.unbind(-1)
        per_radian = math.degrees(1.0) / box.cell_deg
        column = torch.atan2(y, x).mul_(per_radian).add_(-box.west / box.cell_deg).floor_()
        # near the poles z has no digits left, and the hypotenuse has
        latitude = torch.atan2(z, torch.hypot(x, y))
        row = latitude.mul_(-per_radian).add_(box.north / box.cell_deg).floor_()
        inside = (row >= 0) & (row < box.rows) & (column >= 0) & (column < box.columns)
        whole = box.rows * box.cell_deg >= 180.0 and box.columns * box.cell_deg >= 360.0
        row, column = row.clamp_(0, box.rows - 1), column.clamp_(0, box.columns - 1)
        cell = row.int() * box.columns + column.int()
        found = self.ids.view(-1).index_select(0, cell.flatten()).view(cell.shape).int()
        return found if whole else torch.where(inside, found, self.outside)

    def at(self, vectors: NDArray[np.float64]) -> NDArray[np.int32]:
        """Looks up the same of an array."""
        found: NDArray[np.int32] = self(torch.from_numpy(vectors)).numpy()
        return found


def raster_numbers(
    polygons: NDArray[np.object_], numbers: NDArray[np.int64], box: Box
) -> NDArray[np.int32]:
    """Numbers the cells of a raster by the polygon around their centres.

    Args:
        polygons: P valid polygons in degrees. Where several overlap, the first one counts.
        numbers: Number of each polygon, ``(P,)``.
        box: Frame of the raster.

    Returns:
        Numbers, OUTSIDE where no polygon is, ``(rows, columns)``.
    """
    ids = np.full(box.rows * box.columns, OUTSIDE, np.int32)
    last_first = np.arange(len(polygons))[::-1]
    for some in np.array_split(last_first, 1 + len(polygons) // _POLYGONS_AT_ONCE):
        for cell, polygon in _filled(polygons[some], box):
            ids[cell] = numbers[some][polygon]  # the last one that is written stays
    return ids.reshape(box.rows, box.columns)


def _filled(
    polygons: NDArray[np.object_], box: Box
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yields cells and the polygons around their centres, polygons in their order."""
    points, owner = shapely.get_coordinates(shapely.get_rings(polygons), return_index=True)
    rings = shapely.get_rings(polygons, return_index=True)[1]
    same = owner[1:] == owner[:-1]
    start, end, polygon = points[:-1][same], points[1:][same], rings[owner[1:][same]]
    # Rows whose middle an edge crosses: places down are even in the row
    y0, y1 = ((box.north - y) / box.cell_deg - 0.5 for y in (start[:, 1], end[:, 1]))
    first = np.ceil(np.minimum(y0, y1)).clip(0, box.rows).astype(np.int64)
    last = np.ceil(np.maximum(y0, y1)).clip(0, box.rows).astype(np.int64)
    count = last - first
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    share = (row - y0[edge]) / (y1 - y0)[edge]
    x = start[edge, 0] + share * (end[edge, 0] - start[edge, 0])
    column = np.ceil((x - box.west) / box.cell_deg - 0.5).clip(0, box.columns).astype(np.int64)
    order = np.lexsort((x, row, polygon[edge]))
    # Every other crossing of a row enters the polygon, and the next one leaves it.
    enter, leave = order[::2], order[1::2]
    width = column[leave] - column[enter]
    begin = row[enter] * box.columns + column[enter]
    owner = polygon[edge][enter]
    at_once = np.cumsum(width) // _CELLS_AT_ONCE
    for some in np.split(np.arange(len(width)), np.flatnonzero(np.diff(at_once)) + 1):
        wide = width[some]
        ahead = np.arange(wide.sum()) - np.repeat(np.cumsum(wide) - wide, wide)
        yield np.repeat(begin[some], wide) + ahead, np.repeat(owner[some], wide)

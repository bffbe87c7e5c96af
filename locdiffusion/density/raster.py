"""Equal-area rasters of the sphere.

Rows are even in sin(latitude) from north to south, columns even in longitude from -180°. A place on
a raster is a pair of real numbers, row and column, which are whole at the edges of cells.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from locdiffusion.sphere.grids import LatLonGrid

Float = NDArray[np.float64]


def raster_place(vectors: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Converts unit vectors ``(..., 3)`` to rows and columns ``(...)``."""
    x, y, z = vectors.unbind(-1)
    return (1.0 - z) * (rows / 2.0), (torch.atan2(y, x) + math.pi) * (columns / (2.0 * math.pi))


def raster_cells(vectors: Tensor, rows: int, columns: int) -> Tensor:
    """Finds the flat index ``(...)`` of the cell that holds each unit vector ``(..., 3)``."""
    return _cells(*raster_place(vectors, rows, columns), rows, columns)


def looked_up(raster: Tensor, vectors: Tensor) -> Tensor:
    """Looks values ``(...)`` of a raster up at unit vectors ``(..., 3)``."""
    return picked(raster, *raster_place(vectors, *raster.shape))


def picked(raster: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Looks values ``(...)`` up in the cells that hold places ``(...)``."""
    cells = _cells(row, column, *raster.shape)
    # index_select is 7 times faster than an indexed read.
    return raster.flatten().index_select(0, cells.flatten()).view(cells.shape)


def _cells(row: Tensor, column: Tensor, rows: int, columns: int) -> Tensor:
    return row.int().clamp_(0, rows - 1) * columns + column.int().clamp_(0, columns - 1)


def closed(raster: Tensor) -> Tensor:
    """Repeats the last column before the first and the first after the last."""
    return torch.cat([raster[:, -1:], raster, raster[:, :1]], 1)


def interpolated(surface: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Interpolates bilinearly between the centres of cells.

    Args:
        surface: A `closed` raster, ``(rows, columns + 2)``.
        row: Rows ``(...)`` on the raster; beyond the centres of the first and the last row the
            values are theirs.
        column: Columns on the raster before it was closed, of a shape that broadcasts with the
            rows.
    """
    rows, columns = surface.shape
    # For grid_sample the centres of the outermost cells lie at ±1.
    x = (column + 0.5) * (2.0 / (columns - 1)) - 1.0
    y = (row - 0.5) * (2.0 / max(1, rows - 1)) - 1.0
    shape = np.broadcast_shapes(row.shape, column.shape)
    place = surface.new_empty((*shape, 2))
    place[..., 0], place[..., 1] = x, y
    values = nn.functional.grid_sample(
        surface[None, None], place.view(1, 1, -1, 2), padding_mode="border", align_corners=True
    )
    return values.view(shape)


def interpolated_grid(surface: Float, row: Float, column: Float) -> Float:
    """Interpolates as `interpolated` at all crossings of rows ``(R,)`` and columns ``(C,)``."""

    def parted(place: Float, count: int) -> tuple[NDArray[np.int64], Float]:
        first = place.astype(int).clip(0, count - 2)
        return first, (place - first).clip(0.0, 1.0)

    (i, down), (j, across) = parted(row - 0.5, len(surface)), parted(column + 0.5, surface.shape[1])
    along = surface[i] + down[:, None] * (surface[i + 1] - surface[i])
    west: Float = along[:, j]
    return west + across * (along[:, j + 1] - west)


def grid_average(raster: NDArray[np.float64], grid: LatLonGrid) -> NDArray[np.float64]:
    """Averages a raster over the cell of each node of a grid, ``(rows·columns,)``.

    Args:
        raster: Values of equal-area cells, ``(R, C)``.
        grid: Grid with even longitudes. A node whose cell holds no centre of the raster's cells
            gets the value of the one around it.
    """
    rows, columns = grid.shape
    z, longitude = raster_centres(*raster.shape)
    between = (grid.cos_theta[:-1] + grid.cos_theta[1:]) / 2.0
    row = np.searchsorted(-between, -z)
    offset = longitude - grid.longitude[0]
    column = np.rint(offset / (2.0 * np.pi / columns)).astype(int) % columns
    in_row = csr_array((np.ones(len(row)), (row, np.arange(len(row)))), (rows, len(row)))
    in_column = csr_array(
        (np.ones(len(column)), (column, np.arange(len(column)))), (columns, len(column))
    )
    count = np.outer(in_row.sum(1), in_column.sum(1))
    total = (in_column @ (in_row @ raster).T).T
    at_node = raster.ravel()[raster_cells(torch.from_numpy(grid.vectors), *raster.shape).numpy()]
    return np.where(count > 0, total / count.clip(1), at_node.reshape(rows, columns)).ravel()


def as_fine_as(raster: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Repeats the cells of a raster until it is as fine as another shape, where that is finer."""
    rows, columns = (max(1, n // m) for n, m in zip(shape, raster.shape, strict=True))
    return raster.repeat(rows, 0).repeat(columns, 1)


def raster_centres(rows: int, columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns z of the centres of the rows and longitude in radians of those of the columns."""
    z = 1.0 - 2.0 * (np.arange(rows) + 0.5) / rows
    return z, 2.0 * np.pi * ((np.arange(columns) + 0.5) / columns - 0.5)

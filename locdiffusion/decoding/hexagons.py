"""Masses of the cells of H3, each as fine as the density allows.

The mass of a photo is summed in cells of the finest resolution. A cell with at least `LEAST_AREA`
stays; what is left goes to its parents, and so on up to the coarsest. So each mass counts in one
cell, the finest one that holds enough, and the mass of a cell leaves out that of finer ones.
"""

from __future__ import annotations

import h3
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from locdiffusion.decoding.answers import Shares
from locdiffusion.decoding.area_masses import NODES_AT_ONCE, GridCells, WeightedPoints
from locdiffusion.sphere.geodesy import latitude_longitude
from schemas.layers import FINEST_H3, LEAST_AREA

ON_GRID = 3
"""Resolution in which mass on the grid of the whole sphere is summed, if not coarser."""

LEAST_LEFT = 1e-4
"""Cells of the coarsest resolution with less mass are left out."""

NEGLIGIBLE = 1e-7
"""Points with a smaller share of the mass are left out."""

Cells = NDArray[np.int64]
Part = tuple[int, Cells, NDArray[np.float64]]
"""Cells of one resolution and their masses."""


class Hexagons:
    """Cells of H3 up to a resolution; their numbers are the indices of H3.

    Attributes:
        resolution: Finest resolution, 0 to FINEST_H3.
    """

    def __init__(self, resolution: int) -> None:
        """Checks the resolution."""
        if not 0 <= resolution <= FINEST_H3:
            raise ValueError(f"the resolution of H3 is {resolution}; want 0 to {FINEST_H3}.")
        self.resolution = resolution
        self._grids: dict[int, tuple[GridCells, Cells, csr_array]] = {}

    def shares(self, points: WeightedPoints) -> list[Shares]:
        """Sums the masses of N photos in cells."""
        found: list[list[Part]] = [[] for _ in range(points.count)]
        for block in points.blocks:
            vectors, masses = block.vectors.cpu().numpy(), block.mass.double().cpu().numpy()
            for photo, places, mass in zip(block.photo.tolist(), vectors, masses, strict=True):
                counted = mass > NEGLIGIBLE
                cells = _cells_at(places[counted], self.resolution)
                found[photo].append((self.resolution, cells, mass[counted]))
        if points.cells is not None and len(points.far):
            cells, matrix = self._on_grid(points.cells)
            level = min(self.resolution, ON_GRID)
            far = (matrix @ points.far_mass.double().cpu().numpy().T).T
            for photo, mass in zip(points.far.tolist(), far, strict=True):
                found[photo].append((level, cells[mass > 0.0], mass[mass > 0.0]))
        return [self._climbed(parts) for parts in found]

    def _climbed(self, parts: list[Part]) -> Shares:
        """Lets the mass of a photo climb from the finest cells to those that hold enough."""
        total = sum(float(mass.sum()) for *_, mass in parts)
        kept: list[tuple[Cells, NDArray[np.float64]]] = []
        cells: Cells = np.zeros(0, np.int64)
        masses: NDArray[np.float64] = np.zeros(0)
        for resolution in range(self.resolution, -1, -1):
            here = [(own, mass / total) for level, own, mass in parts if level == resolution]
            cells = np.concatenate([cells, *(own for own, _ in here)])
            masses = np.concatenate([masses, *(mass for _, mass in here)])
            cells, inverse = np.unique(cells, return_inverse=True)
            masses = np.bincount(inverse, masses, len(cells)).astype(np.float64)
            enough = masses >= (LEAST_AREA if resolution else LEAST_LEFT)
            kept.append((cells[enough], masses[enough]))
            cells, masses = cells[~enough], masses[~enough]
            cells = parents(cells, max(0, resolution - 1))
        ids, probability = (np.concatenate(column) for column in zip(*kept, strict=True))
        return Shares(ids, probability)

    def _on_grid(self, grid: GridCells) -> tuple[Cells, csr_array]:
        """Returns the cells of a grid's nodes, and the share of each node in them."""
        if id(grid) not in self._grids:
            level, nodes, cells, shares = min(self.resolution, ON_GRID), [], [], []
            for node in np.array_split(np.arange(grid.count), 1 + grid.count // NODES_AT_ONCE):
                vectors, share = grid.points(node)
                nodes.append(np.repeat(node, share.shape[1]))
                cells.append(_cells_at(vectors.reshape(-1, 3).numpy(), level))
                shares.append(share.double().numpy().ravel())
            names, row = np.unique(np.concatenate(cells), return_inverse=True)
            place = row, np.concatenate(nodes)
            shape = len(names), grid.count
            matrix = csr_array((np.concatenate(shares), place), shape)
            self._grids[id(grid)] = grid, names, matrix
        return self._grids[id(grid)][1:]


def _cells_at(vectors: NDArray[np.float32], resolution: int) -> Cells:
    latitude, longitude = latitude_longitude(vectors.astype(np.float64))
    places = zip(latitude.tolist(), longitude.tolist(), strict=True)
    return np.fromiter((h3.str_to_int(h3.latlng_to_cell(*p, resolution)) for p in places), np.int64)


def parents(cells: Cells, resolution: int) -> Cells:
    """Finds the parents of cells ``(n,)`` in a coarser resolution, or the cells themselves.

    An index has its resolution in four bits from the 52nd on, and a digit of three bits for each
    level below them; digits that are not used are 7.
    """
    unused = (1 << 3 * (15 - resolution)) - 1
    found: Cells = (cells & ~(0xF << 52)) | (resolution << 52) | unused
    return found

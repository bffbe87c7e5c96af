"""The share of each H3 cell that lies in each polygon of a file."""

from __future__ import annotations

import functools
import threading
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import sparse

from locdiffusion.geography.borders import read_borders, read_units
from locdiffusion.geography.polygons import PolygonIndex
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from pipelines.aggregate.cells import Cells, cell_polygons, children, resolutions

STRAIGHT = 3
"""Coarsest resolution whose cells are small enough to have straight edges in degrees."""
_CELLS_AT_ONCE = 10_000


class CellShares:
    """Computes shares of cells in polygons, each cell once.

    Mass is taken as even within a cell. A cell coarser than STRAIGHT has the mean share of the
    cells of that resolution in it.

    Attributes:
        names: Different names of the polygons, in the order of the file; what has no name is left
            out.
    """

    def __init__(
        self, names: list[str], parts: NDArray[np.object_], owner: NDArray[np.int64]
    ) -> None:
        """Prepares the polygons.

        Args:
            names: Different names.
            parts: Single polygons, ``(N,)``, those of one name side by side.
            owner: Number of the name of each, ``(N,)``.
        """
        self.names, self.parts, self.owner = names, parts, owner
        shapely.prepare(self.parts)
        self._tree = shapely.STRtree(self.parts)
        self._lock = threading.Lock()
        self._cells = np.zeros(0, np.uint64)
        self._share = sparse.csr_array((0, len(self.names)))

    def __call__(self, cells: Cells) -> sparse.csr_array:
        """Computes the shares of N cells in P polygons, ``(N, P)``."""
        with self._lock:
            self._add(np.setdiff1d(cells, self._cells))
            return self._share[np.searchsorted(self._cells, cells)]

    def _add(self, cells: Cells) -> None:
        """Computes the shares of cells that are not known yet."""
        coarse = resolutions(cells) < STRAIGHT
        fine, above = cells[coarse], np.arange(coarse.sum())
        weight = np.ones(len(fine))
        while len(fine) and resolutions(fine).min() < STRAIGHT:
            ready = resolutions(fine) == STRAIGHT
            parts = [(fine[ready], above[ready], weight[ready])]
            for level in range(STRAIGHT):
                here = resolutions(fine) == level
                finer, row = children(fine[here])
                each = weight[here] / np.bincount(row, minlength=here.sum())
                parts.append((finer, above[here][row], each[row]))
            fine, above, weight = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        different, number = np.unique(fine, return_inverse=True)
        self._keep(np.setdiff1d(np.union1d(different, cells[~coarse]), self._cells), None)
        if coarse.any():
            mean = sparse.csr_array((weight, (above, number)), (coarse.sum(), len(different)))
            known = self._share[np.searchsorted(self._cells, different)]
            self._keep(cells[coarse], sparse.csr_array(mean @ known))

    def _keep(self, cells: Cells, share: sparse.csr_array | None) -> None:
        """Remembers the shares of new cells, computed here for cells that are small enough."""
        for at in range(0, len(cells), _CELLS_AT_ONCE):
            rows = slice(at, at + _CELLS_AT_ONCE)
            found = self._overlaid(cells[rows]) if share is None else share[rows]
            self._share = sparse.vstack([self._share, found], format="csr")
            self._cells = np.concatenate([self._cells, cells[rows]])
        order = np.argsort(self._cells)
        self._cells, self._share = self._cells[order], self._share[order]

    def _overlaid(self, cells: Cells) -> sparse.csr_array:
        """Overlays small cells with the polygons."""
        shapes = cell_polygons(cells)
        cell, part = self._tree.query(shapes, predicate="intersects")
        area = areas_km2(shapes)
        within = area[cell]
        cut = np.flatnonzero(~shapely.contains_properly(self.parts[part], shapes[cell]))
        west, south, east, north = shapely.bounds(shapes[cell[cut]]).T
        for row, *box in zip(cut.tolist(), west, south, east, north, strict=True):
            near = shapely.clip_by_rect(self.parts[part[row]], *box)
            if not near.is_valid:
                near = self.parts[part[row]]
            within[row] = areas_km2(np.array([shapely.intersection(near, shapes[cell[row]])]))[0]
        share = np.clip(within / area[cell], 0.0, 1.0)
        shape = (len(cells), len(self.names))
        matrix = sparse.csr_array((share, (cell, self.owner[part])), shape)
        matrix.eliminate_zeros()
        return matrix


def named_parts(index: PolygonIndex) -> tuple[list[str], NDArray[np.object_], NDArray[np.int64]]:
    """Lists the different names of polygons, the polygons, and the number of the name of each."""
    parts = index.part_names
    names = [*dict.fromkeys(name for name in parts if name is not None)]
    number = {name: i for i, name in enumerate(names)}
    rows = [row for row, name in enumerate(parts) if name is not None]
    owner = np.array([number[parts[row] or ""] for row in rows], np.int64)
    order = np.argsort(owner, kind="stable")
    return names, index.parts[rows][order], owner[order]


def areas_km2(shapes: NDArray[np.object_]) -> NDArray[np.float64]:
    """Computes areas of polygons on the sphere in km², ``(N,)``.

    Edges are straight in the plane of longitude and sin(latitude).
    """
    flat = shapely.transform(
        shapes, lambda xy: np.column_stack([np.radians(xy[:, 0]), np.sin(np.radians(xy[:, 1]))])
    )
    area: NDArray[np.float64] = shapely.area(flat) * EARTH_RADIUS_KM**2
    return area


class PolygonFile(NamedTuple):
    """A file of polygons.

    Attributes:
        path: Path or URL of the file.
        column: Column with the names; None to find it.
        code_column: Column with the codes; None to take one if there is one.
        by_name: Whether polygons are called by their names although they have codes.
    """

    path: str
    column: str | None = None
    code_column: str | None = None
    by_name: bool = False

    def shares(self) -> CellShares:
        """Reads the polygons, once per process.

        Raises:
            PolygonError: The file, or a column, cannot be used.
        """
        return _shares(self)


@functools.lru_cache(maxsize=1)
def _shares(file: PolygonFile) -> CellShares:
    if file.by_name:
        return CellShares(*named_parts(read_borders(file.path, file.column)))
    units = read_units(file.path, file.column, file.code_column)
    parts, owner = units.shapes()
    order = np.argsort(owner, kind="stable")
    return CellShares([*units.labels], parts[order], owner[order])

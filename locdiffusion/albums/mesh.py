"""A mesh of the sphere that is fine where an album may be: cells of a cube, divided by four.

A cell of level l is a square of one of the six faces of a cube, 2^l of them along an edge, in
equiangular coordinates (Ronchi et al. 1996, J. Comput. Phys. 124), so that all cells of a level
are of nearly one size: 1250 km at level 3, 39 km at level 8 and 10 km at level 10.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Index = NDArray[np.int64]

COARSEST, FIRST, FINEST = 3, 5, 10
"""Levels of the largest cells, of those whose mass is looked at first, and of the smallest."""


@dataclass(frozen=True)
class Mesh:
    """Cells that cover the sphere.

    Attributes:
        level: Level of each cell, ``(S,)``.
        face: Face of each cell, 0 to 5, ``(S,)``.
        column, row: Place of each cell on its face, from 0 to 2^level - 1, ``(S,)``.
    """

    level: Index
    face: Index
    column: Index
    row: Index

    @classmethod
    def even(cls, level: int) -> Mesh:
        """Makes all cells of one level."""
        face, column, row = (x.ravel() for x in np.indices((6, 2**level, 2**level)))
        return cls(np.full(len(face), level), face, column, row)

    @classmethod
    def adapted(
        cls, log_mass: Callable[[Mesh], Float], places: Float, finest: int, split: float
    ) -> Mesh:
        """Divides cells until each holds little mass, or is as small as may be.

        Args:
            log_mass: Gives the logs of the masses of n densities in the cells of a mesh,
                ``(n, S)``, each up to a constant.
            places: Unit vectors of places that count like densities, ``(V, 3)``.
            finest: Level of the smallest cells, from FIRST to FINEST.
            split: Share of the mass; a cell that holds more is divided.
        """
        looked = cls.even(FIRST)
        logs = log_mass(looked)
        share = _mean_share(logs, looked, places).reshape(6, 2**FIRST, 2**FIRST)
        mesh = cls.even(COARSEST)
        for level in range(COARSEST, FIRST):
            side, size = 2**level, 2 ** (FIRST - level)
            mass = share.reshape(6, side, size, side, size).sum((2, 4))
            full = mesh.level == level
            full[full] = mass[mesh.face, mesh.column, mesh.row][full] > split
            mesh = mesh.take(~full).joined(mesh.take(full).quarters())
        for level in range(FIRST, finest):
            fine = looked.level == level
            full = fine & (_mean_share(logs, looked, places) > split)
            new = looked.take(full).quarters()
            if not len(new):
                break
            gone = np.isin(mesh._names, looked.take(full)._names)
            mesh = mesh.take(~gone).joined(new)
            looked = looked.take(~full).joined(new)
            logs = np.concatenate([logs[:, ~full], log_mass(new)], 1)
        return mesh.graded()

    def graded(self) -> Mesh:
        """Divides cells until none is more than one level coarser than a cell beside it."""
        around = np.array([[x, y] for x in (-0.5, 0.5, 1.5) for y in (-0.5, 0.5, 1.5)])
        mesh, looked = self, np.arange(len(self))
        while True:
            cell = np.repeat(looked, len(around))
            points = mesh.points(cell, np.tile(around, (len(looked), 1)))
            beside = mesh.cells(points)
            split = np.zeros(len(mesh), np.bool_)
            split[beside[mesh.level[beside] < mesh.level[cell] - 1]] = True
            if not split.any():
                return mesh
            mesh = mesh.take(~split).joined(mesh.take(split).quarters())
            looked = np.arange(len(mesh))

    def take(self, cells: NDArray[np.bool_]) -> Mesh:
        """Takes some of the cells."""
        return Mesh(self.level[cells], self.face[cells], self.column[cells], self.row[cells])

    def joined(self, other: Mesh) -> Mesh:
        """Joins cells with others, which stand last."""
        pairs = ((getattr(x, name) for x in (self, other)) for name in self.__dataclass_fields__)
        return Mesh(*(np.concatenate(list(pair)) for pair in pairs))

    def quarters(self) -> Mesh:
        """Divides each cell by four; those of one cell stand together."""
        column, row = (np.tile(x.ravel(), len(self)) for x in np.indices((2, 2)))
        level, face, left, low = (
            np.repeat(x, 4) for x in (self.level, self.face, self.column, self.row)
        )
        return Mesh(level + 1, face, 2 * left + column, 2 * low + row)

    @property
    def _names(self) -> Index:
        """A number for each cell that no other cell has, ``(S,)``."""
        number = (self.level * 6 + self.face) << (2 * FINEST + 2)
        return number + (self.column << (FINEST + 1)) + self.row

    def __len__(self) -> int:
        """The number of cells."""
        return len(self.level)

    @cached_property
    def centres(self) -> Float:
        """Unit vectors of the middles of the cells, ``(S, 3)``."""
        return self.points(np.arange(len(self)), np.full((len(self), 2), 0.5))

    @cached_property
    def areas(self) -> Float:
        """Areas of the cells in steradians, ``(S,)``; their sum is 4π."""
        side = 2.0**-self.level
        u, v = (
            np.tan(0.25 * np.pi * (2.0 * (x[:, None] + [0.0, 1.0]) * side[:, None] - 1.0))
            for x in (self.column, self.row)
        )
        u, v = u[:, :, None], v[:, None, :]
        corner = np.arctan2(u * v, np.sqrt(1.0 + u * u + v * v))
        return corner[:, 1, 1] - corner[:, 0, 1] - corner[:, 1, 0] + corner[:, 0, 0]

    def points(self, cell: Index, share: Float) -> Float:
        """Finds points in cells.

        Args:
            cell: Numbers of cells, ``(...)``.
            share: Place in the cell along both coordinates, from 0 to 1, ``(..., 2)``.

        Returns:
            Unit vectors ``(..., 3)``.
        """
        side = 2.0 ** -self.level[cell]
        u, v = (
            np.tan(0.25 * np.pi * (2.0 * (x[cell] + share[..., i]) * side - 1.0))
            for i, x in enumerate((self.column, self.row))
        )
        # Face 2a looks along axis a, face 2a + 1 against it.
        axis, sign = self.face[cell] // 2, 1.0 - 2.0 * (self.face[cell] % 2)
        vectors = np.stack([sign, u, v], -1)
        turned = np.take_along_axis(vectors, np.mod(np.arange(3) - axis[..., None], 3), -1)
        return turned / np.linalg.norm(turned, axis=-1, keepdims=True)

    def cells(self, vectors: Float) -> Index:
        """Finds the cells ``(...)`` that hold unit vectors ``(..., 3)``."""
        starts, order = self._sorted
        found: Index = order[np.searchsorted(starts, _places(vectors), "right") - 1]
        return found

    def quarters_of(self, vectors: Float) -> Index:
        """Finds which of the `quarters` hold unit vectors ``(..., 3)``, ``(...)``."""
        starts, order = self._sorted
        place = _places(vectors)
        cell = order[np.searchsorted(starts, place, "right") - 1]
        quarter = (place >> (2 * (FINEST - self.level[cell]))) & 3
        found: Index = 4 * cell + quarter
        return found

    @cached_property
    def _sorted(self) -> tuple[Index, Index]:
        """Where cells start along the curve of `_along_curve`, in its order, and their numbers."""
        shift = 1 + FINEST - self.level
        starts = _along_curve(self.face, self.column << shift, self.row << shift)
        order = np.argsort(starts)
        return starts[order], order


def _along_curve(face: Index, column: Index, row: Index) -> Index:
    """Numbers squares of level FINEST + 1 so that those of any cell follow each other.

    The bits of column and row take turns (Morton 1966), so cells are ranges of numbers.
    """
    spread = (face << (2 * FINEST + 2)).astype(np.int64)
    for bit in range(FINEST + 1):
        spread |= ((column >> bit) & 1) << (2 * bit + 1) | ((row >> bit) & 1) << (2 * bit)
    return spread


def _places(vectors: Float) -> Index:
    """Places ``(...)`` of unit vectors ``(..., 3)`` along the curve."""
    return _along_curve(*_squares(vectors, FINEST + 1))


def _squares(vectors: Float, level: int) -> tuple[Index, Index, Index]:
    """Finds face, column and row ``(...)`` of the cells of a level that hold unit vectors."""
    axis = np.abs(vectors).argmax(-1)
    x, u, v = np.moveaxis(
        np.take_along_axis(vectors, np.mod(axis[..., None] + np.arange(3), 3), -1), -1, 0
    )
    side = 2**level
    column, row = (
        np.clip((np.arctan(w / np.abs(x)) * (2.0 / np.pi) + 0.5) * side, 0, side - 1).astype(int)
        for w in (u, v)
    )
    return 2 * axis + (x < 0.0), column, row


def _mean_share(logs: Float, mesh: Mesh, places: Float) -> Float:
    """Mean share of densities, given by their log masses ``(n, S)``, and places in cells."""
    share = np.zeros(len(mesh))
    if len(logs):
        each = np.exp(logs - logs.max(1, keepdims=True))
        share += (each / each.sum(1, keepdims=True)).sum(0)
    if len(places):
        share += np.bincount(mesh.cells(places), minlength=len(mesh))
    return share / share.sum()

"""A mesh of the sphere that is fine where an album may be: cells of a cube, divided by four.

A cell of level l is a square of one of the six faces of a cube, 2^l of them along an edge, in
equiangular coordinates (Ronchi et al. 1996, J. Comput. Phys. 124), so that all cells of a level
are of nearly one size: 1250 km at level 3 and 78 km at level 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Index = NDArray[np.int64]

COARSEST, FINEST = 3, 7
"""Levels of the largest and of the smallest cells."""

SPLIT = 1.0 / 150.0
"""A cell that holds more than this share of the mass is divided."""


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
    def adapted(cls, mass: Callable[[Mesh], Float]) -> Mesh:
        """Divides cells until each holds little mass, or is as small as may be.

        Args:
            mass: Gives the share of the mass in each cell of a mesh.
        """
        side = 2**COARSEST
        face, column, row = (x.ravel() for x in np.indices((6, side, side)))
        mesh = cls(np.full(len(face), COARSEST), face, column, row)
        for level in range(COARSEST, FINEST):
            split = (mesh.level == level) & (mass(mesh) > SPLIT)
            east, north = (x.ravel() for x in np.indices((2, 2)))
            halves = [
                (np.repeat(x[split], 4) * 2 + np.tile(half, split.sum()))
                for x, half in ((mesh.column, east), (mesh.row, north))
            ]
            mesh = cls(
                np.append(mesh.level[~split], np.full(4 * split.sum(), level + 1)),
                np.append(mesh.face[~split], np.repeat(mesh.face[split], 4)),
                np.append(mesh.column[~split], halves[0]),
                np.append(mesh.row[~split], halves[1]),
            )
        return mesh

    def __len__(self) -> int:
        """The number of cells."""
        return len(self.level)

    @property
    def centres(self) -> Float:
        """Unit vectors of the middles of the cells, ``(S, 3)``."""
        return self.points(np.arange(len(self)), np.full((len(self), 2), 0.5))

    @property
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
        axis = np.abs(vectors).argmax(-1)
        x, u, v = np.moveaxis(
            np.take_along_axis(vectors, np.mod(axis[..., None] + np.arange(3), 3), -1), -1, 0
        )
        side = 2**FINEST
        column, row = (
            np.clip((np.arctan(w / np.abs(x)) * (2.0 / np.pi) + 0.5) * side, 0, side - 1)
            for w in (u, v)
        )
        face = 2 * axis + (x < 0.0)
        return self._table()[face, column.astype(np.int64), row.astype(np.int64)]

    def _table(self) -> Index:
        """Numbers of the cells that hold each cell of the finest level."""
        side = 2**FINEST
        table = np.zeros((6, side, side), np.int64)
        for level in range(COARSEST, FINEST + 1):
            cells = np.flatnonzero(self.level == level)
            size = 2 ** (FINEST - level)
            table.reshape(6, side // size, size, side // size, size)[
                self.face[cells], self.column[cells], :, self.row[cells]
            ] = cells[:, None, None]
        return table

"""Nodes and weights for integrals over the sphere.

There is one grid for each purpose: `gauss_legendre_grid` is exact for band-limited functions,
`shifted_grid` is unbiased for every function when its offset is drawn at random, `polar_grid` is
fine where it is needed, around one point, and `fibonacci_grid` has equal areas and no poles, for
searches and as an independent check.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True)
class LatLonGrid:
    """A product grid: every latitude row carries the same, evenly spaced longitudes.

    Attributes:
        cos_theta: z of each row from north to south, ``(rows,)``.
        longitude: Longitude of each column in radians, ``(columns,)``.
        row_weight: Area of a node of each row in steradians, ``(rows,)``.
    """

    cos_theta: Float
    longitude: Float
    row_weight: Float

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return len(self.cos_theta), len(self.longitude)

    @property
    def vectors(self) -> Float:
        """Unit vectors of the nodes, row by row, ``(rows·columns, 3)``."""
        sin_theta = np.sqrt((1.0 - self.cos_theta) * (1.0 + self.cos_theta))
        return np.stack(
            [
                np.outer(sin_theta, np.cos(self.longitude)),
                np.outer(sin_theta, np.sin(self.longitude)),
                np.outer(self.cos_theta, np.ones_like(self.longitude)),
            ],
            -1,
        ).reshape(-1, 3)

    @property
    def weights(self) -> Float:
        """Areas in steradians ``(rows·columns,)``; their sum is 4π, nearly if shifted."""
        return np.repeat(self.row_weight, len(self.longitude))


def gauss_legendre_grid(rows: int, columns: int) -> LatLonGrid:
    """Builds the grid of Gauss-Legendre latitudes and even longitudes.

    It integrates Y_lm exactly for l < 2·rows and |m| < columns.
    """
    _check(rows, columns)
    x, w = np.polynomial.legendre.leggauss(rows)
    longitude = 2.0 * np.pi * np.arange(columns) / columns
    return LatLonGrid(x[::-1].copy(), longitude, w[::-1] * (2.0 * np.pi / columns))


def shifted_grid(rows: int, columns: int, offset: float) -> LatLonGrid:
    """Builds the grid of even colatitudes π(i + offset)/rows and even longitudes.

    For an offset uniform in (0, 1) the quadrature of *any* function is unbiased (a randomly
    shifted rule, Cranley & Patterson 1976, SIAM J. Numer. Anal. 13, p. 904), so no density can
    hide its mass between the nodes for long.
    """
    _check(rows, columns)
    if not 0.0 < offset < 1.0:
        raise ValueError(f"offset is {offset}; it must lie strictly between 0 and 1.")
    theta = np.pi * (np.arange(rows) + offset) / rows
    area = np.sin(theta) * (np.pi / rows) * (2.0 * np.pi / columns)
    return LatLonGrid(np.cos(theta), 2.0 * np.pi * np.arange(columns) / columns, area)


def polar_grid(edges_rad: ArrayLike, nodes_per_panel: int, azimuths: int) -> LatLonGrid:
    """Builds rings around the north pole: Gauss-Legendre in the radius within each panel.

    Args:
        edges_rad: Increasing edges of the panels in radians, at most π; an integral over a cap
            whose radius is an edge is a sum over whole panels.
        nodes_per_panel: Number of rings of each panel.
        azimuths: Number of nodes of each ring.
    """
    edges = np.asarray(edges_rad, np.float64)
    if edges.ndim != 1 or len(edges) < 2 or edges[0] < 0 or edges[-1] > np.pi + 1e-12:
        raise ValueError(f"Panel edges {edges} must be two or more radii within [0, π].")
    if np.any(np.diff(edges) <= 0):
        raise ValueError(f"Panel edges {edges} must increase.")
    _check(nodes_per_panel, azimuths)
    x, w = np.polynomial.legendre.leggauss(nodes_per_panel)
    half = np.diff(edges)[:, None] / 2.0
    theta = (edges[:-1, None] + half * (x + 1.0)).ravel()
    area = np.sin(theta) * (half * w).ravel() * (2.0 * np.pi / azimuths)
    return LatLonGrid(np.cos(theta), 2.0 * np.pi * np.arange(azimuths) / azimuths, area)


def fibonacci_grid(count: int) -> Float:
    """Spreads ``(count, 3)`` unit vectors of equal area (González 2010, Math. Geosci. 42)."""
    if count < 1:
        raise ValueError(f"count is {count}; a grid has at least one node.")
    i = np.arange(count) + 0.5
    z = 1.0 - 2.0 * i / count
    phi = np.pi * (1.0 + np.sqrt(5.0)) * i
    sin_theta = np.sqrt((1.0 - z) * (1.0 + z))
    return np.stack([sin_theta * np.cos(phi), sin_theta * np.sin(phi), z], -1)


def _check(rows: int, columns: int) -> None:
    if rows < 1 or columns < 1:
        raise ValueError(f"A grid of {rows} × {columns} nodes is empty; want at least 1 × 1.")

"""Hilbert's curve: an order of places in which near places come near each other.

The curve visits all cells of a square raster without jumps (Hilbert 1891). In files whose rows are
in its order each row group covers a small area, so that readers can skip the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

ORDER = 16
"""Binary digits of a row: the raster has 2^ORDER rows and columns, of cells of at most 0.6 km."""


def hilbert_index(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> NDArray[np.int64]:
    """Computes the position of points along the curve over the plane of longitude and latitude.

    Args:
        latitude_deg: Latitudes in degrees, ``(N,)``.
        longitude_deg: Longitudes in degrees from -180 to 180, ``(N,)``.

    Returns:
        Numbers from 0, at the map's south-western corner, to 4^ORDER - 1, at the south-eastern.
    """
    cells = 2**ORDER
    x = _cell((np.asarray(longitude_deg, np.float64) + 180.0) / 360.0, cells)
    y = _cell((np.asarray(latitude_deg, np.float64) + 90.0) / 180.0, cells)
    index = np.zeros_like(x)
    side = cells // 2
    while side:
        east, north = (x & side) > 0, (y & side) > 0
        index += side * side * ((3 * east) ^ north)
        # Each quarter holds the same curve; the southern ones mirrored, the first and last way.
        mirrored = ~north & east
        x, y = np.where(mirrored, cells - 1 - x, x), np.where(mirrored, cells - 1 - y, y)
        x, y = np.where(north, x, y), np.where(north, y, x)
        side //= 2
    return index


def _cell(share: NDArray[np.float64], cells: int) -> NDArray[np.int64]:
    return np.clip((share * cells).astype(np.int64), 0, cells - 1)

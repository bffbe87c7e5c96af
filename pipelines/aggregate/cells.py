"""The arithmetic of H3 cells on whole arrays of their indices.

An H3 index is 64 bits: 4 of mode, 3 reserved, 4 of the resolution, 7 of one of 122 base cells, and
15 digits of 3 bits, of which the first `resolution` say which child of the cell before is meant and
the others are 7. A cell has 7 children, and a pentagon 6: it lacks the child 1. Twelve base cells
are pentagons, and so are their children 0, down to any resolution.

Source: https://h3geo.org/docs/core-library/h3Indexing
"""

from __future__ import annotations

from collections.abc import Iterator

import h3.api.numpy_int as h3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from locdiffusion.geography.polygons import within_world

Cells = NDArray[np.uint64]

MOST_RESOLUTION = 15
_DIGITS = 3 * MOST_RESOLUTION
_RESOLUTION_AT = 52
_HEAD = np.uint64(0x7F << _DIGITS)
_PENTAGONS = np.array([4, 14, 24, 38, 49, 58, 63, 72, 83, 97, 107, 117])
_TEXT_LENGTH = 15
_NO_CELL = "is no H3 cell in 15 hexadecimal digits"
_HEX = np.full(256, 255, np.uint8)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_HEX[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)


def parse_cells(texts: pa.Array) -> Cells:
    """Reads cells from their usual text, 15 hexadecimal digits.

    Args:
        texts: N texts.

    Raises:
        ValueError: A text is no cell.
    """
    strange = pc.not_equal(pc.binary_length(texts), _TEXT_LENGTH)
    if pc.any(strange).as_py():
        raise ValueError(f"{texts.filter(strange)[0]} {_NO_CELL}")
    plain = texts.cast(pa.binary()).cast(pa.binary(_TEXT_LENGTH))
    start, size = plain.offset * _TEXT_LENGTH, len(plain) * _TEXT_LENGTH
    letters = np.frombuffer(plain.buffers()[1] or b"", np.uint8)[start : start + size]
    digits = _HEX[letters.reshape(-1, _TEXT_LENGTH)]
    cells = np.zeros(len(plain), np.uint64)
    for column in digits.T:
        cells = cells << np.uint64(4) | column
    # Mode 1 of a cell in the upper 8 bits, a base cell that exists, 7 in every unused digit.
    unused = _unused_digits(resolutions(cells))
    bad = (cells >> np.uint64(56) != 8) | (digits > 15).any(axis=1) | (cells & unused != unused)
    bad |= base_cells(cells) > 121
    if bad.any():
        raise ValueError(f"{texts[int(bad.argmax())]} {_NO_CELL}")
    return cells


def cell_texts(cells: Cells) -> list[str]:
    """Writes cells as 15 hexadecimal digits."""
    return [f"{cell:015x}" for cell in cells.tolist()]


def resolutions(cells: Cells) -> NDArray[np.int64]:
    """Reads the resolution of each cell, 0 to 15."""
    return ((cells >> np.uint64(_RESOLUTION_AT)) & np.uint64(15)).astype(np.int64)


def base_cells(cells: Cells) -> NDArray[np.int64]:
    """Reads the base cell around each cell, 0 to 121."""
    return ((cells & _HEAD) >> np.uint64(_DIGITS)).astype(np.int64)


def parents(cells: Cells, resolution: int) -> Cells:
    """Computes the cell of a resolution around each cell; coarser cells stay as they are."""
    coarse = _with_resolution(cells, resolution) | _unused_digits(np.array(resolution))
    return np.where(resolutions(cells) > resolution, coarse, cells)


def children(cells: Cells) -> tuple[Cells, NDArray[np.int64]]:
    """Lists the children of cells of one resolution.

    Returns:
        The children, and for each the row of its parent among the cells.
    """
    if not len(cells):
        return cells, np.zeros(0, np.int64)
    finer = int(resolutions(cells[:1])[0]) + 1
    shift = np.uint64(_DIGITS - 3 * finer)
    bare = _with_resolution(cells, finer) & ~(np.uint64(7) << shift)
    every = bare[:, None] | (np.arange(7, dtype=np.uint64) << shift)
    there = np.ones(every.shape, bool)
    there[pentagons(cells), 1] = False
    return every[there], np.nonzero(there)[0]


def pentagons(cells: Cells) -> NDArray[np.bool_]:
    """Whether each cell is a pentagon, ``(N,)``."""
    return np.isin(base_cells(cells), _PENTAGONS) & (_used_digits(cells) == 0)


def leaf_counts(cells: Cells, resolution: int) -> NDArray[np.float64]:
    """Counts the cells of a resolution in each cell, which is no finer, ``(N,)``."""
    power = 7.0 ** (resolution - resolutions(cells))
    return np.where(pentagons(cells), 1.0 + 5.0 * (power - 1.0) / 6.0, power)


def depth_first(cells: Cells) -> Cells:
    """Computes numbers by which a cell sorts directly before all that lie in it.

    They are the base cell and the digits, unused ones 0, and then the resolution.
    """
    return ((cells & _HEAD | _used_digits(cells)) << np.uint64(4)) | resolutions(cells).astype(
        np.uint64
    )


def after(cells: Cells) -> Cells:
    """Computes the number of `depth_first` behind those of all that lies in a cell, ``(N,)``."""
    size = np.uint64(1) << (_DIGITS - 3 * resolutions(cells) + 4).astype(np.uint64)
    return (depth_first(cells) & ~np.uint64(15)) + size


def _with_resolution(cells: Cells, resolution: int) -> Cells:
    return cells & ~np.uint64(15 << _RESOLUTION_AT) | np.uint64(resolution << _RESOLUTION_AT)


def _unused_digits(resolution: NDArray[np.int64]) -> Cells:
    """All bits of the digits that a resolution does not use."""
    left = (_DIGITS - 3 * resolution).astype(np.uint64)
    return (np.uint64(1) << left) - np.uint64(1)


def _used_digits(cells: Cells) -> Cells:
    every = np.uint64((1 << _DIGITS) - 1)
    return cells & every & ~_unused_digits(resolutions(cells))


def cell_polygons(cells: Cells) -> NDArray[np.object_]:
    """Draws cells as polygons in degrees, cut at the antimeridian, ``(N,)``."""
    corners = [h3.cell_to_boundary(cell) for cell in cells.tolist()]
    start = np.cumsum([0, *map(len, corners)])
    if not len(cells):
        return np.zeros(0, object)
    latitude, longitude = np.array([corner for ring in corners for corner in ring]).T
    ring = np.repeat(np.arange(len(corners)), np.diff(start))
    before = np.roll(longitude, 1)
    before[start[:-1]] = longitude[start[1:] - 1]
    jump = np.rint((longitude - before) / 360.0)
    turns = np.cumsum(jump)
    turns -= turns[start[:-1]][ring]
    places = np.column_stack([longitude - 360.0 * turns, latitude])
    shapes = shapely.polygons(shapely.linearrings(places, indices=ring))
    for row in np.unique(ring[jump != 0]).tolist():
        shapes[row] = _cut(places[start[row] : start[row + 1]])
    return shapes


def _cut(ring: NDArray[np.float64]) -> shapely.Geometry:
    """Cuts a ring without jumps of longitude at the antimeridian, and fills it up to a pole."""
    closing = ring[0, 0] - ring[-1, 0]
    around = -np.rint(closing / 360.0)
    if around:  # a pole lies within
        pole = float(np.copysign(90.0, ring[0, 1]))
        end = ring[0, 0] + 360.0 * around
        ring = np.vstack([ring, [[end, ring[0, 1]], [end, pole], [ring[0, 0], pole]]])
    return within_world(shapely.Polygon(ring))


def cell_areas_km2(cells: Cells) -> NDArray[np.float64]:
    """Computes the areas of cells on the sphere, ``(N,)``, in km²."""
    return np.fromiter(_areas(cells), np.float64, len(cells))


def _areas(cells: Cells) -> Iterator[float]:
    for cell in cells.tolist():
        yield h3.cell_area(cell, unit="km^2")

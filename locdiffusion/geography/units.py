"""Units of a user, such as districts: polygons with names, and codes if their file has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from locdiffusion.geography.polygons import PolygonIndex

if TYPE_CHECKING:
    from locdiffusion.geography.area_raster import AreaRaster

NO_UNIT = 0
"""Number of all places in no unit."""

MOST_CELLS, FINEST_DEG = 12_000_000, 0.0005
"""Cells of a raster around all units, and least size of a cell: 55 m."""


class Units:
    """Polygons with names and codes; where polygons overlap, the first one counts.

    Attributes:
        labels: Code of each unit, or its name in a file without codes; that of number 1 first.
    """

    def __init__(self, index: PolygonIndex, codes: Sequence[str | None] | None = None) -> None:
        """Joins polygons of the same code, or of the same name, to units.

        Args:
            index: Polygons by their names.
            codes: Code of each of `index.parts`; None for a file without codes.
        """
        self._index, self._codes = index, codes
        of_part = index.part_names if codes is None else codes
        self.labels = tuple(dict.fromkeys(label for label in of_part if label is not None))
        number = {label: row for row, label in enumerate(self.labels, NO_UNIT + 1)}
        numbers = [NO_UNIT if label is None else number[label] for label in of_part]
        self._numbers = np.array([*numbers, NO_UNIT], np.int64)

    def around(
        self, latitude_deg: ArrayLike, longitude_deg: ArrayLike
    ) -> tuple[list[str | None], list[str | None], NDArray[np.int64]]:
        """Looks up name, code and number of the unit around each of N points."""
        parts = self._index.parts_around(latitude_deg, longitude_deg)
        codes: list[str | None] = [None] * len(parts)
        if self._codes is not None:
            codes = [self._codes[part] if part >= 0 else None for part in parts.tolist()]
        return self._index.names_of(parts), codes, self._numbers[parts]

    def shapes(self) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
        """Returns the single polygons in units, and the place in `labels` of the unit of each."""
        inside = self._numbers[:-1] != NO_UNIT
        return self._index.parts[inside], self._numbers[:-1][inside] - (NO_UNIT + 1)

    def raster(self) -> AreaRaster:
        """Rasters the units, as finely as their extent allows."""
        # Imports torch, which whoever counts rows does without.
        import torch

        from locdiffusion.geography.area_raster import AreaRaster, Box, raster_numbers

        west, south, east, north = shapely.total_bounds(self._index.parts).tolist()
        extent = max(east - west, FINEST_DEG) * max(north - south, FINEST_DEG)
        cell_deg = max(math.sqrt(extent / MOST_CELLS), FINEST_DEG)
        box = Box.around((west, south, east, north), cell_deg)
        ids = raster_numbers(self._index.parts, self._numbers[:-1], box)
        ids[ids < 0] = NO_UNIT
        return AreaRaster(box, torch.from_numpy(ids), NO_UNIT)

"""The borders of areas that have names: countries, regions, polygons of a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from locdiffusion.geography.countries import countries
from locdiffusion.geography.regions import regions
from pipelines.aggregate.cell_shares import PolygonFile, areas_km2, named_parts
from pipelines.aggregate.targets import COUNTRY, REGION

_LONGEST_EDGE_DEG = 0.5


@dataclass(frozen=True)
class Borders:
    """Where the polygons of names come from.

    Attributes:
        kind: COUNTRY, REGION, or another kind whose polygons are in a file.
        file: The file; None if there is none.
    """

    kind: str
    file: PolygonFile | None = None

    def of(self, names: Sequence[str]) -> tuple[NDArray[np.object_], NDArray[np.float64]]:
        """Looks up the polygons of names, and their areas in km²; None and NaN where unknown."""
        shapes = np.full(len(names), None, object)
        km2 = np.full(len(names), math.nan)
        if not names:
            return shapes, km2
        known, parts, owner = self._parts()
        found = shapely.multipolygons(parts, indices=owner) if len(parts) else np.zeros(0, object)
        areas = areas_km2(shapely.segmentize(found, _LONGEST_EDGE_DEG))
        number = {name: i for i, name in enumerate(known)}
        for row, name in enumerate(names):
            if name in number:
                shapes[row], km2[row] = found[number[name]], areas[number[name]]
        return shapes, km2

    def _parts(self) -> tuple[list[str], NDArray[np.object_], NDArray[np.int64]]:
        if self.file is not None:
            shares = self.file.shares()
            return shares.names, shares.parts, shares.owner
        if self.kind == COUNTRY:
            return named_parts(countries())
        if self.kind == REGION:
            return named_parts(regions())
        return [], np.zeros(0, object), np.zeros(0, np.int64)

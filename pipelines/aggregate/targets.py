"""What photos are counted in: named areas, H3 cells, or polygons of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from scipy import sparse

from pipelines.aggregate.area_rows import AreaRows
from pipelines.aggregate.cell_shares import PolygonFile
from pipelines.aggregate.cells import Cells, parents, parse_cells, resolutions
from pipelines.aggregate.moments import Masses, Places, merged, sorted_cells
from schemas.layers import ELSEWHERE, AreaKind

COUNTRY, REGION, ADMIN, H3 = (kind.value for kind in AreaKind)


class NamedPlaces(NamedTuple):
    """Places, and what they are called.

    Attributes:
        places: The places.
        areas: Names of the areas that are no cells; None for rests, ``places.others`` of them.
        rests: Names of the rests; None for areas, ``places.others`` of them.
    """

    places: Places
    areas: list[str | None]
    rests: list[str | None]


class Target(Protocol):
    """What photos are counted in."""

    @property
    def kind(self) -> str:
        """Kind of the rows that are read."""

    @property
    def resolution(self) -> int:
        """Resolution of the leaves of cells; 0 where areas have names."""

    @property
    def leaves(self) -> int | None:
        """Resolution of the cells that are asked for; None where areas have names."""

    def masses(self, rows: AreaRows) -> tuple[Masses, NamedPlaces]:
        """Assigns the rows of a shard to places."""


@dataclass(frozen=True)
class NamedAreas:
    """Areas that the layer names: countries, regions, polygons of the user.

    Attributes:
        kind: Kind of the rows.
    """

    kind: str
    resolution: int = 0
    leaves: None = None

    def masses(self, rows: AreaRows) -> tuple[Masses, NamedPlaces]:
        """Assigns the rows of a shard to places."""
        named = _others(rows.areas.to_pylist(), rows.rests.to_pylist())
        place = np.where(rows.area >= 0, rows.area, len(rows.areas) + rows.rest)
        return merged(rows.photo, place, rows.probability, len(named.places)), named


@dataclass(frozen=True)
class Hexagons:
    """Cells of H3 at one resolution.

    Attributes:
        resolution: Their resolution.
    """

    resolution: int
    kind: str = H3

    @property
    def leaves(self) -> int | None:
        """The resolution of the cells that are asked for."""
        return self.resolution

    def masses(self, rows: AreaRows) -> tuple[Masses, NamedPlaces]:
        """Assigns the rows of a shard to places."""
        cells, number = sorted_cells(parents(cells_of(rows), self.resolution))
        rests = rows.rests.to_pylist()
        places = Places(cells, len(rests), self.resolution)
        place = np.where(rows.area >= 0, np.append(number, 0)[rows.area], len(cells) + rows.rest)
        named = NamedPlaces(places, [None] * len(rests), rests)
        return merged(rows.photo, place, rows.probability, len(places)), named


@dataclass(frozen=True)
class CellsInPolygons:
    """Polygons, in which the mass of cells is counted by the share of the cell that lies in each.

    Attributes:
        file: Their file.
    """

    file: PolygonFile
    kind: str = H3
    resolution: int = 0
    leaves: None = None

    def masses(self, rows: AreaRows) -> tuple[Masses, NamedPlaces]:
        """Assigns the rows of a shard to places."""
        shares = self.file.shares()
        share, names = shares(cells_of(rows)), shares.names
        rests = rows.rests.to_pylist()
        inside = np.flatnonzero(rows.area >= 0)
        shape = (len(rows.keys), share.shape[0])
        mass = sparse.csr_array(
            (rows.probability[inside], (rows.photo[inside], rows.area[inside])), shape
        )
        found = (mass @ share).tocoo()
        missing = np.clip(1.0 - np.asarray(share.sum(axis=1)).ravel(), 0.0, None)
        outside = mass @ missing
        left = np.flatnonzero(rows.area < 0)
        photos = np.flatnonzero(outside > 0)
        owner = np.concatenate([found.row, photos, rows.photo[left]])
        at = len(names)
        place = [found.col, np.full(len(photos), at), at + 1 + rows.rest[left]]
        values = [found.data, outside[photos], rows.probability[left]]
        named = _others(names, [ELSEWHERE, *rests])
        rows_of = (owner.astype(np.int64), np.concatenate(place).astype(np.int64))
        return merged(*rows_of, np.concatenate(values), len(named.places)), named


def cells_of(rows: AreaRows) -> Cells:
    """Reads the areas of rows as H3 cells.

    Raises:
        ValueError: An area is no cell.
    """
    return parse_cells(rows.areas)


def finest(rows: AreaRows) -> int:
    """Finds the finest resolution of the cells of rows; 0 if there is none."""
    return int(resolutions(cells_of(rows)).max(initial=0))


def _others(areas: Sequence[str | None], rests: Sequence[str | None]) -> NamedPlaces:
    places = Places(np.zeros(0, np.uint64), len(areas) + len(rests), 0)
    return NamedPlaces(places, [*areas, *[None] * len(rests)], [*[None] * len(areas), *rests])

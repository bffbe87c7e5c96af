"""Counts what the rows of an albums job say, part by part, in memory that rows do not fill."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.albums.pages.parts import Parts, gap_hours, numbers, standings
from pipelines.albums.photos import positions
from schemas.albums import Standing

Float = NDArray[np.float64]
Flags = NDArray[np.bool_]

GAP_ENDS = tuple(10.0 ** (half / 2.0) for half in range(-4, 9))
"""Ends in hours of the classes of gaps: half a minute to 14 months, two for each factor of ten."""

NEAREST_KM, RATIO, LENGTHS = 1e-3, 1.05, 350
"""Upper end of the first class of lengths, ratio of the ends of the others, and their number."""

AXES = ("latitude", "longitude")
MOST_TOLD = 1_000
"""Contradictions that are told."""


class Contradiction(NamedTuple):
    """A photo whose own position is not believed.

    Attributes:
        album: Name of the album.
        key: Name of the photo.
        taken: Wall clock of its camera.
        latitude, longitude: Its own position in degrees, NaN if the row does not tell it.
        off_km: Distance from there to where the album places it, NaN if it does not.
        gap_hours: Hours to the anchor that is nearest in time, NaN without one.
    """

    album: str
    key: str
    taken: datetime | None
    latitude: float
    longitude: float
    off_km: float
    gap_hours: float


@dataclass
class Lengths:
    """Counts lengths in km by the gap of their photos.

    Attributes:
        table: Number of photos, ``(len(GAP_ENDS) + 1, LENGTHS)``. The last row holds longer gaps.
    """

    table: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(GAP_ENDS) + 1, LENGTHS), np.int64)
    )

    def add(self, gap: Float, km: Float) -> None:
        """Adds photos with gaps in hours and lengths in km, ``(n,)`` each; a NaN counts as long."""
        row = np.searchsorted(GAP_ENDS, gap)
        step = np.ceil(np.log(np.maximum(km, NEAREST_KM) / NEAREST_KM) / np.log(RATIO))
        np.add.at(self.table, (row, np.minimum(step, LENGTHS - 1).astype(np.int64)), 1)

    def by_gap(self, share: float) -> Float:
        """Computes the length below which a share of each class of gaps lies; NaN without any."""
        return _quantiles(self.table, share)

    def quantile(self, share: float) -> float:
        """Computes the length below which a share of all photos lies; NaN without any."""
        return float(_quantiles(self.table.sum(0, keepdims=True), share)[0])

    @property
    def n(self) -> int:
        """The number of photos."""
        return int(self.table.sum())


def _quantiles(table: NDArray[np.int64], share: float) -> Float:
    reached = np.cumsum(table, 1) >= np.maximum(1, share * table.sum(1, keepdims=True))
    km = NEAREST_KM * RATIO ** (reached.argmax(1) - 0.5)
    return np.where(table.any(1), km, np.nan)


@dataclass
class AlbumCounts:
    """What the rows of an albums job add up to.

    Attributes:
        standing: Number of photos by album and standing, ``(len(Standing),)`` each.
        radius_50, radius_90: Radii of the photos that are placed.
        compared: Radii of 90 % of photos that are placed and have an answer of their own: together
            with their album, and alone.
        inside: Of the photos that are placed and whose position is known all the same: their number
            `n`, and how many lie within `radius_50_km` and `radius_90_km`; with `alone_` before
            these, of those that have an answer of their own.
        error_km: Distances of these from their position; `alone_error_km` of their own answers.
        contradictions: The first contradictions.
    """

    standing: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    radius_50: Lengths = field(default_factory=Lengths)
    radius_90: Lengths = field(default_factory=Lengths)
    compared: tuple[Lengths, Lengths] = field(default_factory=lambda: (Lengths(), Lengths()))
    inside: Counter[str] = field(default_factory=Counter)
    error_km: Lengths = field(default_factory=Lengths)
    alone_error_km: Lengths = field(default_factory=Lengths)
    contradictions: list[Contradiction] = field(default_factory=list)

    @classmethod
    def of(cls, parts: Parts) -> AlbumCounts:
        """Counts all rows of an albums job."""
        counts = cls()
        for table in parts():
            counts.add(table)
        return counts

    def total(self, standing: Standing | None = None) -> int:
        """Number of photos that stand so, or of all."""
        whole = np.sum([np.zeros(len(Standing), np.int64), *self.standing.values()], axis=0)
        return int(whole.sum() if standing is None else whole[[*Standing].index(standing)])

    def add(self, table: pa.Table) -> None:
        """Adds rows of `parts`."""
        standing, gap = standings(table), gap_hours(table)
        self._add_albums(table, standing)
        placed = standing == [*Standing].index(Standing.PLACED)
        half, most, alone = (
            numbers(table, name) for name in ("radius_50_km", "radius_90_km", "alone_radius_90_km")
        )
        there = placed & ~np.isnan(most)
        self.radius_50.add(gap[there], half[there])
        self.radius_90.add(gap[there], most[there])
        both = there & ~np.isnan(alone)
        for lengths, km in zip(self.compared, (most, alone), strict=True):
            lengths.add(gap[both], km[both])
        self._add_truth(table, there, gap)
        contradicts = standing == [*Standing].index(Standing.CONTRADICTS)
        self._tell(table.filter(pa.array(contradicts)))

    def _add_albums(self, table: pa.Table, standing: NDArray[np.uint8]) -> None:
        encoded = table["album"].combine_chunks().dictionary_encode()
        names = encoded.dictionary.to_pylist()
        found = np.zeros((len(names), len(Standing)), np.int64)
        np.add.at(found, (np.asarray(encoded.indices), standing), 1)
        for name, row in zip(names, found, strict=True):
            self.standing[name] = self.standing[name] + row if name in self.standing else row

    def _add_truth(self, table: pa.Table, placed: Flags, gap: Float) -> None:
        known = _known(table)
        for prefix, lengths in (("", self.error_km), ("alone_", self.alone_error_km)):
            latitude, longitude = (numbers(table, f"{prefix}{axis}") for axis in AXES)
            error = great_circle_km(latitude, longitude, *known)
            there = placed & ~np.isnan(error)
            lengths.add(gap[there], error[there])
            self.inside[f"{prefix}n"] += int(there.sum())
            for name in (f"{prefix}radius_50_km", f"{prefix}radius_90_km"):
                self.inside[name] += int(np.sum(error[there] <= numbers(table, name)[there]))

    def _tell(self, table: pa.Table) -> None:
        table = table.slice(0, MOST_TOLD - len(self.contradictions))
        latitude, longitude = _known(table)
        placed = [numbers(table, axis) for axis in AXES]
        off = great_circle_km(placed[0], placed[1], latitude, longitude)
        texts = (table[name].to_pylist() for name in ("album", "key", "captured_at"))
        columns = (latitude, longitude, off, gap_hours(table))
        rows = zip(*texts, *(column.tolist() for column in columns), strict=True)
        self.contradictions += [Contradiction(*row) for row in rows]


def _known(table: pa.Table) -> tuple[Float, Float]:
    """The known positions of rows, latitude and longitude in degrees, NaN where unknown."""
    known = positions(table)
    return known.latitude, known.longitude

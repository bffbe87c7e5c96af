"""The rows of albums that the map shows, as columns, album by album in the order of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from locdiffusion.evaluate.known_positions import KnownPositions
from pipelines.albums.pages.counts import AlbumCounts
from pipelines.albums.pages.parts import NUMBERS, SCHEMA, Parts, clocks, numbers, standings
from pipelines.albums.photos import positions
from schemas.albums import Standing

Float = NDArray[np.float64]

MOST_ROWS, MOST_ALBUMS, MOST_OF_ALBUM = 100_000, 2_000, 20_000
"""Most rows that a page shows, most albums, and most rows of one album."""

_TOLD = (Standing.PLACED, Standing.CONTRADICTS)


@dataclass(frozen=True)
class AlbumRows:
    """Rows of albums as columns.

    Attributes:
        albums: Names of the albums, A of them.
        first: Number of the first row of each album, and of all rows at the end, ``(A + 1,)``.
        photos: Number of photos of each album, ``(A,)``; if it has more than it has rows here, the
            rows are evenly drawn.
        key, country_code: Texts, N values each, None where empty.
        standing: Number in `Standing`, ``(N,)``.
        numbers: Columns of numbers by name, ``(N,)`` each; NaN where empty.
        known: Positions that are known beside the answer.
        wall_clock: Seconds since 1970 on the clock of the camera, ``(N,)``; NaN without a time.
        offset_min: What that clock is ahead of UTC in minutes, ``(N,)``; NaN where unknown.
    """

    albums: tuple[str, ...]
    first: NDArray[np.int64]
    photos: NDArray[np.int64]
    key: list[str]
    country_code: list[str | None]
    standing: NDArray[np.uint8]
    numbers: dict[str, Float]
    known: KnownPositions
    wall_clock: Float
    offset_min: Float

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.key)

    @property
    def utc_seconds(self) -> Float:
        """Seconds since 1970 in UTC where the zone is known, ``(N,)``."""
        return self.wall_clock - 60.0 * np.nan_to_num(self.offset_min)


def album_rows(parts: Parts, counts: AlbumCounts) -> AlbumRows:
    """Takes the rows of the albums that a page shows.

    Args:
        parts: Rows of all albums.
        counts: Counts of these rows.
    """
    albums = shown_albums(counts.standing)
    photos = {name: int(counts.standing[name].sum()) for name in albums}
    table = pa.concat_tables([SCHEMA.empty_table(), *_chosen(parts, photos)])
    seconds, offset = clocks(table)
    number = np.asarray(pc.index_in(table["album"], value_set=pa.array(albums, pa.string())))
    utc = seconds - 60.0 * np.nan_to_num(offset)
    order = np.lexsort((np.nan_to_num(utc, nan=np.inf), number))
    table = table.take(pa.array(order)).combine_chunks()
    return AlbumRows(
        albums=albums,
        first=np.searchsorted(number[order], np.arange(len(albums) + 1)),
        photos=np.array([photos[name] for name in albums], np.int64),
        key=table["key"].to_pylist(),
        country_code=table["country_code"].to_pylist(),
        standing=standings(table),
        numbers={name: numbers(table, name) for name in NUMBERS},
        known=positions(table),
        wall_clock=seconds[order],
        offset_min=offset[order],
    )


def shown_albums(standing: Mapping[str, NDArray[np.int64]]) -> tuple[str, ...]:
    """Chooses the albums that a page shows: those with the most photos placed or contradicting.

    Args:
        standing: Number of photos by album and standing.
    """
    told = [[*Standing].index(one) for one in _TOLD]
    order = sorted(standing, key=lambda name: (-standing[name][told].sum(), name))[:MOST_ALBUMS]
    rows = np.cumsum([min(int(standing[name].sum()), MOST_OF_ALBUM) for name in order])
    return tuple(order[: int(np.searchsorted(rows, MOST_ROWS, "right"))])


def _chosen(parts: Parts, photos: Mapping[str, int]) -> Iterator[pa.Table]:
    """Yields rows of albums with so many photos; of very long ones every k-th."""
    names = pa.array([*photos], pa.string())
    step = np.array([-(-count // MOST_OF_ALBUM) for count in photos.values()], np.int64)
    seen: Counter[int] = Counter()
    for table in parts():
        album = pc.index_in(table["album"], value_set=names)
        there = pc.is_valid(album)
        if not pc.any(there).as_py():
            continue
        table, number = table.filter(there), np.asarray(album.filter(there), np.int64)
        row = np.zeros(len(number), np.int64)
        for one in np.unique(number).tolist():
            here = np.flatnonzero(number == one)
            row[here] = np.arange(len(here)) + seen[one]
            seen[one] += len(here)
        yield table.filter(pa.array(row % step[number] == 0))

"""Places the photos of a bucket, album by album, and makes their rows. Knows no Beam."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from locdiffusion.albums.placing import AlbumAnswers
from locdiffusion.geography.countries import find_countries
from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.albums.photos import PREDICTED, album_slices, kept_columns, numbers
from schemas.albums import ALONE_COLUMNS, GAP_COLUMNS, SHARE_COLUMNS, Standing, album_table
from schemas.geotags import (
    ADMIN_COLUMNS,
    AREA_COLUMNS,
    BEST_COLUMNS,
    MODE_TYPE,
    NUMBER_COLUMNS,
    PROBABILITY_COLUMNS,
    BestSource,
)

Float = NDArray[np.float64]

_ANSWER = ("latitude", "longitude", "radius_50_km", "radius_90_km")
_COUNTRY = ("country_code", "country_found_by")
_OF_THE_PLACE = (*_ANSWER, *PROBABILITY_COLUMNS)
_OF_THE_PHOTO = (
    *(name for name in NUMBER_COLUMNS if name not in _OF_THE_PLACE),
    *AREA_COLUMNS,
    *ADMIN_COLUMNS,
)
"""Columns that say something of the photo's own answer, and that an album does not compute."""


Placer = Callable[[pa.Table], AlbumAnswers]
"""Function from the photos of one album to their answers."""


@dataclass(frozen=True)
class Contradiction:
    """A photo whose own position the others of its album contradict.

    Attributes:
        key: Name of the photo.
        album: Name of its album.
        distance_km: How far its position is from where the others put it.
    """

    key: str
    album: str
    distance_km: float


@dataclass(frozen=True)
class BucketRows:
    """The rows of a bucket, and what is told of them.

    Attributes:
        table: Table of ALBUM_SCHEMA.
        albums: Number of albums.
        standings: Number of photos by standing.
        contradictions: Photos whose own position is not believed.
    """

    table: pa.Table
    albums: int
    standings: Counter[str]
    contradictions: list[Contradiction]


def bucket_rows(photos: pa.Table, placer: Placer) -> BucketRows:
    """Places the photos of a bucket.

    Args:
        photos: Photos of whole albums, in the order of `photos.gathered`.
        placer: Places the photos of an album.
    """
    slices = album_slices(photos)
    albums = (photos.slice(rows.start, rows.stop - rows.start) for rows in slices)
    answers = AlbumAnswers.joined([placer(album) for album in albums])
    columns = _columns(photos, answers)
    known = numbers(photos, "known_latitude"), numbers(photos, "known_longitude")
    wrong = [i for i, one in enumerate(answers.standing) if one is Standing.CONTRADICTS]
    keys, names = photos["key"], photos["album"]
    apart = great_circle_km(answers.latitude, answers.longitude, *known)
    return BucketRows(
        album_table(columns, kept_columns(photos)),
        len(slices),
        Counter(one.value for one in answers.standing),
        [
            Contradiction(keys[i].as_py(), names[i].as_py(), round(float(apart[i]), 1))
            for i in wrong
        ],
    )


def _columns(photos: pa.Table, answers: AlbumAnswers) -> dict[str, Any]:
    """Columns of the rows: of the album where it gives an answer, and else of the photo alone."""
    names = (*PREDICTED.names, *kept_columns(photos))
    columns: dict[str, Any] = {name: photos[name].combine_chunks() for name in names}
    columns |= dict(zip(ALONE_COLUMNS, (columns[name] for name in _ANSWER), strict=True))
    placed = ~np.isnan(answers.latitude)
    probabilities = dict(zip(PROBABILITY_COLUMNS, answers.probability.T, strict=True))
    given = {name: getattr(answers, name) for name in _ANSWER} | probabilities
    for name, values in given.items():
        columns[name] = np.where(placed, values, numbers(photos, name))
    countries = find_countries(answers.latitude[placed], answers.longitude[placed])
    for name, found in zip(_COUNTRY, countries, strict=True):
        columns[name] = _chosen(columns[name], pa.array(found, pa.string()), placed)
    for name in _OF_THE_PHOTO:
        nothing = pa.nulls(int(placed.sum()), columns[name].type)
        columns[name] = _chosen(columns[name], nothing, placed)
    columns |= _best(photos, answers, placed)
    columns["modes"] = _chosen(columns["modes"], _modes(answers, placed), placed)
    gaps = (answers.hours_before, answers.hours_after)
    for name, hours in zip(GAP_COLUMNS, gaps, strict=True):
        columns[name] = np.where(placed & np.isfinite(hours), hours, np.nan)
    columns |= dict(zip(SHARE_COLUMNS, answers.shares.T, strict=True))
    columns["album"] = photos["album"].combine_chunks()
    columns["standing"] = [one.value for one in answers.standing]
    return columns


def _best(photos: pa.Table, answers: AlbumAnswers, placed: NDArray[np.bool_]) -> dict[str, Any]:
    """BEST_COLUMNS: those of the prediction, but the album's answer instead of the model's."""
    source = photos["best_source"].to_numpy(zero_copy_only=False).copy()
    known = ~np.isnan(numbers(photos, "known_latitude"))
    of_table = known & (source == None)  # noqa: E711
    of_album = placed & ~known
    columns: dict[str, Any] = {}
    for name in BEST_COLUMNS[:2]:
        axis = name.removeprefix("best_")
        best = np.where(of_table, numbers(photos, f"known_{axis}"), numbers(photos, name))
        columns[name] = np.where(of_album, getattr(answers, axis), best)
    source[of_table], source[of_album] = BestSource.DOCUMENT.value, BestSource.ALBUM.value
    return columns | {BEST_COLUMNS[2]: pa.array(source, pa.string())}


def _chosen(alone: pa.Array, together: pa.Array, placed: NDArray[np.bool_]) -> pa.Array:
    """Puts the values of rows that are placed, ``(n,)``, among those of all rows, ``(N,)``."""
    row = np.arange(len(alone))
    row[placed] = len(alone) + np.arange(len(together))
    return pa.concat_arrays([alone, together.cast(alone.type)]).take(pa.array(row))


def _modes(answers: AlbumAnswers, placed: NDArray[np.bool_]) -> pa.Array:
    """The one place of each answer of an album, with the radius of 50 %."""
    count = int(placed.sum())
    place = (answers.latitude[placed], answers.longitude[placed], np.full(count, 0.5))
    fields = [pa.array(values) for values in (*place, answers.radius_50_km[placed])]
    values = pa.StructArray.from_arrays(fields, fields=list(MODE_TYPE))
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1), pa.int32()), values)

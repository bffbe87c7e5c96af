"""Hints: a table that says of photos where they may have been taken, and how sure that is.

A hint is a disc (`latitude`, `longitude`, `radius_km`), a country, or an area as in `--prior` or in
well-known text. It is mixed with the chance that it is wrong (`locdiffusion.decoding.hinting`). Its
photo is named by `photo_id`, by `shard` and `key`, or by `key` alone, which may be several photos.
"""

from __future__ import annotations

import argparse
import bisect
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from locdiffusion.cli.parser import UsageError
from locdiffusion.geography.areas import COUNTRY
from locdiffusion.photos.lists import LATITUDE, LONGITUDE, Column, NamedColumns, read_list
from locdiffusion.photos.positions import PhotoPositions
from locdiffusion.photos.storage import DataError

PHOTO_ID = Column("photo's id", ("photo_id",))
SHARD = Column("shard", ("shard",))
KEY = Column("photo's key", ("key", "photo", "image", "path", "file", "filename"))
AREA = Column("area", ("hint", "area", "prior", "polygon", "wkt", "footprintwkt"))
COUNTRY_CODE = Column("country", ("country", "country_code", "countrycode"))
RADIUS_KM = Column("radius in km", ("radius_km", "radius"))
RADIUS_M = Column("radius in m", ("coordinateuncertaintyinmeters", "radius_m"))
WEIGHT = Column("probability that the hint is right", ("weight", "right"))

MOST_NAMED = 10
"""Wrong rows that a message names."""


@dataclass(frozen=True)
class Hint:
    """Where somebody says that a photo was taken.

    Attributes:
        area: Area, as `locdiffusion.decoding.hint_area.HintArea.parse` reads it.
        right: Probability that this is right; None where the table does not say it.
    """

    area: str
    right: float | None


Naming = Callable[[str, str, str | None], str]
"""How photos are named: a function from shard, key and id of a photo."""


class Hints:
    """The hints of a table by the names of photos; some 100 bytes each.

    Attributes:
        name: How the table names photos.
    """

    def __init__(self, name: Naming, keys: pa.Array, areas: pa.Array, rights: pa.Array) -> None:
        """Takes N names, areas (text) and probabilities (null where not given)."""
        self.name, order = name, pc.sort_indices(keys)
        self._keys = keys.take(order)
        self._areas, self._rights = areas.take(order), rights.take(order)

    def __len__(self) -> int:
        """Number of photos that have a hint."""
        return len(self._keys)

    def of(self, key: str) -> Hint | None:
        """Looks up the hint of a photo by its name."""
        rows = range(len(self))
        row = bisect.bisect_left(rows, key.encode(), key=lambda i: self._keys[i].as_py().encode())
        if row == len(self) or self._keys[row].as_py() != key:
            return None
        return Hint(self._areas[row].as_py(), self._rights[row].as_py())


@dataclass(frozen=True)
class HintsOf:
    """Looks up the hints of photos.

    Attributes:
        hints: The hints of a job.
        right: Probability that a hint is right where the table does not say it.
    """

    hints: Hints
    right: float

    def __call__(
        self, shard: str, keys: Sequence[str], known: Sequence[PhotoPositions]
    ) -> list[tuple[str, float] | None]:
        """Returns the areas and probabilities of photos, as `Geotagger.decode` takes them.

        Args:
            shard: Id of their shard.
            keys: Their keys.
            known: What is known of them.
        """
        found: list[tuple[str, float] | None] = []
        for key, one in zip(keys, known, strict=True):
            hint = self.hints.of(self.hints.name(shard, key, one.identity.photo_id))
            told = self.right if hint is None or hint.right is None else hint.right
            found.append(None if hint is None else (hint.area, told))
        return found


@functools.lru_cache(maxsize=1)
def read_hints(url: str) -> Hints:
    """Reads a table of hints, once per process.

    Args:
        url: Path or URL of a CSV or Parquet file.

    Raises:
        DataError: The file cannot be read, or a row says what is no hint; the first are named.
    """
    rows = read_list(url)
    name, keys = _named(rows)
    areas = _areas(rows)
    weights = rows.text(WEIGHT) if rows.has(WEIGHT) else [""] * len(rows)
    wrong: list[str] = []
    rights: list[float | None] = []
    seen: set[str] = set()
    for row, (key, area, weight) in enumerate(zip(keys, areas, weights, strict=True)):
        right = None
        try:
            right = _right(weight)
            if key and area:
                _check(area)
                if key in seen:
                    raise ValueError(f"{key[:80]!r} had a hint before; want one per photo")
                seen.add(key)
        except ValueError as error:
            wrong.append(f"{rows.place(row)}: {error}")
        rights.append(right)
    if wrong:
        more = f" (and {len(wrong) - MOST_NAMED:,} more)" if len(wrong) > MOST_NAMED else ""
        raise DataError("; ".join(wrong[:MOST_NAMED]) + more)
    told = np.flatnonzero([bool(key and area) for key, area in zip(keys, areas, strict=True)])
    if not len(told):
        raise DataError(f"{url} has no row with a key and an area; want one for each hint.")
    return Hints(
        name,
        pa.array([keys[row] for row in told], pa.string()),
        pa.array([areas[row] for row in told], pa.string()),
        pa.array([rights[row] for row in told], pa.float64()),
    )


def _named(rows: NamedColumns) -> tuple[Naming, list[str]]:
    if rows.has(PHOTO_ID):
        return _by_id, rows.text(PHOTO_ID)
    keys = rows.text(KEY)
    if not rows.has(SHARD):
        return _by_key, keys
    pairs = zip(rows.text(SHARD), keys, strict=True)
    return _by_shard, [key and _by_shard(shard, key, None) for shard, key in pairs]


def _by_id(shard: str, key: str, photo_id: str | None) -> str:
    return photo_id or ""


def _by_key(shard: str, key: str, photo_id: str | None) -> str:
    return key


def _by_shard(shard: str, key: str, photo_id: str | None) -> str:
    return f"{shard}\t{key}"


@functools.lru_cache(maxsize=4096)
def _check(area: str) -> None:
    # Imports torch, which whoever counts rows does without.
    from locdiffusion.decoding.hint_area import checked_area

    checked_area(area)


def _right(text: str) -> float | None:
    if not text:
        return None
    try:
        right = float(text)
    except ValueError:
        right = float("nan")
    if not 0.0 < right < 1.0:
        raise ValueError(f"the weight {text[:40]!r} is no probability above 0 and below 1")
    return right


def _areas(rows: NamedColumns) -> list[str]:
    """Reads the area of each row: its text, its country or its disc, the first that is there."""
    empty = [""] * len(rows)
    texts, codes = (rows.text(one) if rows.has(one) else empty for one in (AREA, COUNTRY_CODE))
    radius, per_km = (RADIUS_KM, 1.0) if rows.has(RADIUS_KM) else (RADIUS_M, 1e-3)
    discs = empty
    if all(rows.has(one) for one in (LATITUDE, LONGITUDE, radius)):
        columns = rows.text(LATITUDE), rows.text(LONGITUDE), rows.text(radius)
        discs = [_disc(*told, per_km) for told in zip(*columns, strict=True)]
    elif texts is empty and codes is empty:
        raise DataError(
            f"{rows.url} has no column of areas; want `hint` (country:NO, 59.9,10.7,300km or "
            "POLYGON((...))), or `latitude`, `longitude` and `radius_km`, or `country`."
        )
    return [
        text or (code and f"{COUNTRY}{code}") or disc
        for text, code, disc in zip(texts, codes, discs, strict=True)
    ]


def _disc(latitude: str, longitude: str, radius: str, per_km: float) -> str:
    if not (latitude and longitude and radius):
        return ""
    try:
        return f"{latitude},{longitude},{np.format_float_positional(float(radius) * per_km)}km"
    except ValueError:
        return f"{latitude},{longitude},{radius}km"  # which no area is, and is told as it stands


def check_hints(ours: argparse.Namespace) -> None:
    """Raises UsageError for what does not go with hints, and for a file that holds none."""
    if ours.hints is None:
        return
    if not 0.0 < ours.hints_right < 1.0:
        raise UsageError(
            f"--hints-right is {ours.hints_right:g}, wanted above 0 and below 1; what is certain "
            "is a --prior"
        )
    if ours.regions:
        raise UsageError(
            "--regions are drawn from the pictures alone, and would contradict --hints; leave one "
            "of the two out"
        )

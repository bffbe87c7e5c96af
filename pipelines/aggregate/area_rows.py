"""Reads the rows of a shard's areas: which photo lies with which probability in which area."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from locdiffusion.photos.storage import DataError
from pipelines.geotag.shard_files import open_part
from pipelines.geotag.tables import UNREADABLE

TEXTS = ("key", "kind", "area", "rest")
COLUMNS = (*TEXTS, "probability")
NO_AREA = -1


@dataclass(frozen=True)
class AreaRows:
    """Rows of one kind of area of one shard.

    Attributes:
        keys: Keys of the photos, P of them.
        areas: Different areas, A of them, as the file spells them.
        rests: Names of what lies in no area, R of them.
        photo: Number of the photo of each row, ``(N,)``.
        area: Number of the area of each row, ``(N,)``; NO_AREA in rows of a rest.
        rest: Number of the rest of each row, ``(N,)``; NO_AREA in rows of an area.
        probability: Mass of the photo's density there, ``(N,)``.
    """

    keys: pa.Array
    areas: pa.Array
    rests: pa.Array
    photo: NDArray[np.int64]
    area: NDArray[np.int64]
    rest: NDArray[np.int64]
    probability: NDArray[np.float64]


def read_area_rows(path: str, kind: str) -> AreaRows:
    """Reads the rows of one kind of area from a part.

    Args:
        path: Path or URL of the part.
        kind: The kind, such as `country` or `h3`.

    Raises:
        DataError: The part cannot be read, or holds what cannot be true.
    """
    try:
        part, _ = open_part(path, TEXTS)
        if missing := [name for name in COLUMNS if name not in part.schema_arrow.names]:
            raise ValueError(f"it has no column {missing[0]}")
        return area_rows(part.read(list(COLUMNS)).unify_dictionaries().combine_chunks(), kind)
    except UNREADABLE as error:
        raise DataError(
            f"{path} cannot be used ({error}); geotag its photos again with --areas"
        ) from error


def area_rows(table: pa.Table, kind: str) -> AreaRows:
    """Takes the rows of one kind from a table of COLUMNS, whose texts are dictionaries.

    Raises:
        ValueError: A row holds what cannot be true.
    """
    kinds = _dictionary(table["kind"])
    wanted = pc.index(kinds.dictionary, kind).as_py()
    rows = np.asarray(kinds.indices) == wanted
    if not rows.all():
        table = table.filter(pa.array(rows)).combine_chunks()
    keys, areas, rests = (_dictionary(table[name]) for name in ("key", "area", "rest"))
    photo, area, rest = (_numbers(column) for column in (keys, areas, rests))
    probability = np.asarray(table["probability"], np.float64)
    if not (np.all(probability >= 0) and np.all(probability <= 1.001)):
        found = probability[~((probability >= 0) & (probability <= 1.001))][0]
        raise ValueError(f"a probability is {found}, wanted 0 to 1")
    if np.any((area < 0) == (rest < 0)) or np.any(photo < 0):
        raise ValueError("a row has no key, or not one of `area` and `rest`")
    names, codes = keys.dictionary, areas.dictionary
    if not rows.all():  # the dictionaries are those of all kinds
        photo, there = _renumbered(photo, len(names))
        area, used = _renumbered(area, len(codes))
        names, codes = names.take(there), codes.take(used)
    return AreaRows(
        keys=names,
        areas=codes,
        rests=rests.dictionary,
        photo=photo,
        area=area,
        rest=rest,
        probability=probability,
    )


def _dictionary(column: pa.ChunkedArray) -> pa.DictionaryArray:
    if not len(column):
        return pa.array([], pa.string()).dictionary_encode()
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return array if isinstance(array, pa.DictionaryArray) else array.dictionary_encode()


def _numbers(column: pa.DictionaryArray) -> NDArray[np.int64]:
    """Numbers of the values in the dictionary; NO_AREA for null."""
    return np.asarray(pc.fill_null(column.indices, NO_AREA), np.int64)


def _renumbered(
    numbers: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers anew what occurs, in the same order; lists the old numbers."""
    occurs = np.zeros(count + 1, bool)
    occurs[numbers] = True  # NO_AREA is the last one
    occurs[count] = False
    new = np.append(np.cumsum(occurs[:count]) - 1, NO_AREA)
    return new[numbers], np.flatnonzero(occurs)

"""Sums over the photos of a shard, in Arrow tables that add up over shards in any order.

Photos that are counted alone become sums by class and place. Photos of a group stay apart by group,
as their group may go on in other shards; `of_groups` turns them into the same sums at the end.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.aggregate.moments import Masses, Places, merged, sorted_cells, variances
from pipelines.aggregate.targets import NamedPlaces

PLACE = ("cell", "area", "rest")
"""A place: an H3 cell, or the name of another area, or of a rest; the others are null."""

_PLACE_FIELDS = [pa.field("cell", pa.uint64()), *(pa.field(n, pa.string()) for n in PLACE[1:])]
_BY, _GROUP = pa.field("by", pa.string()), pa.field("group", pa.string())
_MASS, _PHOTOS = pa.field("mass", pa.float64()), pa.field("photos", pa.int64())
_VARIANCE = pa.field("variance", pa.float64())

SUMS = pa.schema([_BY, *_PLACE_FIELDS, _MASS, _VARIANCE])
"""Number of photos expected in each place, and what it adds to the variance of its leaves."""
GROUP_MASSES = pa.schema([_BY, _GROUP, *_PLACE_FIELDS, _MASS])
"""Number of photos of each group expected in each place."""
COUNTS = pa.schema([_BY, _PHOTOS])
"""Number of photos of each class."""
GROUP_COUNTS = pa.schema([_BY, _GROUP, _PHOTOS])
"""Number of photos of each group."""
SCHEMAS = {
    "sums": SUMS,
    "counts": COUNTS,
    "group_masses": GROUP_MASSES,
    "group_counts": GROUP_COUNTS,
}
ROWS_AT_ONCE = 4_000_000
"""Rows of partial sums that are kept before they are added up."""
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class PartialSums:
    """Sums over some of the photos.

    Attributes:
        sums: Table of SUMS.
        counts: Table of COUNTS.
        group_masses: Table of GROUP_MASSES.
        group_counts: Table of GROUP_COUNTS.
    """

    sums: pa.Table
    counts: pa.Table
    group_masses: pa.Table
    group_counts: pa.Table

    @classmethod
    def nothing(cls) -> PartialSums:
        """Returns the sums over no photo."""
        return cls(**{name: schema.empty_table() for name, schema in SCHEMAS.items()})

    @property
    def rows(self) -> int:
        """Number of rows of all tables."""
        return sum(getattr(self, name).num_rows for name in SCHEMAS)


def added(parts: Iterable[PartialSums]) -> PartialSums:
    """Adds up partial sums."""
    found = list(parts)
    if len(found) == 1:
        return found[0]
    return PartialSums(
        **{
            name: added_tables([getattr(one, name) for one in found], s)
            for name, s in SCHEMAS.items()
        }
    )


def added_tables(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Adds up rows that agree in everything but their numbers."""
    numbers = [n for n in ("mass", "variance", "photos") if n in schema.names]
    keys = [name for name in schema.names if name not in numbers]
    grouped = pa.concat_tables([schema.empty_table(), *tables]).group_by(keys, use_threads=False)
    found = grouped.aggregate([(name, "sum") for name in numbers])
    return found.rename_columns([name.removesuffix("_sum") for name in found.column_names]).select(
        schema.names
    )


def sums_of_shard(
    masses: Masses,
    named: NamedPlaces,
    photos: int,
    by: pa.Array | None = None,
    group: pa.Array | None = None,
) -> PartialSums:
    """Adds up the photos of a shard.

    Args:
        masses: Masses of the photos, by their numbers.
        named: Places of the masses.
        photos: Number of photos P.
        by: Class of each photo, P texts; None if all are of one class.
        group: Group of each photo, P texts, null for a photo that is counted alone; None if all
            are.
    """
    classes, of_photo = _numbered(by, photos)
    members = np.bincount(of_photo, minlength=len(classes))
    there = np.flatnonzero(members)
    counts = pa.table([classes.take(there), members[there]], schema=COUNTS)
    nothing = PartialSums.nothing()
    alone = np.ones(photos, bool) if group is None else np.asarray(pc.is_null(group))
    rows = masses if alone.all() else Masses(*(c[alone[masses.owner]] for c in masses))
    variance = variances(rows, named.places, np.ones(len(rows.mass)))
    sums = _sums(rows, variance, named, of_photo[rows.owner], classes)
    if alone.all():
        return PartialSums(sums, counts, nothing.group_masses, nothing.group_counts)
    groups, of_group = _numbered(group, photos)
    owner = of_photo * len(groups) + of_group
    together = Masses(*(column[~alone[masses.owner]] for column in masses))
    of_groups = merged(owner[together.owner], together.place, together.mass, len(named.places))
    pairs, in_group = np.unique(owner[~alone], return_counts=True)
    group_counts = pa.table(
        [classes.take(pairs // len(groups)), groups.take(pairs % len(groups)), in_group],
        schema=GROUP_COUNTS,
    )
    group_masses = pa.table(
        [
            classes.take(of_groups.owner // len(groups)),
            groups.take(of_groups.owner % len(groups)),
            *place_columns(named, of_groups.place),
            of_groups.mass,
        ],
        schema=GROUP_MASSES,
    )
    return PartialSums(sums, counts, group_masses, group_counts)


def of_groups(masses: pa.Table, counts: pa.Table, resolution: int) -> pa.Table:
    """Adds up groups, each of which is one draw.

    Args:
        masses: Table of GROUP_MASSES of whole groups.
        counts: Table of GROUP_COUNTS of the same groups.
        resolution: Resolution of the leaves.

    Returns:
        A table of SUMS.
    """
    keys = pa.concat_tables([counts.select(["by", "group"]), masses.select(["by", "group"])])
    classes, of_class = _numbered(keys["by"], len(keys))
    names, of_name = _numbered(keys["group"], len(keys))
    _, owner = np.unique(of_class * len(names) + of_name, return_inverse=True)
    photos = np.zeros(owner.max(initial=-1) + 1)
    np.add.at(photos, owner[: len(counts)], np.asarray(counts["photos"], np.float64))
    named, place = _placed(masses, resolution)
    class_of_owner = np.zeros(len(photos), np.int64)
    class_of_owner[owner] = of_class
    mass = np.asarray(masses["mass"], np.float64)
    rows = merged(owner[len(counts) :], place, mass, len(named.places))
    variance = variances(rows, named.places, photos[rows.owner])
    return _sums(rows, variance, named, class_of_owner[rows.owner], classes)


def with_groups(sums: PartialSums, resolution: int) -> PartialSums:
    """Turns the masses of whole groups into sums."""
    if not sums.group_counts.num_rows:
        return sums
    nothing = PartialSums.nothing()
    groups = of_groups(sums.group_masses, sums.group_counts, resolution)
    together = added_tables([sums.sums, groups], SUMS)
    return PartialSums(together, sums.counts, nothing.group_masses, nothing.group_counts)


def split(sums: PartialSums, buckets: int) -> Iterator[tuple[int, PartialSums]]:
    """Splits sums so that all rows of a place, or of a group, come into the same bucket.

    Yields:
        Numbers of buckets, from 0 for places and below 0 for groups, and their sums.
    """
    nothing = PartialSums.nothing()
    of_place = _buckets(sums.sums, ("by", *PLACE), buckets)
    for number in np.union1d(of_place, [0]).tolist():
        counts = sums.counts if number == 0 else nothing.counts
        rows = sums.sums.filter(pa.array(of_place == number))
        yield number, PartialSums(rows, counts, nothing.group_masses, nothing.group_counts)
    of_mass = _buckets(sums.group_masses, ("by", "group"), buckets)
    of_count = _buckets(sums.group_counts, ("by", "group"), buckets)
    for number in np.unique(of_count).tolist():
        masses = sums.group_masses.filter(pa.array(of_mass == number))
        members = sums.group_counts.filter(pa.array(of_count == number))
        yield -1 - number, PartialSums(nothing.sums, nothing.counts, masses, members)


def _buckets(table: pa.Table, columns: Sequence[str], buckets: int) -> NDArray[np.int64]:
    """Hashes columns, in any process alike, to the number of a bucket of each row."""
    total = np.zeros(len(table), np.uint64)
    for name in columns:
        if table.schema.field(name).type == pa.uint64():
            value = np.asarray(pc.fill_null(table[name], 0), np.uint64)
        else:
            texts, number = _numbered(table[name], len(table))
            hashes = [zlib.crc32((text or "").encode()) for text in texts.to_pylist()]
            value = np.array(hashes, np.uint64)[number]
        total = (total ^ value) * _MIX
    return (total >> np.uint64(32)).astype(np.int64) % buckets


def _placed(table: pa.Table, resolution: int) -> tuple[NamedPlaces, NDArray[np.int64]]:
    """Reads the places of a table, and the number of that of each row."""
    is_cell = np.asarray(table["cell"].is_valid())
    cells, rank = sorted_cells(np.asarray(pc.fill_null(table["cell"], 0), np.uint64)[is_cell])
    areas, area = _numbered(table["area"], len(table))
    rests, rest = _numbered(table["rest"], len(table))
    others = area * len(rests) + rest
    different, number = np.unique(others[~is_cell], return_inverse=True)
    place = np.empty(len(table), np.int64)
    place[is_cell], place[~is_cell] = rank, len(cells) + number
    named = NamedPlaces(
        Places(cells, len(different), resolution),
        areas.take(different // len(rests)).to_pylist() if len(different) else [],
        rests.take(different % len(rests)).to_pylist() if len(different) else [],
    )
    return named, place


def _sums(
    rows: Masses,
    variance: NDArray[np.float64],
    named: NamedPlaces,
    of_class: NDArray[np.int64],
    classes: pa.Array,
) -> pa.Table:
    """Adds up rows by class and place."""
    count = len(named.places)
    if len(classes) == 1:
        pairs = np.arange(count)
        sums = [np.bincount(rows.place, values, count) for values in (rows.mass, variance)]
        there = np.bincount(rows.place, minlength=count) > 0
        pairs, sums = pairs[there], [one[there] for one in sums]
    else:
        pairs, at = np.unique(of_class * count + rows.place, return_inverse=True)
        sums = [np.bincount(at, values, len(pairs)) for values in (rows.mass, variance)]
    place = pairs % max(count, 1)
    columns = [classes.take(pairs // max(count, 1)), *place_columns(named, place), *sums]
    return pa.table(columns, schema=SUMS)


def place_columns(named: NamedPlaces, place: NDArray[np.int64]) -> list[pa.Array]:
    """Builds the columns of PLACE for the numbers of places."""
    cells = pa.array(named.places.cells, pa.uint64())
    nothing = pa.nulls(len(cells), pa.string())
    return [
        pa.concat_arrays([cells, pa.nulls(named.places.others, pa.uint64())]).take(place),
        pa.concat_arrays([nothing, pa.array(named.areas, pa.string())]).take(place),
        pa.concat_arrays([nothing, pa.array(named.rests, pa.string())]).take(place),
    ]


def _numbered(
    values: pa.Array | pa.ChunkedArray | None, count: int
) -> tuple[pa.Array, NDArray[np.int64]]:
    """Lists different texts, null among them, and gives the number of each; one null for None."""
    if values is None:
        return pa.nulls(1, pa.string()), np.zeros(count, np.int64)
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    if not len(array):
        return pa.nulls(1, pa.string()), np.zeros(0, np.int64)
    encoded = array.dictionary_encode(null_encoding="encode")
    return encoded.dictionary.cast(pa.string()), np.asarray(encoded.indices, np.int64)

"""An even sample of a run's predictions, for its pages, which the parts of a run build separately.

Every row has a rank: a hash of its shard and its number there, uniform over 64 bits. The sample is
the rows of the lowest ranks, so it does not depend on who read which part, or in which order.
Knows no Beam.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from locdiffusion.evaluate.known_positions import KINDS, SOURCE_COLUMNS
from schemas.geotags import FAMILIARITY, NUMBER_COLUMNS, OPTIONAL_COLUMNS, PREDICTION_SCHEMA

ROWS, KNOWN_ROWS = 100_000, 20_000
"""Most rows of a sample, and the most with a known position that it holds at least."""
THUMBNAIL_BYTES = 8_000_000

TEXT_COLUMNS = ("key", "shard", "country_code", "country_found_by", "admin", *SOURCE_COLUMNS)
TIME_COLUMNS = ("captured_at", "captured_utc_offset_min")
_KEPT = {*TEXT_COLUMNS, *NUMBER_COLUMNS, *OPTIONAL_COLUMNS, *TIME_COLUMNS, FAMILIARITY, "modes"}
COLUMNS = tuple(name for name in PREDICTION_SCHEMA.names if name in _KEPT)
"""Columns of the predictions that a sample keeps, in the order of their schema."""
SCHEMA = pa.schema(
    [
        *(pa.field(name, PREDICTION_SCHEMA.field(name).type) for name in COLUMNS),
        pa.field("row", pa.int64()),
        pa.field("rank", pa.uint64()),
        pa.field("thumbnail", pa.binary()),
    ]
)
ROWS_SCHEMA = pa.schema(
    [*(PREDICTION_SCHEMA.field(name) for name in COLUMNS), SCHEMA.field("thumbnail")]
)
"""Columns that a sample keeps of the rows of a shard."""
_NEEDED = ("key", "latitude", "longitude", "radius_50_km", "radius_90_km")


def rows_of_shard(predictions: pa.Table) -> pa.Table:
    """Takes what a sample keeps of the predictions of a shard.

    Returns:
        A table of ROWS_SCHEMA without thumbnails. A column that an older file lacks is empty.

    Raises:
        KeyError: A column is missing that every version has.
        ValueError: A column has another type than in the schema.
    """
    table = predictions.append_column("thumbnail", pa.nulls(len(predictions), pa.binary()))
    if table.schema.equals(ROWS_SCHEMA):
        return table
    for empty in ROWS_SCHEMA:
        if empty.name not in {*table.schema.names, *_NEEDED}:
            table = table.append_column(empty, pa.nulls(len(table), empty.type))
    columns = [table[one.name].cast(one.type) for one in ROWS_SCHEMA]
    return pa.Table.from_arrays(columns, schema=ROWS_SCHEMA)


def with_thumbnails(rows: pa.Table, thumbnails: pa.Table) -> pa.Table:
    """Puts thumbnails (`key`, `jpeg`) beside the rows of their shard."""
    keys = thumbnails["key"].cast(pa.string()).combine_chunks()
    found = pc.index_in(rows["key"], value_set=keys).combine_chunks()
    jpegs = thumbnails["jpeg"].cast(pa.binary()).combine_chunks().take(found)
    return rows.set_column(rows.num_columns - 1, ROWS_SCHEMA.field("thumbnail"), jpegs)


def check_rows(table: pa.Table) -> pa.Table:
    """Returns rows with the columns of SCHEMA; raises ValueError for some that no run has."""
    table.validate(full=True)
    for name in ("key", "shard", "row", "rank", *NUMBER_COLUMNS, *OPTIONAL_COLUMNS):
        numbers = np.asarray(table[name].drop_null())
        most = {"latitude": 90, "longitude": 180}.get(name.rpartition("_")[2], 1e30)
        if name not in OPTIONAL_COLUMNS and len(numbers) < len(table):
            raise ValueError(f"a row without {name}")
        if numbers.dtype.kind == "f" and not np.all(abs(numbers) <= most):
            raise ValueError(f"the {name} {numbers[~(abs(numbers) <= most)][0]}")
    return table


def ranks(lengths: Mapping[str, int]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Computes the ranks of all rows of shards, and their numbers within these, ``(n,)`` each.

    It is the generator SplitMix64 (Steele et al. 2014, OOPSLA), begun at a hash of the shard.

    Args:
        lengths: Number of rows by shard.
    """
    names = [shard.encode("utf-8", "surrogateescape") for shard in lengths]
    digests = b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in names)
    counts = np.array([*lengths.values()], np.int64)
    row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    z = np.repeat(np.frombuffer(digests, ">u8").astype(np.uint64), counts)
    z += (row.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31)), row


@dataclass
class Sample:
    """The rows of the lowest ranks, and the number of rows of which they are a sample.

    Attributes:
        rows: Number of all rows.
        known: Number of rows with a known position.
    """

    rows: int = 0
    known: int = 0
    _tables: list[pa.Table] = field(default_factory=list)
    _held: int = 0
    _highest: tuple[int, int] = (2**64 - 1,) * 2
    """Ranks above which no row, and no row with a known position, is of the sample."""

    def add(self, tables: Mapping[str, pa.Table]) -> None:
        """Adds all predictions of shards, as tables of ROWS_SCHEMA by the id of the shard."""
        rank, row = ranks({shard: len(table) for shard, table in tables.items()})
        table = pa.concat_tables([ROWS_SCHEMA.empty_table(), *tables.values()])
        known = _known(table)
        rows, highest = (len(table), int(known.sum())), np.array(self._highest, np.uint64)
        kept = (rank <= highest[0]) | (known & (rank <= highest[1]))
        if not kept.all():
            table, rank, row = table.filter(pa.array(kept)), rank[kept], row[kept]
        columns = [*table.columns[:-1], pa.array(row), pa.array(rank), table["thumbnail"]]
        self.update(Sample(*rows, [pa.Table.from_arrays(columns, schema=SCHEMA)], len(table)))

    def update(self, other: Sample) -> None:
        """Adds the rows of another part of the run."""
        self.rows += other.rows
        self.known += other.known
        self._tables += other._tables
        self._held += other._held
        if self._held > 2 * (ROWS + KNOWN_ROWS):
            _ = self.table

    @property
    def table(self) -> pa.Table:
        """The rows of the sample with the columns of SCHEMA, in the order of their ranks."""
        table = pa.concat_tables(self._tables or [SCHEMA.empty_table()])
        order = [(name, "ascending") for name in ("rank", "shard", "row")]
        table = table.take(pc.sort_indices(table, order)).combine_chunks()
        known = _known(table)
        kept = (np.arange(len(table)) < ROWS) | (known & (np.cumsum(known) <= KNOWN_ROWS))
        if not kept.all():
            table, known = table.filter(pa.array(kept)), known[kept]
        size = np.asarray(pc.fill_null(pc.binary_length(table["thumbnail"]), 0), np.int64)
        if size.sum() > THUMBNAIL_BYTES:
            # With the one that fills it: of what follows none fits in any larger part either.
            fits = pa.array(np.cumsum(size) - size < THUMBNAIL_BYTES)
            jpeg = pc.if_else(fits, table["thumbnail"], pa.scalar(None, pa.binary()))
            at = table.schema.get_field_index("thumbnail")
            table = table.set_column(at, SCHEMA.field("thumbnail"), jpeg)
        self._tables, self._held = [table.combine_chunks()], len(table)
        rank = np.asarray(table["rank"])
        self._highest = _last(rank, ROWS), _last(rank[known], KNOWN_ROWS)
        return self._tables[0]

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what no longer belongs to the sample."""
        _ = self.table
        return self.__dict__


def _known(table: pa.Table | pa.RecordBatch) -> NDArray[np.bool_]:
    """Whether each row has a known position, ``(n,)``."""
    return np.any([table[f"{kind}_latitude"].is_valid() for kind in KINDS], axis=0)


def _last(rank: NDArray[np.uint64], most: int) -> int:
    """The rank above which nothing is among so many; any may be while these are fewer."""
    return int(rank[most - 1]) if len(rank) >= most else 2**64 - 1

"""An even sample of a run's predictions, for its pages, which the parts of a run build separately.

Every row has a rank: a hash of its shard and its number there, uniform over 64 bits. The sample is
the rows of the lowest ranks, so it does not depend on who read which part, or in which order.
Knows no Beam.
"""

from __future__ import annotations

import hashlib
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
_KEPT = {*TEXT_COLUMNS, *NUMBER_COLUMNS, *OPTIONAL_COLUMNS, FAMILIARITY, "modes"}
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
_READ = pa.schema([PREDICTION_SCHEMA.field(name) for name in COLUMNS])


def ranks(shard: str, row: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Computes the ranks of rows ``(n,)`` of a shard.

    It is the generator SplitMix64 (Steele et al. 2014, OOPSLA), begun at a hash of the shard.
    """
    name = shard.encode("utf-8", "surrogateescape")
    start = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
    z = np.uint64(start) + (row.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


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
    _new: list[tuple[pa.RecordBatch, NDArray, NDArray]] = field(default_factory=list)
    _held: int = 0

    def add(self, shard: str, first: int, batch: pa.RecordBatch) -> None:
        """Adds predictions of a shard; a column that an older file lacks is read as empty.

        Args:
            shard: Id of the shard.
            first: Number of the first of these rows in the shard.
            batch: Some rows of the shard, with those of COLUMNS that its file has.

        Raises:
            ValueError: A column has another type than in the schema.
        """
        row = np.arange(first, first + len(batch))
        if not batch.schema.equals(_READ):
            batch = _in_schema(batch)
        known = int(np.sum(_known(batch)))
        new = (batch, row, ranks(shard, row))
        self.update(Sample(len(batch), known, _new=[new], _held=len(batch)))

    def add_thumbnails(self, keys: pa.Array, jpegs: pa.Array) -> None:
        """Adds the thumbnails ``(n,)`` of photos, named by key; all rows are of one shard."""
        table = self.table
        found = pc.index_in(table["key"], value_set=keys)
        jpeg = pc.coalesce(table["thumbnail"], pc.take(jpegs, found.combine_chunks()))
        at = table.schema.get_field_index("thumbnail")
        self._tables = [_cut(table.set_column(at, SCHEMA.field("thumbnail"), jpeg))]

    def update(self, other: Sample) -> None:
        """Adds the rows of another part of the run."""
        self.rows += other.rows
        self.known += other.known
        self._tables += other._tables
        self._new += other._new
        self._held += other._held
        if self._held > 2 * (ROWS + KNOWN_ROWS):
            self._held = len(self.table)

    @property
    def table(self) -> pa.Table:
        """The rows of the sample with the columns of SCHEMA, in the order of their ranks."""
        if self._new:
            batches, rows, order = zip(*self._new, strict=True)
            columns = pa.Table.from_batches(batches).combine_chunks()
            numbers = [pa.array(np.concatenate(one)) for one in (rows, order)]
            nothing = pa.nulls(len(columns), pa.binary())
            table = pa.Table.from_arrays([*columns.columns, *numbers, nothing], schema=SCHEMA)
            self._tables, self._new = [*self._tables, table], []
        self._tables = [_cut(pa.concat_tables(self._tables or [SCHEMA.empty_table()]))]
        return self._tables[0]

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what no longer belongs to the sample."""
        table = self.table
        return {**self.__dict__, "_tables": [table], "_held": len(table)}


def _in_schema(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = []
    for name in COLUMNS:
        kind = SCHEMA.field(name).type
        there = name in batch.schema.names
        columns.append(batch[name].cast(kind) if there else pa.nulls(len(batch), kind))
    return pa.RecordBatch.from_arrays(columns, schema=_READ)


def _known(table: pa.Table | pa.RecordBatch) -> NDArray[np.bool_]:
    """Whether each row has a known position, ``(n,)``."""
    return np.any([table[f"{kind}_latitude"].is_valid() for kind in KINDS], axis=0)


def _cut(table: pa.Table) -> pa.Table:
    """Keeps the rows, and the thumbnails, of the lowest ranks."""
    order = [(name, "ascending") for name in ("rank", "shard", "row")]
    table = table.take(pc.sort_indices(table, order)).combine_chunks()
    known = _known(table)
    kept = (np.arange(len(table)) < ROWS) | (known & (np.cumsum(known) <= KNOWN_ROWS))
    if not kept.all():
        table = table.filter(pa.array(kept))
    size = np.asarray(pc.fill_null(pc.binary_length(table["thumbnail"]), 0), np.int64)
    if size.sum() > THUMBNAIL_BYTES:
        # With the one that fills it: of what follows none fits in any larger part either.
        fits = pa.array(np.cumsum(size) - size < THUMBNAIL_BYTES)
        jpeg = pc.if_else(fits, table["thumbnail"], pa.scalar(None, pa.binary()))
        at = table.schema.get_field_index("thumbnail")
        table = table.set_column(at, SCHEMA.field("thumbnail"), jpeg)
    return table.combine_chunks()

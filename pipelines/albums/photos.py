"""Photos on their way to their albums: tables whose rows a hash of the album spreads over buckets.

A bucket holds whole albums and is written as one file. Its rows have a fixed order, whoever read
them, so that a digest of them tells whether the file of an earlier run is still right. Knows no
Beam.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from locdiffusion.evaluate.known_positions import (
    POSITION_COLUMNS,
    SOURCE_COLUMNS,
    KnownPositions,
    known_positions,
)
from schemas import geoparquet
from schemas.albums import ALBUM_SCHEMA
from schemas.geotags import PREDICTION_SCHEMA, with_kept
from schemas.layers import EMBEDDING

_MADE_LATER = (geoparquet.GEOMETRY, geoparquet.BBOX)
PREDICTED = pa.schema(
    ALBUM_SCHEMA.field(name) for name in PREDICTION_SCHEMA.names if name not in _MADE_LATER
)
"""The columns of a prediction, without those that follow from the others."""
PHOTOS = pa.schema(
    [
        *PREDICTED,
        pa.field("album", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("hours", pa.float64()),
        pa.field("zoned", pa.bool_(), nullable=False),
        pa.field("known_latitude", pa.float64()),
        pa.field("known_longitude", pa.float64()),
    ]
)
"""Columns of photos: `row` is its number where it was read, `hours` count from 1970, in UTC where
the photo is `zoned`; the known position is in degrees. `embedding` may follow."""

PHOTOS_OF_BUCKET = 4096
"""Most photos of a bucket, on the average; a bucket is what a stopped job loses at most."""
_ORDER = [(name, "ascending") for name in ("album", "hours", "shard", "row")]


def bucket_count(photos: int) -> int:
    """Number of buckets for so many photos: a power of two, so that it seldom changes."""
    return 1 << max(0, -(-photos // PHOTOS_OF_BUCKET) - 1).bit_length()


def photo_table(
    columns: Mapping[str, Any], embeddings: pa.Array | None = None, keep: Sequence[str] = ()
) -> pa.Table:
    """Builds a table of photos.

    Args:
        columns: Columns of PHOTOS by name, N values each; missing ones are null, `row` counts.
        embeddings: Embeddings of the photos, lists of fixed length, null where there is none.
        keep: Names of further columns of text, which the rows of albums have, too.
    """
    count = len(columns["key"])
    given = {"row": np.arange(count), **columns}
    for name, other, most in (("latitude", "longitude", 90.0), ("longitude", "latitude", 180.0)):
        # What is no position is not known, whoever wrote it.
        degrees, beside = (np.asarray(columns[f"known_{one}"], np.float64) for one in (name, other))
        sound = (np.abs(degrees) <= most) & (np.abs(beside) <= 270.0 - most)
        given[f"known_{name}"] = np.where(sound, degrees, np.nan)
    schema = with_kept(PHOTOS, keep)
    arrays = [_array(given.get(field.name), field, count) for field in schema]
    table = pa.Table.from_arrays(arrays, schema=schema)
    return table if embeddings is None else table.append_column(EMBEDDING, embeddings)


def _array(values: Any, field: pa.Field, count: int) -> pa.Array:
    if values is None:
        return pa.nulls(count, field.type)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        return values.cast(field.type)
    return pa.array(values, field.type, from_pandas=field.nullable)


def spread(photos: pa.Table, buckets: int) -> Iterator[tuple[int, bytes]]:
    """Yields the number of each bucket that has some of the photos, and these as bytes."""
    albums = photos["album"].combine_chunks().dictionary_encode()
    numbers = [bucket_of(name, buckets) for name in albums.dictionary.to_pylist()]
    bucket = np.array(numbers, np.int64)[albums.indices.to_numpy()]
    for number in np.unique(bucket).tolist():
        yield number, to_bytes(photos.filter(pa.array(bucket == number)))


def bucket_of(album: str, buckets: int) -> int:
    """Number of the bucket of an album."""
    digest = hashlib.blake2b(album.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % buckets


def gathered(parts: Iterable[bytes]) -> pa.Table:
    """Joins the photos of a bucket, albums one after the other, each in the order of its times."""
    tables = [pa.ipc.open_stream(part).read_all() for part in parts]
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    return table.take(pc.sort_indices(table, _ORDER)).combine_chunks()


def digest(photos: pa.Table, settings: str) -> str:
    """Computes 32 digits that tell the photos of a bucket, and the settings, from all others."""
    made = hashlib.sha256(settings.encode())
    made.update(to_bytes(photos, None))
    return made.hexdigest()[:32]


def to_bytes(table: pa.Table, compression: str | None = "lz4") -> bytes:
    """A table as a stream of Arrow."""
    buffer = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(buffer, table.schema, options=options) as stream:
        stream.write_table(table)
    return bytes(buffer.getvalue())


def album_slices(photos: pa.Table) -> list[slice]:
    """Rows of each album of a bucket, in their order."""
    starts = np.flatnonzero(_changes(photos["album"].combine_chunks()))
    ends = [*starts[1:].tolist(), len(photos)]
    return [slice(start, end) for start, end in zip(starts.tolist(), ends, strict=True)]


def _changes(names: pa.Array) -> NDArray[np.bool_]:
    codes = names.dictionary_encode().indices.to_numpy()
    return np.diff(codes, prepend=-1) != 0


def kept_columns(photos: pa.Table) -> list[str]:
    """Names of the columns of photos that are fields of documents, taken along."""
    return [name for name in photos.column_names if name not in (*PHOTOS.names, EMBEDDING)]


def numbers(photos: pa.Table, name: str) -> NDArray[np.float64]:
    """A column as numbers, NaN for null."""
    return np.array(photos[name].to_numpy(zero_copy_only=False), np.float64)


def positions(table: pa.Table) -> KnownPositions:
    """The known positions of rows of predictions; what an earlier run wrote is none."""
    degrees = {name: numbers(table, name) for name in POSITION_COLUMNS}
    return known_positions(degrees | {name: table[name].to_pylist() for name in SOURCE_COLUMNS})

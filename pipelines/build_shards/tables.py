"""Converts records to tables and back; tables travel between the steps of a build.

A table is one block of bytes, which costs far less to hold and to shuffle than a million records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.build_shards.stable_hash import PARTITION, stable_hashes
from pipelines.sources import webdataset
from pipelines.sources.record import ImageRef, Record, photo_id

IMAGE_COLUMNS = {
    "image_kind": pa.string(),
    "image_url": pa.string(),
    "image_offset": pa.int64(),
    "image_length": pa.int64(),
}

RECORDS = pa.schema(
    [
        ("photo", pa.string()),  # identity: by this, records are the same
        ("rank", pa.uint64()),
        ("key", pa.string()),
        ("author", pa.string()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("source", pa.string()),
        ("accuracy", pa.int8()),
        ("licence", pa.string()),
        ("url", pa.string()),
        ("hash", pa.string()),
        *IMAGE_COLUMNS.items(),
    ]
)

LINKS = pa.schema([("photo", pa.string()), ("hash", pa.string()), *IMAGE_COLUMNS.items()])
"""Rows of the lists that tell where the image of a photo is: by its hash, or directly."""


def record_table(
    records: Sequence[Record], seed: int, images: Sequence[ImageRef | None] | None = None
) -> pa.Table:
    """Converts records to a table of RECORDS, with the rank of each photo."""
    if images is None:
        images = [record.image for record in records]
    photos = [identity(record) for record in records]
    columns: dict[str, Any] = {
        "photo": photos,
        "rank": stable_hashes(photos, seed),
        **image_columns(images),
    }
    for name in RECORDS.names:
        if name not in columns:
            columns[name] = [getattr(record, name) for record in records]
    return table_of(columns, RECORDS)


def identity(record: Record) -> str:
    """Returns the id by which two records are the same photo.

    It is Flickr's number, but in other shards `a/0001` and `b/0001` are two photos.
    """
    own = record.source == webdataset.SOURCE and "/" in record.key
    return record.key if own else photo_id(record.key)


def link_table(links: Sequence[tuple[str, str | ImageRef]]) -> pa.Table:
    """Converts pairs of a key and its hash, or its image, to a table of LINKS."""
    images = [target if isinstance(target, ImageRef) else None for _, target in links]
    columns = {
        "photo": [photo_id(key) for key, _ in links],
        "hash": [target if isinstance(target, str) else None for _, target in links],
        **image_columns(images),
    }
    return table_of(columns, LINKS)


def image_columns(images: Sequence[ImageRef | None]) -> dict[str, list[object]]:
    """Converts places of images to the values of IMAGE_COLUMNS."""
    return {
        f"image_{name}": [None if image is None else getattr(image, name) for image in images]
        for name in ("kind", "url", "offset", "length")
    }


def table_of(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """Makes a table of a schema from the values of its columns."""
    arrays = [pa.array(columns[field.name], type=field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def records(table: pa.Table) -> Iterator[Record]:
    """Yields the records of a table."""
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            place = [row.pop(name) for name in IMAGE_COLUMNS]
            del row["photo"], row["rank"]
            yield Record(**row, image=None if place[0] is None else ImageRef(*place))


def in_order(table: pa.Table) -> pa.Table:
    """Sorts rows by rank and then by all columns, whatever order they arrived in."""
    rest = [name for name in table.column_names if name not in ("rank", "photo")]
    first = [name for name in ("rank", "photo") if name in table.column_names]
    return table.sort_by([(name, "ascending") for name in [*first, *rest]])


def to_bytes(table: pa.Table) -> bytes:
    """Converts a table to bytes that Beam can shuffle."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def from_bytes(pieces: Iterable[bytes], schema: pa.Schema) -> pa.Table:
    """Joins tables in bytes to one table, which is empty if there are none."""
    tables = [pa.ipc.open_stream(piece).read_all() for piece in pieces]
    return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()


def partition_of(names: Sequence[str], seed: int, partitions: int) -> NDArray[np.int64]:
    """Returns the partition of each name, int64 ``(N,)``."""
    return (stable_hashes(names, seed, PARTITION) % np.uint64(partitions)).astype(np.int64)


def codes(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """Encodes a column of text as numbers into the list of its distinct values."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), (
        encoded.dictionary.to_pylist()
    )


def split_rows(table: pa.Table, parts: NDArray[np.int64]) -> Iterator[tuple[int, pa.Table]]:
    """Divides rows into parts.

    Args:
        table: N rows.
        parts: Part of each row, int64 ``(N,)``.

    Yields:
        Each part that has rows, in order, and its rows in their order.
    """
    order = np.argsort(parts, kind="stable")
    found, starts = np.unique(parts[order], return_index=True)
    stops = np.append(starts[1:], len(order))[: len(starts)]  # of no row, there is no part
    for part, start, stop in zip(found, starts, stops, strict=True):
        yield int(part), table.take(pa.array(order[start:stop]))

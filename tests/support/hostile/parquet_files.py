"""Parquet files of a few kilobytes that would take gigabytes, or overflow Arrow's stack."""

from __future__ import annotations

import io
import resource
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from locdiffusion.isolation.parquet import ParquetError, read_parquet

ROWS = 300_000_000
I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12
INT32, BYTE_ARRAY = 1, 6
PLAIN, RLE, RLE_DICTIONARY = 0, 3, 8


def varint(value: int) -> bytes:
    """Writes an unsigned number, seven bits to a byte."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def thrift(fields: Mapping[int, tuple[int, Any]]) -> bytes:
    """Writes a struct in Thrift's compact protocol: kind and value by the fields' ids."""
    out, last = b"", 0
    for number, (kind, value) in fields.items():
        out += bytes([number - last << 4 | kind])
        last = number
        if kind in (I32, I64):
            out += varint(value << 1 ^ value >> 63)
        elif kind == BINARY:
            out += varint(len(value)) + value
        elif kind == STRUCT:
            out += thrift(value)
        else:
            element, items = value
            out += bytes([0xF0 | element]) + varint(len(items)) + b"".join(items)
    return out + b"\0"


def column_schema(name: bytes, kind: int) -> bytes:
    """A required column."""
    return thrift({1: (I32, kind), 3: (I32, 0), 4: (BINARY, name)})


def group_schema(children: int) -> bytes:
    """The root of a schema, or a struct."""
    return thrift({3: (I32, 0), 4: (BINARY, b"a"), 5: (I32, children)})


def page(kind: int, unpacked: int, data: bytes, part: int, details: dict[int, Any]) -> bytes:
    """A page with its header."""
    header = {1: (I32, kind), 2: (I32, unpacked), 3: (I32, len(data)), part: (STRUCT, details)}
    return thrift(header) + data


def values_page(
    count: int, data: bytes, encoding: int = RLE_DICTIONARY, unpacked: int = 0
) -> bytes:
    """A page of values, of the first version."""
    details = {1: (I32, count), 2: (I32, encoding), 3: (I32, RLE), 4: (I32, RLE)}
    return page(0, unpacked or len(data), data, 5, details)


def written(
    schema: Sequence[bytes], groups: Sequence[bytes], rows: int, pages: bytes = b""
) -> bytes:
    """A file of pages and a footer."""
    footer = thrift(
        {1: (I32, 2), 2: (LIST, (STRUCT, schema)), 3: (I64, rows), 4: (LIST, (STRUCT, groups))}
    )
    return b"PAR1" + pages + footer + struct.pack("<I", len(footer)) + b"PAR1"


def one_column(
    pages: bytes,
    rows: int,
    told: int | None = None,
    kind: int = INT32,
    codec: int = 0,
    more: Mapping[int, tuple[int, Any]] | None = None,
) -> bytes:
    """A file of one column that begins behind the first four bytes."""
    told = len(pages) if told is None else told
    chunk = {
        1: (I32, kind),
        2: (LIST, (I32, [varint(RLE_DICTIONARY << 1)])),
        3: (LIST, (BINARY, [b"\1x"])),
        4: (I32, codec),
        5: (I64, rows),
        6: (I64, told),
        7: (I64, len(pages)),
        9: (I64, 4),
        **(more or {}),
    }
    group = thrift(
        {
            1: (LIST, (STRUCT, [thrift({2: (I64, 4), 3: (STRUCT, chunk)})])),
            2: (I64, told),
            3: (I64, rows),
        }
    )
    return written([group_schema(1), column_schema(b"x", kind)], [group], rows, pages)


def many_rows() -> bytes:
    """Three hundred million times the one number of a dictionary."""
    dictionary = page(2, 4, b"\7\0\0\0", 7, {1: (I32, 1), 2: (I32, PLAIN)})
    return one_column(dictionary + values_page(ROWS, b"\1" + varint(ROWS << 1) + b"\0"), ROWS)


def large_page() -> bytes:
    """A page that unpacks to two gigabytes, which the footer does not tell."""
    data = bytes(pa.compress(bytes(4000), "zstd"))
    return one_column(values_page(1000, data, PLAIN, 2**31 - 1), 1000, told=4000, codec=6)


def large_dictionary() -> bytes:
    """A dictionary of two thousand million strings, as its header says."""
    dictionary = page(2, 4, b"\0\0\0\0", 7, {1: (I32, 2**31 - 1), 2: (I32, PLAIN)})
    pages = dictionary + values_page(1, b"\1\2\0")
    return one_column(pages, 1, kind=BYTE_ARRAY)


def long_values() -> bytes:
    """One string of 28,000 bytes in a dictionary, three hundred thousand times."""
    indices = np.zeros(300_000, np.int32)
    column = pa.DictionaryArray.from_arrays(indices, pa.array(["p" * 28_000]))
    return packed(pa.table({"id": column, "latitude": indices * 0.0}), compression="zstd")


def shared_prefixes() -> bytes:
    """Strings of 28,000 bytes that repeat the one before, by DELTA_BYTE_ARRAY."""
    part = pa.table({"id": ["p" * 28_000] * 500})
    buffer = io.BytesIO()
    how = {"use_dictionary": False, "column_encoding": {"id": "DELTA_BYTE_ARRAY"}}
    with pq.ParquetWriter(
        buffer, part.schema, compression="zstd", write_statistics=False, **how
    ) as file:
        for _ in range(30):
            file.write_table(part)
    return buffer.getvalue()


def deep_schema() -> bytes:
    """A struct in a struct, a hundred thousand times."""
    levels = 100_000
    return written([*[group_schema(1)] * levels, column_schema(b"x", INT32)], [], 0)


def many_chunks() -> bytes:
    """Four million descriptions of columns, of three bytes each."""
    columns = groups = 2000
    group = thrift(
        {1: (LIST, (STRUCT, [thrift({2: (I64, 0)})] * columns)), 2: (I64, 0), 3: (I64, 0)}
    )
    schema = [group_schema(columns), *[column_schema(b"x", INT32)] * columns]
    return written(schema, [group] * groups, 0)


def aborting() -> bytes:
    """A histogram of two levels for a column of one; Arrow's exception ends the process."""
    pages = values_page(1, b"\0\0\0\0", PLAIN)
    histogram = {16: (STRUCT, {3: (LIST, (I64, [varint(2), varint(2)]))})}
    return one_column(pages, 1, more=histogram)


def packed(table: pa.Table, **how: Any) -> bytes:
    """Writes a table."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **how)
    return buffer.getvalue()


PARQUETS: dict[str, Callable[[], bytes]] = {
    "many_rows.parquet": many_rows,
    "large_page.parquet": large_page,
    "large_dictionary.parquet": large_dictionary,
    "long_values.parquet": long_values,
    "shared_prefixes.parquet": shared_prefixes,
    "deep_schema.parquet": deep_schema,
    "aborting.parquet": aborting,
    "many_chunks.parquet": many_chunks,
}


def peak_of_reading(name: bytes) -> bytes:
    """Reads a file as the product does, in a process that has not grown before.

    Returns:
        The most memory that the product's child took, and the size of the file, in bytes.
    """
    data = PARQUETS[name.decode()]()
    try:
        read_parquet(data)
    except ParquetError:
        peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        return f"{peak} {len(data)}".encode()
    raise AssertionError("it was read")

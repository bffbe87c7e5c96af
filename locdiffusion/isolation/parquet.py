"""Reads Parquet files of strangers in bounds: what a file holds is known before it is unpacked.

A footer is no bound. Its numbers may lie, a page of a few bytes may unpack to two gigabytes, and a
dictionary writes one value of a megabyte a million times in a kilobyte. So the headers of the pages
are added up, and columns with a dictionary are read as such and measured before they are written
out. What is damaged may still end the process, since Arrow throws where nobody catches, so all
of it happens in a child. Only flat columns are read: nothing that is asked for is a list.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from locdiffusion.isolation import IsolatedError, IsolatedFunction, Limits, OverrunError

MOST_BYTES = 4 * 2**30
"""Most bytes that a table may take: MP-16's list of 4.7 million photos takes a quarter of it."""
FREE_BYTES, MOST_RATIO = 256 * 2**20, 100
"""A file of n bytes may take FREE_BYTES + MOST_RATIO n bytes, up to MOST_BYTES."""
VALUE_BYTES, PAGE_BYTES = 64, 1024
"""What a value costs at least once Python holds it, and what a page costs."""
FOOTER_BYTES, FOOTER_SHARE = 2 * 2**20, 100
"""A file of n bytes may have a footer of FOOTER_BYTES + n / FOOTER_SHARE bytes: Arrow takes 230
times as much memory for it."""
MOST_COLUMNS = 5_000
"""Most columns, groups of rows, and levels of nesting: at 20,000 levels Arrow's stack overflows."""
PREFIXED, BATCH_BYTES = 7, 64 * 2**20
"""DELTA_BYTE_ARRAY, in which a value of no bytes repeats the one before; it is read in batches."""


DICTIONARY_PAGE = 2
PAGE_PARTS = {0: (5, 2), DICTIONARY_PAGE: (7, 2), 3: (8, 4)}
"""Kinds of pages; the struct in their header, by Thrift's ids, and the encoding in it."""


CPU_S, BYTES_PER_S = 60.0, 2_000_000
"""Seconds of CPU time for any file, and bytes of it that a second more suffices for."""


class ParquetError(ValueError):
    """A file is no Parquet, or would take too much memory; the message names no file."""


def read_parquet(
    source: str | os.PathLike[str] | bytes, columns: Collection[str] | None = None
) -> pa.Table:
    """Reads the flat columns of a Parquet file of a stranger, in a child process.

    Args:
        source: Path of a local file, or its bytes.
        columns: Names of the columns to read, as far as they are there; None reads all.

    Returns:
        The table, with the metadata of the file's schema. Nested columns are left out.

    Raises:
        OSError: The file cannot be opened.
        ParquetError: The file is damaged, or too large for its size.
    """
    if isinstance(source, bytes):
        size, content = len(source), source
    else:
        with open(source, "rb") as file:
            size, content = os.fstat(file.fileno()).st_size, os.fsencode(os.path.abspath(source))
    request = {"columns": columns and list(columns), "mapped": not isinstance(source, bytes)}
    # In memory are the file, the table and two copies of it on its way.
    limits = Limits(2**30 + size + 3 * most_bytes(size), CPU_S + size / BYTES_PER_S)
    child = IsolatedFunction(packed_table, limits)
    try:
        answer = child(json.dumps(request).encode() + b"\n" + content)
    except (IsolatedError, OverrunError) as error:
        raise ParquetError(str(error).removeprefix("ParquetError: ")) from error
    finally:
        child.close()
    return pa.ipc.open_stream(answer).read_all()


def packed_table(request: bytes) -> bytes:
    """Reads a table as a child process does.

    Args:
        request: A line of JSON, `columns` and whether the file is `mapped`; then its path or bytes.

    Returns:
        The table as a stream of Arrow.
    """
    head, _, content = request.partition(b"\n")
    asked = json.loads(head)
    table = bounded_table(
        _mapped(os.fsdecode(content)) if asked["mapped"] else pa.py_buffer(content),
        asked["columns"],
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def most_bytes(size: int) -> int:
    """Returns how many bytes a table may take from a file of some size."""
    return min(MOST_BYTES, FREE_BYTES + MOST_RATIO * size)


def _mapped(path: str | os.PathLike[str]) -> pa.Buffer:
    with pa.memory_map(os.fspath(path)) as file:
        return file.read_buffer()


def bounded_table(buffer: pa.Buffer, columns: Collection[str] | None = None) -> pa.Table:
    """Does what `read_parquet` does in this process, which a damaged file may end.

    Raises:
        ParquetError: The file is damaged, or too large for its size.
        Exception: Of Arrow, if the file is damaged.
    """
    data = memoryview(buffer).cast("B")
    size, footer = len(data), int.from_bytes(data[-8:-4], "little")
    if bytes(data[-4:]) != b"PAR1" or not 0 < footer <= size - 12:
        raise ParquetError("the file does not end as Parquet does")
    if footer > FOOTER_BYTES + size // FOOTER_SHARE:
        raise ParquetError(
            f"the footer has {footer:,} bytes of the file's {size:,}; write it with larger groups "
            "of rows, or fewer columns"
        )
    opened = _open(buffer)
    metadata, schema = opened.metadata, opened.schema_arrow
    budget = Budget(most_bytes(size))
    flat: dict[str, pa.ChunkedArray] = {}
    for number, name in _flat(metadata, schema):
        if columns is None or name in columns:
            pages = _pages(data, metadata, number, budget)
            dictionary = [name] if pages.dictionary else None
            flat[name] = _column(_open(buffer, metadata, dictionary), name, pages, budget)
    kept = [pa.field(name, column.type) for name, column in flat.items()]
    return pa.Table.from_arrays([*flat.values()], schema=pa.schema(kept, schema.metadata))


def _flat(metadata: Any, schema: pa.Schema) -> list[tuple[int, str]]:
    """Lists number and name of the columns that are neither nested nor repeated."""
    names = set(schema.names)
    leaves = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    found = [
        (number, leaf.path)
        for number, leaf in enumerate(leaves)
        if not leaf.max_repetition_level and leaf.path in names
    ]
    # Arrow reads all columns whose path begins with a name.
    heads = Counter(leaf.path.partition(".")[0] for leaf in leaves)
    for _, name in found:
        if (
            heads[name.partition(".")[0]] > 1
            and sum(f"{leaf.path}.".startswith(f"{name}.") for leaf in leaves) > 1
        ):
            raise ParquetError(f"two columns have the name {name!r}")
    return found


@dataclass
class Budget:
    """Memory that may still be taken.

    Attributes:
        left: Number of bytes.
    """

    left: int

    def spend(self, size: int) -> None:
        """Takes some bytes.

        Raises:
            ParquetError: So many are not left.
        """
        if size < 0:
            raise ParquetError("a size is negative")
        self.left -= size
        if self.left < 0:
            raise ParquetError(
                "its columns take more memory than a file of its size may; write it with fewer "
                "rows or shorter values"
            )


def _open(
    buffer: pa.Buffer, metadata: Any = None, dictionary: list[str] | None = None
) -> pq.ParquetFile:
    return pq.ParquetFile(
        pa.BufferReader(buffer),
        metadata=metadata,
        read_dictionary=dictionary,
        thrift_container_size_limit=MOST_COLUMNS,
        pre_buffer=False,
    )


class Pages(NamedTuple):
    """What the headers of a column's pages tell.

    Attributes:
        dictionary: Whether there is a dictionary.
        prefixed: Size in bytes of the largest page whose values share prefixes.
    """

    dictionary: bool
    prefixed: int


def _pages(data: memoryview, metadata: Any, number: int, budget: Budget) -> Pages:
    """Adds up the pages of a column, and what its values take at least."""
    dictionary, prefixed = False, 0
    width = max(VALUE_BYTES, metadata.schema.column(number).length)
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group)
        chunk = rows.column(number)
        starts = (chunk.dictionary_page_offset or chunk.data_page_offset, chunk.data_page_offset)
        position, values = min(starts), 0
        while values < chunk.num_values:  # Arrow reads no further either
            header = PageHeader(data, position)
            budget.spend(PAGE_BYTES + header.bytes)
            if header.kind == DICTIONARY_PAGE:
                dictionary = True
                budget.spend(VALUE_BYTES * header.values)
            else:
                values += header.values
            if header.encoding == PREFIXED:
                prefixed = max(prefixed, header.bytes)
            position = header.page_end
        budget.spend(width * max(values, chunk.num_values, rows.num_rows))
    return Pages(dictionary, prefixed)


def _column(file: pq.ParquetFile, name: str, pages: Pages, budget: Budget) -> pa.ChunkedArray:
    """Reads a column; one with a dictionary is measured before it is written out."""
    if pages.prefixed:
        parts = []
        for batch in file.iter_batches(max(1, BATCH_BYTES // pages.prefixed), columns=[name]):
            budget.spend(batch.nbytes)
            parts.append(batch.column(0))
        column = pa.chunked_array(parts, file.schema_arrow.field(name).type)
    else:
        column = file.read(columns=[name]).column(0)
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array(
            [part.storage for part in column.chunks], column.type.storage_type
        )
    if not pa.types.is_dictionary(column.type):
        return column
    for part in column.chunks:
        if pa.types.is_primitive(part.dictionary.type):
            continue
        lengths = pc.binary_length(part.dictionary.cast(pa.large_binary()))
        budget.spend(pc.sum(lengths.take(part.indices)).as_py() or 0)
    return column.cast(column.type.value_type)


class PageHeader:
    """The header of a page, in Thrift's compact protocol.

    Args:
        data: Bytes of the file.
        position: First byte of the header.

    Attributes:
        kind: Number of the kind of page.
        bytes: Size in bytes that the page unpacks to.
        page_end: Position behind the page.
        values: Number of values, of a page of data or a dictionary.
        encoding: Number of the encoding of its values.

    Raises:
        ParquetError: No header of a page lies there.
    """

    def __init__(self, data: memoryview, position: int) -> None:
        self._data, self._position = data, position
        fields = self._struct(depth=0)
        self.kind, self.bytes, packed = (_number(fields, field) for field in (1, 2, 3))
        self.page_end = self._position + packed
        parts, encoding = PAGE_PARTS.get(self.kind, (0, 0))
        details = fields.get(parts)
        if not isinstance(details, dict):
            raise ParquetError("the header of a page tells nothing of its values")
        self.values, self.encoding = _number(details, 1), _number(details, encoding)

    def _struct(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while first := self._byte():
            step, kind = first >> 4, first & 15
            number = number + step if step else self._signed()
            # Thrift would take the parts of both.
            if number in fields or depth > 3:
                raise ParquetError("the header of a page repeats a field")
            fields[number] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):  # the kind is the value: true, false
            return None
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            self._position += 8
            return None
        if kind == 8:
            length = self._varint()
            self._position += length
            return None
        if kind == 12:
            return self._struct(depth + 1)
        raise ParquetError(f"the header of a page holds a value of the unknown kind {kind}")

    def _signed(self) -> int:
        value = self._varint()
        return -(value >> 1) - 1 if value & 1 else value >> 1

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ParquetError("the header of a page holds a number that does not end")

    def _byte(self) -> int:
        if not 0 <= self._position < len(self._data):
            raise ParquetError("the header of a page goes beyond the file")
        self._position += 1
        return self._data[self._position - 1]


def _number(fields: dict[int, Any], field: int) -> int:
    found = fields.get(field)
    if not isinstance(found, int) or found < 0:
        raise ParquetError("the header of a page lacks a number, or it is negative")
    return found

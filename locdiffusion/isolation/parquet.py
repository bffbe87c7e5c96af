"""Reads Parquet files of strangers in bounds: a kilobyte must not become gigabytes.

What a footer says is no bound. Its numbers may lie, a page of a few bytes may unpack to two
gigabytes, and a dictionary writes one value of a megabyte a million times in a kilobyte. What is
damaged may end the process, since Arrow throws where nobody catches. So a file is read in a child
process, whose memory is limited by the size of the file. Only flat columns are read, and lists of a
fixed length that are asked for by name.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from locdiffusion.isolation import IsolatedError, IsolatedFunction, Limits, OverrunError

MOST_BYTES = 4 * 2**30
"""Most bytes that a table may take: MP-16's list of 4.7 million photos takes a quarter of it."""
FREE_BYTES, MOST_RATIO = 256 * 2**20, 30
"""A file of n bytes may take FREE_BYTES + MOST_RATIO n bytes, up to MOST_BYTES."""
MOST_COLUMNS = 5_000
"""Most columns, and most groups of rows."""
CPU_S, BYTES_PER_S = 60.0, 2_000_000
"""Seconds of CPU time for any file, and bytes of it that a second more suffices for."""


HEADER = -1
"""Number of a group that stands for the names and types of the columns alone."""
ROW_GROUPS = b"row_groups"
"""Metadata with the number of groups, where one of them was asked for."""


class ParquetError(ValueError):
    """A file is no Parquet, or would take too much memory; the message names no file."""


def read_parquet(
    source: str | os.PathLike[str] | bytes,
    columns: Collection[str] | None = None,
    lists: Collection[str] = (),
) -> pa.Table:
    """Reads the flat columns of a Parquet file of a stranger, in a child process.

    Args:
        source: Path of a local file, or its bytes.
        columns: Names of the columns to read, as far as they are there; None reads all.
        lists: Names of columns of lists of a fixed length that are read, too.

    Returns:
        The table, with the metadata of the file's schema. Nested columns are left out.

    Raises:
        OSError: The file cannot be opened.
        ParquetError: The file is damaged, or too large for its size.
    """
    [table] = read_parquets([source], columns, lists)
    return table


def read_parquets(
    sources: Sequence[str | os.PathLike[str] | bytes],
    columns: Collection[str] | None = None,
    lists: Collection[str] = (),
) -> Iterator[pa.Table]:
    """Reads files as `read_parquet` does, one after the other in one child process.

    Args:
        sources: Paths of local files, or their bytes; at least one.
        columns: Names of the columns to read, as far as they are there; None reads all.
        lists: Names of columns of lists of a fixed length that are read, too.

    Yields:
        The table of each file.

    Raises:
        OSError: A file cannot be opened.
        ParquetError: The file whose turn it is is damaged, or too large for its size.
    """
    size = max(len(one) if isinstance(one, bytes) else os.path.getsize(one) for one in sources)
    most = most_bytes(size)
    # In memory are the file, the table, and the answer.
    limits = Limits(size + 2 * most, CPU_S + size / BYTES_PER_S, reply_bytes=most + size)
    child = IsolatedFunction(packed_table, limits)
    try:
        for source in sources:
            mapped = not isinstance(source, bytes)
            content = source if isinstance(source, bytes) else os.fsencode(os.path.abspath(source))
            request = {"columns": columns and list(columns), "mapped": mapped, "lists": list(lists)}
            answer = child(json.dumps(request).encode() + b"\n" + content)
            yield pa.ipc.open_stream(answer).read_all()
    except (IsolatedError, OverrunError) as error:
        raise ParquetError(str(error).removeprefix("ParquetError: ")) from error
    finally:
        child.close()


def row_groups(path: str, choose: Callable[[Sequence[str]], Collection[str]]) -> Iterator[pa.Table]:
    """Reads the groups of rows of a file, one after the other, as `read_parquet` does.

    Args:
        path: Path of a local file.
        choose: Function from the names of the flat columns to those that are read.

    Yields:
        The table of each group; an empty one if there is none.

    Raises:
        OSError: The file cannot be opened.
        ParquetError: The file is damaged, or all its groups are too large for its size.
    """
    size = os.path.getsize(path)
    most = left = most_bytes(size)
    limits = Limits(size + 2 * most, CPU_S + size / BYTES_PER_S, reply_bytes=most + size)
    child = IsolatedFunction(packed_table, limits)

    def read(columns: Collection[str] | None, group: int) -> pa.Table:
        request = {"columns": columns and list(columns), "mapped": True, "group": group}
        place = os.fsencode(os.path.abspath(path))
        return pa.ipc.open_stream(child(json.dumps(request).encode() + b"\n" + place)).read_all()

    try:
        empty = read(None, HEADER)
        columns = choose(empty.column_names)
        count = int(empty.schema.metadata[ROW_GROUPS])
        if not count:
            yield empty
        for group in range(count):
            table = read(columns, group)
            left -= table.nbytes
            if left < 0:
                raise ParquetError(f"its columns take more than {most >> 20:,} MiB of memory")
            yield table
    except (IsolatedError, OverrunError) as error:
        raise ParquetError(str(error).removeprefix("ParquetError: ")) from error
    finally:
        child.close()


def packed_table(request: bytes) -> bytes:
    """Reads a table as a child process does.

    Args:
        request: A line of JSON, `columns`, whether the file is `mapped`, and perhaps `lists` and
            the `group` of rows; then its path or bytes.

    Returns:
        The table as a stream of Arrow.
    """
    head, _, content = request.partition(b"\n")
    asked = json.loads(head)
    table = flat_table(
        _mapped(os.fsdecode(content)) if asked["mapped"] else pa.py_buffer(content),
        asked["columns"],
        asked.get("lists", ()),
        asked.get("group"),
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


def flat_table(
    buffer: pa.Buffer,
    columns: Collection[str] | None = None,
    lists: Collection[str] = (),
    group: int | None = None,
) -> pa.Table:
    """Reads flat columns in this process, which must be a child: a damaged file may end it.

    Args:
        buffer: Bytes of the file.
        columns: Names of the columns to read, as far as they are there; None reads all.
        lists: Names of columns of lists of a fixed length that are read, too.
        group: Group of rows to read; HEADER reads none, None all.

    Raises:
        ParquetError: Two columns have one name, or the table is too large for its file.
        Exception: Of Arrow, if the file is damaged.
    """
    opened = pq.ParquetFile(
        pa.BufferReader(buffer), thrift_container_size_limit=MOST_COLUMNS, pre_buffer=False
    )
    names = _flat_columns(opened)
    fields = opened.schema_arrow
    names = [one for one in names if columns is None or one in columns]
    for one in lists:
        if fields.names.count(one) == 1 and pa.types.is_fixed_size_list(fields.field(one).type):
            names.append(one)
    if group == HEADER:
        table = pa.schema([fields.field(name) for name in names]).empty_table()
    elif group is not None:
        table = opened.read_row_group(group, columns=names)
    else:
        table = opened.read(columns=names)
    flat = [_plain(column) for column in table.columns]
    metadata = dict(opened.schema_arrow.metadata or {})
    if group is not None:
        metadata[ROW_GROUPS] = str(opened.metadata.num_row_groups).encode()
    table = pa.table(flat, table.column_names, metadata=metadata)
    if table.nbytes > most_bytes(len(buffer)):
        raise ParquetError(
            f"its columns take {table.nbytes >> 20:,} MiB of memory, limit for a file of its size "
            f"{most_bytes(len(buffer)) >> 20:,}; write it with fewer rows or shorter values"
        )
    return table


def _flat_columns(opened: pq.ParquetFile) -> list[str]:
    """Lists the columns that are neither nested nor repeated."""
    leaves = [opened.schema.column(i) for i in range(opened.metadata.num_columns)]
    names = Counter(leaf.path for leaf in leaves)
    flat = [
        leaf.path
        for leaf in leaves
        if not leaf.max_repetition_level and leaf.path in opened.schema_arrow.names
    ]
    # Arrow reads all columns whose path begins with a name.
    for name in flat:
        if names[name] > 1 or any(path.startswith(f"{name}.") for path in names):
            raise ParquetError(f"two columns have the name {name!r}")
    return flat


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Writes a column with a dictionary out, and leaves out what extends a type."""
    if isinstance(column.type, pa.BaseExtensionType):
        parts = [part.storage for part in column.chunks]
        column = pa.chunked_array(parts, column.type.storage_type)
    dictionary = pa.types.is_dictionary(column.type)
    return column.cast(column.type.value_type) if dictionary else column

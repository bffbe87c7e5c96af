"""What honest writers write is read as Arrow reads it; what is cut or changed is an error."""

import contextlib
import random

import numpy as np
import pyarrow as pa
import pytest

from locdiffusion.isolation import IsolatedError, IsolatedFunction
from locdiffusion.isolation.parquet import ParquetError, flat_table, packed_table, read_parquet
from support import SEED
from support.hostile.parquet_files import packed

ROWS = 5000
TABLE = pa.table(
    {
        "id": [f"photo {i}" for i in range(ROWS)],
        "country": pa.array(["ch", None] * (ROWS // 2)).dictionary_encode(),
        "latitude": np.linspace(-90, 90, ROWS),
        "number": pa.array(range(ROWS), pa.int16()),
        "code": pa.array([3, 4] * (ROWS // 2), pa.int64()),
        "boundary": [b"\0\1", b""] * (ROWS // 2),
        "long": pa.array(["x"] * ROWS, pa.large_string()),
        "a.b": [True, None] * (ROWS // 2),
    },
    metadata={"geo": "{}"},
)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"compression": "zstd", "data_page_version": "2.0"},
        {"use_dictionary": False, "compression": "none"},
        {"row_group_size": 300, "data_page_size": 500, "dictionary_pagesize_limit": 900},
        {"use_dictionary": False, "column_encoding": {"id": "DELTA_BYTE_ARRAY"}},
        {"write_statistics": False, "write_page_index": True, "use_content_defined_chunking": True},
        {"store_schema": False, "version": "1.0"},
    ],
    ids=lambda how: ",".join(how) or "as it comes",
)
def test_what_honest_writers_write_is_read(how):
    for table in (TABLE, TABLE.slice(0, 0)):
        assert flat_table(pa.py_buffer(packed(table, **how))).to_pydict() == table.to_pydict()


def test_a_child_reads_a_file_or_its_bytes(tmp_path):
    file = tmp_path / "list.parquet"
    file.write_bytes(packed(TABLE))
    assert read_parquet(file.read_bytes()).to_pydict() == TABLE.to_pydict()
    found = read_parquet(file, ["code", "other"])
    assert found.column_names == ["code"]
    assert found.schema.metadata[b"geo"] == b"{}"


def test_nested_columns_are_left_out():
    nested = TABLE.append_column("names", [[["a"]] * ROWS])
    nested = nested.append_column("box", [[{"id": 1}] * ROWS])
    found = flat_table(pa.py_buffer(packed(nested)))
    assert found.column_names == TABLE.column_names


def test_columns_of_one_name_are_refused():
    """Arrow would read both where one was measured."""
    struct = TABLE.select(["id"]).append_column("a.b", [["x"] * ROWS])
    both = struct.append_column("a", [[{"b": 1}] * ROWS])
    twice = struct.append_column("id", [["y"] * ROWS])
    for table in (both, twice):
        with pytest.raises(ParquetError, match="two columns have the name"):
            flat_table(pa.py_buffer(packed(table)))


def test_a_damaged_file_is_an_error_and_no_other():
    """Of 12,000 rounds some ended the process with an exception of Arrow's."""
    random.seed(SEED)
    sound = packed(TABLE.slice(0, 50), compression="zstd")
    head = b'{"columns": null, "mapped": false}\n'
    read = IsolatedFunction(packed_table)
    for _ in range(30):
        data = bytearray(sound)
        for _ in range(random.randint(1, 4)):
            data[random.randrange(len(data))] = random.randrange(256)
        with contextlib.suppress(IsolatedError):
            read(head + bytes(data))
    read.close()


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1PAR1PAR1", packed(TABLE)[:-1]])
def test_a_cut_file_is_an_error(data):
    with pytest.raises(ParquetError):
        read_parquet(data)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_parquet(tmp_path / "none.parquet")

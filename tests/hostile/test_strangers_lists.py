"""Lists of strangers: a kilobyte takes no gigabyte, and a damaged file is an error that says so."""

import pyarrow as pa
import pytest

from locdiffusion.isolation.parquet import FREE_BYTES, ParquetError, bounded_table, read_parquet
from support.hostile.parquet_files import PARQUETS

POOLS = []  # Arrow may give memory back to a pool at any time
FATAL = ("shared_prefixes.parquet", "aborting.parquet")


@pytest.fixture
def arrow_memory():
    """A pool that has seen nothing but this test."""
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    yield pool
    pa.set_memory_pool(before)


@pytest.mark.parametrize("name", sorted({*PARQUETS} - {*FATAL}))
def test_a_parquet_file_is_refused_before_it_is_unpacked(name, arrow_memory):
    """Each took gigabytes, or overflowed the stack."""
    with pytest.raises((ParquetError, OSError), match=r"memory|footer|Exceeded size limit"):
        bounded_table(pa.py_buffer(PARQUETS[name]()))
    assert arrow_memory.max_memory() < FREE_BYTES


@pytest.mark.parametrize("name", FATAL)
def test_a_parquet_file_ends_a_child_process_only(name):
    with pytest.raises(ParquetError):
        read_parquet(PARQUETS[name]())

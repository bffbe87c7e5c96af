"""Lists of strangers: a kilobyte takes no gigabyte, and a damaged file is an error that says so."""

from __future__ import annotations

import resource

import pytest

from locdiffusion.isolation import IsolatedFunction
from locdiffusion.isolation.parquet import FREE_BYTES, ParquetError, read_parquet
from support.hostile.parquet_files import PARQUETS

ITSELF = 128 * 2**20
"""Memory of a child process that has read nothing yet."""


@pytest.mark.parametrize("name", sorted(PARQUETS))
def test_a_parquet_file_costs_by_its_size(name: str) -> None:
    """Each took gigabytes, or ended the process."""
    measured = IsolatedFunction(peak_of_reading)
    peak, size = map(int, measured(name.encode()).split())
    measured.close()
    assert peak < 2 * FREE_BYTES + 64 * size + ITSELF


def peak_of_reading(name: bytes) -> bytes:
    """Reads a file as the product does.

    Returns:
        The most memory that the product's child took, and the size of the file, in bytes.
    """
    data = PARQUETS[name.decode()]()
    with pytest.raises(ParquetError):
        read_parquet(data)
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return f"{peak} {len(data)}".encode()

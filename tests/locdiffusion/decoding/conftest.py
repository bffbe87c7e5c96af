"""Fixtures for the tests of the decoder."""

from __future__ import annotations

import pytest

from support.dense_decoder import DenseDecoder
from support.densities import L


@pytest.fixture(scope="session")
def dense() -> DenseDecoder:
    """The plain decoder that the fast one is compared with."""
    return DenseDecoder(L, nodes=40_000)

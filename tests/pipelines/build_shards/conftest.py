"""Fixtures for the tests of the builds of training shards."""

from __future__ import annotations

import pytest

from pipelines.build_shards import command as build_shards


@pytest.fixture
def no_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds do not draw the map of density, which would take longer than they do."""
    monkeypatch.setattr(build_shards, "draw_density", lambda counts, title: b"map")

"""The counts of rooms and imports see what they are there to refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

import count_rooms


def test_circles_are_counted() -> None:
    assert count_rooms.circles({"a": {"b"}, "b": {"c"}, "c": set()}) == 0
    assert count_rooms.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == 1
    assert count_rooms.circles({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"c"}}) == 2


def test_imports_from_above_are_listed() -> None:
    rooms = {"low": {"high"}, "high": {"low", "unknown"}, "unknown": set()}
    assert count_rooms.upward(rooms, ("low", "high")) == ["low -> high"]


def test_a_limit_that_is_exceeded_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(count_rooms, "measured", lambda: [("rooms", 3, 4), ("lines", 12, 10)])
    assert count_rooms.main() == 1
    rooms, lines = capsys.readouterr().out.splitlines()[1:3]
    assert rooms.split() == ["rooms", "3", "4"]
    assert lines.split() == ["lines", "12", "10", "EXCEEDED"]


def test_the_product_is_counted() -> None:
    counts = {what: number for what, number, _ in count_rooms.measured()}
    lines = sum(
        len(path.read_text("utf-8").splitlines())
        for package in ("schemas", "locdiffusion", "pipelines")
        for path in (Path(count_rooms.ROOT) / package).rglob("*.py")
    )
    assert counts["lines of schemas, locdiffusion, pipelines"] == lines
    assert counts["places that build the tables of the decoder"] == 1

"""Runs the geotag command in this process, without Beam and without pages, and reads its rows."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.geotag import command
from support import without_beam, without_pages
from support.fake_geotagger import FakeLoader

Row = dict[str, Any]
FAKE = FakeLoader()


@dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    Attributes:
        status: Exit status.
        predictions: Rows of predictions, of all shards.
        errors: Rows of errors, of all shards.
        summary: Content of summary.json; empty if there is none.
        console: What was printed, errors too.
    """

    status: int
    predictions: list[Row]
    errors: list[Row]
    summary: dict[str, Any]
    console: str

    @property
    def keys(self) -> list[str]:
        """Keys of all photos, sorted, one for each row."""
        rows = [*self.predictions, *self.errors]
        return sorted(row["key"] for row in rows if row["key"] is not None)

    @property
    def statuses(self) -> dict[str | None, str]:
        """Status of each photo without a prediction, and of shards under None."""
        return {row["key"]: row["status"] for row in self.errors}

    @property
    def truths(self) -> dict[str, tuple[float, float] | None]:
        """Known position of each photo with a prediction, from the documents beside it."""
        return {
            row["key"]: None
            if row["truth_latitude"] is None
            else (row["truth_latitude"], row["truth_longitude"])
            for row in self.predictions
        }


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Lets the command run as where Beam is not installed, which is faster."""
    with without_beam(), without_pages():
        yield


def geotagged(
    output: Path, *inputs: Path | str, flags: tuple[str, ...] = (), load: Callable | None = FAKE
) -> Outcome:
    """Geotags paths with the fake model; without a loader, with the model that the flags name."""
    words = ["--input", *map(str, inputs), "--output", str(output), *flags]
    console = io.StringIO()
    with plainly(), contextlib.redirect_stdout(console), contextlib.redirect_stderr(console):
        status = command.main(words, load=load)
    output = output.expanduser()
    summary = output / "summary.json"
    return Outcome(
        status,
        _rows(output / "predictions"),
        _rows(output / "errors"),
        json.loads(summary.read_text("utf-8")) if summary.exists() else {},
        console.getvalue(),
    )


def _rows(layer: Path) -> list[Row]:
    return [
        row for part in sorted(layer.glob("*.parquet")) for row in pq.read_table(part).to_pylist()
    ]

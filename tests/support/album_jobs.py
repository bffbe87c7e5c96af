"""Small archives of albums, and the albums job over them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.albums import command
from support import SEED

COLUMNS = ("key", "album", "camera", "captured_at", "offset", "latitude", "longitude")
START = datetime(2015, 6, 1, 8)


def trip(name: str, count: int, seed: int = SEED, every: int = 3) -> list[dict[str, Any]]:
    """Rows of a table: a walk of `count` photos, of which all but each `every`th have a place."""
    rng = np.random.default_rng(seed)
    hours = np.cumsum(rng.exponential(0.7, count))
    latitude = 48.0 + np.cumsum(rng.normal(size=count)) * 0.02
    longitude = 11.0 + np.cumsum(rng.normal(size=count)) * 0.02
    rows = []
    for i in range(count):
        known = i % every != 1
        rows.append(
            {
                "key": f"{name}/{i:03d}.jpg",
                "album": name,
                "camera": "c1",
                "captured_at": (START + timedelta(hours=float(hours[i]))).isoformat(" ", "seconds"),
                "offset": "+02:00",
                "latitude": f"{latitude[i]:.6f}" if known else "",
                "longitude": f"{longitude[i]:.6f}" if known else "",
            }
        )
    return rows


def write_table(
    path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str] = COLUMNS
) -> Path:
    """Writes rows as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(*words: Path | str) -> int:
    """Runs the command without Beam, which writes the same bytes in a fraction of the time."""
    with plainly():
        return command.main([str(word) for word in words])


@contextmanager
def plainly():
    """Lets the job run as where Beam is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "find_spec", lambda name: None)
        yield


def rows_of(output: Path) -> pa.Table:
    """All rows of albums of an output, in the order of their keys."""
    tables = [pq.read_table(part) for part in sorted((output / "albums").glob("part-*.parquet"))]
    return pa.concat_tables(tables).sort_by("key")


def summary_of(output: Path) -> dict[str, Any]:
    """The summary of the job."""
    return json.loads((output / "albums/_summary.json").read_text("utf-8"))


def parts_of(output: Path) -> dict[str, bytes]:
    """The bytes of all files of an output by their names."""
    files = sorted(path for path in output.rglob("*") if path.is_file())
    return {str(path.relative_to(output)): path.read_bytes() for path in files}

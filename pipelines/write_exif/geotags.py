"""Reads the predictions of a run that may come from anywhere; only rows that can be true are used.

A file of a few kilobytes may unpack to more than a machine has. It is read in a child process with
limits (`locdiffusion.isolation`), which hands over plain rows, each checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from locdiffusion.files import file_system
from locdiffusion.isolation import IsolatedError, IsolatedFunction, Limits, OverrunError
from locdiffusion.photos.storage import DataError

TEXTS = {"key": 2**16, "model_id": 200}
"""Most characters of the columns with text."""
NUMBERS = {
    "latitude": (-90.0, 90.0),
    "longitude": (-180.0, 180.0),
    "radius_90_km": (0.0, 20_100.0),  # half-way round the Earth, and what rounding adds
    "prob_25km": (0.0, 1.001),
    "prob_200km": (0.0, 1.001),
}
"""Least and largest value of the columns with numbers."""
COLUMNS = (*TEXTS, *NUMBERS, "truth_latitude")
PROBLEM = "problem"
"""Field of a row that says why it cannot be used."""

MAX_PART_BYTES = 2**30
"""Longest file that is read; a million photos have some 200 MB."""
BATCH_ROWS = 4096
LIMITS = Limits(cpu_s=120)


class PredictionsError(DataError):
    """A file of predictions cannot be used; the message says why."""


class GeotagReader:
    """Reads files of predictions, one after the other, in one child process."""

    def __init__(self) -> None:
        self._isolated = IsolatedFunction(sound_rows, LIMITS)

    def read(self, path: str) -> Mapping[str, Mapping[str, Any]]:
        """Reads the rows of a file by their keys; a row that cannot be used has a PROBLEM.

        Args:
            path: Path or URL of a Parquet file.

        Raises:
            PredictionsError: The file is too long, no Parquet file, or another one.
        """
        filesystem, there = file_system(path)
        size = filesystem.size(there)
        if not filesystem.isfile(there) or size > MAX_PART_BYTES:
            raise PredictionsError(
                f"{path} has {size:,} bytes, wanted a file of at most {MAX_PART_BYTES:,}"
            )
        try:
            rows: dict[str, dict[str, Any]] = json.loads(self._isolated(filesystem.cat_file(there)))
        except (IsolatedError, OverrunError) as error:
            raise PredictionsError(
                f"{path} cannot be read as predictions ({error}); geotag its photos again"
            ) from None
        return rows


def sound_rows(parquet: bytes) -> bytes:
    """Encodes the rows of a Parquet file as a JSON object by key.

    Raises:
        ValueError: It is no Parquet file, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(parquet), read_dictionary=list(TEXTS))
    if missing := [name for name in COLUMNS if name not in file.schema_arrow.names]:
        raise ValueError(f"it lacks the column {missing[0]}")
    rows: dict[str, dict[str, Any]] = {}
    for batch in file.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
        for row in batch.to_pylist():
            key = row.pop("key")
            if isinstance(key, str) and len(key) <= TEXTS["key"]:
                why = "several rows have its key" if key in rows else _problem(row)
                rows[key] = {PROBLEM: why} if why else row
    return json.dumps(rows, allow_nan=False).encode()


def _problem(row: Mapping[str, Any]) -> str:
    """Says what of a row cannot be true; makes its values plain JSON."""
    for name, (low, high) in NUMBERS.items():
        value = row[name]
        if not isinstance(value, float | int) or not low <= value <= high:
            return f"{name} is {str(value)[:40]}, wanted {low:g} to {high:g}"
    name = row["model_id"]
    if not isinstance(name, str) or len(name) > TEXTS["model_id"]:
        return f"model_id is {str(name)[:40]!r}, wanted at most {TEXTS['model_id']} letters"
    known = row["truth_latitude"]
    if known is not None and not (isinstance(known, float) and math.isfinite(known)):
        return f"truth_latitude is {str(known)[:40]}, wanted degrees"
    return ""

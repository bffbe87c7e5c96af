"""Reads the predictions that the pages show, thinned evenly."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from locdiffusion.evaluate.known_positions import (
    KINDS,
    SOURCE_COLUMNS,
    KnownPositions,
    known_positions,
)
from locdiffusion.files import file_system
from locdiffusion.sphere.geodesy import great_circle_km
from schemas.geotags import MODE_FIELDS, NUMBER_COLUMNS, OPTIONAL_COLUMNS

DATA = Path(__file__).parent / "assets"
ROUND_KM = tuple(float(f"{digit}e{power}") for power in range(-3, 5) for digit in (1, 2, 5))

_TEXT_COLUMNS = ("key", "shard", "country_code", "country_found_by", "admin", *SOURCE_COLUMNS)
_NUMBER_COLUMNS = (*NUMBER_COLUMNS, *OPTIONAL_COLUMNS)


@dataclass(frozen=True)
class MapRows:
    """Predictions as columns, thinned to what a page can show.

    Attributes:
        total: Number of rows in the files, of which `len(self)` are here.
        text: Columns `key`, `shard`, `country_code`, `country_found_by`, `admin` and
            SOURCE_COLUMNS, N values each, None where empty.
        numbers: Columns of numbers by name, ``(N,)`` float64 each; NaN where empty.
        mode_counts: Number of modes of each row, ``(N,)``; empty if modes were not asked for.
        modes: All modes in the order of the rows, ``(M, 4)`` with the columns `MODE_FIELDS`.
    """

    total: int
    text: dict[str, list[Any]]
    numbers: dict[str, NDArray[np.float64]]
    mode_counts: NDArray[np.int64]
    modes: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.numbers["latitude"])

    @functools.cached_property
    def known(self) -> KnownPositions:
        """The known positions of the rows."""
        return known_positions({**self.numbers, **self.text})

    @functools.cached_property
    def error_km(self) -> NDArray[np.float64]:
        """Distance from the known position to the answer in km, ``(N,)``; NaN where unknown."""
        n = self.numbers
        return great_circle_km(
            n["latitude"], n["longitude"], self.known.latitude, self.known.longitude
        )

    def title(self) -> str:
        """How many photos the run geotagged."""
        return f"{self.total:,} photo{'' if self.total == 1 else 's'} geotagged"

    def subtitle(self) -> str:
        """How many are shown, how certain they are and, where that is known, how good."""
        parts = []
        if len(self) < self.total:
            parts.append(f"{len(self):,} of them shown, evenly drawn")
        if len(self):
            parts.append(f"median 90 % radius {np.median(self.numbers['radius_90_km']):,.0f} km")
        known = self.error_km[np.isfinite(self.error_km)]
        if len(known):
            parts.append(
                f"{len(known):,} with known position: median error {np.median(known):,.0f} km"
            )
        return " · ".join(parts)


def read_rows(
    output_dir: str, limit: int, *, with_modes: bool = False, known_only: bool = False
) -> MapRows:
    """Reads at most `limit` predictions, spread evenly over all of them, in batches.

    A column that an older file does not have is read as empty.
    With `known_only`, rows without a known position are left out.

    Raises:
        FileNotFoundError: The directory holds no predictions.
    """
    filesystem, names = layer_files(output_dir, "predictions")
    if not names:
        raise FileNotFoundError(
            f"found no predictions/*.parquet under {output_dir}; wanted the directory that "
            "`locdiffusion geotag --output` has written"
        )
    if known_only:
        needed = [f"{kind}_latitude" for kind in KINDS]
        batches = _batches(filesystem, names, needed, known_only=True)
        total = sum(len(batch) for batch in batches)
    else:
        total = sum(pq.read_metadata(name, filesystem=filesystem).num_rows for name in names)
    every = max(1, math.ceil(total / limit))
    text: dict[str, list[Any]] = {name: [] for name in _TEXT_COLUMNS}
    numbers: dict[str, list[NDArray]] = {name: [np.zeros(0)] for name in _NUMBER_COLUMNS}
    counts, modes = [np.zeros(0, np.int64)], [np.zeros((0, len(MODE_FIELDS)))]
    wanted = [*_TEXT_COLUMNS, *_NUMBER_COLUMNS, *(["modes"] if with_modes else [])]
    read = 0
    for whole in _batches(filesystem, names, wanted, known_only=known_only):
        batch = whole.take(pa.array(range(-read % every, len(whole), every), pa.int64()))
        read += len(whole)
        for name, values in text.items():
            values.extend(batch[name].to_pylist())
        for name, arrays in numbers.items():
            arrays.append(batch[name].cast(pa.float64()).to_numpy(zero_copy_only=False))
        if with_modes:
            counts.append(batch["modes"].value_lengths().to_numpy(zero_copy_only=False))
            fields = batch["modes"].flatten().flatten()
            modes.append(np.stack([field.to_numpy(zero_copy_only=False) for field in fields], 1))
    joined = {name: np.concatenate(arrays) for name, arrays in numbers.items()}
    return MapRows(total, text, joined, np.concatenate(counts), np.concatenate(modes))


def layer_files(output_dir: str, layer: str) -> tuple[Any, list[str]]:
    """Lists the files of a layer: an fsspec file system, and sorted paths on it."""
    filesystem, root = file_system(str(output_dir))
    try:
        found = filesystem.ls(f"{root}/{layer}", detail=False)
    except FileNotFoundError:
        found = []
    return filesystem, sorted(name for name in found if name.endswith(".parquet"))


def _batches(
    filesystem: Any, names: Sequence[str], columns: Sequence[str], *, known_only: bool
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of all files; a column that a file does not have is empty."""
    for name in names:
        with pq.ParquetFile(name, filesystem=filesystem) as file:
            present = [column for column in columns if column in file.schema_arrow.names]
            for batch in file.iter_batches(columns=present):
                for column in columns:
                    if column not in present:
                        batch = batch.append_column(column, pa.nulls(len(batch)))
                if known_only:
                    has = [batch[f"{kind}_latitude"].is_valid() for kind in KINDS]
                    batch = batch.filter(functools.reduce(pc.or_, has))
                yield batch


def colour_range_km(radius_km: NDArray[np.float64]) -> tuple[float, float]:
    """Chooses the ends of the colour scale: round numbers around the middle 90 % of the rows."""
    finite = radius_km[np.isfinite(radius_km) & (radius_km > 0)]
    if not len(finite):
        return 10.0, 10_000.0
    low, high = np.percentile(finite, [5, 95])
    first = int(np.clip(np.searchsorted(ROUND_KM, low, "right") - 1, 0, len(ROUND_KM) - 3))
    last = int(np.clip(np.searchsorted(ROUND_KM, high), first + 2, len(ROUND_KM) - 1))
    return ROUND_KM[first], ROUND_KM[last]

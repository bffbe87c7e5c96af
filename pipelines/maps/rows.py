"""What both maps show: predictions, thinned, and the outlines of the countries under them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from locdiffusion.sphere.geodesy import great_circle_km
from schemas.geotags import PROBABILITY_COLUMNS

DATA = Path(__file__).parents[1] / "data"
OUTLINES = DATA / "world.geojson"

# Certain to uncertain: dark to light, told apart in grey and by the colour-blind (from "plasma").
PALETTE = ("#0d0887", "#5402a3", "#8b0aa5", "#b93289", "#db5c68", "#f48849", "#febd2a")

ROUND_KM = tuple(float(f"{digit}e{power}") for power in range(-3, 5) for digit in (1, 2, 5))

_ROW_COLUMNS = ("key", "shard", "modes")
_NUMBER_COLUMNS = (
    "latitude",
    "longitude",
    "radius_50_km",
    "radius_90_km",
    "truth_latitude",
    "truth_longitude",
    *PROBABILITY_COLUMNS,
)


@dataclass(frozen=True)
class MapRows:
    """Predictions as columns, thinned to what a picture can show.

    Attributes:
        total: rows in the predictions, of which `len(self)` are here.
        rows: `key`, `shard` and `modes`, each a list of N values; `modes` only if asked for.
        numbers: every other column, (N,) float64; NaN where there is no truth.
    """

    total: int
    rows: dict[str, list[Any]]
    numbers: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.numbers["latitude"])

    def error_km(self) -> NDArray[np.float64]:
        """Distance from truth to prediction in km, (N,); NaN where there is no truth."""
        n = self.numbers
        return great_circle_km(
            n["latitude"], n["longitude"], n["truth_latitude"], n["truth_longitude"]
        )

    def title(self) -> str:
        """How many photos the run geotagged."""
        return f"{self.total:,} photos geotagged"

    def subtitle(self) -> str:
        """How many are shown, how certain they are and, where the truth is known, how good."""
        parts = []
        if len(self) < self.total:
            parts.append(f"{len(self):,} of them shown")
        if len(self):
            parts.append(f"median 90 % radius {np.median(self.numbers['radius_90_km']):,.0f} km")
        error_km = self.error_km()
        known = error_km[np.isfinite(error_km)]
        if len(known):
            parts.append(
                f"{len(known):,} with known truth: median error {np.median(known):,.0f} km"
            )
        return " · ".join(parts)


def read_rows(output_dir: str, limit: int, with_modes: bool = False) -> MapRows:
    """Reads at most `limit` predictions, spread evenly over all of them, in batches.

    Args:
        output_dir: directory of a finished run, local or a URL that fsspec opens.
        limit: the most rows to keep.
        with_modes: whether to read the alternatives too.

    Raises:
        FileNotFoundError: if the directory holds no predictions.
    """
    filesystem, root = fsspec.core.url_to_fs(str(output_dir))
    names = sorted(filesystem.glob(f"{root}/predictions/*.parquet"))
    if not names:
        raise FileNotFoundError(
            f"found no predictions/*.parquet under {output_dir}; wanted the directory that "
            "`python -m pipelines.geotag --output` has written"
        )
    wanted = [name for name in _ROW_COLUMNS if with_modes or name != "modes"]
    rows: dict[str, list[Any]] = {name: [] for name in wanted}
    numbers: dict[str, list[NDArray]] = {name: [] for name in _NUMBER_COLUMNS}
    total = sum(pq.read_metadata(name, filesystem=filesystem).num_rows for name in names)
    every = max(1, math.ceil(total / limit))
    for batch in _every_kth_row(filesystem, names, [*wanted, *_NUMBER_COLUMNS], every):
        for name, values in rows.items():
            values.extend(batch[name].to_pylist())
        for name, arrays in numbers.items():
            column = batch[name].cast(pa.float64())
            arrays.append(column.to_numpy(zero_copy_only=False))
    joined = {name: np.concatenate([[], *arrays]) for name, arrays in numbers.items()}
    return MapRows(total, rows, joined)


def _every_kth_row(
    filesystem: Any, names: Sequence[str], columns: list[str], every: int
) -> Iterator[pa.RecordBatch]:
    passed = 0
    for name in names:
        with pq.ParquetFile(name, filesystem=filesystem) as file:
            for batch in file.iter_batches(columns=columns):
                yield batch.take(pa.array(range(-passed % every, len(batch), every), pa.int64()))
                passed += len(batch)


def read_outlines() -> list[NDArray[np.float64]]:
    """The countries' outer and inner rings, each (n, 2): longitude, latitude in degrees."""
    countries = json.loads(OUTLINES.read_text(encoding="utf-8"))["features"]
    return [
        np.asarray(ring, np.float64)
        for country in countries
        for polygon in country["geometry"]["coordinates"]
        for ring in polygon
    ]


def group_of_shard(shard: str) -> str:
    """A shard's name without its number: `unseen-000003` is of the group `unseen`."""
    return re.sub(r"[-_.]?\d+$", "", shard) or "all shards"


def colour_range_km(radius_km: NDArray[np.float64]) -> tuple[float, float]:
    """Ends of the logarithmic colour scale: 1, 2 or 5 times a power of ten, around 96 % of rows."""
    finite = radius_km[np.isfinite(radius_km) & (radius_km > 0)]
    if not len(finite):
        return 10.0, 10_000.0
    low, high = np.percentile(finite, [2, 98])
    first = int(np.clip(np.searchsorted(ROUND_KM, low, "right") - 1, 0, len(ROUND_KM) - 3))
    last = int(np.clip(np.searchsorted(ROUND_KM, high), first + 2, len(ROUND_KM) - 1))
    return ROUND_KM[first], ROUND_KM[last]

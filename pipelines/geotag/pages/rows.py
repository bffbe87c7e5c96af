"""The predictions that the pages show, as columns."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from locdiffusion.evaluate.known_positions import KINDS, KnownPositions, known_positions
from locdiffusion.photos.left_out import number
from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.geotag.console import unlike
from pipelines.geotag.sample import TEXT_COLUMNS, TIME_COLUMNS, Sample
from schemas.geotags import FAMILIARITY, NUMBER_COLUMNS, OPTIONAL_COLUMNS

DATA = Path(__file__).parent / "assets"
ROUND_KM = tuple(float(f"{digit}e{power}") for power in range(-3, 5) for digit in (1, 2, 5))[:-1]
"""Round distances up to 20,000 km; no radius is larger than half the way around the Earth."""


@dataclass(frozen=True)
class MapRows:
    """Predictions as columns, thinned to what a page can show.

    Attributes:
        total: Number of rows of the run, of which `len(self)` are here.
        text: TEXT_COLUMNS by name, N values each, None where empty.
        numbers: Columns of numbers by name, ``(N,)`` float64 each; NaN where empty. The wall clock
            of capture times is in seconds since 1970.
        mode_counts: Number of modes of each row, ``(N,)``.
        modes: All modes in the order of the rows, ``(M, 4)`` with the columns `MODE_FIELDS`.
        thumbnails: JPEGs by number of the row.
        told: What the checkpoint says that it is for, as `Checkpoint.told`.
    """

    total: int
    text: dict[str, list[Any]]
    numbers: dict[str, NDArray[np.float64]]
    mode_counts: NDArray[np.int64]
    modes: NDArray[np.float64]
    thumbnails: dict[int, bytes]
    told: Mapping[str, Any] = field(default_factory=dict)

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

    @functools.cached_property
    def unfamiliar(self) -> NDArray[np.bool_]:
        """Whether each photo is unlike those that the checkpoint is for, ``(N,)``."""
        return self.numbers[FAMILIARITY] < np.float32(self.told.get("unfamiliar") or 0.0)

    def title(self) -> str:
        """How many photos the run geotagged, and of how many it knows nearly nothing."""
        photos = number(self.total, "photo")
        if not (count := int(self.unfamiliar.sum())):
            return f"{photos} geotagged"
        shown = " of those shown" if len(self) < self.total else ""
        return f"{photos}; nearly nothing is known of {count:,}{shown}"

    def subtitle(self) -> str:
        """How many are shown, how certain they are and, where that is known, how good."""
        parts = []
        if len(self) < self.total:
            parts.append(f"{len(self):,} of them shown, evenly drawn")
        radius_90_km = self.numbers["radius_90_km"][~self.unfamiliar]
        if len(radius_90_km):
            of = "of the others: " if self.unfamiliar.any() else ""
            parts.append(f"{of}median 90 % radius {np.median(radius_90_km):,.0f} km")
        known = self.error_km[np.isfinite(self.error_km) & ~self.unfamiliar]
        if len(known):
            parts.append(
                f"{len(known):,} with known position: median error {np.median(known):,.0f} km"
            )
        return " · ".join(parts)

    def purpose(self) -> str:
        """What the checkpoint is for; empty if it does not say."""
        purpose = self.told.get("purpose")
        return f"The checkpoint is for {purpose}." if purpose else ""

    def warning(self) -> str:
        """How many of the rows are unlike what the checkpoint is for; empty if none is."""
        count = int(self.unfamiliar.sum())
        return f"In grey: {unlike(count, self.told)}." if count else ""

    @property
    def colour_range_km(self) -> tuple[float, float]:
        """Ends of the colour scale of the 90 % radii."""
        return colour_range_km(self.numbers["radius_90_km"][~self.unfamiliar])


def map_rows(
    sample: Sample, limit: int, told: Mapping[str, Any] | None = None, *, known_only: bool = False
) -> MapRows:
    """Takes the first `limit` rows of a sample, and puts them in the order of the shards.

    Args:
        sample: Sample of a run.
        limit: Most rows.
        told: What the checkpoint says that it is for; the configuration of a run has it.
        known_only: Whether rows without a known position are left out.
    """
    table = sample.table
    if known_only:
        has = [table[f"{kind}_latitude"].is_valid() for kind in KINDS]
        table = table.filter(functools.reduce(pc.or_, has))
    table = table[:limit].sort_by([("shard", "ascending"), ("row", "ascending")]).combine_chunks()
    jpegs = enumerate(table["thumbnail"].to_pylist())
    modes = pc.list_flatten(table["modes"]).combine_chunks().flatten()
    return MapRows(
        total=sample.known if known_only else sample.rows,
        text={name: table[name].to_pylist() for name in TEXT_COLUMNS},
        numbers={
            name: np.asarray(table[name], np.float64)
            for name in (*NUMBER_COLUMNS, *OPTIONAL_COLUMNS, FAMILIARITY)
        }
        | dict(zip(TIME_COLUMNS, _clocks(table), strict=True)),
        mode_counts=np.asarray(pc.fill_null(pc.list_value_length(table["modes"]), 0), np.int64),
        modes=np.stack([np.asarray(column, np.float64) for column in modes], axis=1),
        thumbnails={row: jpeg for row, jpeg in jpegs if jpeg is not None},
        told=told or {},
    )


def _clocks(table: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wall clock in seconds since 1970 and offset in minutes of each row, NaN where unknown."""
    microseconds, offset_min = (table[name].cast(pa.int64()) for name in TIME_COLUMNS)
    return np.asarray(microseconds, np.float64) / 1e6, np.asarray(offset_min, np.float64)


def colour_range_km(radius_km: NDArray[np.float64]) -> tuple[float, float]:
    """Chooses the ends of the colour scale: round numbers around the middle 90 % of the rows."""
    finite = radius_km[np.isfinite(radius_km) & (radius_km > 0)]
    if not len(finite):
        return 10.0, 10_000.0
    low, high = np.percentile(finite, [5, 95])
    first = int(np.clip(np.searchsorted(ROUND_KM, low, "right") - 1, 0, len(ROUND_KM) - 3))
    last = int(np.clip(np.searchsorted(ROUND_KM, high), first + 2, len(ROUND_KM) - 1))
    return ROUND_KM[first], ROUND_KM[last]

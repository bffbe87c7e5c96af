"""Compares the answers of two outputs photo by photo, and adds up what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.compare.photos import Photos, identities
from schemas.comparisons import AFTER, BEFORE, COMPARED, COMPARISON_SCHEMA, Fate
from schemas.geotags import UNFAMILIAR

MOVED_KM = 1.0
"""Distance from which a photo counts as moved."""
CHANGED_RADIUS = 1.1
"""Factor from which a radius counts as grown, or its inverse as shrunk."""
MOST_LISTED = 10
_FATES = {
    (True, True): Fate.KEPT,
    (False, True): Fate.ANSWERED,
    (True, False): Fate.FAILED,
    (False, False): Fate.ERROR,
}


def compared(before: Photos, after: Photos) -> pa.Table:
    """Builds the table of COMPARISON_SCHEMA: photos of the second output, then those that are gone.

    Raises:
        DataError: A photo comes twice in one output.
    """
    first, second = identities(before, after)
    row_before = pc.index_in(second, value_set=first)
    gone = np.flatnonzero(np.asarray(pc.invert(pc.is_in(first, value_set=second))))
    rows_before = pa.concat_arrays([row_before, pa.array(gone, pa.int32())])
    rows_after = pa.concat_arrays(
        [pa.array(np.arange(len(second)), pa.int32()), pa.nulls(len(gone), pa.int32())]
    )
    sides = {BEFORE: before.table.take(rows_before), AFTER: after.table.take(rows_after)}
    named = {
        name: pc.coalesce(sides[AFTER][name], sides[BEFORE][name])
        for name in ("photo_id", "key", "shard")
    }
    there = [np.asarray(pc.is_valid(rows)) for rows in (rows_before, rows_after)]
    place = {
        side: [_numbers(table, name) for name in ("latitude", "longitude", "radius_90_km")]
        for side, table in sides.items()
    }
    distance = great_circle_km(*place[BEFORE][:2], *place[AFTER][:2])
    radius = [np.where(r > 0, r, np.nan) for r in (place[BEFORE][2], place[AFTER][2])]
    columns = {
        **named,
        "fate": _fates(place[BEFORE][0], place[AFTER][0], *there),
        "distance_km": distance,
        "distance_in_radii": distance / radius[0],
        "radius_ratio": radius[1] / radius[0],
        **{f"{f.name}_{s}": table[f.name] for f in COMPARED for s, table in sides.items()},
    }
    arrays = [
        columns[field.name]
        if isinstance(columns[field.name], pa.ChunkedArray)
        else pa.array(columns[field.name], field.type, from_pandas=True)
        for field in COMPARISON_SCHEMA
    ]
    return pa.table(arrays, schema=COMPARISON_SCHEMA)


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table[name], np.float64)


def _fates(
    latitude_before: NDArray[np.float64],
    latitude_after: NDArray[np.float64],
    in_before: NDArray[np.bool_],
    in_after: NDArray[np.bool_],
) -> list[str]:
    answered = zip(
        np.isfinite(latitude_before).tolist(), np.isfinite(latitude_after).tolist(), strict=True
    )
    return [
        (Fate.NEW if not first else Fate.GONE if not second else _FATES[both]).value
        for both, first, second in zip(answered, in_before.tolist(), in_after.tolist(), strict=True)
    ]


def summarised(
    table: pa.Table, before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    """Adds up what changed.

    Args:
        table: Table of COMPARISON_SCHEMA.
        before: Configuration of the first output.
        after: Configuration of the second output.
    """
    fates = Counter(table["fate"].to_pylist())
    kept = table.filter(pc.equal(table["fate"], Fate.KEPT.value))
    km, radii, ratio = (
        _numbers(kept, name) for name in ("distance_km", "distance_in_radii", "radius_ratio")
    )
    inside_50 = km <= _numbers(kept, f"radius_50_km_{BEFORE}")
    codes = [kept[f"country_code_{side}"].to_pylist() for side in (BEFORE, AFTER)]
    countries = Counter((a, b) for a, b in zip(*codes, strict=True) if a != b)
    known = [_numbers(kept, f"familiarity_{side}") for side in (BEFORE, AFTER)]
    statuses = Counter(
        (a, b)
        for a, b in zip(
            table[f"status_{BEFORE}"].to_pylist(), table[f"status_{AFTER}"].to_pylist(), strict=True
        )
        if a != b
    )
    return {
        "fates": {fate.value: fates[fate.value] for fate in Fate},
        "moved": int((km > MOVED_KM).sum()),
        "median_km": _quantile(km, 0.5),
        "quantile_90_km": _quantile(km, 0.9),
        "outside_radius_50": int((~inside_50).sum()),
        "outside_radius_90": int((radii > 1.0).sum()),
        "median_radius_ratio": _quantile(ratio, 0.5),
        "radius_grown": int((ratio > CHANGED_RADIUS).sum()),
        "radius_shrunk": int((ratio < 1.0 / CHANGED_RADIUS).sum()),
        "country_changed": countries.total(),
        "countries": _listed(countries),
        "statuses": _listed(statuses),
        "became_unfamiliar": int(((known[0] >= UNFAMILIAR) & (known[1] < UNFAMILIAR)).sum()),
        "became_familiar": int(((known[0] < UNFAMILIAR) & (known[1] >= UNFAMILIAR)).sum()),
        "settings": {
            name: {BEFORE: first, AFTER: second}
            for name, first, second in _differences(before, after)
        },
    }


def _quantile(values: NDArray[np.float64], share: float) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, share)) if len(finite) else None


def _listed(counts: Counter[tuple[Any, Any]]) -> list[dict[str, Any]]:
    order = sorted(counts.items(), key=lambda one: (-one[1], str(one[0])))[:MOST_LISTED]
    return [{BEFORE: a, AFTER: b, "photos": photos} for (a, b), photos in order]


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], name: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yields the settings that differ, those within others with a point between the names."""
    for key in sorted({*before, *after}):
        first, second, full = before.get(key), after.get(key), f"{name}{key}"
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            yield from _differences(first, second, f"{full}.")
        elif first != second:
            yield full, first, second


def largest_movers(table: pa.Table, most: int) -> pa.Table:
    """Takes the photos that moved the farthest: half by km, half by their radii before."""
    kept = table.filter(
        pc.and_(pc.equal(table["fate"], Fate.KEPT.value), pc.greater(table["distance_km"], 0.0))
    )
    half = max(most // 2, 1)
    rows = [
        np.argsort(-np.nan_to_num(_numbers(kept, name)), kind="stable")[:half]
        for name in ("distance_km", "distance_in_radii")
    ]
    return kept.take(np.unique(np.concatenate(rows))).sort_by([("distance_km", "descending")])

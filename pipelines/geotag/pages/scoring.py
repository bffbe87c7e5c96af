"""Scores the photos of a run whose position is known, for `report.html`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locdiffusion.calibrate.command import FEWEST
from locdiffusion.decoding.answers import Predictions
from locdiffusion.evaluate.bootstrap import Bootstrap, Estimate
from locdiffusion.evaluate.scores import Scores, score
from locdiffusion.geography.countries import country_codes
from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.geotag.digest import accuracy_row, error_counts
from pipelines.geotag.pages.rows import MapRows
from pipelines.geotag.shard_files import shard_group

RESAMPLES = 200
MOST_GROUPS = 20
CLASSES, PHOTOS_PER_CLASS = 5, 20
"""Most classes of the 90 % radius, and the fewest photos per class on average."""
NEAR_KM = 750.0
"""Answers of a smaller median error are near, as in the same country."""
TOLERANCE = 0.05
"""Difference of a coverage that is tolerated, even if chance does not explain it."""
OTHERS, SEA = "all others", "at sea"


@dataclass(frozen=True)
class Group:
    """A group of photos.

    Attributes:
        name: Name of the group; a country by its code.
        scores: Accuracy and coverage, from `accuracy_row`.
        country_right: Share of answers in the country of the known position; None except in groups
            by country.
    """

    name: str
    scores: dict[str, Any]
    country_right: float | None = None


@dataclass(frozen=True)
class ReportScores:
    """The numbers of a report.

    Attributes:
        photos: Number of photos of the run with a known position.
        by_kind: Number of scored rows by the source of their position, as in `KINDS`.
        overall: Scores of all scored rows, with intervals.
        error_km: Errors in km in rising order, ``(n,)``.
        stated: Mean stated probability of being within each of `THRESHOLDS_KM`.
        by_shards, by_country, by_certainty: Scored rows in groups.
        better_than_chance: Whether there is something to calibrate, see `better_than_chance`.
    """

    photos: int
    by_kind: dict[str, int]
    overall: Scores
    error_km: NDArray[np.float64]
    stated: tuple[float, ...]
    by_shards: tuple[Group, ...]
    by_country: tuple[Group, ...]
    by_certainty: tuple[Group, ...]
    better_than_chance: bool


def score_rows(rows: MapRows) -> ReportScores | None:
    """Scores rows that all have a known position; None if there are none."""
    if not len(rows):
        return None
    predictions = Predictions.from_numbers(rows.numbers)
    known = rows.known
    overall = score(predictions, known.latitude, known.longitude, Bootstrap(RESAMPLES))
    return ReportScores(
        photos=rows.total,
        by_kind=known.by_kind(),
        overall=overall,
        error_km=np.sort(rows.error_km),
        stated=tuple(predictions.probability.mean(0).tolist()),
        by_shards=_by_shards(rows),
        by_country=_by_country(rows),
        by_certainty=_by_certainty(rows),
        better_than_chance=better_than_chance(rows),
    )


def better_than_chance(rows: MapRows) -> bool:
    """Whether photos are nearer to their own answers than to those of other photos.

    Photos that are unlike those that the checkpoint is for do not count. Near answers are good
    even if all are the same, as in an archive of one city.
    """
    some = np.flatnonzero(~rows.unfamiliar)
    if len(some) < FEWEST:
        return False
    other = np.random.default_rng(0).permutation(some)
    n, known = rows.numbers, rows.known
    where = known.latitude[some], known.longitude[some]
    chance_km = great_circle_km(n["latitude"][other], n["longitude"][other], *where)
    columns = np.column_stack([rows.error_km[some], chance_km])
    found, chance = Bootstrap(RESAMPLES).median_estimates(columns)
    return found.high < chance.low or found.high < NEAR_KM


def miss(stated: float, found: Estimate) -> float:
    """Difference of a coverage; 0 if it is near enough, or if chance may explain it."""
    off = found.value - stated
    explained = found.low <= stated <= found.high or abs(off) <= TOLERANCE
    return 0.0 if explained else off


def _group(
    rows: MapRows, name: str, chosen: NDArray[np.bool_], right: NDArray[np.bool_] | None = None
) -> Group:
    distances = rows.error_km, rows.numbers["radius_50_km"], rows.numbers["radius_90_km"]
    scores = accuracy_row(error_counts(np.stack(distances, axis=1)[chosen]))
    return Group(name, scores, None if right is None else float(np.mean(right[chosen])))


def _by_name(
    rows: MapRows, names: Sequence[str], right: NDArray[np.bool_] | None = None
) -> tuple[Group, ...]:
    """Groups rows by name, the largest group first; many small groups join as one."""
    counts = Counter(names)
    kept = sorted(counts, key=lambda name: (-counts[name], name))
    if len(kept) > MOST_GROUPS:
        shown = set(kept[: MOST_GROUPS - 1])
        names = [name if name in shown else OTHERS for name in names]
        kept = [*kept[: MOST_GROUPS - 1], OTHERS]
    label = np.array(names, dtype=object)
    return tuple(_group(rows, name, label == name, right) for name in kept)


def _by_shards(rows: MapRows) -> tuple[Group, ...]:
    return _by_name(rows, [shard_group(shard) for shard in rows.text["shard"]])


def _by_country(rows: MapRows) -> tuple[Group, ...]:
    """Groups rows by the country of the known position."""
    truth = [code or SEA for code in country_codes(rows.known.latitude, rows.known.longitude)]
    if not any(rows.text["country_code"]):  # older files have none
        return _by_name(rows, truth)
    found = [code or SEA for code in rows.text["country_code"]]
    return _by_name(rows, truth, np.array([a == b for a, b in zip(truth, found, strict=True)]))


def _by_certainty(rows: MapRows) -> tuple[Group, ...]:
    """Groups rows into classes of the 90 % radius with about as many photos each."""
    radius = rows.numbers["radius_90_km"]
    classes = max(1, min(CLASSES, len(rows) // PHOTOS_PER_CLASS))
    inner = np.quantile(radius, np.arange(1, classes) / classes)
    edges = sorted({float(f"{edge:.2g}") for edge in inner})
    number = np.searchsorted(edges, radius)
    return tuple(
        _group(rows, _range_name(edges, at), number == at) for at in np.unique(number).tolist()
    )


def _range_name(edges: Sequence[float], at: int) -> str:
    if not edges:
        return "all"
    if at == 0:
        return f"up to {edges[0]:,.10g} km"
    if at == len(edges):
        return f"above {edges[-1]:,.10g} km"
    return f"{edges[at - 1]:,.10g} to {edges[at]:,.10g} km"

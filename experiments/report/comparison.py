"""Compares two methods on the same photos, with paired bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike

from locdiffusion.decoding.answers import Predictions
from locdiffusion.evaluate.bootstrap import Bootstrap, Estimate
from locdiffusion.evaluate.metrics import geoscores, within_thresholds
from locdiffusion.evaluate.scores import errors_km, stated
from schemas.geotags import THRESHOLDS_KM


class Verdict(str, Enum):
    """What the interval of a difference allows to say."""

    BETTER = "better"
    LEVEL = "level"
    WORSE = "worse"


@dataclass(frozen=True)
class Comparison:
    """Differences first − second on the same photos, with paired intervals.

    Attributes:
        n: Photos.
        within: Differences of the shares within each threshold; higher is better.
        median_km: Lower is better.
        geoscore: Higher is better.
        nats_per_km2: Lower is better; None where one of the two states no density.
    """

    n: int
    within: tuple[Estimate, ...]
    median_km: Estimate
    geoscore: Estimate
    nats_per_km2: Estimate | None = None


def compare(
    first: Predictions,
    second: Predictions,
    latitude: ArrayLike,
    longitude: ArrayLike,
    bootstrap: Bootstrap | None = None,
) -> Comparison:
    """Compares two methods on the same photos: a resample draws the same photos for both.

    Args:
        first: Answers of the first method for n photos.
        second: Answers of the second method for the same photos, in the same order.
        latitude: Latitude of the truth in degrees, ``(n,)``.
        longitude: Longitude of the truth in degrees, ``(n,)``.
        bootstrap: Resampling of the intervals; default `Bootstrap()`.

    Raises:
        ValueError: There is no photo, the number of truths differs, or a number is not finite.
    """
    bootstrap = bootstrap or Bootstrap()
    errors = [errors_km(answers, latitude, longitude) for answers in (first, second)]
    densities = [stated(answers, "log_density_km2") for answers in (first, second)]
    columns = [
        np.column_stack([within_thresholds(distance), geoscores(distance)]) for distance in errors
    ]
    difference = columns[0] - columns[1]
    if densities[0] is not None and densities[1] is not None:
        difference = np.column_stack([difference, densities[1] - densities[0]])
    of_means = bootstrap.mean_estimates(difference)
    replicas = bootstrap.medians(np.column_stack(errors))
    median = np.median(errors[0]) - np.median(errors[1])
    count = len(THRESHOLDS_KM)
    return Comparison(
        n=len(errors[0]),
        within=of_means[:count],
        median_km=bootstrap.estimates([median], replicas[:, :1] - replicas[:, 1:])[0],
        geoscore=of_means[count],
        nats_per_km2=of_means[count + 1] if len(of_means) > count + 1 else None,
    )


def verdict(difference: Estimate, *, higher_is_better: bool) -> Verdict:
    """Judges the first method by a paired difference; level if 0 is in the interval."""
    if difference.low <= 0.0 <= difference.high:
        return Verdict.LEVEL
    return Verdict.BETTER if (difference.low > 0.0) == higher_is_better else Verdict.WORSE

"""Scores of one method on one set of photos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from locdiffusion.decoding.answers import Predictions
from locdiffusion.evaluate.bootstrap import Bootstrap, Estimate
from locdiffusion.evaluate.metrics import geoscores, within_thresholds
from locdiffusion.evaluate.reliability import Reliability, reliabilities
from locdiffusion.sphere.geodesy import great_circle_km
from schemas.geotags import THRESHOLDS_KM

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Accuracy, calibration and likelihood of answers. The denominator of every score is n.

    Attributes:
        n: Number of photos.
        within: Shares of answers within each of `schemas.geotags.THRESHOLDS_KM`.
        median_km, mean_km: Median and mean distance to the truth.
        geoscore: Mean of `metrics.geoscores`, 0 to 5000.
        nats_per_km2: Mean −log density per km² at the truth; lower is better. None if the method
            states no density.
        coverage_50, coverage_90: Shares of truths inside the two radii, nominally 0.5 and 0.9. None
            if the method states no radii.
        radius_50_km, radius_90_km: Medians of the two radii; None if the method states none.
        reliability: Reliability of the probability of each threshold; may be empty.
    """

    n: int
    within: tuple[Estimate, ...]
    median_km: Estimate
    mean_km: Estimate
    geoscore: Estimate
    nats_per_km2: Estimate | None = None
    coverage_50: Estimate | None = None
    coverage_90: Estimate | None = None
    radius_50_km: Estimate | None = None
    radius_90_km: Estimate | None = None
    reliability: tuple[Reliability, ...] = ()


def score(
    predictions: Predictions,
    latitude: ArrayLike,
    longitude: ArrayLike,
    bootstrap: Bootstrap | None = None,
    *,
    reliability: bool = True,
) -> Scores:
    """Scores answers against the truth.

    Args:
        predictions: Answers for n photos. A column of NaN was not stated and gets no score.
        latitude: Latitude of the truth in degrees, ``(n,)``.
        longitude: Longitude of the truth in degrees, ``(n,)``.
        bootstrap: Bootstrap of the intervals; None takes `Bootstrap()`.
        reliability: Whether to score the probabilities too.

    Raises:
        ValueError: There is no photo, the numbers of answers and truths differ, or a number is not
            finite.
    """
    bootstrap = bootstrap or Bootstrap()
    distance = errors_km(predictions, latitude, longitude)
    radii = {name: stated(predictions, name) for name in ("radius_50_km", "radius_90_km")}
    density = stated(predictions, "log_density_km2")
    probability = stated(predictions, "probability")
    means: dict[str, NDArray[Any]] = {"mean_km": distance, "geoscore": geoscores(distance)}
    medians = {"median_km": distance}
    if density is not None:
        means["nats_per_km2"] = -density
    for name, radius in radii.items():
        if radius is not None:
            medians[name] = radius
            means[name.replace("radius", "coverage").removesuffix("_km")] = distance <= radius
    hits = within_thresholds(distance)
    count = len(THRESHOLDS_KM)
    of_means = bootstrap.mean_estimates(np.column_stack([hits, *means.values()]))
    of_medians = bootstrap.median_estimates(np.column_stack(list(medians.values())))
    curves: tuple[Reliability, ...] = ()
    if reliability and probability is not None:
        curves = reliabilities(probability, distance, THRESHOLDS_KM, bootstrap)
    return Scores(
        n=len(distance),
        within=of_means[:count],
        reliability=curves,
        **dict(zip(means, of_means[count:], strict=True)),
        **dict(zip(medians, of_medians, strict=True)),
    )


def errors_km(predictions: Predictions, latitude: ArrayLike, longitude: ArrayLike) -> Float:
    """Computes the distances ``(n,)`` in km between answers and truth, given in degrees ``(n,)``.

    Raises:
        ValueError: There is no photo, the numbers of answers and truths differ, or a position is
            not finite.
    """
    truth = np.asarray(latitude, np.float64)
    if not len(predictions):
        raise ValueError("0 photos to score; want at least 1 with truth.")
    if truth.shape != (len(predictions),) or np.shape(longitude) != truth.shape:
        raise ValueError(
            f"{truth.shape} latitudes and {np.shape(longitude)} longitudes of truth for "
            f"{len(predictions)} predictions; want as many."
        )
    distance = great_circle_km(predictions.latitude, predictions.longitude, truth, longitude)
    if not np.all(np.isfinite(distance)):
        raise ValueError(
            f"{np.sum(~np.isfinite(distance))} of {len(distance)} photos have an answer or a truth "
            "that is not finite; drop photos without truth first (Predictions.take)."
        )
    return distance


def stated(predictions: Predictions, name: str) -> Float | None:
    """A column, or None if the method does not state it."""
    column: Float = getattr(predictions, name)
    if np.all(np.isnan(column)):
        return None
    if not np.all(np.isfinite(column)):
        raise ValueError(
            f"{name} has {np.sum(~np.isfinite(column))} values that are not finite, the first "
            f"{column[~np.isfinite(column)][0]}; want finite ones, or NaN throughout for a method "
            "that states none. A density of 0 at the truth scores −∞: mix in a little of a "
            "density that is positive everywhere."
        )
    return column

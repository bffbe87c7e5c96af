"""Compares stated probabilities with outcomes: calibration error, Brier score, reliability curve.

Photos are sorted into bins of equal mass by their probability p; equal values share a bin. With
h = 1 where the truth lies within the distance, and B a bin,

    ECE = Σ_B |Σ_{i∈B} (p_i − h_i)| / n        Brier = Σ_i (p_i − h_i)² / n

(Naeini et al. 2015, AAAI; Nixon et al. 2019, arXiv 1904.01685, for equal mass). An ECE is biased
upwards by chance: `ece_if_perfect` is its expectation if the probabilities were exact. Resampling
adds the bias again, so that the interval is that of the resampled errors less their mean excess.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from locdiffusion.evaluate.bootstrap import Bootstrap, Estimate
from locdiffusion.evaluate.metrics import within_thresholds

Float = NDArray[np.float64]

BINS, PHOTOS_PER_BIN = 15, 20
"""Most bins, and the fewest photos of a bin on average; few photos get fewer bins."""
HISTOGRAM_BINS = 20


@dataclass(frozen=True)
class ReliabilityBin:
    """One point of a reliability curve.

    Attributes:
        n: Number of photos in the bin.
        probability: Mean of the stated probabilities.
        frequency: Share of photos within the distance, with its Wilson interval (Wilson 1927).
    """

    n: int
    probability: float
    frequency: Estimate


@dataclass(frozen=True)
class Reliability:
    """Reliability of the probability of being within one distance.

    Attributes:
        threshold_km: The distance in km.
        ece: Expected calibration error, with interval.
        ece_if_perfect: Expectation of the ECE for exact probabilities.
        brier: Mean squared error of the probability, with interval.
        bins: Bins of equal mass by increasing probability, over which the ECE is summed.
        histogram: Number of photos in `HISTOGRAM_BINS` equal steps of the probability.
    """

    threshold_km: float
    ece: Estimate
    ece_if_perfect: float
    brier: Estimate
    bins: tuple[ReliabilityBin, ...]
    histogram: tuple[int, ...]


def equal_mass_bins(probability: ArrayLike, bins: int | None = None) -> NDArray[np.int64]:
    """Computes the bin of each photo, 0 … k − 1 by increasing probability.

    Args:
        probability: Stated probabilities, ``(n,)``; equal values share a bin.
        bins: Most bins; None takes `BINS`, or n / `PHOTOS_PER_BIN` if that is less.
    """
    p = np.asarray(probability, np.float64)
    wanted = max(1, min(BINS, len(p) // PHOTOS_PER_BIN)) if bins is None else bins
    rank = np.searchsorted(np.sort(p), p)
    return np.unique(rank * wanted // len(p), return_inverse=True)[1].reshape(-1)


def reliabilities(
    probability: ArrayLike,
    distance_km: ArrayLike,
    thresholds_km: tuple[float, ...],
    bootstrap: Bootstrap,
) -> tuple[Reliability, ...]:
    """Computes the reliability of the probabilities of being within each distance.

    Args:
        probability: Probabilities of being within each of `thresholds_km`, ``(n, t)``.
        distance_km: Errors in km, ``(n,)``.
        thresholds_km: The t distances in km.
        bootstrap: Bootstrap of the intervals.
    """
    stated = np.asarray(probability, np.float64)
    _check_probability(stated)
    within = within_thresholds(distance_km, thresholds_km)
    numbers = [equal_mass_bins(column) for column in stated.T]
    member = [number[:, None] == np.arange(number.max() + 1) for number in numbers]
    surplus = [m * (p - h)[:, None] for m, p, h in zip(member, stated.T, within.T, strict=True)]
    # Σ_{i∈B} (p_i − h_i) / n of every bin and distance, in one pass over the resamples
    replicas = bootstrap.means(np.hstack(surplus))
    splits = np.cumsum([s.shape[1] for s in surplus])[:-1]
    errors = np.stack([np.abs(r).sum(1) for r in np.split(replicas, splits, axis=1)], axis=1)
    values = np.array([np.abs(s.mean(0)).sum() for s in surplus])
    centred = np.maximum(0.0, errors - errors.mean(0) + values)
    eces = bootstrap.estimates(values, centred)
    briers = bootstrap.mean_estimates((stated - within) ** 2)
    return tuple(
        Reliability(
            threshold_km=float(threshold),
            ece=eces[t],
            ece_if_perfect=_expected_by_chance(member[t], stated[:, t]),
            brier=briers[t],
            bins=_curve(member[t], stated[:, t], within[:, t], bootstrap.level),
            histogram=tuple(np.histogram(stated[:, t], HISTOGRAM_BINS, (0.0, 1.0))[0].tolist()),
        )
        for t, threshold in enumerate(thresholds_km)
    )


def _check_probability(stated: Float) -> None:
    outside = stated[~((stated >= -1e-6) & (stated <= 1.0 + 1e-6))]
    if len(outside):
        raise ValueError(f"A probability is {outside[0]:g}; want numbers from 0 to 1.")


def _expected_by_chance(member: NDArray[np.bool_], p: Float) -> float:
    """Sums E|N(0, s²)| = s·√(2/π) over the bins; s² = Σ p (1 − p) is the variance of the hits."""
    variance = member.T @ np.clip(p * (1.0 - p), 0.0, None)
    return float(np.sqrt(2.0 / np.pi * variance).sum() / len(p))


def _curve(
    member: NDArray[np.bool_], p: Float, hits: NDArray[np.bool_], level: float
) -> tuple[ReliabilityBin, ...]:
    curve = []
    for inside in member.T:
        n, k = int(inside.sum()), int(hits[inside].sum())
        curve.append(ReliabilityBin(n, float(p[inside].mean()), wilson(k, n, level)))
    return tuple(curve)


def wilson(hits: int, n: int, level: float) -> Estimate:
    """Computes the share of hits with Wilson's interval (1927, JASA 22, p. 209)."""
    z2 = NormalDist().inv_cdf(0.5 + level / 2.0) ** 2
    share = hits / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 / n * (share * (1 - share) + z2 / (4 * n))) / (1 + z2 / n)
    low = 0.0 if hits == 0 else float(centre - half)
    high = 1.0 if hits == n else float(centre + half)
    return Estimate(share, low, high)

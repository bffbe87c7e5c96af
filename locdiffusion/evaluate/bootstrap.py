"""Computes intervals by the percentile bootstrap over photos (Efron & Tibshirani 1993, §13.3).

The same seed and number of photos give the same resamples, so that the interval of a difference
between two methods on the same photos is a paired one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
_CHUNK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Estimate:
    """A score and its interval.

    Attributes:
        value: Score of the photos themselves.
        low, high: Ends of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the intervals.

    Attributes:
        resamples: Number of times that n photos are drawn with replacement.
        level: Nominal probability of the intervals.
        seed: Seed of the draws.
    """

    resamples: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.resamples < 10:
            raise ValueError(f"resamples is {self.resamples}; want at least 10, better 1000.")
        if not 0.0 < self.level < 1.0:
            raise ValueError(f"level is {self.level}; want a probability, such as 0.95.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; want 0 or more.")

    def draws(self, n: int) -> Iterator[NDArray[np.int64]]:
        """Yields photo numbers ``(c, n)``, a resample per row, in blocks that fit into memory."""
        rng = np.random.default_rng(self.seed)
        rows = max(1, _CHUNK_ELEMENTS // n)
        for start in range(0, self.resamples, rows):
            yield rng.integers(n, size=(min(rows, self.resamples - start), n))

    def means(self, values: ArrayLike) -> Float:
        """Computes the means of every resample: ``(n, m)`` to ``(resamples, m)``."""
        columns = np.asarray(values, np.float64)
        n = len(columns)
        return np.concatenate([_counts(draw, n) @ columns / n for draw in self.draws(n)])

    def medians(self, values: ArrayLike) -> Float:
        """Computes the medians of every resample: ``(n, m)`` to ``(resamples, m)``."""
        columns = np.asarray(values, np.float64)
        blocks = [
            np.stack([np.median(column[draw], axis=1) for column in columns.T], axis=1)
            for draw in self.draws(len(columns))
        ]
        return np.concatenate(blocks)

    def estimates(self, values: ArrayLike, replicas: ArrayLike) -> tuple[Estimate, ...]:
        """Joins values ``(m,)`` with the percentiles of their replicas ``(resamples, m)``."""
        tail = (1.0 - self.level) / 2.0
        low, high = np.quantile(np.asarray(replicas), [tail, 1.0 - tail], axis=0)
        found = zip(np.asarray(values).tolist(), low.tolist(), high.tolist(), strict=True)
        return tuple(Estimate(*numbers) for numbers in found)

    def mean_estimates(self, values: ArrayLike) -> tuple[Estimate, ...]:
        """Computes the means of the columns of ``(n, m)``, with intervals."""
        columns = np.asarray(values, np.float64)
        return self.estimates(columns.mean(0), self.means(columns))

    def median_estimates(self, values: ArrayLike) -> tuple[Estimate, ...]:
        """Computes the medians of the columns of ``(n, m)``, with intervals."""
        columns = np.asarray(values, np.float64)
        return self.estimates(np.median(columns, axis=0), self.medians(columns))


def _counts(draw: NDArray[np.int64], n: int) -> Float:
    """Counts how often each photo is in each resample, ``(c, n)``."""
    shifted = draw + n * np.arange(len(draw))[:, None]
    counts = np.bincount(shifted.ravel(), minlength=len(draw) * n)
    return counts.reshape(len(draw), n).astype(np.float64)

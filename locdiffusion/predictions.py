"""What any method says about photos whose truth is known: the input of every evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.geotags import THRESHOLDS_KM


@dataclass(frozen=True)
class Predictions:
    """Answers for N photos, and how likely the method held the truth.

    Attributes:
        latitude, longitude: ``(N,)`` degrees.
        radius_50_km, radius_90_km: ``(N,)`` should hold the truth with probability 0.5 and 0.9.
        probability: ``(N, 5)`` that the truth lies within each of `schemas.geotags.THRESHOLDS_KM`.
        log_density_km2: ``(N,)`` log of the posterior density at the truth, nats per km².
    """

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    radius_50_km: NDArray[np.float64]
    radius_90_km: NDArray[np.float64]
    probability: NDArray[np.float64]
    log_density_km2: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Checks that the columns are as long as each other."""
        n = len(self.latitude)
        for name, column in vars(self).items():
            wanted = (n, len(THRESHOLDS_KM)) if name == "probability" else (n,)
            if column.shape != wanted:
                raise ValueError(f"{name} has shape {column.shape}; want {wanted}.")

    def __len__(self) -> int:
        """N."""
        return len(self.latitude)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Predictions:
        """Some of the photos, by index or mask."""
        return Predictions(**{name: column[rows] for name, column in vars(self).items()})

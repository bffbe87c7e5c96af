"""Answers whose errors are known."""

from __future__ import annotations

import numpy as np

from locdiffusion.decoding.answers import Predictions
from locdiffusion.evaluate.bootstrap import Bootstrap
from locdiffusion.sphere.geodesy import destination
from schemas.geotags import THRESHOLDS_KM

FEW = Bootstrap(resamples=200)


def made_up(
    distance_km: np.ndarray, scale_km: float = 300.0, **columns: np.ndarray
) -> tuple[Predictions, np.ndarray, np.ndarray]:
    """Answers that are these distances off, and the truth."""
    n = len(distance_km)
    rng = np.random.default_rng(n)
    latitude, longitude = rng.uniform(-80, 80, n), rng.uniform(-180, 180, n)
    answer = destination(latitude, longitude, rng.uniform(0, 360, n), distance_km)
    stated = {
        "radius_50_km": np.full(n, scale_km * np.log(2.0)),
        "radius_90_km": np.full(n, scale_km * np.log(10.0)),
        "probability": np.tile(1.0 - np.exp(-np.array(THRESHOLDS_KM) / scale_km), (n, 1)),
        "log_density_km2": np.full(n, -14.0),
        **columns,
    }
    return Predictions(answer[0], answer[1], **stated), latitude, longitude

"""Computes accuracy, coverage and GeoScore from errors in km."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.geotags import THRESHOLDS_KM

GEOSCORE_BEST, GEOSCORE_SCALE_KM = 5000.0, 1492.7


def error_summary(distance_km: ArrayLike) -> dict[str, Any]:
    """Summarises errors.

    Args:
        distance_km: Great-circle errors in km, ``(n,)``.

    Returns:
        ``n``, ``median_km`` (None if n = 0) and ``within``: the shares of photos within each of
        `THRESHOLDS_KM`, with the number of km as a text for key.
    """
    distance = _finite(distance_km)
    shares = (
        within_thresholds(distance).mean(0).tolist()
        if len(distance)
        else [None] * len(THRESHOLDS_KM)
    )
    within = {f"{km:g}": share for km, share in zip(THRESHOLDS_KM, shares, strict=True)}
    median = float(np.median(distance)) if len(distance) else None
    return {"n": len(distance), "median_km": median, "within": within}


def within_thresholds(
    distance_km: ArrayLike, thresholds_km: Sequence[float] = THRESHOLDS_KM
) -> NDArray[np.bool_]:
    """Tells for errors ``(n,)`` which of the t thresholds they do not exceed, ``(n, t)``."""
    return np.asarray(distance_km, np.float64)[:, None] <= np.asarray(thresholds_km)


def coverage(distance_km: ArrayLike, radius_km: ArrayLike) -> float | None:
    """Computes the share of photos whose truth lies within the radius; None without photos.

    Args:
        distance_km: Errors in km, ``(n,)``.
        radius_km: Stated radii in km, ``(n,)``.
    """
    distance, radius = _finite(distance_km), _finite(radius_km)
    if len(distance) != len(radius):
        raise ValueError(f"{len(distance)} distances for {len(radius)} radii; want as many.")
    return float(np.mean(distance <= radius)) if len(distance) else None


def geoscores(distance_km: ArrayLike) -> NDArray[np.float64]:
    """Computes the GeoScore 5000·exp(−d / 1492.7 km) of errors d ``(n,)`` in km.

    It is the measure of OpenStreetView-5M (Astruc et al. 2024, arXiv 2404.18873, §4), after the
    points of the game GeoGuessr. Reported is its mean over photos.
    """
    return GEOSCORE_BEST * np.exp(-_finite(distance_km) / GEOSCORE_SCALE_KM)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.atleast_1d(np.asarray(values, np.float64))
    if not np.all(np.isfinite(array)):
        raise ValueError("A distance or radius is not finite; drop rows without truth first.")
    return array

"""Finds anchors that contradict the others: a default position, a clock that is a day wrong.

Each anchor that is kept counts one, and each step between kept ones costs what its speed is worth:
nothing if a car or, given the hours around a flight, an aeroplane can do it; HURRY if only an
aeroplane could that has no airport; LONGEST_RUN if nothing can. The anchors of the best sum are
believed, among equals those with the least way; the others contradict. So one impossible anchor is
left out, and where a long part of an album cannot be reached from the part before, a clock was set
and both are kept. Photos through the window of an aeroplane are left out like mistakes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.album import Album
from locdiffusion.albums.von_mises_fisher import chord_squared
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

Index = NDArray[np.int64]

GROUND_KMH, AIR_KMH = 250.0, 1100.0
"""Speeds in km/h that no camera exceeds on the ground, and in the air."""

AIRPORT_HOURS = 1.5
"""Hours before and after a flight, in which a camera moves as on the ground."""

HURRY = 2.5
"""Cost of a step at a speed between those of the ground and of the air, in anchors."""

SLACK_KM = 5.0
"""Way in km that is always believed: positions are rounded, and phones keep the last fix."""

LONGEST_RUN = 24
"""Contradicting anchors in a row that are left out; of more, both sides are kept."""

NULL_ISLAND_DEG = 1e-3
"""Positions so near to 0°N 0°E are what software writes for no position."""


def contradicting(album: Album, clock_seconds: float) -> NDArray[np.bool_]:
    """Finds the anchors of an album that contradict the others.

    Args:
        album: Photos of an album.
        clock_seconds: Time in seconds that is added to every step.

    Returns:
        Which photos have a position that is not to be believed, ``(N,)``.
    """
    near_zero = np.hypot(album.latitude, album.longitude) < NULL_ISLAND_DEG
    found = album.anchored & near_zero
    anchors = album.order[(album.anchored & ~near_zero)[album.order]]
    if len(anchors) > 1:
        kept = _best_chain(_gains(album, anchors, clock_seconds))
        found[anchors[~kept]] = True
    return found


def _gains(album: Album, anchors: Index, clock_seconds: float) -> NDArray[np.float64]:
    """What anchor i counts if anchor i - lag is the one that is kept before it, ``(n, lags)``."""
    lags = min(LONGEST_RUN + 1, len(anchors) - 1)
    gains = np.full((len(anchors), lags), -np.inf)
    for lag in range(1, lags + 1):
        first, second = anchors[:-lag], anchors[lag:]
        chord = np.sqrt(chord_squared(album.vectors[first], album.vectors[second]))
        apart = 2.0 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2.0, 1.0))
        slack = SLACK_KM + 3.0 * np.hypot(album.error_km[first], album.error_km[second])
        hours = album.step_hours(first, second, clock_seconds)
        flown = np.maximum(hours - AIRPORT_HOURS, 0.0) * (AIR_KMH - GROUND_KMH)
        cost = np.where(apart > GROUND_KMH * hours + flown + slack, HURRY, 0.0)
        cost[apart > AIR_KMH * hours + slack] = LONGEST_RUN
        # One anchor counts for more than any way.
        gains[lag:, lag - 1] = 1.0 - cost - 1e-6 * apart
    return gains


def _best_chain(gains: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of n anchors are in the chain with the greatest sum of gains, ``(n,)``."""
    n, lags = gains.shape
    best, source = np.ones(n), np.full(n, -1)
    for i in range(1, n):
        m = min(lags, i)
        values = best[i - m : i][::-1] + gains[i, :m]
        lag = int(np.argmax(values))
        if values[lag] > best[i]:
            best[i], source[i] = values[lag], i - 1 - lag
    kept = np.zeros(n, np.bool_)
    last = int(np.argmax(best))
    while last >= 0:
        kept[last] = True
        last = int(source[last])
    return kept

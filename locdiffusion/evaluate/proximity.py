"""Scores test photos by their distance from the nearest training photo.

A model that memorises is accurate near its training photos only; one that generalises is accurate
elsewhere too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from locdiffusion.decoding.answers import Predictions
from locdiffusion.evaluate.bootstrap import Bootstrap
from locdiffusion.evaluate.scores import Scores, score
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between, unit_vectors

Float = NDArray[np.float64]

EDGES_KM = (0.0, 10.0, 25.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0)
MIN_PHOTOS = 20


@dataclass(frozen=True)
class Stratum:
    """Scores of the photos in one range of distances from the training photos.

    Attributes:
        low_km, high_km: Bounds of the distance, the upper one excluded; None is no bound.
        median_km_to_training: Median of the distances.
        scores: Scores of these photos, without reliability.
    """

    low_km: float
    high_km: float | None
    median_km_to_training: float
    scores: Scores

    @property
    def label(self) -> str:
        """Names the range, as in "25-50 km"."""
        if self.high_km is None:
            return f"over {self.low_km:g} km" if self.low_km else "any"
        return f"{self.low_km:g}-{self.high_km:g} km"


def nearest_training_km(
    latitude: ArrayLike,
    longitude: ArrayLike,
    training_latitude: ArrayLike,
    training_longitude: ArrayLike,
) -> Float:
    """Computes the great-circle distance ``(n,)`` in km to the nearest training photo.

    Args:
        latitude: Latitude of the photos in degrees, ``(n,)``.
        longitude: Longitude of the photos in degrees, ``(n,)``.
        training_latitude: Latitude of the training photos in degrees, ``(m,)``.
        training_longitude: Longitude of the training photos in degrees, ``(m,)``.

    Raises:
        ValueError: There is no training photo, or a position is not finite.
    """
    from scipy.spatial import cKDTree

    photos = unit_vectors(latitude, longitude)
    training = unit_vectors(training_latitude, training_longitude)
    if not len(training):
        raise ValueError("0 training photos; want at least 1 to measure a distance to.")
    if not (np.all(np.isfinite(photos)) and np.all(np.isfinite(training))):
        raise ValueError("A position is not finite; drop photos without truth first.")
    # The nearest by chord is the nearest by arc.
    _, nearest = cKDTree(training).query(photos)
    return EARTH_RADIUS_KM * angle_between(photos, training[nearest])


def strata_numbers(
    distance_km: ArrayLike, edges_km: Sequence[float] = EDGES_KM, min_photos: int = MIN_PHOTOS
) -> tuple[NDArray[np.int64], tuple[float, ...]]:
    """Divides photos by distance; every photo is in exactly one stratum.

    Args:
        distance_km: Distances to the nearest training photo, ``(n,)``.
        edges_km: Increasing lower bounds of the strata, the first 0.
        min_photos: Fewest photos of a stratum. A smaller one is joined to the next, the last one to
            the one before.

    Returns:
        Number of the stratum of each photo ``(n,)``, and the lower bounds of the joined strata.

    Raises:
        ValueError: The edges do not increase from 0.
    """
    edges = np.asarray(edges_km, np.float64)
    if not len(edges) or edges[0] != 0.0 or not np.all(np.diff(edges) > 0):
        raise ValueError(f"Edges are {list(edges_km)} km; want them to rise from 0, as {EDGES_KM}.")
    distance = np.asarray(distance_km, np.float64)
    counts = np.bincount(np.searchsorted(edges, distance, side="right") - 1, minlength=len(edges))
    kept, waiting = [0.0], 0
    for upper, count in zip(edges[1:], counts, strict=False):
        waiting += count
        if waiting >= min_photos:
            kept.append(float(upper))
            waiting = 0
    if waiting + counts[-1] < min_photos and len(kept) > 1:
        kept.pop()
    return np.searchsorted(kept, distance, side="right") - 1, tuple(kept)


def score_strata(
    predictions: Predictions,
    latitude: ArrayLike,
    longitude: ArrayLike,
    distance_km: ArrayLike,
    edges_km: Sequence[float] = EDGES_KM,
    bootstrap: Bootstrap | None = None,
) -> tuple[Stratum, ...]:
    """Scores the photos of each stratum.

    Args:
        predictions: Answers for n photos.
        latitude: Latitude of the truth in degrees, ``(n,)``.
        longitude: Longitude of the truth in degrees, ``(n,)``.
        distance_km: Distances of `nearest_training_km`, ``(n,)``.
        edges_km: Lower bounds of the strata, see `strata_numbers`.
        bootstrap: Bootstrap of the intervals; None takes `Bootstrap()`.
    """
    latitude, longitude = np.asarray(latitude), np.asarray(longitude)
    distance = np.asarray(distance_km, np.float64)
    numbers, lows = strata_numbers(distance, edges_km)
    found = []
    for number, (low, high) in enumerate(zip(lows, (*lows[1:], None), strict=True)):
        rows = numbers == number
        if not rows.any():
            continue
        part = predictions.take(rows)
        scores = score(part, latitude[rows], longitude[rows], bootstrap, reliability=False)
        found.append(Stratum(low, high, float(np.median(distance[rows])), scores))
    return tuple(found)

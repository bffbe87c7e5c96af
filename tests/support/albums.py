"""Albums of made-up photographers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from locdiffusion.albums.album import Album
from locdiffusion.albums.evidence import Evidence
from locdiffusion.density.shdd import encode, encode_vectors, max_degree_of

START_HOUR = 24.0 * 365.2425 * 45.0
"""Some hour of 2015, in hours since 1970."""


def walk(
    count: int,
    rng: np.random.Generator,
    speed_kmh: float = 2.0,
    latitude: float = 48.0,
    longitude: float = 11.0,
) -> Album:
    """An album of a photographer who walks at random, and takes a photo every half hour or so.

    Args:
        count: Number of photos, all of them anchors.
        rng: Source of the steps.
        speed_kmh: Standard deviation of the speed of a step in each direction.
        latitude: Where the walk starts, in degrees.
        longitude: Where the walk starts, in degrees.
    """
    waits = rng.exponential(0.5, count)
    steps = rng.normal(size=(2, count)) * waits * speed_kmh / 111.195
    return Album.of(
        START_HOUR + np.cumsum(waits),
        np.clip(latitude + np.cumsum(steps[0]), -90.0, 90.0),
        longitude + np.cumsum(steps[1]) / np.cos(np.radians(latitude)),
    )


def hiding(album: Album, photos: np.ndarray) -> Album:
    """An album whose given photos have no position."""
    latitude, longitude = album.latitude.copy(), album.longitude.copy()
    latitude[photos] = longitude[photos] = np.nan
    return Album(album.hours, latitude, longitude, album.camera, album.clock_hours, album.error_km)


@dataclass(frozen=True)
class FieldLikelihood:
    """Likelihoods exp⟨η, code(y)⟩ by plain sums, for natural parameters ``(n, d)``."""

    natural: np.ndarray
    look: np.ndarray
    weight: np.ndarray

    def base(self, vectors):
        """The base measure that knows nothing."""
        return np.ones(len(vectors))

    def at(self, vectors):
        """The fields at unit vectors, less their maxima."""
        code = encode_vectors(vectors, max_degree_of(self.natural.shape[1]))

        def log_likelihood(rows):
            values = self.natural[rows] @ code.T
            return values - values.max(1, keepdims=True)

        return log_likelihood


def evidence_at(latitude, longitude, strength=0.3, look=None, photos=None, weight=None):
    """Evidence that each photo lies near a place, as sharp as degree 15 allows."""
    natural = strength * encode(np.asarray(latitude, float), np.asarray(longitude, float), 15)
    count = len(natural)
    likelihood = FieldLikelihood(
        natural,
        np.eye(count) if look is None else look,
        np.ones(count) if weight is None else weight,
    )
    return Evidence(np.arange(count) if photos is None else photos, likelihood)

"""Albums of made-up photographers."""

from __future__ import annotations

import numpy as np

from locdiffusion.albums.album import Album

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

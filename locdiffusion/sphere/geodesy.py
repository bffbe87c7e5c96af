"""Points and distances on the mean sphere.

Outside the library a point is ``(latitude, longitude)`` in degrees, WGS84; inside it is a unit
vector. Distances are great circles on the sphere of mean radius (IUGG R1); they differ from
distances on the WGS84 ellipsoid by up to 0.5 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

EARTH_RADIUS_KM = 6371.0088
"""Mean radius R1 = (2a + b)/3 of WGS84, in km (Moritz 2000, Journal of Geodesy 74, p. 131)."""

Float = NDArray[np.float64]


def unit_vectors(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> Float:
    """Converts points in degrees to unit vectors.

    Args:
        latitude_deg: Degrees north, any shape.
        longitude_deg: Degrees east, of a shape that broadcasts; any multiple of 360 may be added.

    Returns:
        Unit vectors ``(..., 3)``: x to (0°N, 0°E), y to (0°N, 90°E), z to the north pole.
    """
    latitude, longitude = np.broadcast_arrays(
        np.radians(np.asarray(latitude_deg, np.float64)),
        np.radians(np.asarray(longitude_deg, np.float64)),
    )
    cos_latitude = np.cos(latitude)
    return np.stack(
        [cos_latitude * np.cos(longitude), cos_latitude * np.sin(longitude), np.sin(latitude)], -1
    )


def latitude_longitude(vectors: ArrayLike) -> tuple[Float, Float]:
    """Inverts `unit_vectors`; vectors ``(..., 3)`` may have any positive length.

    Returns:
        Latitude and longitude in degrees, longitude in [-180, 180).
    """
    x, y, z = np.moveaxis(np.asarray(vectors, np.float64), -1, 0)
    latitude = np.degrees(np.arctan2(z, np.hypot(x, y)))
    return latitude, wrap_longitude(np.degrees(np.arctan2(y, x)))


def wrap_longitude(longitude_deg: ArrayLike) -> Float:
    """Brings longitudes in degrees into [-180, 180)."""
    wrapped = np.mod(np.asarray(longitude_deg, np.float64) + 180.0, 360.0) - 180.0
    # A tiny negative input rounds to +180 in the modulo above.
    return np.where(wrapped >= 180.0, -180.0, wrapped)


def great_circle_km(
    latitude1: ArrayLike, longitude1: ArrayLike, latitude2: ArrayLike, longitude2: ArrayLike
) -> Float:
    """Computes great-circle distances in km between points in degrees; shapes broadcast."""
    first, second = unit_vectors(latitude1, longitude1), unit_vectors(latitude2, longitude2)
    return EARTH_RADIUS_KM * angle_between(first, second)


def angle_between(u: ArrayLike, v: ArrayLike) -> Float:
    """Computes angles in radians between unit vectors ``(..., 3)``.

    It uses ``2 atan2(|u - v|, |u + v|)``, accurate at 0 and at π where arccos and arcsin are not
    (Kahan 2006, "How futile are mindless assessments of roundoff", §12).
    """
    u, v = np.asarray(u, np.float64), np.asarray(v, np.float64)
    return 2.0 * np.arctan2(np.linalg.norm(u - v, axis=-1), np.linalg.norm(u + v, axis=-1))


def destination(
    latitude_deg: ArrayLike,
    longitude_deg: ArrayLike,
    bearing_deg: ArrayLike,
    distance_km: ArrayLike,
) -> tuple[Float, Float]:
    """Finds the point that is reached from a start along a great circle; arguments broadcast.

    Args:
        latitude_deg: Latitude of the start in degrees.
        longitude_deg: Longitude of the start in degrees; at a pole, north is along this meridian.
        bearing_deg: Initial direction in degrees clockwise from north.
        distance_km: Distance on the mean sphere.

    Returns:
        Latitude and longitude in degrees.
    """
    latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg)
    bearing = np.radians(np.asarray(bearing_deg, np.float64))[..., None]
    angle = (np.asarray(distance_km, np.float64) / EARTH_RADIUS_KM)[..., None]
    start = unit_vectors(latitude_deg, longitude_deg)
    zero = np.zeros_like(latitude * longitude)
    east = np.stack([-np.sin(longitude) + zero, np.cos(longitude) + zero, zero], -1)
    north = np.cross(start, east)
    heading = np.cos(bearing) * north + np.sin(bearing) * east
    return latitude_longitude(np.cos(angle) * start + np.sin(angle) * heading)

"""Cuts north-up patches in the azimuthal equidistant projection.

With the patch centre (φ₁, λ₀), a point at x km east and y km north in the plane, ρ = √(x² + y²) and
c = ρ/R, the inverse projection is (Snyder 1987, Map Projections: A Working Manual, 20-14 and 20-15)

    sin φ = cos c · sin φ₁ + (y/ρ) sin c · cos φ₁
    λ     = λ₀ + atan2((x/ρ) sin c, cos φ₁ cos c − (y/ρ) sin φ₁ sin c).

Distances and bearings from the centre are true, so a patch looks the same at every latitude: the
stretch of the map does not tell the latitude.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import NDArray

from locdiffusion.overhead.mosaics import LandMask, Mosaic
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

_LAND_GRID_PX = 16


@dataclasses.dataclass(frozen=True)
class PatchGeometry:
    """Size and scale of a patch.

    Attributes:
        size_px: Width and height in pixels.
        km_per_px: Scale along every line through the centre.
        up_bearing_deg: Compass bearing of the picture's upward direction; 0 is north-up.
    """

    size_px: int = 128
    km_per_px: float = 5.0
    up_bearing_deg: float = 0.0

    def __post_init__(self) -> None:
        if self.size_px < 1 or not self.km_per_px > 0:
            raise ValueError(f"size_px and km_per_px must be positive, found {self}")
        reach_km = self.size_px * self.km_per_px / math.sqrt(2)
        limit_km = math.pi / 2 * EARTH_RADIUS_KM
        if not reach_km < limit_km:
            raise ValueError(
                f"a patch of {self.size_px} px at {self.km_per_px} km/px reaches {reach_km:.0f} km "
                f"from its centre; keep it below {limit_km:.0f} km (a hemisphere)"
            )

    def coarse(self, size_px: int) -> PatchGeometry:
        """Divides the same extent into another number of pixels."""
        return dataclasses.replace(
            self, size_px=size_px, km_per_px=self.km_per_px * self.size_px / size_px
        )


@functools.lru_cache(maxsize=8)
def _directions(geometry: PatchGeometry) -> tuple[NDArray[np.float64], ...]:
    """Computes unit vectors of the pixels seen from the centre: up, east, north, each (S, S)."""
    offset_km = (np.arange(geometry.size_px) - (geometry.size_px - 1) / 2) * geometry.km_per_px
    right_km, above_km = offset_km[None, :], -offset_km[:, None]
    bearing = math.radians(geometry.up_bearing_deg)
    east_km = right_km * math.cos(bearing) + above_km * math.sin(bearing)
    north_km = above_km * math.cos(bearing) - right_km * math.sin(bearing)
    angle = np.hypot(east_km, north_km) / EARTH_RADIUS_KM
    sin_over_km = np.sinc(angle / math.pi) / EARTH_RADIUS_KM
    directions = (np.cos(angle), east_km * sin_over_km, north_km * sin_over_km)
    for array in directions:
        array.flags.writeable = False
    return directions


def patch_coordinates(
    latitude_deg: float, longitude_deg: float, geometry: PatchGeometry
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Computes the positions of all pixel centres of a patch.

    Args:
        latitude_deg: Latitude of the patch centre.
        longitude_deg: Longitude of the patch centre.
        geometry: Size, scale and direction; for an even size the centre is a pixel corner.

    Returns:
        Latitude and longitude in degrees, each (S, S), row 0 at the top. Longitudes are continuous
        across the patch: they may leave [-180, 180).
    """
    up, east, north = _directions(geometry)
    phi = math.radians(latitude_deg)
    sin_latitude = up * math.sin(phi) + north * math.cos(phi)
    longitude = np.arctan2(east, up * math.cos(phi) - north * math.sin(phi))
    latitude = np.arcsin(np.clip(sin_latitude, -1.0, 1.0))
    return np.degrees(latitude), np.degrees(longitude) + longitude_deg


def cut_patch(
    mosaic: Mosaic, latitude_deg: float, longitude_deg: float, geometry: PatchGeometry
) -> NDArray[np.uint8]:
    """Cuts the patch centred at a position, shape (S, S, 3)."""
    return mosaic.sample(*patch_coordinates(latitude_deg, longitude_deg, geometry))


def land_fraction(
    land: LandMask, latitude_deg: float, longitude_deg: float, geometry: PatchGeometry
) -> float:
    """Estimates the share of a patch on land, from 16 x 16 points whose areas differ by < 1 %."""
    coordinates = patch_coordinates(latitude_deg, longitude_deg, geometry.coarse(_LAND_GRID_PX))
    return float(land.at(*coordinates).mean())

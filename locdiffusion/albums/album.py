"""An album: photos in the order of their times, some with a known position, the anchors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from locdiffusion.sphere.geodesy import unit_vectors

Float = NDArray[np.float64]
Index = NDArray[np.int64]

EARLIEST_HOUR = 24.0 * 365.2425 * 20.0 + 24.0 * 366.0
"""Hours from 1970 to the start of 1991. Earlier times, as of 1980, are those of a clock not set."""


@dataclass(frozen=True)
class Album:
    """Photos of one photographer, in any order.

    Attributes:
        hours: Times in hours since 1970, UTC where the zone is known, ``(N,)``; NaN without one.
        latitude, longitude: Known positions in degrees, ``(N,)``; NaN for photos without one.
        camera: Number of the camera of each photo, ``(N,)``.
        clock_hours: Standard error in hours of each camera's clock against the others', ``(N,)``.
        error_km: Standard error of each known position in km, ``(N,)``.
    """

    hours: Float
    latitude: Float
    longitude: Float
    camera: Index
    clock_hours: Float
    error_km: Float

    def __post_init__(self) -> None:
        """Checks shapes and ranges."""
        for name, column in vars(self).items():
            if np.shape(column) != (len(self.hours),):
                raise ValueError(
                    f"{name} has shape {np.shape(column)}; want ({len(self.hours)},), one for "
                    "each photo."
                )
        if np.any(np.isnan(self.latitude) != np.isnan(self.longitude)):
            raise ValueError("A photo has half a position; want both coordinates, or NaN for both.")
        if np.any(np.abs(self.latitude) > 90.0):
            worst = np.nanmax(np.abs(self.latitude))
            raise ValueError(f"A latitude is {worst:g} in size; want [-90, 90]. Swapped columns?")
        for name in ("clock_hours", "error_km"):
            if np.any(~(getattr(self, name) >= 0.0)):
                raise ValueError(f"{name} holds a negative number or NaN; want 0 or more.")

    @classmethod
    def of(
        cls,
        hours: Float,
        latitude: Float,
        longitude: Float,
        camera: Index | None = None,
        clock_hours: float | Float = 0.0,
        error_km: float | Float = 0.01,
    ) -> Album:
        """Makes an album of one camera, and of one error for all anchors, unless told otherwise.

        Args:
            hours: Times ``(N,)`` in hours since 1970; NaN without one.
            latitude: Known latitudes ``(N,)`` in degrees, or NaN.
            longitude: Known longitudes ``(N,)`` in degrees, or NaN.
            camera: Number of the camera of each photo, ``(N,)``.
            clock_hours: Standard error of the clocks in hours.
            error_km: Standard error of the known positions in km.
        """
        n = len(hours)
        return cls(
            np.asarray(hours, np.float64),
            np.asarray(latitude, np.float64),
            np.asarray(longitude, np.float64),
            np.zeros(n, np.int64) if camera is None else np.asarray(camera, np.int64),
            np.broadcast_to(np.asarray(clock_hours, np.float64), (n,)),
            np.broadcast_to(np.asarray(error_km, np.float64), (n,)),
        )

    def __len__(self) -> int:
        """The number of photos."""
        return len(self.hours)

    @cached_property
    def timed(self) -> NDArray[np.bool_]:
        """Which photos have a time that can be true, ``(N,)``."""
        return np.isfinite(self.hours) & (np.nan_to_num(self.hours) >= EARLIEST_HOUR)

    @cached_property
    def vectors(self) -> Float:
        """Unit vectors of the known positions, ``(N, 3)``; NaN without one."""
        return unit_vectors(self.latitude, self.longitude)

    @cached_property
    def anchored(self) -> NDArray[np.bool_]:
        """Which photos have both a position and a time, ``(N,)``."""
        return self.timed & ~np.isnan(self.latitude)

    @cached_property
    def order(self) -> Index:
        """Photos with a time in the order of their times, ``(n,)``; equal times as they come."""
        rows = np.flatnonzero(self.timed)
        return rows[np.argsort(self.hours[rows], kind="stable")]

    def step_hours(self, first: Index, second: Index, clock_seconds: float) -> Float:
        """Computes the time between photos, with what their clocks may be wrong.

        Args:
            first: Numbers of photos, any shape.
            second: Numbers of photos, of a shape that broadcasts.
            clock_seconds: Time in seconds that is added to every step.

        Returns:
            Hours, more than 0.
        """
        hours = np.abs(self.hours[second] - self.hours[first]) + clock_seconds / 3600.0
        apart = self.camera[first] != self.camera[second]
        clock = np.hypot(self.clock_hours[first], self.clock_hours[second])
        return hours + np.where(apart, clock, 0.0)

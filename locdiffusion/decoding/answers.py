"""Answers: what the decoder says of photos, one row per photo, and the places among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, latitude_longitude

LEAST_MODE = 0.01
"""Probability of another place below which it is not reported."""


@dataclass(frozen=True)
class Mode:
    """A place the photo may come from.

    Attributes:
        latitude, longitude: Degrees.
        probability: That the photo lies within `radius_km` of it.
        radius_km: The decoder's ρ.
    """

    latitude: float
    longitude: float
    probability: float
    radius_km: float


def distinct_modes(
    places: NDArray[np.float64], probability: NDArray[np.float64], radius_km: float, count: int
) -> list[tuple[Mode, ...]]:
    """The answer first, then what lies more than 2ρ from all chosen before, likeliest first.

    Args:
        places: ``(N, M, 3)`` unit vectors, the answer first.
        probability: ``(N, M)`` within `radius_km` of each.
        radius_km: The decoder's ρ.
        count: How many at most for each photo.
    """
    order = np.argsort(-np.where(np.arange(probability.shape[1]) == 0, np.inf, probability), 1)
    places = np.take_along_axis(places, order[..., None], 1)
    probability = np.take_along_axis(probability, order, 1)
    near = np.einsum("nix,njx->nij", places, places) >= math.cos(
        min(math.pi, 2.0 * radius_km / EARTH_RADIUS_KM)
    )
    chosen = probability >= LEAST_MODE
    chosen[:, 0] = True
    for i in range(1, chosen.shape[1]):
        kept = chosen[:, :i]
        chosen[:, i] &= ~(kept & near[:, i, :i]).any(1) & (kept.sum(1) < count)
    latitude, longitude = (c.tolist() for c in latitude_longitude(places))
    numbers = zip(latitude, longitude, probability.tolist(), chosen.tolist(), strict=True)
    return [
        tuple(Mode(a, b, p, radius_km) for a, b, p, kept in zip(*row, strict=True) if kept)
        for row in numbers
    ]


@dataclass(frozen=True)
class GeotagColumns:
    """Answers for N photos, one column each (units and names as in `schemas.geotags`).

    Attributes:
        latitude, longitude: ``(N,)`` float64 degrees.
        radius_50_km, radius_90_km: ``(N,)`` float64.
        probability: ``(N, 5)`` float32, within each of `schemas.geotags.THRESHOLDS_KM`.
        information_nats: ``(N,)`` float32.
        land_probability: ``(N,)`` float32, that the photo was taken on land.
        modes: N tuples: the answer itself, then the other places, likeliest first.
    """

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    radius_50_km: NDArray[np.float64]
    radius_90_km: NDArray[np.float64]
    probability: NDArray[np.float32]
    information_nats: NDArray[np.float32]
    land_probability: NDArray[np.float32]
    modes: list[tuple[Mode, ...]]

    def __len__(self) -> int:
        """N."""
        return len(self.latitude)

    @classmethod
    def joined(cls, parts: Sequence[GeotagColumns]) -> GeotagColumns:
        """The rows of all parts, in order."""
        if len(parts) == 1:
            return parts[0]
        columns = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
            if field.name != "modes"
        }
        return cls(**columns, modes=[modes for part in parts for modes in part.modes])

"""Decides an answer from points that stand for a density: the place, its radii, probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from schemas.geotags import THRESHOLDS_KM

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Decision:
    """Places of B photos, and how far from them the mass lies.

    Attributes:
        place: Unit vectors ``(B, 3)``.
        distance_km: Distances of the points from the place, nearest first, ``(B, S)``.
        below: Share of the mass that is nearer than each point, itself with half, ``(B, S)``.
    """

    place: Float
    distance_km: Float
    below: Float

    @classmethod
    def at(cls, place: Float, points: Float, mass: Float) -> Decision:
        """Decides for places.

        Args:
            place: Unit vectors ``(B, 3)``.
            points: Unit vectors of the points that stand for the densities, ``(B, S, 3)``.
            mass: Masses of the points, ``(B, S)``.
        """
        chord = np.linalg.norm(points - place[:, None], axis=-1)
        distance = 2.0 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2.0, 1.0))
        order = np.argsort(distance, 1)
        held = np.take_along_axis(mass / mass.sum(1, keepdims=True), order, 1)
        below = np.cumsum(held, 1) - 0.5 * held
        return cls(place, np.take_along_axis(distance, order, 1), below)

    def radius_km(self, level: float) -> Float:
        """Computes the radii ``(B,)`` that hold a share of the mass."""
        return np.array(
            [np.interp(level, b, d) for b, d in zip(self.below, self.distance_km, strict=True)]
        )

    def share_within(self, distance_km: Float) -> Float:
        """Computes the share of the mass within distances ``(B,)`` or ``(B, t)`` in km."""
        wanted = np.asarray(distance_km, np.float64)
        shares = [
            np.interp(w, np.append(0.0, d), np.append(0.0, b))
            for w, b, d in zip(wanted, self.below, self.distance_km, strict=True)
        ]
        return np.array(shares).reshape(wanted.shape)


def decide(points: Float, mass: Float, candidates: Float, gain: Float) -> Decision:
    """Decides for the first candidate, unless another is expected to be clearly better.

    A candidate is as good as the number of distances in THRESHOLDS_KM that it is expected to meet.

    Args:
        points: Unit vectors ``(B, S, 3)``.
        mass: Masses of the points, ``(B, S)``.
        candidates: Unit vectors of the places to choose from, ``(B, C, 3)``.
        gain: Expected number of distances by which another place must be better than the first,
            ``(B,)``.
    """
    cosine = candidates @ points.swapaxes(1, 2)
    expected = np.zeros(candidates.shape[:2])
    for km in THRESHOLDS_KM:
        within = cosine >= np.cos(km / EARTH_RADIUS_KM)
        expected += np.einsum("bcs,bs->bc", within, mass / mass.sum(1, keepdims=True))
    row = np.arange(len(mass))
    best = expected.argmax(1)
    chosen = np.where(expected[row, best] > expected[:, 0] + gain, best, 0)
    return Decision.at(candidates[row, chosen], points, mass)

"""Scores of answers against the truth, as all trials of albums print them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.decision import Decision
from locdiffusion.albums.levels import Levels
from locdiffusion.decoding.answers import Columns
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between

Float = NDArray[np.float64]

NOMINAL = Levels()


@dataclass(frozen=True)
class Scored(Columns):
    """Answers for n photos whose places are known.

    Attributes:
        album: Number of the album of each photo, ``(n,)``.
        error_km: Distance of the answer from the truth, ``(n,)``.
        radius_50_km, radius_90_km: Radii of the answer, ``(n,)``.
        log_density_km2: Log of the density at the truth in nats per km², ``(n,)``.
    """

    album: NDArray[np.int64]
    error_km: Float
    radius_50_km: Float
    radius_90_km: Float
    log_density_km2: Float

    def within(self, km: float) -> float:
        """Share of the answers within a distance of the truth, in percent."""
        return 100.0 * float(np.mean(self.error_km <= km))

    def nats(self) -> float:
        """Mean negative log density at the truth, in nats per km²."""
        return -float(np.mean(self.log_density_km2))

    def total_nats(self) -> float:
        """Sum of the negative log densities at the truth, in nats per km²."""
        return -float(self.log_density_km2.sum())

    def coverage(self) -> tuple[float, float]:
        """Shares of the truths within the radii of 50 % and 90 %, in percent."""
        half, most = (
            100.0 * float(np.mean(self.error_km <= radius))
            for radius in (self.radius_50_km, self.radius_90_km)
        )
        return half, most

    def line(self, name: str) -> str:
        """One row of a Markdown table, see HEADER."""
        half, most = self.coverage()
        near = " | ".join(f"{self.within(km):.1f}" for km in (25.0, 200.0, 750.0))
        middle = float(np.median(self.error_km))
        return f"| {name} | {middle:.2f} | {near} | {self.nats():.2f} | {half:.0f}/{most:.0f} |"


HEADER = """\
| answer | median km | <25 | <200 | <750 | nats/km² | 50/90 held |
|--|--|--|--|--|--|--|"""


def scored(
    decision: Decision, truth: Float, log_density: Float, album: int = 0, levels: Levels = NOMINAL
) -> Scored:
    """Scores decisions against the truth.

    Args:
        decision: Places of n photos with the distances of their masses.
        truth: Unit vectors of the true places, ``(n, 3)``.
        log_density: Log densities at the truth per steradian, ``(n,)``.
        album: Number of the album.
        levels: Levels of the radii.
    """
    return Scored(
        np.full(len(truth), album),
        EARTH_RADIUS_KM * angle_between(decision.place, truth),
        decision.radius_km(levels.half),
        decision.radius_km(levels.most),
        log_density - 2.0 * np.log(EARTH_RADIUS_KM),
    )

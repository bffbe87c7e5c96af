r"""Stretches the temperatures until the radii hold as many truths as they say.

A maximum of the likelihood says which photos' densities are too sharp; it does not fix how many
truths the radii hold. All log temperatures are therefore shifted and stretched afterwards,

    log τ' = m + a + b (log τ - m),

with m their mean over the first part of the validation data. The shift a widens all radii alike.
A factor b > 1 widens those radii most whose temperature is highest: photos of regions that training
left out, and pictures that look unlike those of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from locdiffusion.calibrate.parts import Float, LocatedDensities
from locdiffusion.decoding.decoder import Decoder

LEVELS = (0.5, 0.9)
"""Nominal coverage of the two radii of an answer."""

SHIFT, STRETCH = (-1.6, 1.6), (0.5, 2.5)
"""Bounds of a and b."""


@dataclass(frozen=True)
class CoverageTable:
    """Radii of N photos relative to their errors, over the logarithm of the temperature.

    Attributes:
        knots: Log temperatures of the table, ``(K,)`` increasing.
        margin: ``(2, N, K)`` log of radius over error for each of `LEVELS`. The truth lies within
            the radius where the margin is not negative.
        log_temperature: Fitted log temperature of each photo, ``(N,)``.
        weight: Weight of all N photos together in the fit of a stretch.
    """

    knots: Float
    margin: Float
    log_temperature: Float
    weight: float = 1.0

    @classmethod
    def measure(
        cls, densities: LocatedDensities, log_temperature: Float, decoder: Decoder, knots: Float
    ) -> CoverageTable:
        """Decodes every photo at every knot.

        Args:
            densities: N photos and their densities at τ = 1.
            log_temperature: Fitted log temperature of each photo, ``(N,)``.
            decoder: Decoder of the answers.
            knots: Log temperatures of the table, ``(K,)`` increasing.
        """
        margins = []
        for knot in knots:
            error, *radii = densities.errors_and_radii(decoder, float(np.exp(knot)))
            margins.append([np.log((radius + 1e-6) / (error + 1e-6)) for radius in radii])
        margin: Float = np.moveaxis(np.array(margins), 0, -1)
        return cls(np.asarray(knots, np.float64), margin, log_temperature, densities.weight)

    def coverage(self, log_temperature: Float) -> Float:
        """Share of truths within the radii of `LEVELS`, ``(2,)``.

        The margin is linear between two knots and constant outside the table.

        Args:
            log_temperature: One log temperature per photo, ``(N,)``.
        """
        last = len(self.knots) - 1
        inside = np.clip(log_temperature, self.knots[0], self.knots[-1])
        upper = np.clip(np.searchsorted(self.knots, inside), 1, last)
        low, high = self.knots[upper - 1], self.knots[upper]
        share = (inside - low) / (high - low)
        row = np.arange(len(inside))
        margin = self.margin[:, row, upper - 1] * (1.0 - share)
        margin = margin + self.margin[:, row, upper] * share
        covered: Float = (margin >= 0.0).mean(1)
        return covered


@dataclass(frozen=True)
class Stretch:
    """Affine map of log temperatures; see the formula of the module.

    Attributes:
        centre: m.
        shift: a.
        factor: b.
    """

    centre: float
    shift: float
    factor: float

    def __call__(self, log_temperature: Float) -> Float:
        """Maps log τ to log τ'."""
        return self.centre + self.shift + self.factor * (log_temperature - self.centre)


def fit_stretch(parts: Sequence[CoverageTable]) -> Stretch:
    """Finds the stretch whose coverage is nearest to `LEVELS`.

    Args:
        parts: Tables of the parts of the validation data. The first gives m; the squared deviations
            of each count by its weight.
    """
    centre = float(np.mean(parts[0].log_temperature))
    bounds = np.array([SHIFT, STRETCH])
    # b is not identifiable where all photos have nearly one temperature.
    everything = np.concatenate([part.log_temperature for part in parts])
    flat = float(np.std(everything)) < 1e-3

    def miss(values: Float) -> float:
        shift, factor = np.clip(values, *bounds.T)
        stretch = Stretch(centre, float(shift), 1.0 if flat else float(factor))
        total = np.abs(values - np.clip(values, *bounds.T)).sum()
        for part in parts:
            deviation = part.coverage(stretch(part.log_temperature)) - LEVELS
            total += part.weight * np.square(deviation).sum()
        return float(total)

    grid = [np.array([a, b]) for a in np.linspace(-1.5, 1.5, 13) for b in (0.8, 1.0, 1.25, 1.6)]
    best = min(grid, key=miss)
    simplex = best + np.array([[0.0, 0.0], [0.15, 0.0], [0.0, 0.15]])
    options = {"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-7, "maxiter": 200}
    found = np.clip(minimize(miss, best, method="Nelder-Mead", options=options).x, *bounds.T)
    return Stretch(centre, float(found[0]), 1.0 if flat else float(found[1]))

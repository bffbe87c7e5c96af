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
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from locdiffusion.calibrate.parts import Float, LocatedDensities
from locdiffusion.inference import Answerer

LEVELS = (0.5, 0.9)
"""Nominal coverage of the two radii of an answer."""

SHIFT, STRETCH = (-1.6, 1.6), (0.5, 2.5)
"""Bounds of a and b."""

WIDEST = 5.0
"""Largest factor on all temperatures that is tried; the smallest is its inverse."""

LEAST_GAIN = 0.2
"""Share of the loss that a factor must take away."""

FACTOR_KNOTS = np.linspace(-np.log(WIDEST), np.log(WIDEST), 17)
"""Log factors at which photos are decoded for `fit_factor`."""


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
        cls, densities: LocatedDensities, log_temperature: Float, answerer: Answerer, knots: Float
    ) -> CoverageTable:
        """Decodes every photo at every knot.

        Args:
            densities: N photos and their densities at τ = 1.
            log_temperature: Fitted log temperature of each photo, ``(N,)``.
            answerer: Answers the photos.
            knots: Log temperatures of the table, ``(K,)`` increasing.
        """
        margins = []
        for knot in knots:
            error, *radii = densities.errors_and_radii(answerer, float(np.exp(knot)))
            margins.append([np.log((radius + 1e-6) / (error + 1e-6)) for radius in radii])
        margin: Float = np.moveaxis(np.array(margins), 0, -1)
        return cls(np.asarray(knots, np.float64), margin, log_temperature, densities.weight)

    def take(self, rows: NDArray[np.int64]) -> CoverageTable:
        """Chooses some of the photos by their numbers."""
        return replace(
            self, margin=self.margin[:, rows], log_temperature=self.log_temperature[rows]
        )

    def coverage(self, log_temperature: Float) -> Float:
        """Share of truths within the radii of `LEVELS`, ``(2,)``.

        Args:
            log_temperature: One log temperature per photo, ``(N,)``.
        """
        share: Float = self.covered(log_temperature).mean(1)
        return share

    def covered(self, log_temperature: Float) -> NDArray[np.bool_]:
        """Tells which truths lie within the radii of `LEVELS`, ``(2, N)``.

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
        inside_radius: NDArray[np.bool_] = margin >= 0.0
        return inside_radius


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

    unchanged = np.array([0.0, 1.0])
    grid = [np.array([a, b]) for a in np.linspace(-1.5, 1.5, 13) for b in (0.8, 1.0, 1.25, 1.6)]
    # Of equal values the least change counts.
    best = min([unchanged, *grid], key=miss)
    simplex = best + np.array([[0.0, 0.0], [0.15, 0.0], [0.0, 0.15]])
    options = {"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-7, "maxiter": 200}
    found = np.clip(minimize(miss, best, method="Nelder-Mead", options=options).x, *bounds.T)
    if miss(found) > miss(unchanged) - 1e-9:
        found = unchanged
    return Stretch(centre, float(found[0]), 1.0 if flat else float(found[1]))


@dataclass(frozen=True)
class Factor:
    """A factor on all temperatures.

    Attributes:
        value: The factor, from 1 / `WIDEST` to `WIDEST`; 1 changes nothing.
        why: Reason why nothing is changed, or why the factor is at its bound; else empty.
    """

    value: float
    why: str = ""


def fit_factor(table: CoverageTable) -> Factor:
    """Finds the factor on all temperatures that brings both radii nearest to their coverage.

    A grid of factors is scanned. The loss is the sum of the squared deviations from `LEVELS`. The
    factor is 1 if no other is better by more than the standard error of the difference, which is
    paired over the photos, and by more than `LEAST_GAIN` of the loss: of photos whose positions are
    the answers themselves nearly all lie within the radii, whatever the factor. Radii
    that hold more truths than they say are never widened, and radii that hold fewer never narrowed.

    Args:
        table: Table of N photos at `FACTOR_KNOTS`, with log temperatures of 0.
    """
    # Of equal losses the least change counts.
    grid = np.log(WIDEST) * np.array(sorted(range(-80, 81), key=abs)) / 80
    covered = np.stack([table.covered(table.log_temperature + shift) for shift in grid])
    deviation = covered.mean(2) - LEVELS
    loss = np.square(deviation).sum(1)
    now = deviation[0]
    allowed = ~((np.all(now >= 0.0) & (grid > 0.0)) | (np.all(now <= 0.0) & (grid < 0.0)))
    best = int(np.argmin(np.where(allowed, loss, np.inf)))
    # Derivative of the difference of the losses by the presence of each photo.
    influence = 2.0 * (deviation[0] @ covered[0] - deviation[best] @ covered[best])
    error = float(np.std(influence)) / np.sqrt(covered.shape[2])
    if best == 0 or loss[0] - loss[best] <= max(error, LEAST_GAIN * float(loss[0])):
        return Factor(1.0, _why_unchanged(now, covered.shape[2]))
    at_bound = np.isclose(abs(grid[best]), np.log(WIDEST))
    why = "look at some of the positions, and whether the checkpoint suits" if at_bound else ""
    return Factor(float(np.exp(grid[best])), why)


def _why_unchanged(deviation: Float, count: int) -> str:
    """Says why the factor 1 stays, given the deviation of both coverages for N photos, ``(2,)``."""
    levels = np.array(LEVELS)
    inner, outer = (f"{100.0 * share:.0f} %" for share in levels + deviation)
    if np.all(np.abs(deviation) <= 2.0 * np.sqrt(levels * (1.0 - levels) / count)):
        return f"the radii hold {inner} and {outer}, and no factor is better by more than chance"
    answers = "are these positions the answers themselves?"
    why = answers if np.all(deviation > 0) else "are these their positions, and their checkpoint?"
    return f"the radii hold {inner} and {outer}, and hardly others whatever the factor; {why}"

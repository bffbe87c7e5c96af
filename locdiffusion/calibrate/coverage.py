r"""Radii that hold as many truths as they say, on known ground and off it.

Likelihood decides which photos' densities are to be believed less than others'; it does not decide
how many truths the radii hold. So all log temperatures are then moved and stretched,

    log τ' = m + a + b (log τ - m),

with m the mean over the first part of the validation data. a widens all radii alike; b > 1 widens
them most where trust is least: on new ground, and in pictures that look unlike training's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from locdiffusion.decoding.decoder import Decoder
from locdiffusion.inference import decode_all
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import great_circle_km

LEVELS = (0.5, 0.9)
"""What the two radii of an answer say they hold."""

SHIFT, STRETCH = (-1.6, 1.6), (0.5, 2.5)
"""Bounds of a and b."""

Float = NDArray[np.float64]


@dataclass(frozen=True)
class RadiiTable:
    """Radii of N photos, against their errors, over the logarithm of the temperature.

    Attributes:
        log_temperature: ``(K,)`` increasing.
        margin: ``(2, N, K)`` log of radius over error for each of `LEVELS`; the truth lies within
            where it is not negative.
    """

    log_temperature: Float
    margin: Float

    @classmethod
    def measure(
        cls, natural: Tensor, photos: EmbeddedPhotos, decoder: Decoder, log_temperature: Float
    ) -> RadiiTable:
        """Decodes every photo at every temperature.

        Args:
            natural: ``(N, d)`` densities of the photos at τ = 1.
            photos: N photos with truth.
            decoder: Of the answers.
            log_temperature: ``(K,)`` increasing.
        """
        margins = []
        for value in log_temperature:
            latitude, longitude, *radii = decode_all(decoder, natural / float(np.exp(value)))
            error = great_circle_km(latitude, longitude, photos.latitude, photos.longitude)
            margins.append([np.log((radius + 1e-6) / (error + 1e-6)) for radius in radii])
        return cls(np.asarray(log_temperature, np.float64), np.moveaxis(np.array(margins), 0, -1))

    def coverage(self, log_temperature: Float) -> Float:
        """Share of truths within the radii of `LEVELS`, at one temperature per photo ``(N,)``.

        Between two temperatures of the table the margin is taken to be linear; outside, constant.
        """
        last = len(self.log_temperature) - 1
        inside = np.clip(log_temperature, self.log_temperature[0], self.log_temperature[-1])
        upper = np.clip(np.searchsorted(self.log_temperature, inside), 1, last)
        low, high = self.log_temperature[upper - 1], self.log_temperature[upper]
        share = (inside - low) / (high - low)
        row = np.arange(len(inside))
        margin = self.margin[:, row, upper - 1] * (1.0 - share)
        margin = margin + self.margin[:, row, upper] * share
        covered: Float = (margin >= 0.0).mean(1)
        return covered


@dataclass(frozen=True)
class Stretch:
    """What makes of a log temperature another one; see the module's docstring.

    Attributes:
        centre: m.
        shift: a.
        factor: b.
    """

    centre: float
    shift: float
    factor: float

    def __call__(self, log_temperature: Float) -> Float:
        """Log τ' of log τ."""
        return self.centre + self.shift + self.factor * (log_temperature - self.centre)


def fit_stretch(
    tables: Sequence[RadiiTable], log_temperatures: Sequence[Float], weights: Sequence[float]
) -> Stretch:
    """The stretch under which the radii's coverage is nearest to what they say.

    Args:
        tables: Of each part of the validation data.
        log_temperatures: ``(N,)`` of the photos of each part.
        weights: What the squared misses of each part count.
    """
    centre = float(np.mean(log_temperatures[0]))
    bounds = np.array([SHIFT, STRETCH])
    # Where all photos have one temperature, or nearly, there is nothing to stretch.
    flat = float(np.std(np.concatenate(list(log_temperatures)))) < 1e-3

    def miss(values: Float) -> float:
        shift, factor = np.clip(values, *bounds.T)
        stretch = Stretch(centre, float(shift), 1.0 if flat else float(factor))
        total = np.abs(values - np.clip(values, *bounds.T)).sum()
        for table, logs, weight in zip(tables, log_temperatures, weights, strict=True):
            total += weight * np.square(table.coverage(stretch(logs)) - LEVELS).sum()
        return float(total)

    grid = [np.array([a, b]) for a in np.linspace(-1.5, 1.5, 13) for b in (0.8, 1.0, 1.25, 1.6)]
    best = min(grid, key=miss)
    simplex = best + np.array([[0.0, 0.0], [0.15, 0.0], [0.0, 0.15]])
    options = {"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-7, "maxiter": 200}
    found = np.clip(minimize(miss, best, method="Nelder-Mead", options=options).x, *bounds.T)
    return Stretch(centre, float(found[0]), 1.0 if flat else float(found[1]))

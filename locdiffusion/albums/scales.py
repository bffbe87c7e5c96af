"""Fits the scales of one album to its anchors: how fast and how far its camera moves.

The scales have a normal prior, that of all albums. Pairs of anchors are the data. They share
photos, so their likelihood counts by half. The maximum of the posterior is found by scoring steps
(Fisher's method, with the outer products of the scores for the information) that grow and shrink
as Levenberg's do; around it the posterior is taken as normal (Laplace). Ten points with its mean
and its covariance stand for it (cubature points, Arasaratnam and Haykin 2009, IEEE TAC 54): they
are draws that need no dice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.album import Album
from locdiffusion.albums.motion import (
    LADDER_KAPPA,
    SCALES,
    TABLE_HOURS,
    LawOfMotion,
    table_position,
)
from locdiffusion.albums.visits import Visits
from locdiffusion.albums.von_mises_fisher import chord_squared, log_density

Float = NDArray[np.float64]
Index = NDArray[np.int64]

LAGS = (1, 2)
"""Distances in the sequence of anchors of the pairs that are used."""

MOST_PAIRS = 4096
"""Pairs that are used of a long album, evenly taken."""

TEMPER = 0.5
"""Power to which the likelihood of the pairs is raised."""


@dataclass(frozen=True)
class Pairs:
    """Steps between anchors of one album.

    Attributes:
        hours: Time of each step, ``(n,)``.
        density: Density per steradian of its end in each kernel around its start, ``(n, 16)``.
        places: Density of its end under PLACES, ``(n,)``; 0 where there are none.
        visited: Whether there are places to return to, ``(n,)``.
    """

    hours: Float
    density: Float
    places: Float
    visited: NDArray[np.bool_]

    @classmethod
    def of(cls, album: Album, anchors: Index, law: LawOfMotion) -> Pairs:
        """Takes pairs of anchors, given in the order of their times, ``(n,)``."""
        visits = Visits.of(album.vectors[anchors])
        first = np.concatenate([np.arange(max(len(anchors) - lag, 0)) for lag in LAGS])
        second = np.concatenate([np.arange(lag, max(len(anchors), lag)) for lag in LAGS])
        if len(first) > MOST_PAIRS:
            even = np.linspace(0, len(first) - 1, MOST_PAIRS).astype(np.int64)
            first, second = first[even], second[even]
        a, b = album.vectors[anchors[first]], album.vectors[anchors[second]]
        # Only places of before: those of after would make every step a return.
        places, there = visits.around(first, np.full(len(first), len(anchors)))
        apart = chord_squared(places, b[:, None])[..., None]
        here = np.exp(log_density(apart, law.place_kappa)) @ np.asarray(law.place_share)
        return cls(
            album.step_hours(anchors[first], anchors[second], law.clock_seconds),
            np.exp(log_density(chord_squared(a, b)[:, None], LADDER_KAPPA)),
            (here * there).sum(1) / np.maximum(there.sum(1), 1),
            np.any(there, axis=1),
        )

    def joined(self, other: Pairs) -> Pairs:
        """Joins steps with others."""
        names = self.__dataclass_fields__
        return Pairs(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in names))

    def take(self, rows: NDArray[np.bool_]) -> Pairs:
        """Takes some of the steps."""
        return Pairs(self.hours[rows], self.density[rows], self.places[rows], self.visited[rows])

    def log_likelihood(self, scales: Float, law: LawOfMotion) -> Float:
        """Computes log K of each step under scales ``(D, 5)``, ``(D, n)``."""
        kernels, back = law.weights(scales, TABLE_HOURS)
        low, share = table_position(self.hours)
        total = np.zeros((len(kernels), len(self.hours)))
        for entry, part in ((low, 1.0 - share), (low + 1, share)):
            moved = np.einsum("dnk,nk->dn", kernels[:, entry], self.density)
            returned = back[:, entry]
            total += part * np.where(
                self.visited, moved + returned * self.places, moved / (1.0 - returned)
            )
        return np.log(total)


@dataclass(frozen=True)
class AlbumScales:
    """The posterior of the scales of one album.

    Attributes:
        mode: Most probable scales, in the order of SCALES, ``(5,)``.
        covariance: Covariance of the scales, ``(5, 5)``.
    """

    mode: Float
    covariance: Float

    def draws(self) -> Float:
        """Spreads ten equally weighted points with this mean and covariance, ``(10, 5)``."""
        axes = np.linalg.cholesky(self.covariance).T * np.sqrt(len(SCALES))
        return self.mode + np.concatenate([axes, -axes])


def fit_scales(pairs: Pairs, law: LawOfMotion) -> AlbumScales:
    """Fits the scales of an album to pairs of its anchors; without pairs they are the prior."""
    mean = np.asarray(law.scale_mean)
    precision = np.diag(np.asarray(law.scale_deviation) ** -2.0)
    mode, damping = mean, 1.0
    value, gradient, information = _expansion(pairs, law, mode, mean, precision)
    for _ in range(30):
        scaled = information + damping * np.diag(np.diag(information))
        step = np.linalg.solve(scaled, gradient)
        found = _expansion(pairs, law, mode + step, mean, precision)
        if found[0] >= value:
            gain, (value, gradient, information) = found[0] - value, found
            mode, damping = mode + step, damping / 5.0
            if gain < 1e-3:
                break
        else:
            damping = max(damping * 8.0, 1e-3)
            if damping > 1e6:
                break
    return AlbumScales(mode, np.linalg.inv(information).astype(np.float64))


def _expansion(
    pairs: Pairs, law: LawOfMotion, scales: Float, mean: Float, precision: Float
) -> tuple[float, Float, Float]:
    """Value, gradient ``(5,)`` and information ``(5, 5)`` of the log posterior."""
    step = 0.02
    around = np.eye(len(SCALES)) * step
    logs = pairs.log_likelihood(scales + np.concatenate([0.0 * around[:1], around, -around]), law)
    n = len(SCALES)
    scores = (logs[1 : n + 1] - logs[n + 1 :]) / (2.0 * step)
    off = scales - mean
    return (
        float(TEMPER * logs[0].sum() - 0.5 * off @ precision @ off),
        TEMPER * scores.sum(1) - precision @ off,
        TEMPER * scores @ scores.T + precision,
    )

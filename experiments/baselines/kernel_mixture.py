r"""The posterior of all rivals: a mixture of von Mises-Fisher kernels and a uniform share.

With the gap g = 1 - x·y = \|x - y\|²/2, a kernel of concentration κ has, against the uniform
probability of the sphere, the log density (Mardia & Jupp 2000, *Directional Statistics*, §9.3.2)

    log f_κ(y; x) = log(2κ / (1 - e^{-2κ})) - κ g

The answer is the point with most mass in a smooth window of radius ρ, exp(-κ_ρ g), κ_ρ = 6/ρ²: the
Gaussian with the variance of the Epanechnikov window that `locdiffusion.decoding.decoder` uses.
Kernel times window is integrated as on the plane, where variances add:

    score(y) = Σ_i w_i · 2κ_i / (1 - e^{-2κ_i}) / 2(κ_i + κ_ρ) · exp(-a_i g_i),   1/a = 1/κ + 1/κ_ρ

Radii and probabilities come from the distances to `NODES` points of equal mass of the mixture. A
low-discrepancy sequence gives these points, so an answer never depends on its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from locdiffusion.decoding.answers import Predictions
from locdiffusion.decoding.node_masses import THRESHOLD_WEIGHTS
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2
from locdiffusion.density.transforms import pole_frame
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between, latitude_longitude
from schemas.geotags import THRESHOLDS_KM

Float = NDArray[np.float64]

NODES = 2048
"""Number of points of equal mass, from which distances are computed."""

_CANDIDATES, _CLIMBERS, _SHIFTS = 64, 4, 12
_CHUNK = 64  # photos at a time: 64 × 64 × 512 float64 are 17 MB
_NO_CONCENTRATION = 1e-9  # κ of the uniform share: every formula has its limit there


@dataclass(frozen=True)
class KernelMixture:
    """Posteriors of N photos with K kernels each.

    Attributes:
        points: Centres, shape ``(N, K, 3)``; they are normalised to unit length in float64.
        weights: Weights of at least 0, shape ``(N, K)``; they are scaled to sum to 1.
        kappa: Concentrations, shape ``(N, K)``, up to 1e6 and more; 1/√κ is the width in radians.
        uniform_share: Part of the mass that is spread evenly over the sphere, in [0, 1).
    """

    points: Float
    weights: Float
    kappa: Float
    uniform_share: float

    def __post_init__(self) -> None:
        """Checks shapes and values, then normalises centres and weights."""
        n, k = self.weights.shape
        if self.points.shape != (n, k, 3) or self.kappa.shape != (n, k):
            raise ValueError(
                f"points {self.points.shape}, weights {self.weights.shape}, kappa "
                f"{self.kappa.shape}; want (N, K, 3), (N, K) and (N, K)."
            )
        if not 0.0 <= self.uniform_share < 1.0:
            raise ValueError(f"uniform_share is {self.uniform_share}; want [0, 1).")
        if not (np.all(np.isfinite(self.kappa)) and np.all(self.kappa > 0)):
            raise ValueError("A kappa is not a positive number; did the training diverge?")
        total = self.weights.sum(1, keepdims=True, dtype=np.float64)
        if not np.all(self.weights >= 0) or not np.all((total > 0) & np.isfinite(total)):
            raise ValueError("Weights must be finite, not negative, and positive for some kernel.")
        points = np.asarray(self.points, np.float64)
        length = np.linalg.norm(points, axis=-1, keepdims=True)
        object.__setattr__(self, "points", points / length)
        object.__setattr__(self, "weights", self.weights / total)
        object.__setattr__(self, "kappa", np.asarray(self.kappa, np.float64))

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.weights)

    def rows(self, rows: slice) -> KernelMixture:
        """Selects photos."""
        return KernelMixture(
            self.points[rows], self.weights[rows], self.kappa[rows], self.uniform_share
        )

    def log_density(self, vectors: Float) -> Float:
        """Computes the log density at points.

        Args:
            vectors: M points for each photo as unit vectors, shape ``(N, M, 3)``.

        Returns:
            Nats against the uniform probability of the sphere, shape ``(N, M)``.
        """
        gap = gaps(vectors, self.points)
        return mixed_log_density(gap, self.weights, self.kappa, self.uniform_share)

    def answers(self, radius_km: float) -> Float:
        """Finds the points ``(N, 3)`` whose window of radius ρ holds most mass."""
        window = 6.0 * (EARTH_RADIUS_KM / radius_km) ** 2
        parts = [_climbed(chunk, window) for chunk in self._chunks()]
        return np.concatenate([np.zeros((0, 3)), *parts])

    def most_thresholds(self, candidates: Float) -> Float:
        """Finds the candidates ``(N, 3)`` with the most thresholds met, as expected.

        Args:
            candidates: P candidates for each photo as unit vectors, shape ``(N, P, 3)``.
        """
        chosen = []
        for i, chunk in enumerate(self._chunks()):
            places = candidates[i * _CHUNK : (i + 1) * _CHUNK]
            gap = gaps(places, _nodes(chunk))
            value = np.zeros(gap.shape[:2])
            for weight, km in zip(THRESHOLD_WEIGHTS, THRESHOLDS_KM, strict=True):
                near = 2.0 * np.sin(0.5 * km / EARTH_RADIUS_KM) ** 2
                value += weight * np.mean(gap <= near, axis=2)
            chosen.append(places[np.arange(len(places)), value.argmax(1)])
        return np.concatenate([np.zeros((0, 3)), *chosen])

    def distances_km(self, places: Float) -> Float:
        """Computes sorted distances ``(N, NODES)`` of places ``(N, 3)`` to points of equal mass."""
        parts = []
        for i, chunk in enumerate(self._chunks()):
            here = places[i * _CHUNK : (i + 1) * _CHUNK, None]
            parts.append(np.sort(EARTH_RADIUS_KM * angle_between(here, _nodes(chunk)), axis=1))
        return np.concatenate([np.zeros((0, NODES)), *parts])

    def means(self, field: Callable[[Float], Float], count: int = 128) -> Float:
        """Estimates the mean log density and the mean of a field under each posterior.

        Args:
            field: Function of places ``(n, count, 3)`` with values ``(n, count)``.
            count: Number of points of equal mass from which the means are computed.

        Returns:
            Information in nats against the uniform sphere and mean of the field, ``(N, 2)``.
        """
        parts = []
        for chunk in self._chunks():
            nodes = _nodes(chunk, count)
            means = [values.mean(1) for values in (chunk.log_density(nodes), field(nodes))]
            parts.append(np.stack(means, 1))
        return np.concatenate([np.zeros((0, 2)), *parts])

    def predictions(self, truth: Float, radius_km: float) -> Predictions:
        """Computes answers with their radii and probabilities, and the density at the truth.

        Args:
            truth: True places as unit vectors, shape ``(N, 3)``.
            radius_km: Decoding radius ρ in kilometres.
        """
        return self.predictions_at(self.answers(radius_km), truth)

    def predictions_at(self, places: Float, truth: Float) -> Predictions:
        """Computes radii and probabilities of given answers, and the density at the truth.

        Args:
            places: Answers as unit vectors, shape ``(N, 3)``.
            truth: True places as unit vectors, shape ``(N, 3)``.
        """
        distance = self.distances_km(places)
        latitude, longitude = latitude_longitude(places)
        within = [np.mean(distance <= threshold, axis=1) for threshold in THRESHOLDS_KM]
        return Predictions(
            latitude=latitude,
            longitude=longitude,
            radius_50_km=np.quantile(distance, 0.5, axis=1),
            radius_90_km=np.quantile(distance, 0.9, axis=1),
            probability=np.stack(within, 1),
            log_density_km2=self.log_density(truth[:, None])[:, 0] - LOG_SPHERE_AREA_KM2,
        )

    def _chunks(self) -> list[KernelMixture]:
        return [self.rows(slice(i, i + _CHUNK)) for i in range(0, len(self), _CHUNK)]


def gaps(vectors: Float, points: Float) -> Float:
    """Computes 1 - x·y ``(N, M, K)`` of unit vectors ``(N, M, 3)`` and ``(N, K, 3)`` in float64.

    Its rounding error of 2e-16 is 2e-10 nats at κ = 1e6.
    """
    return np.maximum(1.0 - vectors @ points.swapaxes(-1, -2), 0.0)


def log_normaliser(kappa: Float) -> Float:
    """Computes log(2κ / (1 - e^{-2κ})), the log density of a kernel at its centre."""
    return np.log(2.0 * kappa / -np.expm1(-2.0 * kappa))


def mixed_log_density(gap: Float, weights: Float, kappa: Float, uniform_share: float) -> Float:
    """Computes the log density of mixtures from the gaps to their kernels.

    Args:
        gap: Gaps g of M points to K kernels, shape ``(N, M, K)``.
        weights: Weights that sum to 1, shape ``(N, K)``.
        kappa: Concentrations, shape ``(N, K)``.
        uniform_share: Mass of the uniform part.

    Returns:
        Nats against the uniform probability of the sphere, shape ``(N, M)``.
    """
    with np.errstate(divide="ignore"):  # log 0 = -inf is right for a kernel or share of no mass
        log_weight = np.log(weights) + log_normaliser(kappa)
        log_uniform = np.log(uniform_share)
    terms = log_weight[:, None] - kappa[:, None] * gap
    top = np.maximum(terms.max(-1), -1e300)
    mixed = top + np.log(np.exp(terms - top[..., None]).sum(-1))
    return np.logaddexp(np.log1p(-uniform_share) + mixed, log_uniform)


def _climbed(mixture: KernelMixture, window: float) -> Float:
    """Climbs the score by mean shift from the best of the heaviest kernels: ``(N, 3)``."""
    kappa = mixture.kappa
    height = mixture.weights * np.exp(log_normaliser(kappa)) / (2.0 * (kappa + window))
    slope = kappa * window / (kappa + window)

    def pulls(places: Float) -> Float:
        return height[:, None] * np.exp(-slope[:, None] * gaps(places, mixture.points))

    places = _best(mixture.points, mixture.weights, _CANDIDATES)
    places = _best(places, pulls(places).sum(-1), _CLIMBERS)
    for _ in range(_SHIFTS):
        moved = (pulls(places) * slope[:, None]) @ mixture.points
        length = np.linalg.norm(moved, axis=-1, keepdims=True)
        places = np.where(length > 0, moved / np.maximum(length, 1e-300), places)
    return _best(places, pulls(places).sum(-1), 1)[:, 0]


def _best(points: Float, value: Float, count: int) -> Float:
    """Selects the points with the highest values, highest first: at most ``(N, count, 3)``."""
    order = np.argsort(-value, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(points, order[..., None], 1)


def _nodes(mixture: KernelMixture, count: int = NODES) -> Float:
    """Computes points of equal mass ``(N, count, 3)``, the uniform share included."""
    n, k = mixture.weights.shape
    choice, level, turn = _low_discrepancy(count).T
    mass = np.cumsum((1.0 - mixture.uniform_share) * mixture.weights, 1)
    kernel = np.stack([np.searchsorted(row, choice, side="right") for row in mass])
    centres = np.concatenate([mixture.points, np.tile([[[0.0, 0.0, 1.0]]], (n, 1, 1))], 1)
    kappa = np.pad(mixture.kappa, ((0, 0), (0, 1)), constant_values=_NO_CONCENTRATION)
    if mixture.uniform_share == 0.0:
        kernel = np.minimum(kernel, k - 1)
    frames = pole_frame(torch.from_numpy(centres)).numpy()
    row = np.arange(n)[:, None]
    frame, kappa = frames[row, kernel], kappa[row, kernel]
    # g at a level of the cumulative distribution: e^{-κg} = 1 - level·(1 - e^{-2κ}).
    gap = np.clip(-np.log1p(level * np.expm1(-2.0 * kappa)) / kappa, 0.0, 2.0)
    sine = np.sqrt(gap * (2.0 - gap))
    angle = 2.0 * np.pi * turn
    local = np.stack([sine * np.cos(angle), sine * np.sin(angle), 1.0 - gap], -1)
    return np.einsum("nsij,nsj->nsi", frame, local)


def _low_discrepancy(count: int) -> Float:
    """Computes Roberts' additive recurrence n·(1/φ, 1/φ², 1/φ³) mod 1: ``(count, 3)``.

    φ is the generalised golden ratio of three dimensions, φ⁴ = φ + 1.
    """
    phi = 1.2207440846057596
    steps = phi ** -np.arange(1.0, 4.0)
    return (0.5 + np.arange(1, count + 1)[:, None] * steps) % 1.0

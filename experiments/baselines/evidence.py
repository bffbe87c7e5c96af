"""The output of a rival for a photo, and the settings that turn it into a posterior.

Every rival gives points with logits and concentrations. Three numbers make a mixture of them: a
temperature of the logits, a factor on the concentrations, and a uniform share. They are fitted on
validation photos by negative log likelihood. What follows, a temperature for each photo and a
decision rule, is in `experiments.baselines.calibration`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from experiments.baselines.kernel_mixture import KernelMixture, gaps, mixed_log_density
from locdiffusion.calibrate.fitting import RADII_KM
from locdiffusion.evaluate.metrics import error_summary
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between

Float = NDArray[np.float64]

TEMPERATURES = (1e-3, 1e2)
CONCENTRATIONS = (1e-3, 1e6)
UNIFORM_SHARES = (1e-5, 0.9)
"""Bounds of each setting; N photos cannot tell a uniform share below 1/N from none."""


@dataclass(frozen=True)
class Settings:
    """Settings that turn evidence into a posterior.

    Attributes:
        temperature: Temperature τ of the weights softmax(logits/τ).
        concentration: Factor on the rival's κ; κ itself for rivals that give none.
        uniform_share: Mass spread evenly over the sphere.
    """

    temperature: float = 1.0
    concentration: float = 1.0
    uniform_share: float = 0.01


@dataclass(frozen=True)
class Evidence:
    """The output of a rival for N photos, K points each.

    Attributes:
        points: Places as unit vectors, shape ``(N, K, 3)``.
        logits: Log weights up to a constant per photo, shape ``(N, K)``; -inf is no weight.
        kappa: Relative concentrations, shape ``(N, K)``; ones if the rival gives none.
    """

    points: Float
    logits: Float
    kappa: Float

    @classmethod
    def alike(cls, points: Float, logits: Float | None = None) -> Evidence:
        """Makes evidence with all concentrations 1, by default with equal weights."""
        n, k, _ = points.shape
        return cls(points, np.zeros((n, k)) if logits is None else logits, np.ones((n, k)))

    def heaviest(self, count: int) -> Evidence:
        """Keeps the `count` points of each photo with the largest logits."""
        order = np.argsort(-self.logits, axis=1, kind="stable")[:, :count]
        return Evidence(
            np.take_along_axis(self.points, order[..., None], 1),
            np.take_along_axis(self.logits, order, 1),
            np.take_along_axis(self.kappa, order, 1),
        )

    def take(self, rows: slice) -> Evidence:
        """Selects photos."""
        return Evidence(self.points[rows], self.logits[rows], self.kappa[rows])

    def mixture(self, settings: Settings, temperature: Float | None = None) -> KernelMixture:
        """Builds the posterior.

        Args:
            settings: Settings of all photos.
            temperature: Temperature τ of each photo, ``(N,)``: kernels to the power 1/τ, and
                weights likewise. None is 1 for all.
        """
        tau = 1.0 if temperature is None else temperature[:, None]
        return KernelMixture(
            self.points,
            softmax(self.logits / (settings.temperature * tau)),
            self.kappa * settings.concentration / tau,
            settings.uniform_share,
        )


def softmax(logits: Float) -> Float:
    """Computes weights ``(N, K)`` that sum to 1."""
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def fit_settings(evidence: Evidence, truth: Float) -> tuple[Settings, float]:
    """Fits the settings by negative log likelihood: a coarse grid, then Nelder-Mead.

    Args:
        evidence: Evidence of N validation photos.
        truth: True places as unit vectors, shape ``(N, 3)``.

    Returns:
        The settings, and their mean negative log likelihood in nats against the uniform sphere.
    """
    unit = evidence.points / np.linalg.norm(evidence.points, axis=-1, keepdims=True)
    gap = gaps(truth[:, None], unit)
    finite = np.where(np.isfinite(evidence.logits), evidence.logits, np.nan)
    one_weight = float(np.nanmax(np.nanmax(finite, 1) - np.nanmin(finite, 1))) < 1e-9
    bounds = np.log([TEMPERATURES, CONCENTRATIONS, UNIFORM_SHARES])
    bounds[1] -= np.log(np.median(evidence.kappa))
    bounds[2, 0] = max(bounds[2, 0], min(np.log(0.1), -np.log(len(truth))))

    def nats(logs: Float) -> float:
        outside = np.abs(logs - np.clip(logs, *bounds.T)).sum()
        temperature, concentration, share = np.exp(np.clip(logs, *bounds.T))
        weights = softmax(evidence.logits / temperature)
        log_density = mixed_log_density(gap, weights, evidence.kappa * concentration, share)
        return float(outside - log_density.mean())

    temperatures = [0.0] if one_weight else np.log([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 30.0])
    concentrations = np.log(10.0 ** np.arange(0.5, 6.0)) - np.log(np.median(evidence.kappa))
    starts = itertools.product(temperatures, concentrations, np.log([0.01, 0.1]))
    best = min((np.array(start) for start in starts), key=nats)
    simplex = best + np.vstack([np.zeros(3), 0.5 * np.diag([0.0 if one_weight else 1.0, 1.0, 1.0])])
    options = {"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-5, "maxiter": 200}
    found = minimize(nats, best, method="Nelder-Mead", options=options)
    temperature, concentration, share = np.exp(np.clip(found.x, *bounds.T)).tolist()
    return Settings(temperature, concentration, share), float(found.fun)


def fit_radius(mixture: KernelMixture, truth: Float) -> float:
    """Chooses ρ of `RADII_KM` by mean accuracy over the thresholds; of equals the smallest.

    Args:
        mixture: Posteriors of N validation photos.
        truth: True places as unit vectors, shape ``(N, 3)``.
    """
    best, best_score = RADII_KM[0], -1.0
    for radius in RADII_KM:
        distance = EARTH_RADIUS_KM * angle_between(mixture.answers(radius), truth)
        score = float(np.mean(list(error_summary(distance)["within"].values())))
        if score > best_score + 1e-9:
            best, best_score = radius, score
    return best

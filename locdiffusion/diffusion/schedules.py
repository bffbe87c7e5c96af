"""Noise levels: where a location is decided, what training draws, which nodes a sampler visits.

The location is readable from x_σ while the peak of ⟨x_σ, code(y)⟩ at the truth (height d, noise
σ√d) beats the largest of about d independent noise values, σ√d·√(2 ln d). So it is decided at

    σ* = √d / √(2 ln d)            8.6 for L = 31, 12.2 for L = 47

At σ ≈ 1, where a standard image schedule spends its steps, nothing is left to decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def decision_sigma(dimension: int) -> float:
    """Computes σ* = √d / √(2 ln d), the noise level at which the location is decided."""
    if dimension < 2:
        raise ValueError(f"dimension is {dimension}; want at least 2.")
    return math.sqrt(dimension / (2.0 * math.log(dimension)))


@dataclass(frozen=True)
class NoiseConfig:
    """Noise of training and the range of sampling.

    Attributes:
        sigma_min: Smallest noise level σ, in units of one code coefficient.
        sigma_max: Largest finite noise level σ, in units of one code coefficient.
        log_spread: Standard deviation of log σ around log σ* in training.
        pure_fraction: Share of training rows at σ = ∞, which train the density mode.
    """

    sigma_min: float = 2.0
    sigma_max: float = 60.0
    log_spread: float = 1.0
    pure_fraction: float = 0.6

    def __post_init__(self) -> None:
        """Checks the values."""
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min = {self.sigma_min}, sigma_max = {self.sigma_max}: "
                "want 0 < sigma_min < sigma_max."
            )
        if self.log_spread <= 0:
            raise ValueError(f"log_spread is {self.log_spread}; want a positive number.")
        if not 0 <= self.pure_fraction <= 1:
            raise ValueError(f"pure_fraction is {self.pure_fraction}; want a share in [0, 1].")


def training_sigmas(
    count: int, dimension: int, config: NoiseConfig, generator: torch.Generator
) -> Tensor:
    """Draws ``(count,)`` levels: log-normal around σ*, clipped; ``inf`` for the pure share."""
    normal = torch.randn(count, generator=generator)
    sigma = decision_sigma(dimension) * torch.exp(config.log_spread * normal)
    pure = torch.rand(count, generator=generator) < config.pure_fraction
    return sigma.clamp(config.sigma_min, config.sigma_max).masked_fill(pure, torch.inf)


def recentred_sigmas(steps: int, dimension: int, config: NoiseConfig) -> NDArray[np.float64]:
    """Returns ``(steps + 1,)`` levels from sigma_max to σ*, evenly spaced in log σ.

    At σ* the place is decided but p(x₀ | x_σ) is still a density, about 100 km wide at L = 31: the
    mixture of several is a posterior, where densities at σ_min would be a handful of points.
    """
    end = min(max(decision_sigma(dimension), config.sigma_min), 0.9 * config.sigma_max)
    return geometric_sigmas(steps, replace(config, sigma_min=end))


def geometric_sigmas(steps: int, config: NoiseConfig) -> NDArray[np.float64]:
    """Returns ``(steps + 1,)`` levels from sigma_max to sigma_min, evenly spaced in log σ."""
    if steps < 1:
        raise ValueError(f"steps is {steps}; want at least 1.")
    return np.geomspace(config.sigma_max, config.sigma_min, steps + 1)

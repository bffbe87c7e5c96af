"""Smooths the learned positions: the target is the mean code of positions around the truth.

A network that learns exact positions learns to separate training positions by any difference, and
elsewhere it becomes confident of wrong continents. Smoothed positions make nearby answers nearly
right, as label smoothing does over neighbouring classes. The temperatures, fitted on validation
photos, then decide how sharp the densities are. The target is a mixture of a narrow and a broad
Gaussian: the broad one teaches the region while the narrow one teaches the position. Its weight
should fall during training, since a code of degree L cannot hold a sharp peak on a broad base.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.density.shdd import heat_flow
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM


@dataclass(frozen=True)
class SmoothingConfig:
    """Mixture of two Gaussians on the sphere around each true position.

    Attributes:
        km: Standard deviation in km of the narrow Gaussian around each true position.
        broad_km: Standard deviation in km of the broad Gaussian.
        broad_share: Weight of the broad Gaussian at the start of training, from 0 to 1.
        last_broad_share: Weight of the broad Gaussian at the end of training. It changes linearly;
            none keeps the first weight.
        under_noise: Whether rows with noise learn scattered positions too (`scattered`). Sampling
            mode then draws from the density that density mode gives.
    """

    km: float = 0.0
    broad_km: float = 500.0
    broad_share: float = 0.0
    last_broad_share: float | None = None
    under_noise: bool = False

    def __post_init__(self) -> None:
        """Checks the values."""
        if not (0.0 <= self.km <= 5000.0 and 0.0 <= self.broad_km <= 5000.0):
            raise ValueError(
                f"smoothing is over {self.km} and {self.broad_km} km; want 0 to 5000 each."
            )
        for name in ("broad_share", "last_broad_share"):
            share = getattr(self, name)
            if share is not None and not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} is {share}; want 0 to 1.")

    def share(self, progress: float) -> float:
        """Weight of the broad Gaussian when the fraction `progress` of the training is done."""
        last = self.broad_share if self.last_broad_share is None else self.last_broad_share
        return (1.0 - progress) * self.broad_share + progress * last

    def factors(self, max_degree: int, progress: float = 0.0) -> NDArray[np.float64]:
        """Computes the factors by which a code becomes the mean code of the positions around it.

        Args:
            max_degree: Maximum degree L.
            progress: Fraction of the training that is done, from 0 to 1.

        Returns:
            Factors, ``(d,)``.
        """
        sharp, broad = heat_flow(max_degree, self.km), heat_flow(max_degree, self.broad_km)
        share = self.share(progress)
        mixed: NDArray[np.float64] = (1.0 - share) * sharp + share * broad
        return mixed


def scattered(
    vectors: NDArray[np.float64],
    config: SmoothingConfig,
    progress: float,
    generator: torch.Generator,
) -> NDArray[np.float64]:
    """Draws one position around each true position; `SmoothingConfig.factors` gives the mean code.

    The steps are Gaussian in the tangent plane. At 500 km the curvature of the sphere changes the
    mean code by less than a thousandth.

    Args:
        vectors: Unit vectors of the true positions, ``(B, 3)``.
        config: Widths and weights of the two Gaussians.
        progress: Fraction of the training that is done, from 0 to 1.
        generator: Source of randomness.

    Returns:
        Unit vectors of the drawn positions, ``(B, 3)``.
    """
    draws = torch.randn((len(vectors), 3), generator=generator, dtype=torch.float64).numpy()
    broad = torch.rand(len(vectors), generator=generator).numpy() < config.share(progress)
    angle = np.where(broad, config.broad_km, config.km)[:, None] / EARTH_RADIUS_KM
    # v = σ (n - ⟨n, y⟩ y): an isotropic draw in space, projected onto the tangent plane
    step = angle * (draws - (draws * vectors).sum(1, keepdims=True) * vectors)
    # y' = cos|v| y + sin|v| v/|v|
    length = np.linalg.norm(step, axis=1, keepdims=True)
    moved: NDArray[np.float64] = np.cos(length) * vectors + np.sinc(length / np.pi) * step
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def smoothed_where_pure(
    code: Tensor, sigma: Tensor, factors: Tensor, mean_code: Tensor | None = None
) -> Tensor:
    """Computes the target of the loss: a smoothed code at σ = ∞, the code itself under noise.

    Under noise, the noisy code itself tells how exactly the position is known.

    Args:
        code: Codes of the true positions, or of `scattered` ones under noise, ``(B, d)``.
        sigma: Noise levels or ``inf``, ``(B,)``.
        factors: Factors of `SmoothingConfig.factors`, ``(d,)``.
        mean_code: Codes that are smoothed instead of `code` where a photo has several true
            positions, ``(B, d)``.

    Returns:
        Target codes, ``(B, d)``.
    """
    mean_code = code if mean_code is None else mean_code
    return torch.where(torch.isinf(sigma)[:, None], mean_code * factors, code)

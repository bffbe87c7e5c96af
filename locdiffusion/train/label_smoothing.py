"""Smoothing of the places that are learned: of a true place, the mean code of places around it.

A network that learns exact places learns to tell training places apart by whatever does so, and
where it has learned none, to be sure of a wrong continent. Smoothed places say that near is nearly
right, as labels are smoothed over neighbouring classes in classification. What is sharp is then
learned by the temperatures, on validation photos. The broad share is a foot under a sharp kernel:
it says which part of the Earth is right while the kernel still says which place. It is for the
beginning: a code of degree L cannot be a sharp peak on a broad foot, and where the foot stays large
the peak stays wide.
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
    """Two Gaussians on the sphere around each true place.

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
        """The foot's share when `progress` (0 to 1) of the training is done."""
        last = self.broad_share if self.last_broad_share is None else self.last_broad_share
        return (1.0 - progress) * self.broad_share + progress * last

    def factors(self, max_degree: int, progress: float = 0.0) -> NDArray[np.float64]:
        """A code times these is the mean code of the places around.

        Args:
            max_degree: L.
            progress: How much of the training is done, from 0 to 1.

        Returns:
            ``(d,)``.
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
    """One place drawn around each true place: `SmoothingConfig.factors` gives their mean code.

    Gaussian steps in the tangent plane; at 500 km the sphere's curvature changes the mean code by
    less than a thousandth.

    Args:
        vectors: ``(B, 3)`` unit vectors of the true places.
        config: The kernel and its foot.
        progress: How much of the training is done, from 0 to 1.
        generator: Draws.

    Returns:
        ``(B, 3)`` unit vectors.
    """
    draws = torch.randn((len(vectors), 3), generator=generator, dtype=torch.float64).numpy()
    broad = torch.rand(len(vectors), generator=generator).numpy() < config.share(progress)
    angle = np.where(broad, config.broad_km, config.km)[:, None] / EARTH_RADIUS_KM
    # Of an isotropic draw in space, what is left across the vector is isotropic in its plane.
    step = angle * (draws - (draws * vectors).sum(1, keepdims=True) * vectors)
    length = np.linalg.norm(step, axis=1, keepdims=True)
    moved: NDArray[np.float64] = np.cos(length) * vectors + np.sinc(length / np.pi) * step
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def smoothed_where_pure(
    code: Tensor, sigma: Tensor, factors: Tensor, mean_code: Tensor | None = None
) -> Tensor:
    """What the loss compares with: smoothed where only the image speaks, `code` under noise.

    Under noise the noisy code itself says how exactly the place is known.

    Args:
        code: ``(B, d)`` of the true places, or of `scattered` ones under noise.
        sigma: ``(B,)`` noise levels, ``inf`` where only the image speaks.
        factors: ``(d,)`` of `SmoothingConfig.factors`.
        mean_code: ``(B, d)`` smoothed instead of `code`, where a photo has several true places.
    """
    mean_code = code if mean_code is None else mean_code
    return torch.where(torch.isinf(sigma)[:, None], mean_code * factors, code)

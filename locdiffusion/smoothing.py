"""Smoothing of the places that are learned: of a true place, the mean code of places around it.

A network that learns exact places learns to tell training places apart by whatever does so, and
where it has learned none, to be sure of a wrong continent. Smoothed places say that near is nearly
right, as labels are smoothed over neighbouring classes in classification. What is sharp is then
learned by the temperatures, on validation photos. The broad share is a foot under a sharp kernel:
it says which part of the Earth is right while the kernel still says which place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.shdd import heat_flow


@dataclass(frozen=True)
class SmoothingConfig:
    """Two Gaussians on the sphere around each true place.

    Attributes:
      km: standard deviation of the kernel.
      broad_km: standard deviation of the foot.
      broad_share: of the foot, from 0 to 1.
    """

    km: float = 0.0
    broad_km: float = 500.0
    broad_share: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        if not (0.0 <= self.km <= 5000.0 and 0.0 <= self.broad_km <= 5000.0):
            raise ValueError(
                f"smoothing is over {self.km} and {self.broad_km} km; want 0 to 5000 each."
            )
        if not 0.0 <= self.broad_share <= 1.0:
            raise ValueError(f"broad_share is {self.broad_share}; want 0 to 1.")

    def factors(self, max_degree: int) -> NDArray[np.float64]:
        """``(d,)``: a code times these is the mean code of the places around."""
        sharp, broad = heat_flow(max_degree, self.km), heat_flow(max_degree, self.broad_km)
        mixed: NDArray[np.float64] = (1.0 - self.broad_share) * sharp + self.broad_share * broad
        return mixed


def smoothed_where_pure(
    code: Tensor, sigma: Tensor, factors: Tensor, mean_code: Tensor | None = None
) -> Tensor:
    """What the loss compares with: smoothed where only the image speaks, exact under noise.

    Under noise the noisy code itself says how exactly the place is known.

    Args:
      code: ``(B, d)`` of the true places.
      sigma: ``(B,)`` noise levels, ``inf`` where only the image speaks.
      factors: ``(d,)`` of `SmoothingConfig.factors`.
      mean_code: ``(B, d)`` smoothed instead of `code`, where a photo has several true places.
    """
    mean_code = code if mean_code is None else mean_code
    return torch.where(torch.isinf(sigma)[:, None], mean_code * factors, code)

"""Tells photos that are unlike those of training, about which a network knows nothing.

A photo is compared with the training photo that is most similar to it: the log of their distance
is its dissimilarity (`TemperatureModel.dissimilarity`). The familiarity of the photo is the share
of training-like photos whose dissimilarity is larger. Training-like photos were held out from
training and are of the same kind, some in other colours. The temperature cannot tell other kinds:
it is fitted on training-like photos, and for others it may have any value. So (our choice) F counts
with a weight that falls with the familiarity f,

    p(y) ∝ q₀(y) exp(w F(y)/τ),   w = min(1, f/f₀)⁸,

and f < f₀ holds for a share f₀ of training-like photos. For a photo of another kind only the base
measure is left: its radii are as wide as if nobody had looked at it. The power was chosen on
validation photos: of those below f₀ 98 % have a 90 % radius above 5,000 km.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

KNOTS = 1001
"""Quantiles that are kept: steps of a thousandth."""

STEEPNESS = 8
LEAST_WEIGHT = 1e-3
"""Weight of F where the familiarity is 0. What is left of F decides between equal places."""


class Familiarity(nn.Module):
    """Computes familiarities; before a fit they are not known, and all weights are 1.

    Attributes:
        quantiles: Quantiles of the dissimilarity of training-like photos at even shares from 0 to
            1, ``(K,)``; empty before a fit.
    """

    quantiles: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("quantiles", torch.zeros(0))

    @property
    def known(self) -> bool:
        """Whether there are quantiles to compare with."""
        return len(self.quantiles) > 0

    def fit(self, parts: Sequence[Tensor]) -> None:
        """Takes the quantiles of training-like photos.

        Args:
            parts: Dissimilarities ``(N,)`` of each part of the photos. All parts have the same
                weight, however many photos they hold.
        """
        share = torch.linspace(0.0, 1.0, KNOTS, dtype=torch.float64)
        each = [torch.quantile(part.double().cpu(), share) for part in parts]
        self.quantiles = torch.quantile(torch.cat(each), share).to(parts[0])

    def forward(self, dissimilarity: Tensor) -> Tensor:
        """Computes familiarities ``(B,)``, 0 to 1, of dissimilarities ``(B,)``.

        They are linear between two quantiles.
        """
        last = len(self.quantiles) - 1
        upper = torch.searchsorted(self.quantiles, dissimilarity.contiguous()).clamp(1, last)
        low, high = self.quantiles[upper - 1], self.quantiles[upper]
        part = ((dissimilarity - low) / (high - low).clamp(min=1e-6)).clamp(0.0, 1.0)
        # Rounded, so that the last bit of a sum over the batch is not seen.
        return (1.0 - (upper - 1 + part) / last).mul(1e4).round().div(1e4)

    def log_weight(self, dissimilarity: Tensor, unfamiliar: float) -> Tensor:
        """Computes log w ``(B,)``.

        Args:
            dissimilarity: Dissimilarities of the photos, ``(B,)``.
            unfamiliar: Familiarity f₀ below which w is less than 1; where it is 0, none is.
        """
        familiarity = self(dissimilarity)
        least = torch.tensor(unfamiliar).to(familiarity)
        weight = torch.where(familiarity < least, familiarity / least, 1.0) ** STEEPNESS
        return weight.clamp(LEAST_WEIGHT, 1.0).log()

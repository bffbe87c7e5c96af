r"""How likely a photo's appearance is at a place, and how far that is believed.

With z the C discriminants of a photo, ẑ(y) those of the map, v(y) their variance and

    σ²(y) = s² + c·v(y),    log t(y) = -(ν + C)/2 · log(1 + \|z - ẑ(y)\|²/(ν σ²)) - C/2 · log σ²

the density p(y) ∝ q₀ exp F becomes p'(y) = q₀ exp(a F) · m(y) / Z with

    log m(y) = b · log(1 + t(y) / floor),    floor = exp(κ) · t of ẑ = 0 and a variance s₀²

The floor is the likelihood of a photo of no place of the map. So m is 1 where the map explains the
photo no better than that, and p' is p with a temperature. log a and log b are linear in
`FEATURES`: few, because more of them diverge on some hundred photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FEATURES = ("log_radius_50", "log_variance_here", "log_least_residual")
"""Inputs of the gates: 50 % radius of the density, variance of the map at its centre, and least
squared distance of the photo's appearance to the map's around it."""

LOG_A, LOG_B = (-1.5, 0.7), (-4.0, 0.7)
"""Bounds of log a and log b."""

FARTHEST = 3.0
"""Standardised features beyond this count as this much."""


@dataclass(frozen=True)
class Places:
    """The fields of N photos at n places each.

    Attributes:
        vectors: Unit vectors, ``(N, n, 3)``.
        field: Network's field F, or log p/q₀, ``(N, n)``.
        log_q0: Logarithm of the base measure, ``(N, n)``.
        residual: Squared distance of the photo's and the map's appearance, ``(N, n)``.
        log_v: Logarithm of the map's variance, ``(N, n)``.
        fade: Share of log m that counts, 1 near the answer of the density, ``(N, n)``.
        window: The window ψ, ``(N, n)``.
    """

    vectors: Tensor
    field: Tensor
    log_q0: Tensor
    residual: Tensor
    log_v: Tensor
    fade: Tensor
    window: Tensor

    def take(self, rows: Tensor | slice) -> Places:
        """Selects photos."""
        return Places(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class PhotoTerms:
    """What the likelihood needs to know of N photos besides places.

    Attributes:
        features: Inputs of the gates, ``(N, 3)``.
        norm: Squared length of the discriminants, ``(N,)``.
        trust: Share of log a and of b that counts, from 0 to 1, ``(N,)``.
    """

    features: Tensor
    norm: Tensor
    trust: Tensor

    def take(self, rows: Tensor | slice) -> PhotoTerms:
        """Selects photos."""
        return PhotoTerms(self.features[rows], self.norm[rows], self.trust[rows])

    @classmethod
    def joined(cls, parts: Sequence[PhotoTerms]) -> PhotoTerms:
        """Joins the photos of one part or more."""
        return cls(
            *(
                torch.cat([getattr(part, name) for part in parts])
                for name in cls.__dataclass_fields__
            )
        )


class AppearanceLikelihood(nn.Module):
    """The constants and gates of the fused density: five constants and eight weights.

    Attributes:
        components: Number C of discriminants.
        feature_mean, feature_spread: Standardisation of the features, ``(3,)``.
    """

    feature_mean: Tensor
    feature_spread: Tensor

    def __init__(self, components: int) -> None:
        """Begins with a guess from which `fit` climbs."""
        super().__init__()
        self.components = components
        self.register_buffer("feature_mean", torch.zeros(len(FEATURES)))
        self.register_buffer("feature_spread", torch.ones(len(FEATURES)))
        self.log_noise = nn.Parameter(torch.tensor(0.3))
        self.log_signal = nn.Parameter(torch.tensor(1.0))
        self.log_freedom = nn.Parameter(torch.tensor(3.0))
        self.log_background = nn.Parameter(torch.tensor(2.0))
        self.floor = nn.Parameter(torch.tensor(0.0))
        self.gates = nn.Linear(len(FEATURES), 2)
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias.copy_(torch.tensor([-0.1, -1.2]))

    def standardise(self, photos: PhotoTerms) -> None:
        """Takes mean and spread of the features from photos, and the background from their z."""
        self.feature_mean.copy_(photos.features.mean(0))
        self.feature_spread.copy_(photos.features.std(0).clamp(min=1e-3))
        with torch.no_grad():
            self.log_background.copy_((photos.norm.mean() / self.components).log())

    def exponents(self, photos: PhotoTerms) -> tuple[Tensor, Tensor]:
        """Computes a and b, ``(N,)`` each; they are 1 and 0 for photos that are not trusted."""
        standard = (photos.features - self.feature_mean) / self.feature_spread
        log_a, log_b = self.gates(standard.clamp(-FARTHEST, FARTHEST)).unbind(1)
        a = (photos.trust * log_a.clamp(*LOG_A)).exp()
        return a, photos.trust * log_b.clamp(*LOG_B).exp()

    def log_student(self, residual: Tensor, log_variance: Tensor) -> Tensor:
        """Computes log t but for a constant.

        Args:
            residual: Squared distance of appearances ``(...)``.
            log_variance: Logarithm of σ² ``(...)``.
        """
        freedom = self.log_freedom.exp()
        scaled = residual / freedom * (-log_variance).exp()
        log_t = -0.5 * (freedom + self.components) * scaled.log1p()
        return log_t - 0.5 * self.components * log_variance

    def log_factor(self, places: Places, photos: PhotoTerms, b: Tensor) -> Tensor:
        """Computes log m ``(N, n)`` of places of N photos with exponents b ``(N,)``."""
        sigma2 = self.log_noise.exp() + self.log_signal.exp() * places.log_v.exp()
        log_t = self.log_student(places.residual, sigma2.log())
        background = self.log_student(photos.norm, self.log_background)
        above = log_t - (background + self.floor)[:, None]
        return places.fade * (b[:, None] * nn.functional.softplus(above))

    def log_density(
        self, places: Places, photos: PhotoTerms, a: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Evaluates the density, but for Z.

        Args:
            places: Fields at n places of each of N photos.
            photos: The photos.
            a: Exponents of the network's field, ``(N,)``.
            b: Exponents of the map, ``(N,)``.

        Returns:
            log(q₀ exp(a F) m), and log(q₀ exp(a F) (m - 1 + ψ)), what rings integrate; ``(N, n)``
            each.
        """
        log_m = self.log_factor(places, photos, b)
        network = places.log_q0 + a[:, None] * places.field
        less = ((places.window - 1.0) * (-log_m).exp()).clamp(min=1e-6 - 1.0)
        return network + log_m, network + log_m + less.log1p()

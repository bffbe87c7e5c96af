"""Interfaces that samplers and losses expect of a network."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Denoiser(Protocol):
    """The reverse model in natural parameters."""

    def __call__(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """Returns η of p(x₀ | x_σ, image).

        Args:
            x: Noisy codes x_σ, ``(B, d)``; ignored where sigma is infinite.
            sigma: Noise levels σ, ``(B,)``; ``inf`` means that only the image is known.
            condition: Image embeddings, ``(B, E)``.

        Returns:
            Natural parameters η, ``(B, d)``.
        """
        ...


class MeanDenoiser(Protocol):
    """The denoised estimate x̂₀ = E[code(x₀) | x_σ], which a sampler calls."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Returns mean parameters ``(B, d)`` of noisy codes ``(B, d)`` at levels ``(B,)``."""
        ...

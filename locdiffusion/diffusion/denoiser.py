"""Interfaces that samplers and losses expect of a network, and the mean parameter on a grid."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from locdiffusion.density.transforms import ProductTransform


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


def mean_denoiser(
    denoiser: Denoiser,
    condition: Tensor,
    grid: ProductTransform,
    log_q0: Tensor | None = None,
) -> MeanDenoiser:
    """Builds a denoiser that returns the mean parameters E_p[code] by quadrature on a grid.

    The result is a weighted mean of codes of real points, so it lies in the convex hull of the
    manifold of codes: the sampler cannot drift off it and nothing needs reprojection.

    Args:
        denoiser: Denoiser in natural parameters.
        condition: Image embeddings, one for each row of x, ``(B, E)``.
        grid: Grid over the whole sphere.
        log_q0: Log q₀ at its nodes, ``(rows, columns)``; None is the uniform measure.
    """
    log_weight = grid.row_weight.log()[:, None]
    if log_q0 is not None:
        log_weight = log_weight + log_q0

    def mean(x: Tensor, sigma: Tensor) -> Tensor:
        # p(node) ∝ q₀ exp F dΩ, then E_p[code] = Σ p(node) code(node)
        field = grid.synthesis(denoiser(x, sigma, condition)) + log_weight
        mass = torch.softmax(field.flatten(1), dim=1).view_as(field)
        return grid.analysis(mass)

    return mean

"""What samplers and losses expect of a network."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from locdiffusion.density.transforms import ProductTransform


class Denoiser(Protocol):
    """The reverse model as natural parameters."""

    def __call__(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """η of p(x₀ | x_σ, image).

        Args:
            x: ``(B, d)`` noisy codes; ignored where sigma is infinite.
            sigma: ``(B,)`` noise levels; ``inf`` means "no information but the image".
            condition: ``(B, E)`` image embeddings.

        Returns:
            ``(B, d)``.
        """
        ...


class MeanDenoiser(Protocol):
    """What a sampler calls: the denoised estimate x̂₀ = E[code(x₀) | x_σ]."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Mean parameters ``(B, d)`` of noisy codes ``(B, d)`` at levels ``(B,)``."""
        ...


def mean_denoiser(
    denoiser: Denoiser,
    condition: Tensor,
    grid: ProductTransform,
    log_base: Tensor | None = None,
) -> MeanDenoiser:
    """Turns natural parameters into the mean parameters E_p[code] by quadrature on a grid.

    The result is a weighted mean of codes of real points, so it lies in the convex hull of the
    manifold of codes: the sampler cannot drift off it and nothing needs reprojection.

    Args:
        denoiser: The natural-parameter model.
        condition: ``(B, E)`` image embeddings, one for each row of x.
        grid: Nodes over the whole sphere.
        log_base: ``(rows, columns)`` log q₀ at the nodes; None is the uniform measure.
    """
    log_weight = grid.row_weight.log()[:, None]
    if log_base is not None:
        log_weight = log_weight + log_base

    def mean(x: Tensor, sigma: Tensor) -> Tensor:
        field = grid.synthesis(denoiser(x, sigma, condition)) + log_weight
        mass = torch.softmax(field.flatten(1), dim=1).view_as(field)
        return grid.analysis(mass)

    return mean

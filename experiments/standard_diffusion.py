"""Parts of a standard diffusion sampler, with which ours is compared.

They are DDPM's noise levels and the mean parameter by quadrature on one grid over the sphere; the
product places its levels by `locdiffusion.diffusion.schedules` and takes the mean from
`locdiffusion.diffusion.focused`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.density.transforms import ProductTransform
from locdiffusion.diffusion.denoiser import Denoiser, MeanDenoiser

STANDARD_LEVELS, STANDARD_BETAS = 1000, (1e-4, 0.02)
"""T and the first and last β of Ho et al. 2020 (arXiv 2006.11239, §4)."""


def standard_sigmas(steps: int) -> NDArray[np.float64]:
    """Returns the ``(steps + 1,)`` levels of the standard image schedule with so many steps.

    It visits `steps` + 1 of the T = 1000 levels of DDPM, evenly spaced from T (σ = 157) to 1
    (σ = 0.01). β is linear in t, and in the variance-exploding form

        σ_t = √((1 - ᾱ_t)/ᾱ_t),   ᾱ_t = Π_{s ≤ t} (1 - β_s).

    Image schedules are made for data of unit variance, which our codes are, so no scale is needed.

    Args:
        steps: Number of steps, 1 to 999.
    """
    if not 1 <= steps < STANDARD_LEVELS:
        raise ValueError(f"steps is {steps}; want 1 to {STANDARD_LEVELS - 1}.")
    kept = np.cumprod(1.0 - np.linspace(*STANDARD_BETAS, STANDARD_LEVELS))
    visited = np.rint(np.linspace(STANDARD_LEVELS - 1, 0, steps + 1)).astype(int)
    sigmas: NDArray[np.float64] = np.sqrt((1.0 - kept) / kept)[visited]
    return sigmas


def mean_denoiser(
    denoiser: Denoiser, condition: Tensor, grid: ProductTransform, log_q0: Tensor | None = None
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

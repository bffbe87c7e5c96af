"""SHDD-KL, the loss of training."""

from __future__ import annotations

import torch
from torch import Tensor

from locdiffusion.density.log_partition import LogPartition


def shdd_kl(
    natural: Tensor,
    code: Tensor,
    truth: Tensor,
    partition: LogPartition,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Computes -log (p_η(x₀) / q₀(x₀)), which is KL(δ_x0 ‖ p_η) up to a constant.

    Over the uniform measure 0 is the uniform answer; below 0 the density knows something.

    Args:
        natural: Natural parameters η, ``(B, d)``.
        code: Codes of the true points, ``(B, d)``.
        truth: Unit vectors of the true points, ``(B, 3)``.
        partition: Quadrature of log Z.
        generator: Generator of the shifts of its grid.

    Returns:
        Nats ``(B,)``.
    """
    # log Z - ⟨η, code(x₀)⟩
    return partition(natural, truth, generator) - (natural * code).sum(-1)

"""SHDD-KL."""

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
    """-log p_η(x₀) in nats against the uniform sphere: KL(δ_x0 ‖ p_η) up to a constant.

    0 is the uniform answer; below 0 the density knows something.

    Args:
        natural: ``(B, d)`` η.
        code: ``(B, d)`` codes of the true points.
        truth: ``(B, 3)`` the true points as unit vectors.
        partition: The quadrature of log Z.
        generator: Draws its shifts.

    Returns:
        ``(B,)``.
    """
    return partition(natural, truth, generator) - (natural * code).sum(-1)

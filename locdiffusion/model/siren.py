"""Sine layers conditioned on an image and a noise level."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ConditionedSine(nn.Module):
    """sin(γ(c) ⊙ (W x + b) + β(c)): a SIREN layer with feature-wise modulation.

    Initialised as in SIREN (Sitzmann et al. 2020, arXiv 2006.09661, §3.2); the modulation
    (Perez et al. 2018, FiLM) starts at γ = ω, β = 0.

    Attributes:
        linear: Weights W and biases b.
        modulation: Linear map of the condition to (γ - ω, β).
    """

    def __init__(self, inputs: int, outputs: int, condition: int, omega: float = 1.0) -> None:
        super().__init__()
        self.omega = omega
        self.linear = nn.Linear(inputs, outputs)
        self.modulation = nn.Linear(condition, 2 * outputs)
        bound = math.sqrt(6.0 / inputs) / omega
        nn.init.uniform_(self.linear.weight, -bound, bound)
        nn.init.zeros_(self.linear.bias)
        nn.init.normal_(self.modulation.weight, std=0.5)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Computes ``(B, outputs)`` of x ``(B, inputs)`` and the condition ``(B, condition)``."""
        # The condition is divided by √C here, and not in the initial weights: a step of Adam then
        # moves the phase of the sine by the learning rate times √C instead of C, and stays stable.
        normalised = condition / math.sqrt(condition.shape[-1])
        scale, shift = self.modulation(normalised).chunk(2, dim=-1)
        return torch.sin((self.omega + scale) * self.linear(x) + shift)


class NoiseLevelFeatures(nn.Module):
    """Computes sines and cosines of log σ; for σ = ∞ they are 0 and a flag is 1."""

    frequencies: Tensor

    def __init__(self, count: int = 16) -> None:
        super().__init__()
        frequencies = torch.exp(torch.linspace(math.log(0.25), math.log(8.0), count))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.outputs = 2 * count + 1

    def forward(self, sigma: Tensor) -> Tensor:
        """Computes features ``(B, outputs)`` of noise levels ``(B,)``."""
        pure = torch.isinf(sigma)
        phase = torch.where(pure, 1.0, sigma).log()[:, None] * self.frequencies
        waves = torch.cat([phase.sin(), phase.cos()], -1).masked_fill(pure[:, None], 0.0)
        return torch.cat([waves, pure[:, None].to(waves)], -1)

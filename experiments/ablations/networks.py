"""Networks of the ablations: CS-UNet, CS-UNet on two or three numbers, a residual MLP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.ablations.encodings import dimension
from experiments.ablations.plan import Budget, Encoding, Loss, Network, Variant
from locdiffusion.model.cs_unet import CSUNet, CSUNetConfig

DENSITY_SCALE = {Encoding.XYZ: 50.0, Encoding.SHDD: 0.05}
"""Typical size of one natural parameter, for a density about 200 km wide."""


@dataclass(frozen=True)
class FlatShape(CSUNetConfig):
    """Shape of a CS-UNet over a few numbers that have no degrees: each level sees all of them.

    Attributes:
        numbers: Count of numbers.
    """

    numbers: int = 3

    @property
    def dimension(self) -> int:
        """Count of numbers of one place."""
        return self.numbers

    @property
    def level_dimensions(self) -> tuple[int, ...]:
        """Count of numbers at each level: always all."""
        return (self.numbers,) * len(self.widths)


class ResidualMLP(CSUNet):
    """A residual MLP with the image branch and the skip of CS-UNet.

    x, the noise level and the image are added once, at the input. There is no modulation, there are
    no levels and no sines.
    """

    def __init__(self, config: CSUNetConfig, blocks: int = 2) -> None:
        super().__init__(config)
        c = config.condition_dim
        for name in ("down", "bottom", "up", "heads"):
            delattr(self, name)
        self.entrance = nn.Linear(config.dimension, c)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(c), nn.Linear(c, c), nn.GELU(), nn.Linear(c, c))
            for _ in range(blocks)
        )
        self.exit = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, config.dimension))
        nn.init.zeros_(self.entrance.weight)
        for block in self.blocks:
            assert isinstance(block, nn.Sequential)
            last = block[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)

    def _unet(self, x: Tensor, image: Tensor, c: Tensor) -> Tensor:
        hidden = self.entrance(x) + c
        for block in self.blocks:
            hidden = hidden + block(hidden)
        out: Tensor = self.exit(hidden)
        return out


class Estimator(nn.Module):
    """A network without its skip: f alone, read as x̂₀ or as natural parameters."""

    def __init__(self, network: CSUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """Computes f ``(B, numbers)`` of noisy numbers, levels ``(B,)``, embeddings ``(B, E)``."""
        pure = torch.isinf(sigma)[:, None]
        level = torch.where(pure, 1.0, sigma[:, None])
        skip = (x / level**2).masked_fill(pure, 0.0)
        out: Tensor = self.network(x, sigma, condition) - skip
        return out


def build(variant: Variant, budget: Budget, embeddings: Tensor) -> nn.Module:
    """Builds the network of a variant and standardises it on training embeddings ``(N, E)``."""
    is_code = variant.encoding is Encoding.SHDD
    scale = DENSITY_SCALE[variant.encoding] if variant.loss is Loss.KL else 1.0
    config = FlatShape(
        numbers=dimension(variant),
        embedding_dim=embeddings.shape[1],
        condition_dim=budget.condition_dim,
        widths=budget.widths,
        dropout=budget.dropout,
        natural_scale=scale,
        trunk_blocks=variant.trunk_blocks,
    )
    if is_code:
        shared = {k: v for k, v in vars(config).items() if k not in ("numbers", "max_degree")}
        chosen: CSUNetConfig = CSUNetConfig(max_degree=variant.max_degree, **shared)
    else:
        chosen = config
    network = ResidualMLP(chosen) if variant.network is Network.MLP else CSUNet(chosen)
    if not variant.image_first:
        _open_to_noise(network)
    network.standardise(embeddings)
    keeps_skip = variant.loss is Loss.KL and variant.bayes_skip
    return network if keeps_skip else Estimator(network)


def _open_to_noise(network: CSUNet) -> None:
    """Replaces CS-UNet's zero initial weights for x and σ by torch's default ones."""
    network.noise.reset_parameters()
    for head in network.heads:
        assert isinstance(head, nn.Linear)
        nn.init.normal_(head.weight, std=0.1 / head.in_features**0.5)

"""The trunk that the rivals' networks share, and the loop that trains all of them.

The loop repeats `locdiffusion.train.trainer` for a plain network, with the same optimiser,
schedule, averaging and order of photos. So a rival differs from our model only in what it predicts.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.train.batches import batch_rows
from locdiffusion.train.trainer import descend, follow, learning_rate_factor, optimizer_of

Network = TypeVar("Network", bound=nn.Module)
Loss = Callable[[Network, Tensor, Tensor, torch.Generator], Tensor]
"""``loss(network, embeddings (B, E), vectors (B, 3) float64, generator on the CPU)``."""

BLOCKS = 2


@dataclass(frozen=True)
class Budget:
    """The budget of every rival; the defaults are those of our own `TrainConfig`.

    Attributes:
        steps, batch_size: Length of the training.
        learning_rate: Peak rate of AdamW, with linear warm-up, then cosine to zero.
        seed: Seed of weights, order, noise and dropout.
        parameters: Approximate number of parameters of a network; our model of degree 31 has 4.7
            million.
        dropout: Dropout on the embedding and inside the blocks.
        warmup: Steps of warm-up, at most a fifth of all steps.
        weight_decay: Weight decay of AdamW.
        ema_decay: Decay of the moving average of the weights, which gives the answers.
        gradient_clip: Largest gradient norm.
        device: Torch device, such as "cpu" or "cuda".
    """

    steps: int = 3000
    batch_size: int = 256
    learning_rate: float = 1e-3
    seed: int = 0
    parameters: int = 4_700_000
    dropout: float = 0.1
    warmup: int = 200
    weight_decay: float = 0.02
    ema_decay: float = 0.999
    gradient_clip: float = 1.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Checks the values."""
        if min(self.steps, self.batch_size, self.parameters) < 1 or self.learning_rate <= 0:
            raise ValueError(
                "steps, batch_size and parameters must be at least 1 and learning_rate positive; "
                f"found {self.steps}, {self.batch_size}, {self.parameters}, {self.learning_rate}."
            )

    def part(self, share: float) -> Budget:
        """Returns this budget with a share of its steps, at least one."""
        return replace(self, steps=max(1, round(share * self.steps)))


class Trunk(nn.Module):
    """A residual GELU MLP on standardised embeddings, of about `parameters` weights."""

    embedding_mean: Tensor
    embedding_std: Tensor

    def __init__(self, inputs: int, outputs: int, parameters: int, dropout: float) -> None:
        super().__init__()
        width = trunk_width(inputs, outputs, parameters)
        self.register_buffer("embedding_mean", torch.zeros(inputs))
        self.register_buffer("embedding_std", torch.ones(inputs))
        self.first = nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, width), nn.GELU())
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, width),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(width, width),
            )
            for _ in range(BLOCKS)
        )
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, outputs)
        nn.init.normal_(self.last.weight, std=0.1 / math.sqrt(width))

    def standardise(self, embeddings: Tensor) -> None:
        """Stores mean and standard deviation of the training embeddings ``(N, E)``."""
        self.embedding_mean.copy_(embeddings.mean(0))
        self.embedding_std.copy_(embeddings.std(0).clamp(min=1e-3 * float(embeddings.std())))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Computes outputs ``(B, outputs)`` of embeddings ``(B, E)``."""
        hidden = self.first((embeddings - self.embedding_mean) / self.embedding_std)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        out: Tensor = self.last(self.norm(hidden))
        return out


def trunk_width(inputs: int, outputs: int, parameters: int) -> int:
    """Finds the width, a multiple of 8, that gives about `parameters` weights."""
    quadratic, linear = 2.0 * BLOCKS, float(inputs + outputs)
    width = (math.sqrt(linear**2 + 4.0 * quadratic * parameters) - linear) / (2.0 * quadratic)
    return max(8, 8 * round(width / 8))


def parameter_count(network: nn.Module) -> int:
    """Counts the trained parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def train(
    build: Callable[[], Network],
    loss: Loss[Network],
    photos: EmbeddedPhotos,
    budget: Budget,
    label: str,
) -> Network:
    """Trains a network and returns it with averaged weights, in evaluation mode.

    Args:
        build: Function that makes the network; it is called after the seed is set.
        loss: Function that computes the loss of one batch.
        photos: Training photos.
        budget: Steps, optimiser settings and seed.
        label: Label of the progress bar.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    from tqdm import trange

    torch.manual_seed(budget.seed)
    network = build().to(budget.device)
    embeddings, vectors = torch.from_numpy(photos.embeddings), photos.vectors
    for module in network.modules():
        if isinstance(module, Trunk):
            module.standardise(embeddings)
    average = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = optimizer_of(network, budget.weight_decay)
    network.train()
    warmup = min(budget.warmup, budget.steps // 5)
    for step in trange(budget.steps, desc=label, unit="step", file=sys.stderr, leave=False):
        seed = int(np.random.SeedSequence([budget.seed, step]).generate_state(1)[0])
        torch.manual_seed(seed)  # dropout
        generator = torch.Generator().manual_seed(seed + 1)
        rows = batch_rows(step, len(photos), budget.batch_size, budget.seed)
        truth = torch.from_numpy(vectors[rows]).to(budget.device)
        value = loss(network, embeddings[rows].to(budget.device), truth, generator)
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"The loss of {label} is {value.item()} at step {step}; lower learning_rate (now "
                f"{budget.learning_rate})."
            )
        rate = budget.learning_rate * learning_rate_factor(step, budget.steps, warmup)
        descend(value, network, optimizer, rate, budget.gradient_clip)
        follow(average, network, step, budget.ema_decay)
    return average


@torch.inference_mode()
def outputs(network: Trunk, photos: EmbeddedPhotos, batch: int = 512) -> Tensor:
    """Computes a trained trunk's outputs for many photos: ``(N, outputs)`` on the CPU."""
    device = network.embedding_mean.device
    parts = []
    for start in range(0, len(photos), batch):
        embeddings = torch.from_numpy(photos.embeddings[start : start + batch])
        parts.append(network(embeddings.to(device)).cpu())
    return torch.cat(parts)

"""Trains one variant; the loop is the same for all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.ablations.encodings import draw_sigmas, encode, noise_range
from experiments.ablations.networks import build
from experiments.ablations.plan import Base, Budget, Encoding, Loss, Variant
from locdiffusion.density.base_measure import (
    BaseMeasure,
    land_measure,
    positions_measure,
    uniform_measure,
)
from locdiffusion.density.log_partition import LogPartition
from locdiffusion.diffusion.losses import shdd_kl
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.train.batches import batch_rows
from locdiffusion.train.label_smoothing import SmoothingConfig, smoothed_where_pure
from locdiffusion.train.trainer import descend, follow, learning_rate_factor, optimizer_of

EMA_DECAY, WEIGHT_DECAY, GRADIENT_CLIP = 0.99, 0.02, 1.0


@dataclass(frozen=True)
class Fitted:
    """A trained variant.

    Attributes:
        variant: Variant that was trained.
        network: Network with averaged weights, in evaluation mode.
        base_measure: Base measure q₀ of the answers; None for a variant without a density.
        parameters: Number of trained parameters.
        loss: Mean training loss over the last tenth of the steps.
    """

    variant: Variant
    network: nn.Module
    base_measure: BaseMeasure | None
    parameters: int
    loss: float


def fit(
    variant: Variant,
    budget: Budget,
    photos: EmbeddedPhotos,
    progress: Callable[[], object] = lambda: None,
) -> Fitted:
    """Trains a variant on photos.

    Args:
        variant: Variant to train.
        budget: Steps, batch size and size of the network.
        photos: N training photos with truth.
        progress: Function that is called after each step.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    torch.manual_seed(budget.seed)
    embeddings = torch.from_numpy(photos.embeddings)
    network = build(variant, budget, embeddings)
    average = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = optimizer_of(network, WEIGHT_DECAY)
    loss_of, base_measure = _loss(variant, budget, photos.vectors)
    losses, warmup = [], budget.steps // 10 + 1
    for step in range(budget.steps):
        generator = torch.Generator().manual_seed(1000 * budget.seed + step)
        rows = batch_rows(step, len(photos), budget.batch_size, budget.seed)
        loss = loss_of(network, rows, embeddings[rows], generator)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss.item()} at step {step}; lower learning_rate (now "
                f"{budget.learning_rate})."
            )
        rate = budget.learning_rate * learning_rate_factor(step, budget.steps, warmup)
        descend(loss, network, optimizer, rate, GRADIENT_CLIP)
        follow(average, network, step, EMA_DECAY)
        losses.append(loss.item())
        progress()
    return Fitted(
        variant=variant,
        network=average,
        base_measure=base_measure,
        parameters=sum(p.numel() for p in network.parameters()),
        loss=float(np.mean(losses[-max(1, budget.steps // 10) :])),
    )


def _loss(
    variant: Variant, budget: Budget, vectors: NDArray[np.float64]
) -> tuple[
    Callable[[nn.Module, NDArray[np.int64], Tensor, torch.Generator], Tensor], BaseMeasure | None
]:
    """Makes the function of a batch's mean loss, and q₀ of the answers."""
    config = noise_range(variant, budget.pure_fraction)
    codes, truth = encode(vectors, variant), torch.from_numpy(vectors).float()
    trained_over, answered_over = _bases(variant, vectors)
    degree = variant.max_degree if variant.encoding is Encoding.SHDD else 1
    smoothing = SmoothingConfig(variant.smoothing_km, broad_share=variant.broad_share)
    factors = torch.ones(codes.shape[1])
    if variant.encoding is Encoding.SHDD:
        factors = torch.from_numpy(smoothing.factors(degree)).float()
    partition = LogPartition(degree, base_measure=trained_over) if variant.loss is Loss.KL else None

    def mean_loss(
        network: nn.Module, rows: NDArray[np.int64], condition: Tensor, generator: torch.Generator
    ) -> Tensor:
        code = codes[rows]
        sigma = draw_sigmas(len(rows), variant, config, generator)
        noise = torch.randn(code.shape, generator=generator)
        x = code + torch.where(torch.isinf(sigma), 0.0, sigma)[:, None] * noise
        out = network(x, sigma, condition)
        if partition is None:
            return (out - code).square().mean()
        target = smoothed_where_pure(code, sigma, factors)
        whole = as_natural(out, variant), as_natural(target, variant)
        return shdd_kl(*whole, truth[rows], partition, generator).mean()

    return mean_loss, answered_over


def as_natural(values: Tensor, variant: Variant) -> Tensor:
    """Pads numbers to SHDD coefficients ``(B, d)``; three numbers are those of degree 1."""
    return nn.functional.pad(values, (1, 0)) if variant.encoding is Encoding.XYZ else values


def _bases(
    variant: Variant, vectors: NDArray[np.float64]
) -> tuple[BaseMeasure | None, BaseMeasure | None]:
    """Builds q₀ of the loss and q₀ of the answers."""
    if variant.base is Base.MIXTURE:
        return positions_measure(vectors), land_measure()
    return (uniform_measure(), uniform_measure()) if variant.base else (None, None)

r"""Riemannian flow matching on the sphere.

Chen & Lipman 2024 (arXiv 2302.03660); for photos, PLONK (Dufour et al. 2024, arXiv 2412.06781).

A point x₀ drawn from the uniform sphere moves to the photo's place x₁ along the great circle, at
constant speed:

    x_t = exp_{x₀}(t · log_{x₀} x₁),    u_t = log_{x_t}(x₁) / (1 - t)

The network learns E[u_t | x_t, image], a tangent vector. Samples follow it from t = 0 to 1 by
Heun's method with the exponential map; a kernel around each of K samples makes the density.
A flow that was trained for too short a time spreads its samples too far, which no kernel width
corrects. So that it can be tempered as our model is, the logit of a sample is the log density of
the other samples there: weights p^{1/τ} sharpen it, and a large τ gives equal weights.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.baselines.evidence import Evidence
from experiments.baselines.kernel_mixture import gaps
from experiments.baselines.network import BLOCKS, Budget, Trunk, parameter_count, train
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.grids import fibonacci_grid

_OCTAVES = 7  # of the waves of x and t: down to 200 km
_HEAD_SHARE = 0.25  # of the parameters: what is run for each sample and step
_FEATURES = 4 + 8 * _OCTAVES
_DRAWS = 1  # time and start per photo and step, as many as our noise levels


def exponential(x: Tensor, tangent: Tensor) -> Tensor:
    """Computes exp_x(v), the end of the great circle from x ``(..., 3)`` along v, |v| radians."""
    angle = tangent.norm(dim=-1, keepdim=True)
    moved = torch.cos(angle) * x + torch.sinc(angle / math.pi) * tangent
    return nn.functional.normalize(moved, dim=-1)


def logarithm(x: Tensor, y: Tensor) -> Tensor:
    """Computes log_x(y), the tangent at x whose exponential is y; for antipodes any such."""
    across = tangent_part(x, y - x)
    length = across.norm(dim=-1, keepdim=True)
    angle = torch.atan2(length, (x * y).sum(-1, keepdim=True))
    return across * (angle / length.clamp(min=1e-12))


def tangent_part(x: Tensor, vector: Tensor) -> Tensor:
    """Projects vectors onto the plane orthogonal to x."""
    return vector - (vector * x).sum(-1, keepdim=True) * x


class FlowNetwork(nn.Module):
    """Network of the velocity at (x, t) for an image: a trunk that modulates a residual head.

    The trunk runs once per photo, the head for each sample and step.
    """

    def __init__(self, inputs: int, parameters: int, dropout: float) -> None:
        super().__init__()
        head = _HEAD_SHARE * parameters
        quadratic = 2.0 * BLOCKS
        width = (math.sqrt(_FEATURES**2 + 4.0 * quadratic * head) - _FEATURES) / (2.0 * quadratic)
        self.width = max(8, 8 * round(width / 8))
        rest = max(1, round((1.0 - _HEAD_SHARE) * parameters))
        self.trunk = Trunk(inputs, 2 * BLOCKS * self.width, rest, dropout)
        self.first = nn.Linear(_FEATURES, self.width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(self.width, self.width), nn.GELU(), nn.Linear(self.width, self.width)
            )
            for _ in range(BLOCKS)
        )
        self.norm = nn.LayerNorm(self.width, elementwise_affine=False)
        self.last = nn.Linear(self.width, 3)

    def modulation(self, embeddings: Tensor) -> Tensor:
        """Computes the modulation of the head by an image, ``(B, 2 · blocks, width)``."""
        parts: Tensor = self.trunk(embeddings)
        return parts.view(len(embeddings), 2 * BLOCKS, self.width)

    def forward(self, x: Tensor, t: Tensor, modulation: Tensor) -> Tensor:
        """Computes tangent velocities.

        Args:
            x: Places as unit vectors, shape ``(B, K, 3)``.
            t: Times in [0, 1], shape ``(B, K, 1)``, or one for all.
            modulation: Result of `modulation`, shape ``(B, 2 · blocks, width)``.

        Returns:
            Velocities orthogonal to x, shape ``(B, K, 3)``, in radians per unit of time.
        """
        place = torch.cat([x, t.expand(*x.shape[:-1], 1)], -1)
        octaves = math.pi * 2.0 ** torch.arange(_OCTAVES, device=x.device)
        phase = (place[..., None] * octaves).flatten(-2)
        hidden = self.first(torch.cat([place, phase.sin(), phase.cos()], -1))
        for i, block in enumerate(self.blocks):
            scale, shift = modulation[:, 2 * i, None], modulation[:, 2 * i + 1, None]
            hidden = hidden + block(self.norm(hidden) * (1.0 + scale) + shift)
        return tangent_part(x, self.last(self.norm(hidden)))


def matching_loss(
    network: FlowNetwork, embeddings: Tensor, truth: Tensor, generator: torch.Generator
) -> Tensor:
    """Computes the mean squared error of the velocity at random times and starts."""
    truth = truth.to(embeddings)[:, None].expand(-1, _DRAWS, -1)
    start = torch.randn(truth.shape, generator=generator).to(truth)
    start = nn.functional.normalize(start, dim=-1)
    t = torch.rand(len(truth), _DRAWS, 1, generator=generator).to(truth)
    x = exponential(start, t * logarithm(start, truth))
    # u_t: the speed is constant, so this equals log_{x_t}(x₁)/(1 - t), also at t = 1.
    forth = logarithm(x, truth) / (1.0 - t).clamp(min=0.5)
    away = -logarithm(x, start) / t.clamp(min=0.5)
    wanted = torch.where(t < 0.5, forth, away)
    found = network(x, t, network.modulation(embeddings))
    return (found - wanted).square().sum(-1).mean()


@torch.inference_mode()
def samples(network: FlowNetwork, embeddings: Tensor, count: int, steps: int) -> Tensor:
    """Samples places by following the flow from the same evenly spread starts for every photo.

    Args:
        network: Network of the velocity.
        embeddings: Image embeddings, shape ``(B, E)``.
        count: Number K of samples per photo. Their starts are a Fibonacci lattice, which needs no
            seed and covers the sphere more evenly than random points.
        steps: Steps of Heun's method; the last is Euler's, as there is no velocity at t = 1.

    Returns:
        Places as unit vectors, shape ``(B, K, 3)``.
    """
    modulation = network.modulation(embeddings)
    lattice = torch.from_numpy(fibonacci_grid(count)).to(modulation)
    x = lattice.expand(len(embeddings), -1, -1)
    h = 1.0 / steps
    for step in range(steps):
        now = torch.full((1, 1, 1), step * h, dtype=x.dtype, device=x.device)
        velocity = network(x, now, modulation)
        ahead = exponential(x, h * velocity)
        if step < steps - 1:
            there = network(ahead, now + h, modulation)
            # Heun needs both velocities at x: carry the second one back along the great circle.
            velocity = 0.5 * (velocity + transported(ahead, x, there))
            ahead = exponential(x, h * velocity)
        x = ahead
    return x


def transported(origin: Tensor, target: Tensor, tangent: Tensor) -> Tensor:
    """Carries a tangent at `origin` to `target` along the great circle between them."""
    middle = origin + target
    share = (tangent * target).sum(-1, keepdim=True) / (0.5 * middle.square().sum(-1, keepdim=True))
    return tangent - share * middle


class FlowMatching:
    """Flow matching with a kernel around each sample; the module's docstring has the formulas.

    Attributes:
        parameters: Number of trained parameters.
        choices: Numbers of samples and steps.
    """

    def __init__(self, count: int = 32, steps: int = 8) -> None:
        """Makes a flow that draws `count` samples in `steps` steps each."""
        self.count, self.steps = count, steps
        self.parameters = 0
        self.choices: dict[str, Any] = {"samples": count, "heun_steps": steps}

    def fit(self, train_photos: EmbeddedPhotos, val: EmbeddedPhotos, budget: Budget) -> None:
        """Trains the network; `val` is not used."""

        def build() -> FlowNetwork:
            width = train_photos.embeddings.shape[1]
            return FlowNetwork(width, budget.parameters, budget.dropout)

        self.network = train(build, matching_loss, train_photos, budget, "flow matching")
        self.parameters = parameter_count(self.network)

    def evidence(self, photos: EmbeddedPhotos, batch: int = 128) -> Evidence:
        """Gives the samples, each with the log density of the others as its logit."""
        device = self.network.last.weight.device
        parts: list[NDArray[np.float64]] = []
        for start in range(0, len(photos), batch):
            embeddings = torch.from_numpy(photos.embeddings[start : start + batch]).to(device)
            drawn = samples(self.network, embeddings, self.count, self.steps)
            parts.append(drawn.double().cpu().numpy())
        points = np.concatenate(parts)
        return Evidence.alike(points, log_density_of_others(points))


def log_density_of_others(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Estimates the log density of each sample from the other samples, up to a constant.

    The kernel width is Scott's rule in two dimensions, s²K^{-1/3}; s² follows from the median gap
    of two samples, which is 2 ln 2 · s² for a normal distribution.

    Args:
        points: Samples as unit vectors, shape ``(N, K, 3)``.

    Returns:
        Log densities, shape ``(N, K)``.
    """
    n, k, _ = points.shape
    if k < 2:
        return np.zeros((n, k))
    gap = gaps(points, points)
    pairs = np.triu_indices(k, 1)
    variance = np.median(gap[:, pairs[0], pairs[1]], axis=1) / (2.0 * math.log(2.0))
    kappa = k ** (1.0 / 3.0) / np.maximum(variance, 1e-9)
    terms = -kappa[:, None, None] * gap
    terms[:, np.arange(k), np.arange(k)] = -np.inf
    top = terms.max(-1, keepdims=True)
    return (top + np.log(np.exp(terms - top).sum(-1, keepdims=True)))[..., 0]

"""Heads of other geolocators, at their real sizes with random weights, for timing only.

The sizes are those of GeoCLIP's released package (768 → 768 → 512, 100,000 positions, scale 39.7);
and those of PLONK's paper and code (Dufour et al. 2024, arXiv 2412.06781: residual blocks of
width 512 modulated by condition and time, 12 of them, about 36 M parameters).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

GALLERY, LOGIT_SCALE = 100_000, 39.7


class GeoClipHead(nn.Module):
    """GeoCLIP's head: image head, similarity to a gallery of embedded positions, softmax, top 5."""

    gallery: Tensor
    coordinates: Tensor

    def __init__(self, gallery: int = GALLERY) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(768, 768), nn.ReLU(), nn.Linear(768, 512))
        positions = nn.functional.normalize(torch.randn(gallery, 512), dim=1)
        self.register_buffer("gallery", positions, persistent=False)
        self.register_buffer("coordinates", torch.rand(gallery, 2), persistent=False)

    @torch.inference_mode()
    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Computes coordinates ``(N, 5, 2)`` and probabilities ``(N, 5)`` of ``(N, 768)``.

        The gallery's embeddings are stored; GeoCLIP's own `predict` computes them in each call.
        """
        image = nn.functional.normalize(self.mlp(embeddings), dim=1)
        probability = torch.softmax(LOGIT_SCALE * image @ self.gallery.T, dim=1)
        best = probability.topk(5, dim=1)
        return self.coordinates[best.indices], best.values


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(condition).chunk(3, dim=-1)
        return x + gate * self.mlp(self.norm(x) * (1.0 + scale) + shift)


class PlonkSampler(nn.Module):
    """PLONK's sampler: Riemannian flow matching, `steps` calls of the network, no guidance."""

    frequencies: Tensor

    def __init__(self, embedding_dim: int, width: int = 512, depth: int = 12) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.image = nn.Linear(embedding_dim, width)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.last = nn.Linear(width, 3)
        frequencies = torch.exp(-math.log(10_000.0) * torch.arange(128) / 128)
        self.register_buffer("frequencies", frequencies, persistent=False)

    @property
    def parameter_count(self) -> int:
        """Counts the trainable parameters."""
        return sum(p.numel() for p in self.parameters())

    def velocity(self, x: Tensor, time: float, image: Tensor) -> Tensor:
        """Computes velocities ``(N, 3)`` at points ``(N, 3)`` for embeddings ``(N, width)``."""
        phase = 1000.0 * time * self.frequencies
        condition = image + self.time(torch.cat([phase.cos(), phase.sin()]))
        hidden = self.first(x)
        for block in self.blocks:
            hidden = block(hidden, condition)
        velocity: Tensor = self.last(hidden)
        return velocity

    @torch.inference_mode()
    def forward(self, embeddings: Tensor, steps: int = 16) -> Tensor:
        """Samples one point ``(N, 3)`` per embedding ``(N, E)`` by Euler's method on geodesics."""
        image = self.image(embeddings)
        x = nn.functional.normalize(torch.randn(len(embeddings), 3), dim=1)
        for step in range(steps):
            tangent = self.velocity(x, step / steps, image) / steps
            tangent = tangent - (tangent * x).sum(1, keepdim=True) * x
            angle = tangent.norm(dim=1, keepdim=True)
            x = angle.cos() * x + torch.sinc(angle / math.pi) * tangent
            x = nn.functional.normalize(x, dim=1)
        return x

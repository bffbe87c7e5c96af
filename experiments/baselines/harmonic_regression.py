"""Regression of the SHDD code with squared error: the encoding of our model with another loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.baselines.evidence import Evidence
from experiments.baselines.network import Budget, Trunk, outputs, parameter_count, train
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.density.transforms import ProductTransform
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.grids import gauss_legendre_grid
from locdiffusion.sphere.harmonics import coefficient_count


class HarmonicRegression:
    """A network that gives E[code(x₀) | image] at degree L, trained by squared error.

    By completeness of the harmonics, ⟨E[code], code(y)⟩ is the posterior density against the
    uniform sphere, band-limited to L. Clipped at zero it is the density of the answer. The nodes
    of a Gauss-Legendre grid where it is highest become the kernels.

    Attributes:
        parameters: Number of trained parameters.
        choices: Degree, and number of nodes.
    """

    def __init__(self, max_degree: int = 31, keep: int = 384) -> None:
        """Makes a regression at degree L; the `keep` nodes with most mass become kernels."""
        self.max_degree, self.keep = max_degree, keep
        grid = gauss_legendre_grid(3 * (max_degree + 1), 6 * (max_degree + 1))
        self.transform = ProductTransform(grid, max_degree)
        self.nodes, self.log_area = grid.vectors, np.log(grid.weights)
        self.parameters = 0
        self.choices: dict[str, Any] = {"max_degree": max_degree, "nodes": len(self.nodes)}

    def fit(self, train_photos: EmbeddedPhotos, val: EmbeddedPhotos, budget: Budget) -> None:
        """Trains the network; `val` is not used."""

        def build() -> Trunk:
            width, outputs_ = train_photos.embeddings.shape[1], coefficient_count(self.max_degree)
            return Trunk(width, outputs_, budget.parameters, budget.dropout)

        def loss(network: Trunk, embeddings: Tensor, truth: Tensor, _: torch.Generator) -> Tensor:
            code = encode_vectors(truth.cpu().numpy(), self.max_degree)
            target = torch.from_numpy(code).to(embeddings)
            return (network(embeddings) - target).square().mean()

        self.network = train(build, loss, train_photos, budget, "harmonic regression")
        self.parameters = parameter_count(self.network)

    def evidence(self, photos: EmbeddedPhotos, batch: int = 256) -> Evidence:
        """Gives the nodes of highest clipped density, with the log of their mass as logits."""
        points, logits = [], []
        log_area = torch.from_numpy(self.log_area)
        for code in outputs(self.network, photos).split(batch):
            density = self.transform.synthesis(code).flatten(1).double().clamp(min=1e-9)
            top = (density.log() + log_area).topk(min(self.keep, len(self.nodes)), dim=1)
            points.append(self.nodes[top.indices.numpy()])
            logits.append(top.values.numpy())
        return Evidence.alike(np.concatenate(points), np.concatenate(logits))

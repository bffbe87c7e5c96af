"""Two regressions: of a point, and of a mixture of von Mises-Fisher densities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.baselines.evidence import Evidence
from experiments.baselines.network import Budget, Trunk, outputs, parameter_count, train
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.grids import fibonacci_grid

_LOG_KAPPA = (-2.0, math.log(1e6))
_LOG_KAPPA_AT_START = 3.0


class DirectRegression:
    """A network that gives a vector; its direction is the answer, with one κ for all photos.

    The loss is half the squared chord, 1 - cos: the negative log likelihood at any fixed κ.

    Attributes:
        parameters: Number of trained parameters.
        choices: Empty: there is nothing to choose.
    """

    def __init__(self) -> None:
        self.parameters = 0
        self.choices: dict[str, Any] = {}

    def fit(self, train_photos: EmbeddedPhotos, val: EmbeddedPhotos, budget: Budget) -> None:
        """Trains the network; `val` is not used."""

        def build() -> Trunk:
            return Trunk(train_photos.embeddings.shape[1], 3, budget.parameters, budget.dropout)

        def loss(network: Trunk, embeddings: Tensor, truth: Tensor, _: torch.Generator) -> Tensor:
            direction = torch.nn.functional.normalize(network(embeddings), dim=1)
            return 0.5 * (direction - truth.to(direction)).square().sum(1).mean()

        self.network = train(build, loss, train_photos, budget, "direct regression")
        self.parameters = parameter_count(self.network)

    def evidence(self, photos: EmbeddedPhotos) -> Evidence:
        """Gives one point per photo."""
        direction = torch.nn.functional.normalize(outputs(self.network, photos).double(), dim=1)
        return Evidence.alike(direction.numpy()[:, None])


class MixtureDensity:
    """A mixture density network (Bishop 1994) of von Mises-Fisher components on the sphere.

    Attributes:
        parameters: Number of trained parameters.
        choices: Number of components.
    """

    def __init__(self, components: int = 8) -> None:
        """Makes a network of components, each with a mean, a κ and a weight."""
        self.components = components
        self.parameters = 0
        self.choices: dict[str, Any] = {"components": components}

    def fit(self, train_photos: EmbeddedPhotos, val: EmbeddedPhotos, budget: Budget) -> None:
        """Trains by negative log likelihood; `val` is not used."""

        def build() -> Trunk:
            width = train_photos.embeddings.shape[1]
            network = Trunk(width, 5 * self.components, budget.parameters, budget.dropout)
            with torch.no_grad():  # components start apart, or they would stay one
                bias = network.last.bias.view(self.components, 5)
                bias[:, :3] = torch.from_numpy(fibonacci_grid(self.components)).float()
                bias[:, 3:] = 0.0
            return network

        def loss(network: Trunk, embeddings: Tensor, truth: Tensor, _: torch.Generator) -> Tensor:
            mean, log_kappa, logits = components_of(network(embeddings))
            return -mixture_log_density(mean, log_kappa, logits, truth.to(mean)).mean()

        self.network = train(build, loss, train_photos, budget, "von Mises-Fisher mixture")
        self.parameters = parameter_count(self.network)

    def evidence(self, photos: EmbeddedPhotos) -> Evidence:
        """Gives the components."""
        mean, log_kappa, logits = components_of(outputs(self.network, photos).double())
        return Evidence(mean.numpy(), logits.numpy(), np.exp(log_kappa.numpy()))


def components_of(output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Splits outputs ``(B, 5K)`` into means ``(B, K, 3)``, log κ ``(B, K)``, logits ``(B, K)``."""
    parts = output.view(len(output), -1, 5)
    log_kappa = (parts[..., 3] + _LOG_KAPPA_AT_START).clamp(*_LOG_KAPPA)
    return torch.nn.functional.normalize(parts[..., :3], dim=-1), log_kappa, parts[..., 4]


def mixture_log_density(mean: Tensor, log_kappa: Tensor, logits: Tensor, truth: Tensor) -> Tensor:
    """Computes the log density ``(B,)`` of the mixture at points ``(B, 3)`` in nats.

    It is against the uniform sphere, as in `experiments.baselines.kernel_mixture`, but
    differentiable and in float32: the gap is computed from the difference of the vectors.
    """
    kappa = log_kappa.exp()
    gap = 0.5 * (mean - truth[:, None]).square().sum(-1)
    normaliser = math.log(2.0) + log_kappa - torch.log(-torch.expm1(-2.0 * kappa))
    return torch.logsumexp(torch.log_softmax(logits, 1) + normaliser - kappa * gap, 1)

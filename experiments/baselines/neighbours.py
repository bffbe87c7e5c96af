"""Retrieval: a density around the training photos that are nearest in feature space."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.baselines.evidence import Evidence, fit_settings
from experiments.baselines.network import Budget
from locdiffusion.evaluate.metrics import error_summary
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between

NEIGHBOURS = (3, 5, 10, 20, 50, 100, 200)
"""The numbers of neighbours that validation photos choose from."""


class FeatureSpace:
    """Computes cosine similarities to training photos, block by block.

    Args:
        embeddings: Embeddings of the training photos, shape ``(N, E)``.
        standardised: Whether each feature is first scaled to mean 0 and deviation 1.
        device: Torch device of the products.
    """

    def __init__(
        self, embeddings: NDArray[np.float32], standardised: bool, device: str = "cpu"
    ) -> None:
        self.embeddings, self.device = torch.from_numpy(embeddings), device
        self.mean, self.deviation = torch.zeros(()), torch.ones(())
        if standardised:
            self.mean = self.embeddings.mean(0)
            self.deviation = self.embeddings.std(0).clamp(min=1e-3 * float(self.embeddings.std()))

    @torch.inference_mode()
    def nearest(
        self, queries: NDArray[np.float32], count: int, block: int = 8192
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Finds the most similar training photos.

        Args:
            queries: Embeddings, shape ``(M, E)``.
            count: Number k of neighbours; all training photos if there are fewer.
            block: Training photos that are compared at a time, which bounds the memory.

        Returns:
            Similarities and indices, each of shape ``(M, k)``, most similar first.
        """
        count = min(count, len(self.embeddings))
        asked = self._unit(torch.from_numpy(queries))
        similarity = torch.empty(len(asked), 0, device=self.device)
        index = torch.empty(len(asked), 0, dtype=torch.int64, device=self.device)
        for start in range(0, len(self.embeddings), block):
            known = self._unit(self.embeddings[start : start + block])
            for_all = [_top(part @ known.T, count) for part in asked.split(1024)]
            values = torch.cat([v for v, _ in for_all])
            places = torch.cat([p for _, p in for_all]) + start
            similarity, chosen = _top(torch.cat([similarity, values], 1), count)
            index = torch.cat([index, places], 1).gather(1, chosen)
        return similarity.double().cpu().numpy(), index.cpu().numpy()

    def _unit(self, embeddings: Tensor) -> Tensor:
        return torch.nn.functional.normalize((embeddings - self.mean) / self.deviation, dim=1).to(
            self.device
        )


def _top(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    top = values.topk(min(count, values.shape[1]), dim=1)
    return top.values, top.indices


class Neighbours:
    """The k nearest training photos, each a kernel whose logit is its similarity.

    Attributes:
        parameters: Number of trained parameters: 0.
        choices: Choices made on validation photos: raw or standardised features, by mean accuracy
            of the nearest neighbour, and k, by negative log likelihood.
    """

    def __init__(self, counts: tuple[int, ...]) -> None:
        """Makes a retrieval that chooses k among `counts`; ``(1,)`` is 1-NN."""
        self.counts = counts
        self.parameters = 0
        self.choices: dict[str, Any] = {}

    def fit(self, train: EmbeddedPhotos, val: EmbeddedPhotos, budget: Budget) -> None:
        """Chooses the similarity and k on validation photos."""
        self.vectors = train.vectors
        accuracy = {}
        spaces = {}
        for name, standardised in (("standardised cosine", True), ("raw cosine", False)):
            spaces[name] = FeatureSpace(train.embeddings, standardised, budget.device)
            _, index = spaces[name].nearest(val.embeddings, 1)
            distance = EARTH_RADIUS_KM * angle_between(self.vectors[index[:, 0]], val.vectors)
            within = error_summary(distance)["within"]
            accuracy[name] = round(float(np.mean(list(within.values()))), 4)
        best = max(accuracy, key=lambda name: accuracy[name])
        self.space, self.count = spaces[best], max(self.counts)
        nats = {}
        if len(self.counts) > 1:
            evidence = self.evidence(val)
            for count in self.counts:
                nats[count] = round(fit_settings(evidence.heaviest(count), val.vectors)[1], 4)
            self.count = min(nats, key=lambda count: nats[count])
        self.choices = {"similarity": best, "mean_accuracy_of_similarity": accuracy}
        self.choices["neighbours"] = self.count
        self.choices["nats_of_neighbours"] = {str(k): value for k, value in nats.items()}

    def evidence(self, photos: EmbeddedPhotos) -> Evidence:
        """Gives positions and similarities of the k nearest training photos."""
        similarity, index = self.space.nearest(photos.embeddings, self.count)
        return Evidence.alike(self.vectors[index], similarity)

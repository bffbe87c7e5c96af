"""Simulated queries as the training photos of `locdiffusion.training`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.batches import Batch, Share, batch_rows
from locdiffusion.distillation.dataset import Queries
from locdiffusion.model.cs_unet import CSUNet
from locdiffusion.shdd import encode_vectors

CODES_AT_ONCE = 4096


class TaughtQueries:
    """Queries in memory, with places drawn from the teacher's density in the place of a truth.

    One of a query's draws, another in each epoch, is the true point of a noisy code. Where only the
    image speaks (σ = ∞) the loss takes the mean code of all draws: its gradient is the same on
    average and much less noisy.

    Args:
      queries: with S ≥ 1 draws each.
      vectors: ``(M, 3)`` unit vectors of the teacher's places.
      max_degree: L.
      batch_size: B.
      seed: of the order.
      share: this process's part of each batch.
    """

    def __init__(
        self,
        queries: Queries,
        vectors: NDArray[np.float64],
        max_degree: int,
        batch_size: int,
        seed: int,
        share: Share | None = None,
    ) -> None:
        if not queries.drawn.shape[1]:
            raise ValueError("The queries have no draws of the teacher; want at least one each.")
        self.queries, self.fingerprint = queries, queries.fingerprint
        self._places = vectors
        self._codes = code_table(vectors, max_degree)
        self._batch_size, self._seed, self._share = batch_size, seed, share or Share()
        self.vectors = vectors[queries.drawn[:, 0].numpy()]

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """``(N, E)`` float32."""
        return self.queries.embeddings.float().numpy()

    def __len__(self) -> int:
        """N."""
        return len(self.queries)

    def standardise(self, network: CSUNet) -> None:
        """Tells a network the scale of the embeddings."""
        network.standardise(self.queries.embeddings.float())

    def batch(self, step: int) -> Batch:
        """The queries of a step."""
        rows = batch_rows(step, len(self), self._batch_size, self._seed)
        mine = self._share.rows(len(rows))
        chosen = torch.from_numpy(rows[mine])
        drawn = self.queries.drawn[chosen].long()
        epoch = step // max(1, len(self) // len(rows))
        one = drawn[:, epoch % drawn.shape[1]]
        mean_code = self._codes[drawn].mean(1)
        embeddings = self.queries.embeddings[chosen].float()
        return Batch(embeddings, self._places[one.numpy()], len(rows), mine, mean_code)


def code_table(vectors: NDArray[np.float64], max_degree: int) -> Tensor:
    """Codes of all places, ``(M, d)`` float32: 1.2 GB for 125,000 at L = 47."""
    parts = [
        torch.from_numpy(encode_vectors(vectors[i : i + CODES_AT_ONCE], max_degree)).float()
        for i in range(0, len(vectors), CODES_AT_ONCE)
    ]
    return torch.cat(parts)

"""Gives simulated queries to `locdiffusion.train.trainer` as training photos."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.distillation.dataset import Queries
from experiments.distillation.teacher import Teacher
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.model.cs_unet import CSUNet
from locdiffusion.sphere.geodesy import unit_vectors
from locdiffusion.train.batches import Batch, Share, batch_rows

CODES_AT_ONCE = 4096
RIDGE = 0.1
"""Ridge of the projection, chosen of 0.03, 0.1 and 0.3 on simulated validation queries: 0.03 has a
better likelihood far from the gallery and the worse near it, 0.3 the reverse."""
GOLDEN = (5.0**0.5 - 1.0) / 2.0
"""Fraction of the golden ratio; its multiples modulo 1 fill [0, 1) evenly."""


class TaughtQueries:
    """Queries in memory; the target of each is a mixture of its true place and the teacher's draws.

    The teacher's softmax may be too sure; the true places correct that. For rows with noise, one of
    these places, another one in each epoch, is x₀. For rows at σ = ∞ the loss uses the mean code of
    all places: its gradient has the same mean and much less noise.

    Args:
        queries: Queries with at least one draw each.
        vectors: Places of the teacher as unit vectors, shape ``(M, 3)``.
        max_degree: Degree L of the codes.
        batch_size: Number of queries per step.
        seed: Seed of the order.
        truth_share: Weight of the true place; the draws have the rest.
        share: Part of each batch that this process takes.
        start: Initial value of the network's linear skip, shape ``(d, E)``, as from
            `projected_exponent`.
    """

    def __init__(
        self,
        queries: Queries,
        vectors: NDArray[np.float64],
        max_degree: int,
        batch_size: int,
        seed: int,
        truth_share: float = 0.8,
        share: Share | None = None,
        start: Tensor | None = None,
    ) -> None:
        if not queries.drawn.shape[1]:
            raise ValueError("The queries have no draws of the teacher; want at least one each.")
        self.queries, self.fingerprint = queries, queries.fingerprint
        self._places = vectors
        self._codes = code_table(vectors, max_degree)
        self._start = start
        self._max_degree, self._truth_share = max_degree, truth_share
        self._batch_size, self._seed, self._share = batch_size, seed, share or Share()
        self._truths = unit_vectors(queries.places[:, 0], queries.places[:, 1])
        self.vectors = self._one_of(np.arange(len(queries)), queries.drawn[:, 0], 0)

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """Queries as float32, shape ``(N, E)``."""
        return self.queries.embeddings.float().numpy()

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.queries)

    def standardise(self, network: CSUNet) -> None:
        """Sets the embedding scale of a network, and the initial value of its linear skip."""
        network.standardise(self.queries.embeddings.float())
        if network.linear is not None and self._start is not None:
            with torch.no_grad():
                network.linear.weight.copy_(self._start / network.config.natural_scale)

    def batch(self, step: int) -> Batch:
        """Returns the queries of a step."""
        rows = batch_rows(step, len(self), self._batch_size, self._seed)
        mine = self._share.rows(len(rows))
        chosen = torch.from_numpy(rows[mine])
        drawn = self.queries.drawn[chosen].long()
        epoch = step // max(1, len(self) // len(rows))
        one = self._one_of(rows[mine], drawn[:, epoch % drawn.shape[1]], epoch)
        truth = torch.from_numpy(encode_vectors(self._truths[rows[mine]], self._max_degree)).float()
        mean_code = torch.lerp(self._codes[drawn].mean(1), truth, self._truth_share)
        embeddings = self.queries.embeddings[chosen].float()
        return Batch(embeddings, one, len(rows), mine, mean_code)

    def _one_of(self, rows: NDArray[np.int64], drawn: Tensor, epoch: int) -> NDArray[np.float64]:
        """Picks targets ``(b, 3)``: the true place in its share of epochs, else a draw."""
        turn = (rows * GOLDEN + epoch * self._truth_share) % 1.0
        truth = (turn < self._truth_share)[:, None]
        return np.where(truth, self._truths[rows], self._places[drawn.numpy()])


def code_table(vectors: NDArray[np.float64], max_degree: int) -> Tensor:
    """Computes the codes of all places, ``(M, d)`` float32: 1.2 GB for 125,000 at L = 47."""
    return torch.cat(list(_codes(vectors, max_degree)))


def _codes(vectors: NDArray[np.float64], max_degree: int) -> Iterator[Tensor]:
    for i in range(0, len(vectors), CODES_AT_ONCE):
        codes = encode_vectors(vectors[i : i + CODES_AT_ONCE], max_degree)
        yield torch.from_numpy(codes).float()


def projected_exponent(teacher: Teacher, max_degree: int, ridge: float = RIDGE) -> Tensor:
    """Projects the teacher's exponent onto degrees up to L, in closed form.

    The exponent s ⟨q, loc(y)⟩ is linear in q. So is its least-squares fit over the places, weighted
    by q₀, with a ridge that keeps it small between places: η = s·A q, A the coefficients of loc.

    Args:
        teacher: Teacher with places, embeddings and weights.
        max_degree: Degree L of the codes.
        ridge: Number added to the diagonal of the Gram matrix, in units of its mean diagonal.

    Returns:
        The matrix s·A, shape ``(d, E)``.
    """
    size = (max_degree + 1) ** 2
    gram = torch.zeros(size, size)
    moments = torch.zeros(size, teacher.embeddings.shape[1])
    start = 0
    for codes in _codes(teacher.vectors, max_degree):
        rows = slice(start, start := start + len(codes))
        weighted = codes * teacher.log_weight[rows].exp()[:, None]
        gram += weighted.T @ codes
        moments += weighted.T @ teacher.embeddings[rows]
    gram = gram.double()
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    factor = torch.linalg.cholesky(gram)
    return teacher.scale * torch.cholesky_solve(moments.double(), factor).float()

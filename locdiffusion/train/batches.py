"""Chooses the photos of each training step and shares them among processes.

A source returns the batch of a step by the number of the step alone, so that a stopped run resumes
with the same batches. Each process gets its share of the rows, so that any number of processes
trains on the same batches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.model.cs_unet import CSUNet
from locdiffusion.photos.embedding_cache import EmbeddedPhotos, EmbeddingRows

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """The share of one process among several that train together.

    Attributes:
        rank: Number of the process, from 0.
        world: Number of processes.
    """

    rank: int = 0
    world: int = 1

    def rows(self, size: int) -> slice:
        """The rows of a batch of this size that belong to the process.

        Raises:
            ValueError: The batch cannot be shared evenly.
        """
        if size % self.world:
            raise ValueError(
                f"A batch of {size} photos cannot be shared evenly by {self.world} processes; "
                "choose a batch_size that they divide (--set), and give at least as many photos."
            )
        part = size // self.world
        return slice(self.rank * part, (self.rank + 1) * part)


@dataclass(frozen=True)
class Batch:
    """The share of a batch that one process trains on.

    Attributes:
        embeddings: Image embeddings, ``(b, E)`` float32.
        vectors: Unit vectors of the true points, ``(b, 3)``.
        size: Number B of photos in the whole batch.
        rows: Rows of the whole batch that these b photos are.
        mean_code: Mean code of several points that may all be true, ``(b, d)``. It is the target of
            the loss at σ = ∞; None takes the code of `vectors`.
    """

    embeddings: Tensor
    vectors: NDArray[np.float64]
    size: int
    rows: slice
    mean_code: Tensor | None = None


class PhotoSource(Protocol):
    """Training photos in memory, on disk or made on the fly."""

    @property
    def embeddings(self) -> EmbeddingRows:
        """Image embeddings of all N photos, ``(N, E)`` float32."""

    @property
    def vectors(self) -> NDArray[np.float64]:
        """Unit vectors of the true points of all N photos, ``(N, 3)``."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data."""

    def __len__(self) -> int:
        """Number N of photos."""

    def standardise(self, network: CSUNet) -> None:
        """Sets the standardisation of the embeddings in a network."""

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step; any thread may ask, and steps in order are fast."""


class PhotosInMemory:
    """Photos in memory, in the batches of `batch_rows`.

    Args:
        photos: Training photos.
        batch_size: Photos in a batch, of all processes together.
        seed: Seed of the order.
        share: Share of this process; None is all of it.
    """

    def __init__(
        self, photos: EmbeddedPhotos, batch_size: int, seed: int, share: Share | None = None
    ) -> None:
        self.embeddings = photos.embeddings
        self.vectors = photos.vectors
        self.fingerprint = photos.fingerprint
        self._rows = torch.from_numpy(photos.embeddings)
        self._batch_size, self._seed, self._share = batch_size, seed, share or Share()

    def __len__(self) -> int:
        """Number N of photos."""
        return len(self.vectors)

    def standardise(self, network: CSUNet) -> None:
        """Sets the standardisation of the embeddings in a network."""
        network.standardise(self._rows)

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step."""
        rows = batch_rows(step, len(self), self._batch_size, self._seed)
        mine = self._share.rows(len(rows))
        return Batch(self._rows[rows[mine]], self.vectors[rows[mine]], len(rows), mine)


def batch_rows(step: int, count: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """Computes the rows of a batch: the next piece of a permutation that is new each epoch.

    Args:
        step: Number of the step, from 0.
        count: Number of photos.
        batch_size: Photos in a batch; at most `count` are taken.
        seed: Seed of the permutations.
    """
    size = min(batch_size, count)
    epoch, piece = divmod(step, count // size)
    return _permutation(seed, epoch, count)[piece * size : (piece + 1) * size].copy()


@lru_cache(maxsize=2)  # a permutation of MP-16 takes longer than a training step
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


class Ahead(Generic[T]):
    """Prepares the inputs of the next steps while the present step runs.

    Args:
        make: Function that prepares the inputs of a step; several threads call it.
        steps: Number of steps.
        threads: Number of threads; with 0, inputs are prepared when they are asked for.
    """

    def __init__(self, make: Callable[[int], T], steps: int, threads: int) -> None:
        self._make, self._steps = make, steps
        self._pool = ThreadPoolExecutor(threads) if threads else None
        self._depth = threads
        self._lock = threading.Lock()
        self._made: dict[int, Future[T]] = {}

    def __call__(self, step: int) -> T:
        """Returns the inputs of a step and forgets them."""
        if self._pool is None:
            return self._make(step)
        with self._lock:
            for number in range(step, min(step + 1 + self._depth, self._steps)):
                if number not in self._made:
                    self._made[number] = self._pool.submit(self._make, number)
            wanted = self._made.pop(step, None) or self._pool.submit(self._make, step)
        return wanted.result()

    def close(self) -> None:
        """Stops the threads and drops the inputs that nobody asked for."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

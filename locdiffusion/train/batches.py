"""Which photos a training step sees, and how several processes share them.

A source is asked for the batch of a *step*, by number, and gives the same photos every time: that
is all a stopped run needs to go on as if nothing had happened. Of each batch a process gets its
share of the rows, so that any number of processes trains on the same batches.
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
    """One of several processes that train together.

    Attributes:
        rank: Number of this one.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    def rows(self, size: int) -> slice:
        """This process's rows of a batch.

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
    """This process's share of a batch.

    Attributes:
        embeddings: ``(b, E)`` float32.
        vectors: ``(b, 3)`` unit vectors of the true points.
        size: B, photos in the whole batch.
        rows: The b rows of the whole batch that these are.
        mean_code: ``(b, d)`` mean code of several points that may all be true; the loss takes it
            where only the image speaks. None: the code of `vectors`.
    """

    embeddings: Tensor
    vectors: NDArray[np.float64]
    size: int
    rows: slice
    mean_code: Tensor | None = None


class PhotoSource(Protocol):
    """Training photos, wherever they lie."""

    @property
    def embeddings(self) -> EmbeddingRows:
        """``(N, E)`` float32."""

    @property
    def vectors(self) -> NDArray[np.float64]:
        """``(N, 3)`` unit vectors of the true points."""

    @property
    def fingerprint(self) -> str:
        """Which data these are."""

    def __len__(self) -> int:
        """N."""

    def standardise(self, network: CSUNet) -> None:
        """Tells a network the scale of the embeddings."""

    def batch(self, step: int) -> Batch:
        """The photos of a step; from any thread, and cheap if steps are asked for in order."""


class PhotosInMemory:
    """Photos in memory, in batches of `batch_rows`."""

    def __init__(
        self, photos: EmbeddedPhotos, batch_size: int, seed: int, share: Share | None = None
    ) -> None:
        self.embeddings = photos.embeddings
        self.vectors = photos.vectors
        self.fingerprint = photos.fingerprint
        self._rows = torch.from_numpy(photos.embeddings)
        self._batch_size, self._seed, self._share = batch_size, seed, share or Share()

    def __len__(self) -> int:
        """N."""
        return len(self.vectors)

    def standardise(self, network: CSUNet) -> None:
        """Tells a network the scale of the embeddings."""
        network.standardise(self._rows)

    def batch(self, step: int) -> Batch:
        """The photos of a step."""
        rows = batch_rows(step, len(self), self._batch_size, self._seed)
        mine = self._share.rows(len(rows))
        return Batch(self._rows[rows[mine]], self.vectors[rows[mine]], len(rows), mine)


def batch_rows(step: int, count: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """Rows of one step: consecutive pieces of a permutation that is new each epoch."""
    size = min(batch_size, count)
    epoch, piece = divmod(step, count // size)
    return _permutation(seed, epoch, count)[piece * size : (piece + 1) * size].copy()


@lru_cache(maxsize=2)  # drawn anew, a permutation of MP-16 takes longer than a step of training
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


class Ahead(Generic[T]):
    """Makes what the next steps need while the present one runs.

    Args:
        make: What a step needs; called from several threads.
        steps: The last step is the one before.
        threads: How many; with none, everything is made when it is asked for.
    """

    def __init__(self, make: Callable[[int], T], steps: int, threads: int) -> None:
        self._make, self._steps = make, steps
        self._pool = ThreadPoolExecutor(threads) if threads else None
        self._depth = threads
        self._lock = threading.Lock()
        self._made: dict[int, Future[T]] = {}

    def __call__(self, step: int) -> T:
        """What a step needs; it is forgotten then."""
        if self._pool is None:
            return self._make(step)
        with self._lock:
            for number in range(step, min(step + 1 + self._depth, self._steps)):
                if number not in self._made:
                    self._made[number] = self._pool.submit(self._make, number)
            wanted = self._made.pop(step, None) or self._pool.submit(self._make, step)
        return wanted.result()

    def close(self) -> None:
        """Drops what was not asked for."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

"""Streams training photos from disk, shard by shard, in a shuffled order.

An epoch is a ring of all photos: the shards in a new order, started at a random photo. It is cut
into *lanes* of equal length. Each lane fills a shuffle buffer with its next photos and returns them
in random order while the next buffer is filled. A batch takes the same number of photos from each
lane. Each process reads the shards of its own lanes only; any number of processes that divides the
lanes trains on the same batches.

    epoch     shard 7 | shard 2 | shard 9 | shard 0 | ...
    lanes    [----- lane 0 -----][----- lane 1 -----] ...
    buffers  [ 0 ][ 1 ][ 2 ]...   [ 0 ][ 1 ][ 2 ]...       the photos of one number in memory

Everything follows from (seed, epoch): the step alone determines a batch, and a resumed run reads
the buffers from its step on, and nothing before. Photos that do not fill a batch are left out of
the epoch.

The shards are files of the cache of `locdiffusion.photos.embedding_cache`. They hold positions and
embeddings only, a fiftieth of a shard of photos.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from locdiffusion.model.cs_unet import CSUNet
from locdiffusion.photos.embedding_cache import embedding_rows
from locdiffusion.photos.storage import DataError
from locdiffusion.sphere.geodesy import unit_vectors
from locdiffusion.train.batches import Batch, Share
from locdiffusion.train.photo_statistics import Statistics

READERS = 4
COLUMNS = ("latitude", "longitude", "embedding")


@dataclass(frozen=True)
class StreamConfig:
    """Shuffling of a stream.

    Attributes:
        lanes: Parts of the epoch from which a batch is drawn; the number of processes divides it.
        buffer: Photos in all shuffle buffers together. Three times as many are in memory.
    """

    lanes: int = 8
    buffer: int = 65_536

    def __post_init__(self) -> None:
        """Checks the values."""
        if min(self.lanes, self.buffer) < 1:
            raise ValueError(
                f"lanes and buffer must be at least 1; found {self.lanes}, {self.buffer}."
            )


@dataclass(frozen=True)
class Piece:
    """Consecutive photos of one shard.

    Attributes:
        shard: Number of the shard.
        start, stop: First row, and the row after the last one.
    """

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class StreamOrder:
    """Computes which photos each step draws.

    Attributes:
        counts: Number of photos in each shard, ``(S,)``.
        batch_size: Photos in a batch, of all processes together.
        config: Number of lanes and size of the buffers.
        seed: Seed of the order.
    """

    counts: NDArray[np.int64]
    batch_size: int
    config: StreamConfig
    seed: int

    def __post_init__(self) -> None:
        """Checks that batches can be drawn.

        Raises:
            ValueError: The lanes do not divide the batch, or there are too few photos.
        """
        if self.batch_size % self.config.lanes:
            raise ValueError(
                f"The stream draws a batch from {self.config.lanes} lanes, which do not divide "
                f"{self.batch_size} photos; choose another batch_size or stream.lanes (--set)."
            )
        if self.steps_per_epoch < 1:
            raise DataError(
                f"{int(self.counts.sum())} photos in {len(self.counts)} shards do not fill a batch "
                f"of {self.batch_size}; leave the stream out (--set stream=none), or choose a "
                "smaller batch_size."
            )

    @property
    def lane_length(self) -> int:
        """Number of photos of an epoch in each lane."""
        return int(self.counts.sum()) // self.config.lanes

    @property
    def per_lane(self) -> int:
        """Number of photos of a batch from each lane."""
        return self.batch_size // self.config.lanes

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch."""
        return self.lane_length // self.per_lane

    @property
    def steps_per_buffer(self) -> int:
        """Number of whole batches in a buffer."""
        return max(1, self.config.buffer // self.batch_size)

    def place(self, step: int) -> tuple[int, int, int]:
        """Finds a step: its epoch, its buffer in the epoch and its batch in the buffer."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        return epoch, *divmod(batch, self.steps_per_buffer)

    def after(self, epoch: int, buffer: int) -> tuple[int, int]:
        """Finds the epoch and the number of the next buffer."""
        more = (buffer + 1) * self.steps_per_buffer < self.steps_per_epoch
        return (epoch, buffer + 1) if more else (epoch + 1, 0)

    def pieces(self, epoch: int, buffer: int, lane: int) -> list[Piece]:
        """Lists the pieces of shards that fill the buffer of a lane."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.counts))
        total = int(self.counts.sum())
        first = buffer * self.steps_per_buffer
        steps = min(self.steps_per_buffer, self.steps_per_epoch - first)
        start = int(random.integers(total)) + lane * self.lane_length + first * self.per_lane
        stop = start + steps * self.per_lane
        return [*self._between(order, start, stop, 0), *self._between(order, start, stop, total)]

    def _between(
        self, order: NDArray[np.int64], start: int, stop: int, turn: int
    ) -> Iterator[Piece]:
        """Yields the pieces between two positions that lie in one turn of the ring."""
        ends = np.cumsum(self.counts[order])
        for i in range(int(np.searchsorted(ends, start - turn, "right")), len(order)):
            begin = int(ends[i] - self.counts[order[i]])
            low, high = max(start - turn, begin), min(stop - turn, int(ends[i]))
            if begin >= stop - turn:
                return
            if low < high:
                yield Piece(int(order[i]), low - begin, high - begin)

    def mixed(self, epoch: int, buffer: int, lane: int, count: int) -> NDArray[np.int64]:
        """Draws the order in which a buffer returns its photos."""
        return np.random.default_rng([self.seed, epoch, buffer, lane]).permutation(count)


@dataclass(frozen=True)
class _Buffer:
    """Photos of one lane in their shuffled order; the embeddings are float16 as stored."""

    embeddings: NDArray[np.float16]
    vectors: NDArray[np.float64]


class StreamedPhotos:
    """Batches of photos in the embedding cache on disk.

    Args:
        files: Files that `locdiffusion.photos.embedding_cache.embed_shards` returned.
        statistics: Statistics of these files.
        order: Order in which steps draw photos.
        share: Share of this process; the number of processes divides the lanes.
    """

    def __init__(
        self,
        files: Sequence[Path],
        statistics: Statistics,
        order: StreamOrder,
        share: Share | None = None,
    ) -> None:
        share = share or Share()
        lanes = order.config.lanes
        if lanes % share.world:
            raise ValueError(
                f"{share.world} processes cannot share {lanes} lanes of a stream evenly; start "
                "another number of processes (--nproc_per_node) or set stream.lanes otherwise."
            )
        self.statistics, self.order = statistics, order
        self.vectors = unit_vectors(statistics.latitude, statistics.longitude)
        self.fingerprint = statistics.fingerprint
        self.embeddings = StoredEmbeddings(files, statistics)
        self._files = files
        self._rows = share.rows(order.batch_size)
        self._lanes = range(lanes)[share.rows(lanes)]
        self._pool = ThreadPoolExecutor(min(READERS, len(self._lanes)))
        self._lock = threading.Lock()
        self._buffers: dict[tuple[int, int], list[Future[_Buffer]]] = {}

    def __len__(self) -> int:
        """Number N of photos."""
        return len(self.vectors)

    def standardise(self, network: CSUNet) -> None:
        """Sets the standardisation of the embeddings in a network."""
        statistics = self.statistics
        network.embedding_mean.copy_(torch.from_numpy(statistics.mean))
        spread = np.maximum(statistics.spread, 1e-3 * statistics.spread_of_all)
        network.embedding_std.copy_(torch.from_numpy(spread))

    def batch(self, step: int) -> Batch:
        """Returns the batch of a step."""
        epoch, number, piece = self.order.place(step)
        buffers = [future.result() for future in self._filled(epoch, number)]
        rows = slice(piece * self.order.per_lane, (piece + 1) * self.order.per_lane)
        embeddings = np.concatenate([buffer.embeddings[rows] for buffer in buffers])
        vectors = np.concatenate([buffer.vectors[rows] for buffer in buffers])
        floats = torch.from_numpy(embeddings.astype(np.float32))
        return Batch(floats, vectors, self.order.batch_size, self._rows)

    def _filled(self, epoch: int, number: int) -> list[Future[_Buffer]]:
        """Returns the buffers of this process's lanes and starts to fill the next ones."""
        now, then = (epoch, number), self.order.after(epoch, number)
        with self._lock:
            for place in (now, then):
                if place not in self._buffers:
                    self._buffers[place] = [
                        self._pool.submit(self._fill, *place, lane) for lane in self._lanes
                    ]
            wanted = self._buffers[now]
            # The previous buffer is kept for threads that still prepare earlier steps.
            for place in sorted(self._buffers)[:-3]:
                del self._buffers[place]
        return wanted

    def _fill(self, epoch: int, number: int, lane: int) -> _Buffer:
        embeddings, vectors = [], []
        for piece in self.order.pieces(epoch, number, lane):
            table = pq.read_table(self._files[piece.shard], columns=list(COLUMNS))
            table = table.slice(piece.start, piece.stop - piece.start)
            embeddings.append(embedding_rows(table))
            latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
            vectors.append(unit_vectors(latitude, longitude))
        mixed = self.order.mixed(epoch, number, lane, sum(map(len, vectors)))
        return _Buffer(np.concatenate(embeddings)[mixed], np.concatenate(vectors)[mixed])

    def close(self) -> None:
        """Stops the threads that read ahead."""
        self._pool.shutdown(cancel_futures=True)


class StoredEmbeddings:
    """Embeddings ``(N, E)`` on disk that are read by row."""

    def __init__(self, files: Sequence[Path], statistics: Statistics) -> None:
        self.shape = (len(statistics.latitude), len(statistics.mean))
        self._files = files
        self._ends = np.cumsum(statistics.counts)

    def __len__(self) -> int:
        """Number N of photos."""
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Reads n rows, ``(n, E)``; each shard that holds one of them is read once."""
        found = np.empty((len(rows), self.shape[1]), np.float32)
        shard_of = np.searchsorted(self._ends, rows, "right")
        for shard in np.unique(shard_of):
            table = pq.read_table(self._files[shard], columns=["embedding"])
            start = self._ends[shard] - len(table)
            wanted = shard_of == shard
            found[wanted] = embedding_rows(table)[rows[wanted] - start]
        return found

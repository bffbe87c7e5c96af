"""Decodes photos ahead of the model, on threads that all shards of a process share. Knows no Beam.

Each thread has a child process of its own, see `photo_process`: there are as many as cores, however
many shards are read at once. What waits is bounded in photos and in bytes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor

from locdiffusion.cpu import usable_cores
from locdiffusion.photos.archive import Sample
from locdiffusion.photos.photo import PhotoRecord
from schemas.geotags import ErrorRow

BATCHES_AHEAD = 2
"""Batches that are decoded while the model has another one."""

MOST_BYTES = 256 * 2**20
"""Bytes of photos that wait in a process, from which a shard waits for its oldest photo."""

Result = PhotoRecord | ErrorRow


class PhotoThreads:
    """Threads that decode photos, and how many bytes wait for them.

    Args:
        threads: Executor; None takes one thread for each usable core.
        most_bytes: As of `MOST_BYTES`.
    """

    def __init__(self, threads: Executor | None = None, most_bytes: int = MOST_BYTES) -> None:
        self._threads = threads or ThreadPoolExecutor(usable_cores(), "decode-photos")
        self._most_bytes = most_bytes
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        """Whether photos of `most_bytes` wait."""
        return self._bytes >= self._most_bytes

    def submit(self, work: Callable[[], Result], size: int) -> Future[Result]:
        """Has a photo of so many bytes decoded."""
        self._count(size)
        future = self._threads.submit(work)
        future.add_done_callback(lambda _: self._count(-size))
        return future

    def _count(self, size: int) -> None:
        with self._lock:
            self._bytes += size


PHOTO_THREADS = PhotoThreads()
"""The threads of this process; they start when they are needed."""


class DecodingAhead:
    """Decodes the photos of one shard ahead of who takes them.

    Args:
        photos: Photos that are decoded ahead.
        threads: Threads that decode them.

    Attributes:
        waited: Seconds for which the taker has waited for photos.
    """

    def __init__(self, photos: int, threads: PhotoThreads | None = None) -> None:
        self.photos = photos
        self.waited = 0.0
        self._threads = threads or PHOTO_THREADS

    def __call__(
        self, items: Iterable[Sample | ErrorRow], decode: Callable[[Sample], Callable[[], Result]]
    ) -> Iterator[Result]:
        """Yields what becomes of each item, in order.

        What was not begun is given up where the iteration ends early.

        Args:
            items: Items of a shard.
            decode: Function that returns the work of a sample, which a thread does.
        """
        waiting: deque[Future[Result] | ErrorRow] = deque()
        try:
            for item in items:
                if isinstance(item, Sample):
                    size = len(item.image or b"")
                    waiting.append(self._threads.submit(decode(item), size))
                else:
                    waiting.append(item)
                del item  # the bytes of a photo live until it is decoded
                while len(waiting) > self.photos or (waiting and self._threads.full):
                    yield self._first(waiting)
            while waiting:
                yield self._first(waiting)
        finally:
            for future in waiting:
                if isinstance(future, Future):
                    future.cancel()

    def _first(self, waiting: deque[Future[Result] | ErrorRow]) -> Result:
        first = waiting.popleft()
        if isinstance(first, ErrorRow):
            return first
        start = time.perf_counter()
        result = first.result()
        self.waited += time.perf_counter() - start
        return result

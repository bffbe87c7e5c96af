"""Regions, computed on threads while the model has the next batch. No Beam.

They need the processor only, and may fail without costing the photo the rest of its answer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import shapely

from locdiffusion.cpu import one_torch_thread, usable_cores
from pipelines.geotag.model_cache import GeotaggerLike
from schemas import geoparquet
from schemas.layers import Region

if TYPE_CHECKING:
    from locdiffusion.decoding.credible_regions import CredibleRegion

MOST_WAITING = 256
"""Results that wait in a process before another batch is decoded."""

DRAWN_TOGETHER = 8
"""Photos whose regions are drawn together: where a map is read that costs a third of one by one."""

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """Stands for a result that could not be had; `reason` says why."""

    reason: str


class Late(Generic[T]):
    """One of the results that a thread computes; pickle waits for it, and restores it itself."""

    def __init__(self, future: Future[list[T | Failure]], row: int) -> None:
        self._future, self._row = future, row

    def result(self) -> T | Failure:
        """Waits for the result."""
        return self._future.result()[self._row]

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.result(),)


class LateThreads:
    """Threads that compute late results for all shards of a process.

    Args:
        threads: Executor; None takes one thread for each usable core.
    """

    def __init__(self, threads: Executor | None = None) -> None:
        self._threads = threads or ThreadPoolExecutor(
            usable_cores(), "late-results", initializer=one_torch_thread
        )
        self._waiting = 0
        self._room = threading.Condition()
        self._spent: deque[float] = deque()

    def submit(
        self, count: int, work: Callable[..., list[T | Failure]], *arguments: Any
    ) -> list[Late[T]]:
        """Has some results computed by work that returns as many, with Failures among them."""
        with self._room:
            self._waiting += count
        future = self._threads.submit(self._work, count, work, *arguments)
        return [Late(future, row) for row in range(count)]

    def _work(
        self, count: int, work: Callable[..., list[T | Failure]], *arguments: Any
    ) -> list[T | Failure]:
        start = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            self._spent.append(time.perf_counter() - start)
            with self._room:
                self._waiting -= count
                self._room.notify_all()

    def wait_for_room(self) -> None:
        """Waits until fewer than MOST_WAITING results wait."""
        with self._room:
            self._room.wait_for(lambda: self._waiting < MOST_WAITING)

    def seconds(self) -> float:
        """Returns the seconds of work, added up over threads, since this was asked last."""
        total = 0.0
        while self._spent:
            total += self._spent.popleft()
        return total


LATE_THREADS = LateThreads()
"""The threads of this process; they start when they are needed."""


def attempted(work: Callable[..., T], *arguments: Any) -> T | Failure:
    """Does work; whatever a model raises must cost one photo and not the job."""
    try:
        return work(*arguments)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}")


def settled(results: list[Any] | None) -> list[Any] | None:
    """Waits for the results of a column that are late."""
    if results is None:
        return None
    return [result.result() if isinstance(result, Late) else result for result in results]


def regions_of(
    geotagger: GeotaggerLike, natural: np.ndarray, embeddings: np.ndarray
) -> list[tuple[Region, ...] | Failure]:
    """Draws the regions of photos, and halves them until a photo that fails stands alone.

    Args:
        geotagger: Model that draws.
        natural: Natural parameters ``(N, K, d)``, N at least 1.
        embeddings: Image embeddings ``(N, E)``.

    Returns:
        N entries: the regions of a photo, or why it has none.
    """

    def drawn() -> list[tuple[Region, ...]]:
        found = geotagger.regions(natural, embeddings)
        if len(found) != len(natural):
            raise ValueError(f"the model drew regions of {len(found)} photos for {len(natural)}")
        return [tuple(written_region(one) for one in of_photo) for of_photo in found]

    attempt = attempted(drawn)
    if not isinstance(attempt, Failure):
        return [*attempt]
    if len(natural) == 1:
        return [attempt]
    middle = len(natural) // 2
    halves = slice(middle), slice(middle, None)
    return [
        one for half in halves for one in regions_of(geotagger, natural[half], embeddings[half])
    ]


def written_region(found: CredibleRegion) -> Region:
    """A region as it is written; raises ValueError if it is no polygon, or not finite."""
    if found.geometry.geom_type not in geoparquet.POLYGONS:
        raise ValueError(f"the {found.level:.0%} region is a {found.geometry.geom_type}")
    bounds = found.geometry.bounds
    if not np.isfinite([*bounds, found.area_km2, found.probability]).all():
        raise ValueError(f"the {found.level:.0%} region is empty, or its numbers are not finite")
    wkb = shapely.to_wkb(found.geometry, byte_order=1)
    return Region(found.level, wkb, bounds, found.area_km2, found.probability)


def _itself(result: T) -> T:
    return result

"""Simulates a job on a fleet of workers: how long it takes, and how long workers are paid for.

A tar is read by one thread from its first byte to its last; no other thread can take over a part.
So at the end of a job some workers wait for the last shards of others and are paid meanwhile. With
larger shards they wait longer; with smaller ones the fixed time of each shard counts more. Dataflow
distributes shards that no thread has begun (there is a Reshuffle before reading, and dynamic
rebalancing splits between shards). So all threads take shards from one queue.

Quotas, preempted machines and the decisions of the autoscaler are not simulated. Pure Python.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fleet:
    """A job and its workers. The defaults from `threads` on are assumptions; none was measured.

    Attributes:
        photos: Number of photos in all shards.
        shard_photos: Mean number of photos in a shard.
        workers: Number of workers; they start together.
        images_per_second: Photos per second of a worker whose threads are all busy.
        threads: Number of shards that a worker reads at once.
        thread_images_per_second: Photos per second of a thread alone on its worker, which is
            limited by decoding pictures.
        shard_seconds: Fixed time of a shard in seconds: opening it, and three small files.
        start_seconds: Seconds to a worker's first photo: machine, driver, image, model.
        start_spread: Standard deviation σ of the logarithm of `start_seconds`.
        size_spread: Standard deviation σ of the logarithm of a shard's size.
        slow_share: Share of the workers that are slow.
        slow_speed: Speed of a slow worker relative to the others.
        seed: Seed of sizes and workers.
    """

    photos: int
    shard_photos: int
    workers: int
    images_per_second: float
    threads: int = 16
    thread_images_per_second: float = 80.0
    shard_seconds: float = 2.0
    start_seconds: float = 420.0
    start_spread: float = 0.2
    size_spread: float = 0.2
    slow_share: float = 0.05
    slow_speed: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses settings that cannot be simulated."""
        counts = (self.photos, self.shard_photos, self.workers, self.threads)
        if min(counts) < 1 or min(self.images_per_second, self.thread_images_per_second) <= 0:
            raise ValueError(f"{self}: counts and rates must be positive")

    @property
    def shards(self) -> int:
        """Number of shards."""
        return math.ceil(self.photos / self.shard_photos)

    @property
    def ideal_worker_seconds(self) -> float:
        """Worker seconds of geotagging alone, at full speed."""
        return self.photos / self.images_per_second


@dataclass(frozen=True)
class Run:
    """Result of a simulated job.

    Attributes:
        seconds: Time from the start of the job to its last photo.
        paid_seconds: Time of all workers together, if all are kept to the end.
        needed_seconds: Time of all workers together, if each stops as soon as nothing is left for
            it, as under a perfect autoscaler. What is paid for lies between the two.
    """

    seconds: float
    paid_seconds: float
    needed_seconds: float


@dataclass
class _Worker:
    """A worker, which divides its speed evenly between its shards.

    `work` counts the photos done in each of its shards so far. A shard that is begun now is done
    when `work` has grown by its size.
    """

    speed: float
    now: float = 0.0
    work: float = 0.0
    version: int = 0
    ends: list[float] = field(default_factory=list)

    def rate(self, fleet: Fleet) -> float:
        """Computes photos per second and shard."""
        shared = fleet.images_per_second / len(self.ends)
        return self.speed * min(shared, fleet.thread_images_per_second)

    def advance(self, now: float, fleet: Fleet) -> None:
        if self.ends:
            self.work += (now - self.now) * self.rate(fleet)
        self.now = now

    def next_end(self, fleet: Fleet) -> float | None:
        if not self.ends:
            return None
        return self.now + max(self.ends[0] - self.work, 0.0) / self.rate(fleet)


def busy_share(threads: int, vcpus: int, cpu_seconds: float, device_seconds: float) -> float:
    """Computes the share of the time in which a worker's device is busy.

    A thread reads a batch, for which it wants one of the vCPUs, then hands it to the device, which
    takes one batch at a time. Both times vary a lot (exponentially), so the share is a low one. The
    number of batches at the device is then a birth-and-death process, whose states balance.

    Args:
        threads: Number of threads.
        vcpus: Number of vCPUs.
        cpu_seconds: Mean time of reading a batch on a vCPU.
        device_seconds: Mean time of a batch on the device.
    """
    weights = [1.0]  # of n batches at the device, n = 0 ... threads
    for waiting in range(threads):
        arrivals = min(threads - waiting, vcpus) / cpu_seconds
        weights.append(weights[-1] * arrivals * device_seconds)
    return 1.0 - weights[0] / sum(weights)


JOIN, END = 0, 1


def simulate(fleet: Fleet) -> Run:
    """Simulates a job event by event; the same fleet gives the same run."""
    random_source = random.Random(fleet.seed)
    queue = deque(_sizes(fleet, random_source))
    workers = _workers(fleet, random_source)
    events: list[tuple[float, int, int, int, int]] = []  # second, tie, kind, worker, version
    finished = [0.0] * fleet.workers
    counter = 0
    for number, (worker, start) in enumerate(workers):
        for _ in range(fleet.threads):
            heapq.heappush(events, (start, counter, JOIN, number, -1))
            counter += 1
        finished[number] = worker.now = start
    opening: dict[int, float] = {}
    while events:
        now, event, kind, number, version = heapq.heappop(events)
        worker = workers[number][0]
        if kind == END and version != worker.version:
            continue  # the worker has been joined by another shard since
        worker.advance(now, fleet)
        if kind == END:
            heapq.heappop(worker.ends)
            finished[number] = now
        if event in opening:  # opened: the photos begin
            heapq.heappush(worker.ends, worker.work + opening.pop(event))
        elif queue:  # a free thread takes the next shard
            opening[counter] = queue.popleft()
            begin = now + fleet.shard_seconds / worker.speed
            heapq.heappush(events, (begin, counter, JOIN, number, -1))
            counter += 1
        worker.version += 1
        end = worker.next_end(fleet)
        if end is not None:
            heapq.heappush(events, (end, counter, END, number, worker.version))
            counter += 1
    seconds = max(finished)
    return Run(seconds, seconds * fleet.workers, sum(finished))


def _sizes(fleet: Fleet, source: random.Random) -> list[float]:
    """Draws the number of photos in each shard."""
    raw = [source.lognormvariate(0.0, fleet.size_spread) for _ in range(fleet.shards)]
    scale = fleet.photos / math.fsum(raw)
    return [size * scale for size in raw]


def _workers(fleet: Fleet, source: random.Random) -> list[tuple[_Worker, float]]:
    """Draws workers with their starting second; slow ones are spread evenly over the starts."""
    starts = [
        fleet.start_seconds * source.lognormvariate(0.0, fleet.start_spread)
        for _ in range(fleet.workers)
    ]
    slow = set(source.sample(range(fleet.workers), round(fleet.slow_share * fleet.workers)))
    return [
        (_Worker(fleet.slow_speed if number in slow else 1.0), start)
        for number, start in enumerate(starts)
    ]

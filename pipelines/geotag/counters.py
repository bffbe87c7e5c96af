"""Counts the seconds of each step of a geotag job in Beam's metrics."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from schemas.geotags import Stage

MICROSECONDS, PHOTOS = "microseconds", "photos"

# Metric namespaces, and the names under which a summary tells the seconds of each step.
READ, DECODE_PHOTO, WRITE = "read", "decode_photo", "write"
WAIT_FOR_PHOTOS, WAIT_FOR_MODEL = "wait_for_photos", "wait_for_model"
LATE_RESULTS, WAIT_FOR_LATE = "regions_and_places", "wait_for_regions_and_places"
MODEL_STEPS = {Stage.EMBED: "embed", Stage.SAMPLE: "sample", Stage.DECODE: "decode_density"}
STEPS = (READ, DECODE_PHOTO, WAIT_FOR_PHOTOS, *MODEL_STEPS.values(), WAIT_FOR_MODEL)
STEPS += (LATE_RESULTS, WAIT_FOR_LATE, WRITE)


@contextlib.contextmanager
def counted(microseconds: Any) -> Iterator[None]:
    """Adds the time of the block to a counter."""
    start = time.perf_counter()
    yield
    microseconds.inc(round((time.perf_counter() - start) * 1e6))


@contextlib.contextmanager
def held(lock: threading.Lock, microseconds: Any) -> Iterator[None]:
    """Holds a lock in the block, and adds the time of waiting for it to a counter."""
    with counted(microseconds):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def photos_done(result: Any) -> int:
    """Reads the number of photos that a finished job has done, over all workers."""
    counters = result.metrics().query()["counters"]
    return sum(one.result or 0 for one in counters if one.key.metric.name == PHOTOS)


def stage_seconds(result: Any) -> dict[str, float]:
    """Reads the seconds of each step, over all workers, from the metrics of a finished job.

    The steps are those of STEPS that the runner reports: `read` (bytes of files), `decode_photo`
    (bytes to pixels, added up over threads), `wait_for_photos` (the model has nothing to do),
    `embed`, `sample`, `decode_density`, `wait_for_model` (other threads use it),
    `regions_and_places` (of --regions and --gallery, added up over threads),
    `wait_for_regions_and_places`, `write`.
    """
    microseconds: Counter[str] = Counter()
    for counter in result.metrics().query()["counters"]:
        name = counter.key.metric
        if name.namespace in STEPS and name.name == MICROSECONDS:
            microseconds[name.namespace] += (
                counter.result or 0
            )  # whole and regrouped shards: two steps
    return {name: round(microseconds[name] / 1e6, 2) for name in STEPS if name in microseconds}

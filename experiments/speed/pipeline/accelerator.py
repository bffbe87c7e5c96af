"""A simulated accelerator: a model that holds a device for a fixed time per photo.

It releases the interpreter while it holds the device, as a GPU does. What the processor does is
real: files, decoding, Beam, regions, writing.
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from experiments.speed.pipeline.job import JobFailed, beam_job
from experiments.speed.pipeline.trivial import TrivialGeotagger
from locdiffusion.decoding.credible_regions import CredibleRegion, RegionFinder
from locdiffusion.density.base_measure import land_measure
from locdiffusion.density.shdd import encode
from locdiffusion.model.preprocessing import EncoderSpec
from locdiffusion.photos.archive import Sample, ShardReader
from locdiffusion.photos.photo_process import isolated
from pipelines.geotag import decoding_ahead
from pipelines.geotag.command import build
from pipelines.geotag.decoding_ahead import PhotoThreads
from pipelines.geotag.model_cache import loaded
from pipelines.geotag.options import parse

PHOTOS_PER_SECOND = 300.0
SPEC = EncoderSpec("simulated", 3, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
DEGREE, DENSITIES = 31, 64
_RUNS = itertools.count()


@functools.cache
def densities() -> NDArray[np.float32]:
    """Natural parameters ``(64, 1, d)``: a peak of 50 to 300 km on a bump of some 800 km."""
    rng = np.random.default_rng(0)
    natural = np.zeros((DENSITIES, 1, (DEGREE + 1) ** 2), np.float32)
    for row in natural[:, 0]:
        place = np.degrees(np.arcsin(rng.uniform(-1, 1))), rng.uniform(-180, 180)
        for degree, height in ((6, rng.uniform(3, 8)), (DEGREE, 10 ** rng.uniform(0.5, 1.8))):
            size = (degree + 1) ** 2
            row[:size] += height / size * encode(*place, degree)
    return natural


class SimulatedGeotagger(TrivialGeotagger):
    """Holds a device in `embed`; draws real regions, of made-up densities.

    Attributes:
        held: When the device was held, in seconds of `time.perf_counter`.
    """

    preprocess = staticmethod(SPEC.preprocess)

    def __init__(self) -> None:
        self.held: list[tuple[float, float]] = []
        self._device = threading.Lock()
        self._finder = RegionFinder(DEGREE, land_measure())

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Holds the device, and computes mean colours."""
        with self._device:
            start = time.perf_counter()
            time.sleep(len(pixels) / PHOTOS_PER_SECOND)
            self.held.append((start, time.perf_counter()))
        return super().embed(pixels)

    def regions(
        self, natural: NDArray[np.float32], embeddings: NDArray[np.float32]
    ) -> list[tuple[CredibleRegion, ...]]:
        """Draws the regions of one of the made-up densities."""
        import torch

        numbers = np.int64(natural[:, 0, 0] * 1e6) % DENSITIES
        return self._finder(torch.from_numpy(densities()[numbers]))


@dataclass(frozen=True)
class SimulatedLoader:
    """Stands in for `model_cache.GeotaggerLoader`."""

    def __call__(self) -> SimulatedGeotagger:
        """Builds the model."""
        return SimulatedGeotagger()


@dataclass(frozen=True)
class Driven:
    """How a job has driven the device.

    Attributes:
        photos_per_second: Photos over the seconds from the first use of the device to the end.
        busy: Share of the time between its first and its last use in which the device was held.
    """

    photos_per_second: float
    busy: float


def drive(shards: Sequence[Path], photos: int, threads: int, output: Path, regions: bool) -> Driven:
    """Runs the geotag job on Beam with a simulated accelerator.

    Args:
        shards: Paths of the shards.
        photos: Number of photos in them.
        threads: Threads that decode photos.
        output: Directory to create.
        regions: Whether regions are drawn.

    Raises:
        JobFailed: Not every photo became a prediction.
    """
    words = ["--input", *map(str, shards), "--output", str(output)]
    job = build(parse([*words, *["--regions"] * regions]), SimulatedLoader())
    held = loaded(SimulatedLoader()).geotagger.held  # type: ignore[attr-defined]
    held.clear()
    pool = PhotoThreads(ThreadPoolExecutor(threads))
    with patch.object(decoding_ahead, "PHOTO_THREADS", pool):
        beam_job()(job)
    end = time.perf_counter()
    found = sum(manifest["predictions"] for manifest in job.output.manifests())
    if found != photos:
        raise JobFailed(f"{found} predictions of {photos} photos; see {output}")
    begun, ended = held[0][0], held[-1][1]
    busy = sum(stop - start for start, stop in held)
    return Driven(photos / (end - begun), busy / (ended - begun))


def decode_alone(shards: Sequence[Path], threads: int) -> float:
    """Decodes the photos of shards on threads, with nothing after it; returns photos per second."""
    items = itertools.chain.from_iterable(ShardReader(str(path)) for path in shards)
    photos = [item.image for item in items if isinstance(item, Sample) and item.image]

    def decode(data: bytes) -> None:
        isolated(data, SPEC.preprocess)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, photos[:threads]))  # their children start
        start = time.perf_counter()
        list(pool.map(decode, photos))
    return len(photos) / (time.perf_counter() - start)


def measure_accelerator(
    shards: Sequence[Path], photos: int, threads: int, turns: int, directory: Path, regions: bool
) -> dict[str, float]:
    """Runs the job and decodes alone, in turns; with regions, also a job without them.

    Returns:
        Medians over the turns: `photos_per_second`, `busy`, `decoded_per_second`, `allowed` (busy
        share that decoding alone would reach) and `ratio` (busy / allowed); with regions
        `without_per_second` and `with_regions` (ratio of the two rates).
    """
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(turns):
        decoded = decode_alone(shards, threads)
        allowed = min(1.0, decoded / PHOTOS_PER_SECOND)
        driven = drive(shards, photos, threads, directory / f"out-{next(_RUNS)}", regions)
        numbers = {**asdict(driven), "decoded_per_second": decoded, "allowed": allowed}
        numbers["ratio"] = driven.busy / allowed
        if regions:
            plain = drive(shards, photos, threads, directory / f"out-{next(_RUNS)}", False)
            numbers["without_per_second"] = plain.photos_per_second
            numbers["with_regions"] = driven.photos_per_second / plain.photos_per_second
        for name, number in numbers.items():
            found[name].append(number)
    return {name: median(each) for name, each in found.items()}

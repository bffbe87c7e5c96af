"""Reads the discriminants of training photos from the embedding cache, one file at a time."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locdiffusion.appearance.gaussian_process import KrigingConfig
from locdiffusion.appearance.places import Observations, PlaceSums
from locdiffusion.appearance.training_photos import Projection
from locdiffusion.photos.embedding_cache import read_embedded


@dataclass(frozen=True)
class TrainingFiles:
    """Files of the embedding cache.

    Attributes:
        plain: Files of photos as they were taken.
        augmented: Files of photos whose colours were varied; they count as noisier.
    """

    plain: Sequence[Path]
    augmented: Sequence[Path] = ()


@dataclass(frozen=True)
class Cost:
    """What a piece of work took.

    Attributes:
        cpu_seconds: Time of the processor, all threads.
        memory_mib: Most memory that its arrays held at once, in MiB.
    """

    cpu_seconds: float
    memory_mib: float


class Meter:
    """Measures what happens in a block, whose name is bound to the meter."""

    def __enter__(self) -> Meter:
        """Begins."""
        tracemalloc.start()
        self._began = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends; `cost` is the cost of the block."""
        seconds = time.process_time() - self._began
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.cost = Cost(seconds, peak / 2**20)


def observe(
    files: TrainingFiles,
    project: Projection,
    config: KrigingConfig,
    share: float = 1.0,
    seed: int = 0,
) -> Observations:
    """Averages training photos by place.

    Args:
        files: Files of the embedding cache; one of them is in memory at a time.
        project: Discriminants.
        config: Noise of photos, and size of the places.
        share: Share of the photos that is drawn.
        seed: Seed of the draw.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share is {share}; want above 0, at most 1.")
    sums = PlaceSums(project.axes.shape[1], config.average_km)
    rng = np.random.default_rng(seed)
    kinds = ((files.plain, config.noise), (files.augmented, config.augmented_noise))
    for paths, noise in kinds:
        for path in paths:
            photos = read_embedded([path])
            drawn: NDArray[np.int64] = np.flatnonzero(rng.random(len(photos)) < share)
            appearance = project(photos.embeddings[drawn])
            sums.add(appearance, photos.vectors[drawn], noise)
    return sums.observations()

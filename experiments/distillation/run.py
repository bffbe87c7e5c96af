"""Runs a distillation from GeoCLIP's weights to a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.distillation import dataset
from experiments.distillation.dataset import PlaceMix, Queries
from experiments.distillation.queries import TRAINING, Ambiguity, QuerySimulator
from experiments.distillation.source import TaughtQueries, projected_exponent
from experiments.distillation.teacher import Teacher, TeacherConfig
from locdiffusion.config import to_dict
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.temperature import TemperatureConfig
from locdiffusion.train.distributed import Processes
from locdiffusion.train.finish import RunData
from locdiffusion.train.recipe import TrainConfig

TEACHER = "teacher.safetensors"
CALIBRATED = 2000
"""Largest number of queries for the calibration, which decodes each about thirty times."""

TEMPERATURE = TemperatureConfig(gallery=2000, unfamiliar=0.0)
"""Settings of the temperatures; a small gallery suffices, as no region is left out of training.
Simulated queries do not tell which photos are familiar."""


@dataclass(frozen=True)
class Curriculum:
    """Settings of the training data.

    Attributes:
        queries, val_queries: Numbers of training and validation queries.
        draws: Number of places drawn from the teacher's density for each training query.
        teacher: Places of the teacher.
        places: Distribution of the true places.
        truth_share: Weight of a query's true place in the loss; the teacher's draws have the rest.
        settings: Settings of the simulator, used in equal shares.
        seed: Seed of the queries.
    """

    queries: int = 300_000
    val_queries: int = 4_000
    draws: int = 16
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    places: PlaceMix = field(default_factory=PlaceMix)
    truth_share: float = 0.8
    settings: Mapping[str, Ambiguity] = field(default_factory=lambda: TRAINING)
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the counts."""
        if min(self.queries, self.val_queries, self.draws) < 1:
            raise ValueError(
                f"queries = {self.queries}, val_queries = {self.val_queries}, draws = {self.draws};"
                " want at least 1 of each."
            )
        if not 0 <= self.truth_share <= 1:
            raise ValueError(f"truth_share is {self.truth_share}; want [0, 1].")


def load(
    config: Curriculum, training: TrainConfig, output: Path, group: Processes
) -> tuple[RunData, Teacher]:
    """Simulates the queries, or reads them from the run's directory.

    Raises:
        EncoderWeightsError: The package with GeoCLIP's weights is missing.
    """
    teacher = Teacher.of_geoclip(config.teacher, output / TEACHER)
    val = _queries("val", config.val_queries, 0, config, teacher, output)
    train = _queries("train", config.queries, config.draws, config, teacher, output)
    source = TaughtQueries(
        train,
        teacher.vectors,
        training.model.max_degree,
        training.batch_size,
        training.seed,
        config.truth_share,
        group.share,
        projected_exponent(teacher, training.model.max_degree)
        if training.model.linear_skip
        else None,
    )
    how = [{"split": "simulated", "seed": config.seed, "distillation": to_dict(config)}]
    sources: dict[str, list[dict[str, Any]]] = {"train": how, "val": how}
    return RunData(source, {"val": val.as_photos()}, {}, sources), teacher


def thinned(data: RunData) -> RunData:
    """Keeps at most `CALIBRATED` validation queries, all settings in equal shares."""
    few = {name: spread_out(part, CALIBRATED) for name, part in data.validation.items()}
    return replace(data, validation=few)


def spread_out(photos: EmbeddedPhotos, count: int) -> EmbeddedPhotos:
    """Keeps at most `count` photos, evenly spaced, as each batch of queries has one setting."""
    rows = np.linspace(0, len(photos), min(count, len(photos)), endpoint=False).astype(np.int64)
    return photos.take(rows)


def _queries(
    name: str, count: int, draws: int, config: Curriculum, teacher: Teacher, output: Path
) -> Queries:
    path = output / f"queries-{name}.safetensors"
    identity = json.dumps([name, count, draws, to_dict(config)], sort_keys=True)
    queries = dataset.load(path, identity)
    if queries is None:
        split = ("train", "val").index(name)
        rng = np.random.default_rng([config.seed, split])
        simulator = gallery_simulator(teacher)
        places = dataset.true_places(teacher, count, config.places, rng)
        print(f"simulating {count:,} queries ({name})", flush=True)
        seed = 2 * config.seed + split
        queries = dataset.simulate(teacher, simulator, config.settings, places, draws, seed)
        dataset.save(path, queries, identity)
    return queries


def gallery_simulator(teacher: Teacher, gap_seed: int | None = None) -> QuerySimulator:
    """Makes a simulator whose photos are mistaken for places of GeoCLIP's gallery."""
    gallery = teacher.gallery
    return QuerySimulator(teacher.vectors[:gallery], teacher.embeddings[:gallery], gap_seed)


def photos_at(
    teacher: Teacher, setting: Ambiguity, places: NDArray[np.float64], seed: int, gap_seed: int = 1
) -> EmbeddedPhotos:
    """Simulates test queries at places ``(N, 2)`` in degrees, with a gap that `gap_seed` draws."""
    embedded = dataset.embed_places(places)
    simulator = gallery_simulator(teacher, gap_seed)
    made = dataset.simulate(teacher, simulator, {"": setting}, (places, embedded), 0, seed)
    return made.as_photos()

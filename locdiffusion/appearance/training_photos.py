"""Makes an appearance map from the embedding cache, one file of training photos at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locdiffusion.appearance.appearance_map import AppearanceMap
from locdiffusion.appearance.cell_grid import CellGrid
from locdiffusion.appearance.gaussian_process import Kriging, KrigingConfig
from locdiffusion.appearance.places import Observations, PlaceSums
from locdiffusion.cli.terminal import progress_bar
from locdiffusion.config import to_dict
from locdiffusion.files import atomic_path
from locdiffusion.photos.embedding_cache import read_embedded

DATASET = "dataset.json"
"""File beside shards that says how their photos were made."""


@dataclass(frozen=True)
class AppearanceConfig:
    """Settings of an appearance map.

    Attributes:
        cell_km: Size of the map's cells.
        kriging: Settings of the Gaussian process that predicts them.
    """

    cell_km: float = 56.0
    kriging: KrigingConfig = field(default_factory=KrigingConfig)

    def __post_init__(self) -> None:
        """Checks that there is such a grid."""
        CellGrid(self.cell_km)


@dataclass(frozen=True)
class TrainingFile:
    """A file of the embedding cache.

    Attributes:
        path: The file.
        augmented: Whether the colours of its photos were varied; they count as noisier.
    """

    path: Path
    augmented: bool = False


@dataclass(frozen=True)
class Projection:
    """Discriminants of embeddings.

    Attributes:
        mean: Mean of the embeddings, ``(E,)``.
        axes: Axes, ``(E, C)``.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Projects embeddings ``(N, E)``; returns discriminants ``(N, C)``."""
        return ((embeddings - self.mean) @ self.axes).astype(np.float32)


def is_augmented(shard: str) -> bool:
    """Tells from `dataset.json` beside a shard whether the colours of its photos were varied."""
    file = Path(shard).parent / DATASET
    if not file.is_file():
        return False
    found = json.loads(file.read_text("utf-8"))
    return isinstance(found, dict) and found.get("augmentation") is not None


def observe(
    files: Sequence[TrainingFile], project: Projection, config: KrigingConfig
) -> Observations:
    """Averages training photos by place; one file is in memory at a time.

    Args:
        files: Files of the embedding cache.
        project: Discriminants.
        config: Noise of photos, and size of the places.
    """
    sums = PlaceSums(project.axes.shape[1], config.average_km)
    for file in progress_bar(files, desc="averaging the training photos", unit="shard"):
        photos = read_embedded([file.path])
        noise = config.augmented_noise if file.augmented else config.noise
        sums.add(project(photos.embeddings), photos.vectors, noise)
    return sums.observations()


def fitted_map(
    files: Sequence[TrainingFile], project: Projection, config: AppearanceConfig
) -> AppearanceMap:
    """Predicts the map, or reads the one that an earlier call left beside the files.

    Args:
        files: Files of the embedding cache.
        project: Discriminants.
        config: Settings of the map.

    Raises:
        ValueError: The map that lies there is damaged.
    """
    names = [(file.path.name, file.augmented) for file in files]
    identity = hashlib.sha256(json.dumps([names, to_dict(config)]).encode())
    identity.update(project.mean.tobytes() + project.axes.tobytes())
    kept = files[0].path.parent / f"appearance-{identity.hexdigest()[:12]}.safetensors"
    if kept.is_file():
        return AppearanceMap.load(kept)
    kriging = Kriging(observe(files, project, config.kriging), config.kriging)
    with progress_bar(desc="predicting the appearance map", unit="cell", unit_scale=True) as bar:
        made = AppearanceMap.fit(kriging, config.cell_km, bar.update)
    with atomic_path(kept) as temporary:
        made.save(temporary)
    return made

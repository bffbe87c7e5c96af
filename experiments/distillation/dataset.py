"""Simulated queries with places drawn by the teacher: the training data of a distillation."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from experiments.distillation.queries import Ambiguity, QuerySimulator, moved
from experiments.distillation.teacher import Teacher, random_land
from locdiffusion.files import atomic_path
from locdiffusion.gallery.places import embed_places
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import latitude_longitude, unit_vectors

BATCH = 256


@dataclass(frozen=True)
class PlaceMix:
    """Distribution of the true places: drawn from q₀; those on land without photos drawn anew.

    Attributes:
        jittered: Share of true places that are moved away from their place of the gallery.
        jitter_km: Standard deviation of the move in each direction, in kilometres.
    """

    jittered: float = 0.3
    jitter_km: float = 10.0


@dataclass(frozen=True)
class Queries:
    """N simulated queries.

    Attributes:
        embeddings: Queries as unit vectors, shape ``(N, E)``.
        places: True latitudes and longitudes in degrees, float64, shape ``(N, 2)``.
        drawn: Indices of places that the teacher drew, int32, shape ``(N, S)``; S may be 0.
    """

    embeddings: Tensor
    places: NDArray[np.float64]
    drawn: Tensor

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.places)

    def as_photos(self) -> EmbeddedPhotos:
        """Returns the queries as photos of known position, for calibration and evaluation."""
        keys = [f"query-{i:07d}" for i in range(len(self))]
        latitude, longitude = self.places.T.copy()
        return EmbeddedPhotos(keys, self.embeddings.float().numpy(), latitude, longitude)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all arrays."""
        digest = hashlib.sha256()
        for array in (self.embeddings.numpy(), self.places, self.drawn.numpy()):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def true_places(
    teacher: Teacher, count: int, mix: PlaceMix, rng: np.random.Generator
) -> tuple[NDArray[np.float64], Tensor]:
    """Draws places for queries: ``(count, 2)`` degrees, with embeddings ``(count, E)``."""
    weight = teacher.log_weight.double().exp().numpy()
    chosen = rng.choice(len(weight), count, p=weight / weight.sum())
    places, embeddings = teacher.positions[chosen], teacher.embeddings[torch.from_numpy(chosen)]
    photographed = chosen < teacher.gallery
    beside = np.flatnonzero(photographed & (rng.random(count) < mix.jittered))
    places[beside] = jitter(places[beside], mix.jitter_km, rng)
    land = np.flatnonzero(~photographed)
    places[land] = random_land(len(land), rng)
    new = np.concatenate([beside, land])
    embeddings[torch.from_numpy(new)] = embed_places(places[new])
    return places, embeddings


def jitter(places: NDArray[np.float64], km: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Moves places ``(N, 2)`` in degrees by Gaussian steps of `km` in each direction."""
    vectors = moved(unit_vectors(places[:, 0], places[:, 1]), km, rng)
    return np.stack(latitude_longitude(vectors), 1)


def simulate(
    teacher: Teacher,
    simulator: QuerySimulator,
    settings: Mapping[str, Ambiguity],
    places: tuple[NDArray[np.float64], Tensor],
    draws: int,
    seed: int,
) -> Queries:
    """Simulates queries at given places, with the settings in equal shares, and teacher's draws.

    Args:
        teacher: Teacher that draws places.
        simulator: Simulator that makes the queries.
        settings: Settings of the simulator.
        places: Places ``(N, 2)`` in degrees, and their embeddings ``(N, E)``.
        draws: Number S of places that the teacher draws per query.
        seed: Seed of each batch, together with its number.
    """
    degrees, embeddings = places
    vectors = unit_vectors(degrees[:, 0], degrees[:, 1])
    ambiguities = list(settings.values())
    made, drawn = [], []
    starts = range(0, len(degrees), BATCH)
    for first in tqdm(starts, "queries", unit="batch", disable=not sys.stderr.isatty()):
        rows = slice(first, first + BATCH)
        rng = np.random.default_rng([seed, first])
        setting = ambiguities[(first // BATCH) % len(ambiguities)]
        batch = simulator(setting, vectors[rows], embeddings[rows], rng).half()
        made.append(batch)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + first)
        if draws:
            drawn.append(teacher.draw(batch.float(), draws, generator).int())
    empty = torch.zeros((len(degrees), 0), dtype=torch.int32)
    return Queries(torch.cat(made), degrees, torch.cat(drawn) if drawn else empty)


def save(path: Path, queries: Queries, identity: str) -> None:
    """Writes queries to a file, with the identity of their settings."""
    tensors = {
        "embeddings": queries.embeddings,
        "places": torch.from_numpy(queries.places),
        "drawn": queries.drawn,
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"identity": identity})


def load(path: Path, identity: str) -> Queries | None:
    """Reads queries from a file; None if there is no file, or one with another identity."""
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get("identity") != identity:
            return None
        kept = {name: file.get_tensor(name) for name in ("embeddings", "places", "drawn")}
    return Queries(kept["embeddings"], kept["places"].numpy(), kept["drawn"])

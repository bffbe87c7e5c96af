"""The teacher: GeoCLIP's density over places, for any query."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from locdiffusion.density.base_measure import land_measure
from locdiffusion.gallery.places import embed_places
from locdiffusion.model import geoclip
from locdiffusion.sphere.geodesy import latitude_longitude, unit_vectors


@dataclass(frozen=True)
class TeacherConfig:
    """Places of the teacher.

    Attributes:
        land_places: Number of random places on land beside GeoCLIP's gallery, so that regions
            without a photo of MP-16 can be an answer.
        land_share: Share of q₀ that these places have; the gallery has the rest.
        seed: Seed of the random places.
    """

    land_places: int = 25_000
    land_share: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.land_places < 0 or not 0 <= self.land_share < 1:
            raise ValueError(
                f"land_places = {self.land_places}, land_share = {self.land_share}; want at least "
                "0, and a share in [0, 1)."
            )


@dataclass(frozen=True)
class Teacher:
    """M places with GeoCLIP's location embeddings.

    Attributes:
        positions: Latitudes and longitudes in degrees, float64, shape ``(M, 2)``; gallery first.
        embeddings: Location embeddings loc(y) as unit vectors, shape ``(M, E)``.
        log_weight: Logarithm of q₀, shape ``(M,)``; the weights sum to one.
        scale: Scale s of the similarity.
        gallery: Number of places that are GeoCLIP's own.
    """

    positions: NDArray[np.float64]
    embeddings: Tensor
    log_weight: Tensor
    scale: float
    gallery: int

    @classmethod
    def of_geoclip(cls, config: TeacherConfig, cache: Path | None = None) -> Teacher:
        """Loads GeoCLIP's weights and gallery from its installed package.

        Args:
            config: Places of the teacher.
            cache: File that keeps the embeddings, which take a minute to compute.

        Raises:
            EncoderWeightsError: The package is missing.
        """
        gallery = geoclip.load_gallery().astype(np.float64)
        land = random_land(config.land_places, np.random.default_rng(config.seed))
        positions = np.concatenate([gallery, land])
        embeddings = _cached(positions, cache)
        share = config.land_share if len(land) else 0.0
        log_weight = torch.full((len(positions),), math.log((1.0 - share) / len(gallery)))
        if len(land):
            log_weight[len(gallery) :] = math.log(max(share, 1e-12) / len(land))
        return cls(positions, embeddings, log_weight, geoclip.logit_scale(), len(gallery))

    @property
    def vectors(self) -> NDArray[np.float64]:
        """Places as unit vectors, shape ``(M, 3)``."""
        return unit_vectors(self.positions[:, 0], self.positions[:, 1])

    @torch.inference_mode()
    def log_posterior(self, queries: Tensor) -> Tensor:
        """Computes log t ``(B, M)`` of queries ``(B, E)``; probabilities of a row sum to one."""
        return torch.log_softmax(self.scale * queries @ self.embeddings.T + self.log_weight, 1)

    @torch.inference_mode()
    def gallery_similarity(self, queries: Tensor) -> Tensor:
        """Computes ⟨q, loc(y)⟩ ``(B, gallery)``; GeoCLIP answers with the largest."""
        return queries @ self.embeddings[: self.gallery].T

    @torch.inference_mode()
    def draw(self, queries: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Draws indices of places ``(B, count)`` from t of queries ``(B, E)``."""
        cumulative = self.log_posterior(queries).exp_().cumsum(1)
        uniform = torch.rand((len(queries), count), generator=generator) * cumulative[:, -1:]
        return torch.searchsorted(cumulative, uniform).clamp_(max=len(self.positions) - 1)


def random_land(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws places on land without Antarctica, uniform by area, ``(count, 2)`` in degrees."""
    land = land_measure()
    found = np.zeros((0, 2))
    while len(found) < count:
        v = rng.normal(size=(4 * count + 16, 3))
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        on_land = land(torch.from_numpy(v)).numpy() > 0.0
        latitude, longitude = latitude_longitude(v[on_land])
        places = np.stack([latitude, longitude], 1)
        found = np.concatenate([found, places[latitude > -60.0]])
    return found[:count]


def _cached(positions: NDArray[np.float64], cache: Path | None) -> Tensor:
    wanted = torch.from_numpy(positions)
    if cache is not None and cache.is_file():
        try:
            kept = load_file(cache)
            if torch.equal(kept["positions"], wanted):
                return kept["embeddings"]
        except (SafetensorError, KeyError):
            pass  # half written, or something else: made again
    embeddings = embed_places(positions).clone()
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_file({"positions": wanted, "embeddings": embeddings}, cache)
    return embeddings

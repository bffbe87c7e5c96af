"""A Geotagger without a network: positions are a function of mean colour and key, exactly."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
import torch
from PIL import Image

from locdiffusion.decoding.answers import GeotagColumns, Mode
from locdiffusion.decoding.area_masses import Partitions, PointBlock, WeightedPoints
from locdiffusion.decoding.credible_regions import CredibleRegion
from locdiffusion.geography.polygons import within_world
from locdiffusion.sphere.geodesy import unit_vectors
from support.fake_pixels import SIZE, pixels

POISON = 255
"""A photo that is pure white breaks `embed`, as a real model might on one photo."""

BLUELESS_KM = 1.0
"""So small is the radius of a photo of which `regions` fail."""


def box(latitude: float, longitude: float, size: float) -> shapely.Geometry:
    whole = shapely.box(longitude - size, latitude - size, longitude + size, latitude + size)
    return shapely.reverse(shapely.normalize(within_world(whole)))


def two_points(latitude: np.ndarray, longitude: np.ndarray) -> WeightedPoints:
    """A mass of 3/4 at each place, and of 1/4 on the other side of the equator."""
    both = np.stack([unit_vectors(latitude, longitude), unit_vectors(-latitude, longitude)], 1)
    photo, vectors = torch.arange(len(both)), torch.from_numpy(both).float()
    mass = torch.tensor([[0.75, 0.25]]).expand(len(both), 2)
    block = PointBlock(photo, vectors, mass, torch.full((2,), 1e-6))
    return WeightedPoints(len(both), [block], photo[:0], torch.zeros(0, 1))


class FakeGeotagger:
    preprocess = staticmethod(pixels)

    def __init__(self, seed: int = 0, prior: str | None = None) -> None:
        self.seed, self.prior = seed, prior
        self.model_id = "fake-1"
        self.checkpoint_hash = "f" * 64
        self.batch_sizes: list[int] = []
        self.told: dict[str, Any] = {}

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        assert pixels.dtype == np.uint8 and pixels.shape[1:] == (SIZE, SIZE, 3)
        self.batch_sizes.append(len(pixels))
        if (pixels == POISON).all(axis=(1, 2, 3)).any():
            raise RuntimeError("white photo")
        return pixels.mean(axis=(1, 2), dtype=np.float64).astype(np.float32) / 255

    def sample(self, embeddings: np.ndarray, keys: Sequence[str]) -> np.ndarray:
        assert len(embeddings) == len(keys)
        noise = [zlib.crc32(f"{self.seed}/{key}".encode()) / 2**32 for key in keys]
        return embeddings[:, None, :] + np.float32(0.01) * np.float32(noise)[:, None, None]

    def decode(
        self,
        natural: np.ndarray,
        embeddings: np.ndarray | None = None,
        areas: Partitions | None = None,
        hints: Sequence[tuple[str, float] | None] | None = None,
    ) -> GeotagColumns:
        """The redder, the more familiar; three quarters of the mass are at the answer."""
        red, green, blue = natural[:, 0].astype(np.float64).T / 1.02
        latitude, longitude = 180 * red - 90, 360 * green - 180
        return GeotagColumns(
            latitude=latitude,
            longitude=longitude,
            radius_50_km=100 * blue,
            radius_90_km=300 * blue + (len(self.prior) if self.prior else 0),
            probability=np.float32(np.linspace(0.1, 0.9, 5) * blue[:, None]),
            information_nats=blue.astype(np.float32),
            land_probability=(blue / 2).astype(np.float32),
            modes=[
                (Mode(lat, lon, 0.75, 10.0), Mode(-lat, lon, 0.25, 20.0))
                for lat, lon in zip(latitude, longitude, strict=True)
            ],
            familiarity=None if embeddings is None else np.float32(embeddings[:, 0]),
            areas=None if areas is None else areas.columns(two_points(latitude, longitude)),
            # That of a photo with a hint is the probability that the hint is right.
            prior_mass=None if hints is None else [hint and hint[1] for hint in hints],
        )

    def with_prior(self, prior: str | None) -> FakeGeotagger:
        """Adds the length of the prior's text to `radius_90_km`; a prior `broken` fails."""
        if prior == "broken":
            raise MemoryError("no room for its tables")
        return self if prior is None else FakeGeotagger(self.seed, prior)

    def regions(
        self, natural: np.ndarray, embeddings: np.ndarray | None = None
    ) -> list[tuple[CredibleRegion, ...]]:
        """Boxes around the answers, cut at the antimeridian; a photo without blue breaks it."""
        columns, found = self.decode(natural), []
        for row in range(len(columns)):
            if columns.radius_50_km[row] < BLUELESS_KM:
                raise RuntimeError("not blue enough for a region")
            latitude, longitude = columns.latitude[row], columns.longitude[row]
            found.append(
                tuple(
                    CredibleRegion(level, box(latitude, longitude, 4.0 * level), 1e6 * level, level)
                    for level in (0.5, 0.9)
                )
            )
        return found

    def columns(self, images: Sequence[Image.Image], keys: Sequence[str]) -> GeotagColumns:
        made = np.stack([self.preprocess(image) for image in images])
        embeddings = self.embed(made)
        return self.decode(self.sample(embeddings, keys), embeddings)


@dataclass(frozen=True)
class FakeLoader:
    seed: int = 0

    def __call__(self) -> FakeGeotagger:
        return FakeGeotagger(self.seed)


@dataclass(frozen=True)
class PickyLoader:
    """Loads a Geotagger that is for photos which are red enough."""

    unfamiliar: float

    def __call__(self) -> FakeGeotagger:
        made = FakeGeotagger()
        purpose = {"purpose": "red photos", "unlike": "for blue ones use another"}
        made.told = {**purpose, "unfamiliar": self.unfamiliar}
        return made


@dataclass(frozen=True)
class FailsElsewhere:
    """Loads where the job is submitted, and on no worker."""

    here: int

    def __call__(self) -> FakeGeotagger:
        if os.getpid() != self.here:
            raise OSError("no weights on this worker")
        return FakeGeotagger()

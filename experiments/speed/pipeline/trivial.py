"""A model that costs next to nothing, and photos for it, to measure the pipeline alone."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from locdiffusion.decoding.answers import GeotagColumns, Mode
from locdiffusion.decoding.area_masses import Partitions
from schemas.geotags import THRESHOLDS_KM

if TYPE_CHECKING:
    from locdiffusion.decoding.credible_regions import CredibleRegion

SIDE = 8
DISTINCT = 256
"""Number of different photos per archive; they are repeated under other keys."""


class TrivialGeotagger:
    """Answers with the mean colour of a photo, in microseconds; a `model_cache.GeotaggerLike`."""

    model_id = "trivial"
    checkpoint_hash = "0" * 64

    @staticmethod
    def preprocess(image: Image.Image) -> NDArray[np.uint8]:
        """Scales an image to uint8 ``(8, 8, 3)``."""
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST))

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Computes mean colours between 0 and 1, shape ``(N, 3)``."""
        return pixels.mean(axis=(1, 2), dtype=np.float32) / np.float32(255)

    def sample(self, embeddings: NDArray[np.float32], keys: Sequence[str]) -> NDArray[np.float32]:
        """Returns the embeddings as natural parameters ``(N, 1, 3)``."""
        return embeddings[:, None]

    def decode(
        self,
        natural: NDArray[np.float32],
        embeddings: NDArray[np.float32],
        areas: Partitions | None = None,
        hints: Sequence[tuple[str, float] | None] | None = None,
    ) -> GeotagColumns:
        """Reads latitude from red, longitude from green and the radius from blue; no areas."""
        red, green, blue = natural[:, 0].astype(np.float64).T
        latitude, longitude = 180 * red - 90, 360 * green - 180
        share = np.linspace(0.2, 1.0, len(THRESHOLDS_KM))
        return GeotagColumns(
            latitude=latitude,
            longitude=longitude,
            radius_50_km=100 * blue,
            radius_90_km=300 * blue,
            probability=np.float32(share * blue[:, None]),
            information_nats=blue.astype(np.float32),
            land_probability=blue.astype(np.float32),
            modes=[
                (Mode(*position, 0.75, 10.0),)
                for position in zip(latitude.tolist(), longitude.tolist(), strict=True)
            ],
        )

    def regions(
        self, natural: NDArray[np.float32], embeddings: NDArray[np.float32]
    ) -> Sequence[tuple[CredibleRegion, ...]]:
        """Returns no regions."""
        return [()] * len(natural)

    def with_prior(self, prior: str | None) -> TrivialGeotagger:
        """Returns itself: its answers know no prior."""
        return self


@dataclass(frozen=True)
class TrivialLoader:
    """Stands in for `model_cache.GeotaggerLoader`."""

    def __call__(self) -> TrivialGeotagger:
        """Builds the model."""
        return TrivialGeotagger()


def write_archive(
    directory: Path,
    shards: int,
    photos: int,
    size: tuple[int, int] = (64, 48),
    seed: int = 0,
    texture: float = 0.0,
    distinct: int = DISTINCT,
) -> list[Path]:
    """Writes JPEGs of blurred noise as tar shards, the same bytes for the same arguments.

    Args:
        directory: Directory to create.
        shards: Number of shards.
        photos: Number of photos per shard.
        size: Width and height in pixels.
        seed: Seed of the noise.
        texture: As of `jpeg`.
        distinct: Number of different photos, which are repeated under other keys.

    Returns:
        Paths of the shards.
    """
    directory.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    jpegs = itertools.cycle(
        [jpeg(rng, size, texture) for _ in range(min(distinct, shards * photos))]
    )
    paths = [directory / f"photos-{shard:03d}.tar" for shard in range(shards)]
    for path in paths:
        with tarfile.open(path, "w") as tar:
            for index in range(photos):
                data = next(jpegs)
                member = tarfile.TarInfo(f"{path.stem}-{index:06d}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return paths


def jpeg(rng: np.random.Generator, size: tuple[int, int], texture: float = 0.0) -> bytes:
    """Returns a JPEG of blurred noise.

    Args:
        rng: Generator of the noise.
        size: Width and height in pixels.
        texture: Share of noise of four pixels; with 0.25 the file has 0.2 bytes per pixel, about as
            many as that of a camera.
    """

    def noise(width: int, height: int) -> Image.Image:
        coarse = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        return coarse.resize(size, Image.Resampling.BICUBIC)

    picture = noise(8, 6)
    if texture:
        picture = Image.blend(picture, noise(size[0] // 4, size[1] // 4), texture)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=75 + 10 * (texture > 0))
    return file.getvalue()

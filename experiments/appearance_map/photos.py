"""Photos with known position, and what network, temperature and decoder say about them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.calibrate.parts import spatial_folds
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.decoding.answers import GeotagColumns
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import unit_vectors

PHOTOS_AT_ONCE = 128


@dataclass(frozen=True)
class LocatedPhotos:
    """N photos with the density that the product answers with.

    Attributes:
        appearance: Discriminants, ``(N, C)``.
        natural: Natural parameters at the temperatures, ``(N, d)``.
        log_temperature: Logarithms of the temperatures, ``(N,)``.
        answer: Unit vectors of the answers of the densities, ``(N, 3)``.
        radius_50_km, radius_90_km: Radii of the densities, ``(N,)``.
        truth: Unit vectors of the true positions, ``(N, 3)``.
    """

    appearance: Tensor
    natural: Tensor
    log_temperature: Tensor
    answer: Tensor
    radius_50_km: Tensor
    radius_90_km: Tensor
    truth: Tensor

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.natural)

    def take(self, rows: Tensor | slice) -> LocatedPhotos:
        """Selects photos."""
        return LocatedPhotos(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def first(self, count: int) -> LocatedPhotos:
        """Keeps evenly spaced photos, at most so many."""
        if len(self) <= count:
            return self
        return self.take(torch.arange(count) * len(self) // count)

    def first_components(self, count: int) -> LocatedPhotos:
        """Keeps the first discriminants only."""
        return replace(self, appearance=self.appearance[:, :count])


@dataclass(frozen=True)
class Projection:
    """Discriminants of embeddings.

    Attributes:
        mean: Mean of the embeddings, ``(E,)``.
        axes: Axes, ``(E, C)``.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint) -> Projection:
        """Takes the discriminants of a checkpoint's temperature model."""
        model = checkpoint.denoiser.temperatures
        return cls(model.mean.numpy(), model.projection.numpy())

    def first(self, components: int) -> Projection:
        """Keeps the first discriminants only.

        Raises:
            ValueError: There are fewer.
        """
        if not 1 <= components <= self.axes.shape[1]:
            raise ValueError(
                f"components is {components}; the checkpoint has {self.axes.shape[1]} "
                "discriminants, want at least 1 and at most as many."
            )
        return Projection(self.mean, self.axes[:, :components])

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Projects embeddings ``(N, E)``."""
        return ((embeddings - self.mean) @ self.axes).astype(np.float32)


@torch.inference_mode()
def located(checkpoint: Checkpoint, decoder: Decoder, photos: EmbeddedPhotos) -> LocatedPhotos:
    """Computes the densities and answers of photos as the product does."""
    denoiser, project = checkpoint.denoiser, Projection.of_checkpoint(checkpoint)
    natural, temperature, columns = [], [], []
    for start in range(0, len(photos), PHOTOS_AT_ONCE):
        condition = torch.from_numpy(photos.embeddings[start : start + PHOTOS_AT_ONCE])
        untempered = denoiser.network.from_image(condition)
        tau = denoiser.temperatures(condition, untempered)
        natural.append(untempered / tau[:, None])
        temperature.append(tau.log())
        columns.append(decoder(natural[-1][:, None]))
    said = GeotagColumns.joined(columns)
    return LocatedPhotos(
        torch.from_numpy(project(photos.embeddings)),
        torch.cat(natural),
        torch.cat(temperature),
        torch.from_numpy(unit_vectors(said.latitude, said.longitude)).float(),
        torch.from_numpy(np.asarray(said.radius_50_km)).float(),
        torch.from_numpy(np.asarray(said.radius_90_km)).float(),
        torch.from_numpy(photos.vectors).float(),
    )


def halves(vectors: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divides photos at ``(N, 3)`` into rows to fit with and to score, by parts of the Earth."""
    fold = spatial_folds(vectors).numpy()
    return np.flatnonzero(fold < 2), np.flatnonzero(fold >= 2)

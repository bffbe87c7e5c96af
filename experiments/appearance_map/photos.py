"""Photos with known position, their discriminants and what the network says about them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from locdiffusion.calibrate.fused_fitting import FusedPart
from locdiffusion.calibrate.parts import spatial_folds
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.inference import natural_parameters
from locdiffusion.photos.embedding_cache import EmbeddedPhotos


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
def located(checkpoint: Checkpoint, photos: EmbeddedPhotos) -> FusedPart:
    """Computes the densities and discriminants of photos as the product does."""
    appearance = Projection.of_checkpoint(checkpoint)(photos.embeddings)
    natural = natural_parameters(checkpoint.denoiser, photos.embeddings)
    trust = torch.ones(len(photos))
    return FusedPart(natural, torch.from_numpy(appearance), trust, photos.vectors)


def first_components(part: FusedPart, count: int) -> FusedPart:
    """Keeps the first discriminants of photos only."""
    return replace(part, appearance=part.appearance[:, :count])


def halves(vectors: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divides photos at ``(N, 3)`` into rows to fit with and to score, by parts of the Earth."""
    fold = spatial_folds(vectors).numpy()
    return np.flatnonzero(fold < 2), np.flatnonzero(fold >= 2)

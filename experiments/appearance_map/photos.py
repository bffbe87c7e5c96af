"""Photos with known position, their discriminants and what the network says about them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from locdiffusion.appearance.training_photos import Projection
from locdiffusion.calibrate.fused_fitting import FusedPart
from locdiffusion.calibrate.parts import spatial_folds
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.inference import natural_parameters
from locdiffusion.photos.embedding_cache import EmbeddedPhotos


def projection(checkpoint: Checkpoint) -> Projection:
    """Takes the discriminants of a checkpoint's temperature model."""
    model = checkpoint.denoiser.temperatures
    return Projection(model.mean.numpy(), model.projection.numpy())


def first_axes(project: Projection, components: int) -> Projection:
    """Keeps the first discriminants only.

    Raises:
        ValueError: There are fewer.
    """
    if not 1 <= components <= project.axes.shape[1]:
        raise ValueError(
            f"components is {components}; the checkpoint has {project.axes.shape[1]} "
            "discriminants, want at least 1 and at most as many."
        )
    return Projection(project.mean, project.axes[:, :components])


@torch.inference_mode()
def located(checkpoint: Checkpoint, photos: EmbeddedPhotos) -> FusedPart:
    """Computes the densities and discriminants of photos as the product does."""
    appearance = projection(checkpoint)(photos.embeddings)
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

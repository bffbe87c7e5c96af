"""Embeddings of the benchmark: those of real photos, or drawn with their mean and deviation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locdiffusion.checkpoint import Checkpoint
from locdiffusion.model.image_encoder import ImageEncoder
from locdiffusion.photos.embedding_cache import load_photos
from locdiffusion.photos.patterns import expand_patterns


def embeddings_of(
    checkpoint: Checkpoint,
    encoder: ImageEncoder,
    count: int,
    shards: Sequence[str] = (),
    cache: Path | None = None,
) -> tuple[NDArray[np.float32], str]:
    """Returns `count` embeddings, and where they come from in words.

    Args:
        checkpoint: Checkpoint whose mean and deviation of embeddings are used without shards.
        encoder: Image encoder of the checkpoint.
        count: Number of embeddings; photos are repeated if there are fewer.
        shards: Patterns of shards of photos with truth.
        cache: Directory of cached embeddings.
    """
    rng = np.random.default_rng(0)
    if shards:
        if cache is None:
            raise ValueError("--photos needs --embeddings DIR, where embeddings are kept.")
        photos = load_photos(expand_patterns(shards), encoder, cache)
        rows = np.resize(rng.permutation(len(photos)), count)
        return photos.embeddings[rows], f"{min(count, len(photos))} of {len(photos)} real photos"
    network = checkpoint.network
    mean, spread = network.embedding_mean.numpy(), network.embedding_std.numpy()
    drawn = mean + spread * rng.standard_normal((count, len(mean)))
    return drawn.astype(np.float32), (
        "normal numbers with the mean and standard deviation of the training embeddings: densities "
        "unlike those of photos; give --photos for real ones"
    )

"""Embeds photos as they are stored in a shard, so that training need not decode them again."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from locdiffusion.model.model_files import local_encoder

if TYPE_CHECKING:
    from locdiffusion.model.image_encoder import ImageEncoder

BATCH = 64
_LOADED: dict[Embedder, ImageEncoder] = {}
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Embedder:
    """Name and device of an encoder; it is loaded on the worker.

    Attributes:
        name: Name for `load_image_encoder`; weights may lie at a URL.
        device: Torch device.
    """

    name: str
    device: str = "cpu"

    def load(self) -> ImageEncoder:
        """Returns the one encoder of this process; loads it if need be."""
        from locdiffusion.model.image_encoder import load_image_encoder

        with _LOCK:
            if self not in _LOADED:
                _LOADED[self] = load_image_encoder(local_encoder(self.name), self.device)
            return _LOADED[self]

    def embed(self, jpegs: Sequence[bytes]) -> NDArray[np.float16]:
        """Embeds stored photos; training from their pixels would get the same numbers.

        Returns:
            Embeddings, float16 ``(N, E)``.
        """
        encoder = self.load()
        pixels = [encoder.preprocess(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs]
        with _LOCK:
            return encoder.embed(np.stack(pixels)).astype(np.float16)

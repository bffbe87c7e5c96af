"""An image encoder whose weights are loaded when, and only if, a photo needs them."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING

import numpy as np

from locdiffusion.model import image_encoder
from locdiffusion.model.preprocessing import EncoderSpec

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image


class DeferredEncoder:
    """An encoder that loads its weights when the first photo needs them: most may bring embeddings.

    Args:
        name, device: As of `load_image_encoder`.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        self._name, self._device = name, device
        self._lock = threading.Lock()
        self._loaded: image_encoder.ImageEncoder | None = None

    @functools.cached_property
    def spec(self) -> EncoderSpec:
        """Preprocessing and sizes."""
        return image_encoder.encoder_spec(self._name)

    def preprocess(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """As `ImageEncoder.preprocess`."""
        return self.spec.preprocess(image)

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """As `ImageEncoder.embed`.

        Raises:
            EncoderWeightsError: The weights could not be had.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = image_encoder.load_image_encoder(self._name, self._device)
        return self._loaded.embed(pixels)

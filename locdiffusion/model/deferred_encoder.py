"""Defers the loading of an image encoder's weights until a photo needs them."""

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
    """Image encoder that loads its weights for the first photo that has no stored embedding.

    Args:
        name: Name that `load_image_encoder` takes.
        device: Torch device of the network.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        self._name, self._device = name, device
        self._lock = threading.Lock()
        self._loaded: image_encoder.ImageEncoder | None = None

    @functools.cached_property
    def spec(self) -> EncoderSpec:
        """Preprocessing and sizes of the encoder."""
        return image_encoder.encoder_spec(self._name)

    @property
    def activation_told_by(self) -> str:
        """What told the activation of the network; see `open_clip_model.told_activation`."""
        return image_encoder.activation_told_by(self._name)

    def preprocess(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Returns the pixels that the network takes; see `ImageEncoder.preprocess`."""
        return self.spec.preprocess(image)

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embeds preprocessed photos; see `ImageEncoder.embed`.

        Raises:
            EncoderWeightsError: The weights are missing.
        """
        return self._encoder().embed(pixels)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the encoder; see `ImageEncoder.fingerprint`.

        Raises:
            EncoderWeightsError: The weights are missing.
        """
        return self._encoder().fingerprint

    def _encoder(self) -> image_encoder.ImageEncoder:
        with self._lock:
            if self._loaded is None:
                self._loaded = image_encoder.load_image_encoder(self._name, self._device)
            return self._loaded

"""Takes and compares fingerprints of image encoders: embeddings of one generated picture.

A file of weights does not tell which model it is, and some mistakes give embeddings that look
sound: other weights of the same shapes, or the other activation. A checkpoint therefore holds the
embedding that its encoder gives one picture, and every encoder is held against it when it is
loaded, by the cosine of the two.

Measured on ViT-B/32 with random weights, seed 0, on a CPU, as 1 - cosine with itself:

    weights in half precision          1e-7
    computed in bfloat16               5e-5
    the other activation               3e-5
    the other one, all in bfloat16     8e-5
    other random weights               about 1

No threshold separates the second row from the third, so the other activation is tried too: the
right one leaves the smaller difference. The threshold is for other weights. Trained weights
were not at hand.
"""

from __future__ import annotations

import base64
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from locdiffusion.model.preprocessing import Activation, EncoderSpec
from locdiffusion.model.weights import EncoderWeightsError

LEAST_COSINE = 0.99
ROUNDING = 1e-6
"""1 - cosine of equal encoders in single precision is below it; half precision is stored."""
CLEARLY_BETTER = 0.8
"""The other activation is the right one if it leaves less than this part of 1 - cosine."""
_ACTIVATIONS = {Activation.GELU: Activation.QUICK_GELU, Activation.QUICK_GELU: Activation.GELU}


class Encoder(Protocol):
    """The parts of `ImageEncoder` that a comparison needs."""

    spec: EncoderSpec

    @property
    def activation(self) -> Activation | None:
        """Activation of the network, if it has one of the two."""

    def set_activation(self, activation: Activation) -> None:
        """Gives the network another activation."""

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeds preprocessed photos, uint8 (N, S, S, 3), as float32 (N, E)."""


def picture(size: int) -> NDArray[np.uint8]:
    """Returns the picture, uint8 (S, S, 3): red grows to the right, green downwards, blue chequers.

    It is computed in whole numbers and has the size that the network takes, so that no library's
    resizing has a part in it.
    """
    y, x = np.mgrid[:size, :size]
    chequer = (8 * x // size + 8 * y // size) % 2
    return np.stack([256 * x // size, 256 * y // size, 255 * chequer], axis=-1).astype(np.uint8)


def fingerprint(encoder: Encoder) -> str:
    """Takes the fingerprint of an encoder: E half-precision numbers of unit length, in base64."""
    unit = _unit(encoder.embed(picture(encoder.spec.image_size)[None])[0])
    return base64.b64encode(unit.astype("<f2").tobytes()).decode()


def check_fingerprint(stored: str, dimension: int) -> None:
    """Checks that a text is a fingerprint of embeddings of a size, or empty.

    Raises:
        ValueError: It is something else.
    """
    if stored and not (len(found := _numbers(stored)) == dimension and np.isfinite(found).all()):
        raise ValueError(
            f"the fingerprint holds {len(found)} numbers, wanted {dimension} finite ones; copy "
            "config.json again, or leave its fingerprint out"
        )


def cosine(one: str, other: str) -> float:
    """Returns the cosine of two fingerprints of embeddings of one size."""
    return float(_unit(_numbers(one)) @ _unit(_numbers(other)))


def hold(encoder: Encoder, stored: str, own: str) -> None:
    """Holds an encoder against a fingerprint.

    Args:
        encoder: Encoder that was loaded.
        stored: Fingerprint of the encoder that is wanted; empty accepts any.
        own: Name under which the encoder that is wanted was loaded.

    Raises:
        EncoderWeightsError: It is another encoder; the message names the likely cause.
    """
    if not stored:
        return
    found = cosine(fingerprint(encoder), stored)
    if 1.0 - found < ROUNDING:
        return
    told = (
        f"{encoder.spec.name} is not the encoder {own!r} that the checkpoint was trained with: its "
        f"embedding of the fingerprint's picture has a cosine of {found:.6f} with that one"
    )
    if (activation := encoder.activation) is not None:
        other = _ACTIVATIONS[activation]
        encoder.set_activation(other)
        swapped = cosine(fingerprint(encoder), stored)
        encoder.set_activation(activation)
        if swapped >= LEAST_COSINE and 1.0 - swapped < CLEARLY_BETTER * (1.0 - found):
            raise EncoderWeightsError(
                f"{told}, and of {swapped:.6f} with the activation {other.value} in place of "
                f"{activation.value}. The weights are right and the activation is not: restore "
                f'"activation": "{other.value}" of the encoder in config.json.'
            )
    if not found >= LEAST_COSINE:
        raise EncoderWeightsError(
            f"{told}, wanted at least {LEAST_COSINE}. These are other weights of the same "
            "architecture, such as another training or a fine-tuned copy, or mean and std in "
            "config.json were changed: give --encoder the file that the checkpoint's embeddings "
            "were made with."
        )


def _numbers(stored: str) -> NDArray[np.float64]:
    try:
        return np.frombuffer(base64.b64decode(stored, validate=True), "<f2").astype(np.float64)
    except ValueError as error:
        raise ValueError(
            f"the fingerprint is no base64 of half-precision numbers: {error}"
        ) from error


def _unit(embedding: NDArray[np.floating]) -> NDArray[np.float64]:
    numbers = embedding.astype(np.float64)
    unit: NDArray[np.float64] = numbers / max(float(np.linalg.norm(numbers)), 1e-12)
    return unit

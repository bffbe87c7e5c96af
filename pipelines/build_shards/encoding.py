"""Encodes a photo for a shard: upright, small and without metadata.

The EXIF block is removed, and with it the position that the camera wrote.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from locdiffusion.model.preprocessing import as_rgb
from locdiffusion.photos.photo import open_image
from locdiffusion.photos.picture import PhotoError
from pipelines.sources.record import DropError
from schemas.geotags import Status
from schemas.training import DropReason

_TOO_LARGE = (Status.TOO_MANY_BYTES, Status.TOO_MANY_PIXELS, Status.TOO_SLOW, Status.TOO_LARGE)


class EncodingError(DropError):
    """A photo cannot or must not go into a shard."""


@dataclass(frozen=True)
class Encoding:
    """Settings of the stored photos.

    Attributes:
        image_size: Shorter side in pixels; a smaller photo is not enlarged.
        quality: Quality of the JPEG, 1 to 95.
        min_size: Shorter side in pixels below which a photo is dropped.
    """

    image_size: int = 336
    quality: int = 90
    min_size: int = 64


@dataclass(frozen=True)
class EncodedPhoto:
    """A photo as it is stored in a shard.

    Attributes:
        jpeg: Bytes of the JPEG, without metadata.
        width: Width of the JPEG in pixels.
        height: Height of the JPEG in pixels.
        sha256: SHA-256 of the bytes that it was made from, hexadecimal.
        dhash: 64 bits that change little when the photo is scaled or encoded again.
    """

    jpeg: bytes
    width: int
    height: int
    sha256: str
    dhash: int


def encode(data: bytes, how: Encoding) -> EncodedPhoto:
    """Decodes, checks, turns upright, scales and encodes a photo.

    Raises:
        EncodingError: The photo is broken, too large to be decoded, or too small.
    """
    try:
        upright, _ = open_image(data)
        shorter = min(upright.size)
        if shorter < how.min_size:
            raise EncodingError(
                DropReason.TOO_SMALL,
                f"{upright.width} x {upright.height} pixels, wanted {how.min_size} on the shorter "
                "side",
            )
        image = _resized(as_rgb(upright), how.image_size)
    except PhotoError as error:
        large = error.status in _TOO_LARGE
        reason = DropReason.TOO_LARGE if large else DropReason.BROKEN_IMAGE
        raise EncodingError(reason, str(error)) from None
    except (ValueError, OSError, MemoryError) as error:
        why = f"cannot be converted to RGB ({type(error).__name__}: {error})"
        raise EncodingError(DropReason.BROKEN_IMAGE, why) from None
    image.info = {}  # Pillow would write a comment on from here
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=how.quality)
    return EncodedPhoto(
        jpeg=buffer.getvalue(),
        width=image.width,
        height=image.height,
        sha256=hashlib.sha256(data).hexdigest(),
        dhash=difference_hash(image),
    )


def _resized(image: Image.Image, size: int) -> Image.Image:
    shorter = min(image.size)
    if shorter <= size:
        return image
    width, height = (max(1, round(side * size / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


def difference_hash(image: Image.Image) -> int:
    """Computes the dHash of an image (Krawetz 2013, "Kind of Like That").

    A bit says whether brightness falls from left to right, in 8 rows of 8 neighbours, top left
    first.
    """
    grey = image.convert("L").resize((9, 8), Image.Resampling.BOX)
    pixels = np.asarray(grey, np.int16)
    bits = np.packbits(pixels[:, :-1] > pixels[:, 1:])
    return int.from_bytes(bits.tobytes(), "big")

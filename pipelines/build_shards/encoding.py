"""Encodes a photo for a shard: upright, small and without metadata.

The EXIF block is removed, and with it the position that the camera wrote.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from dataclasses import dataclass

import numpy as np
from PIL import Image

from locdiffusion.isolation import IsolatedFunction
from locdiffusion.model.preprocessing import as_rgb
from locdiffusion.photos.photo import open_image
from locdiffusion.photos.photo_process import LIMITS, MOST_TEXT, call
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
        raise _refused(error) from None
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


def encode_isolated(data: bytes, how: Encoding) -> EncodedPhoto:
    """Encodes as `encode` does, in a child process; nothing that it answers is believed.

    Raises:
        EncodingError: As of `encode`, or the photo drove its decoder to a limit.
    """
    try:
        found = call(_children(how), data)
        header, _, jpeg = found.partition(b"\n")
        told = json.loads(header)
        if "reason" in told:
            raise EncodingError(DropReason(told["reason"]), str(told["detail"])[:MOST_TEXT])
        numbers = [int(told[name]) for name in ("width", "height", "dhash")]
        if min(numbers) < 0 or numbers[2] >= 2**64 or jpeg[:2] != b"\xff\xd8":
            raise ValueError(numbers)
    except PhotoError as error:
        raise _refused(error) from None
    except EncodingError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        why = f"its decoder crashed (its answer is none: {type(error).__name__})"
        raise EncodingError(DropReason.BROKEN_IMAGE, why) from None
    width, height, dhash = numbers
    return EncodedPhoto(jpeg, width, height, hashlib.sha256(data).hexdigest(), dhash)


@functools.lru_cache(2)
def _children(how: Encoding) -> IsolatedFunction:
    return IsolatedFunction(functools.partial(answer, how), LIMITS)


def answer(how: Encoding, data: bytes) -> bytes:
    """Encodes a photo in the child; a line of JSON, and the JPEG."""
    try:
        made = encode(data, how)
    except EncodingError as error:
        told = {"reason": error.reason.value, "detail": str(error)[:MOST_TEXT]}
        return json.dumps(told).encode()
    numbers = {"width": made.width, "height": made.height, "dhash": made.dhash}
    return json.dumps(numbers).encode() + b"\n" + made.jpeg


def _refused(error: PhotoError) -> EncodingError:
    large = error.status in _TOO_LARGE
    return EncodingError(DropReason.TOO_LARGE if large else DropReason.BROKEN_IMAGE, str(error))


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

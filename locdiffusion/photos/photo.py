"""Decodes the bytes of a sample to pixels, position and time, or says why that fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from PIL import Image

from locdiffusion.photos.capture_time import UNKNOWN, Capture
from locdiffusion.photos.coordinates import Reading
from locdiffusion.photos.exif import upright
from locdiffusion.photos.identity import identify
from locdiffusion.photos.picture import NO_MEMORY, PhotoError, decode_picture
from locdiffusion.photos.positions import PhotoPositions, own_capture, own_position
from locdiffusion.photos.thumbnails import small_jpeg
from schemas.geotags import ErrorRow, Stage, Status

if TYPE_CHECKING:
    from locdiffusion.photos.archive import Sample

Preprocess = Callable[[Image.Image], np.ndarray]
"""Function from an upright image of any mode to pixels, uint8 ``(S, S, 3)``."""


@dataclass(frozen=True)
class PhotoRecord:
    """A decoded photo.

    Attributes:
        key: Key of the sample.
        pixels: Preprocessed pixels, uint8 ``(S, S, 3)``.
        known: What its file and its document say of place and time.
        thumbnail: Small JPEG, if it was asked for and could be made.
        prior: Where it may come from, if it has a prior of its own.
    """

    key: str
    pixels: np.ndarray
    known: PhotoPositions
    thumbnail: bytes | None = None
    prior: str | None = None


class Decoded(NamedTuple):
    """What the bytes of a photo hold.

    Attributes:
        pixels: Preprocessed pixels, uint8 ``(S, S, 3)``.
        own: What the file says of its position.
        thumbnail: Small JPEG, if it was asked for and could be made.
        capture: What the file says of the time and the camera.
    """

    pixels: np.ndarray
    own: Reading
    thumbnail: bytes | None = None
    capture: Capture = UNKNOWN


class Decoder(Protocol):
    """Decodes the bytes of a photo: `decoded`, or one that does it in another process."""

    def __call__(
        self, data: bytes, preprocess: Preprocess, thumbnail: bool = False, salvage: bool = False
    ) -> Decoded:
        """Decodes as `decoded` does."""


def decoded(
    data: bytes, preprocess: Preprocess, thumbnail: bool = False, salvage: bool = False
) -> Decoded:
    """Decodes the bytes of a photo in this process.

    Args:
        data: Bytes of the file.
        preprocess: Preprocessing of the encoder.
        thumbnail: Whether to make a thumbnail.
        salvage: Whether what is there of a picture that breaks off is taken.

    Raises:
        PhotoError: The photo cannot or must not be decoded.
    """
    image, own = open_image(data, salvage)
    pixels = preprocessed(image, preprocess)
    picture = small_jpeg(image) if thumbnail else None
    return Decoded(pixels, own, picture, own_capture(data))


def decode_photo(
    sample: Sample,
    preprocess: Preprocess,
    thumbnail: bool = False,
    salvage: bool = False,
    decode: Decoder = decoded,
    sha256: bool = False,
) -> PhotoRecord | ErrorRow:
    """Decodes one sample; never raises for what is in the bytes.

    Args:
        sample: Sample with an image.
        preprocess: Preprocessing of the encoder.
        thumbnail: Whether to make a thumbnail.
        salvage: Whether what is there of a picture that breaks off is taken.
        decode: Decoder of the bytes, by default in this process.
        sha256: Whether to compute the SHA-256 of the bytes.

    Returns:
        The photo, or the row of errors that takes its place.
    """
    assert sample.image is not None
    identity = identify(sample.place, sample.image, sha256)
    try:
        found = decode(sample.image, preprocess, thumbnail, salvage)
    except PhotoError as error:
        photo_id, path = identity.photo_id, identity.path
        return ErrorRow(sample.key, Stage.PHOTO, error.status, str(error), photo_id, path)
    known = PhotoPositions(found.own, sample.sidecar, found.capture, identity)
    return PhotoRecord(sample.key, found.pixels, known, found.thumbnail, sample.prior)


def preprocessed(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """Applies an encoder's preprocessing to an upright image; raises PhotoError where it fails."""
    try:
        return preprocess(image)
    except MemoryError:
        raise PhotoError(Status.TOO_LARGE, NO_MEMORY) from None
    except Exception as error:  # an odd shape: one photo, not the job
        raise PhotoError(
            Status.BROKEN_IMAGE,
            f"{image.width} x {image.height} pixels cannot be preprocessed "
            f"({type(error).__name__}: {error}); crop or convert the photo",
        ) from None


def open_image(data: bytes, salvage: bool = False) -> tuple[Image.Image, Reading]:
    """Decodes an image and turns it upright.

    Returns:
        The image in its own mode, and what the file says of its position.

    Raises:
        PhotoError: As from `picture.decode_picture`, which explains `salvage`.
    """
    image = decode_picture(data, salvage)
    return upright(image), own_position(data)

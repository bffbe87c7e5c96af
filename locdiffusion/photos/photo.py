"""Decodes the bytes of a sample to pixels and positions, or says why that fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from locdiffusion.photos.archive import Sample
from locdiffusion.photos.coordinates import Reading
from locdiffusion.photos.exif import upright
from locdiffusion.photos.picture import PhotoError, decode_picture
from locdiffusion.photos.positions import PhotoPositions, own_position
from locdiffusion.photos.thumbnails import small_jpeg
from schemas.geotags import ErrorRow, Stage, Status


@dataclass(frozen=True)
class PhotoRecord:
    """A decoded photo.

    Attributes:
        key: Key of the sample.
        pixels: Preprocessed pixels, uint8 ``(S, S, 3)``.
        known: What its file and its document say of the place where it was taken.
        thumbnail: Small JPEG, if it was asked for and could be made.
    """

    key: str
    pixels: np.ndarray
    known: PhotoPositions
    thumbnail: bytes | None = None


def decode_photo(
    sample: Sample,
    preprocess: Callable[[Image.Image], np.ndarray],
    thumbnail: bool = False,
    salvage: bool = False,
) -> PhotoRecord | ErrorRow:
    """Decodes one sample; never raises for what is in the bytes.

    Args:
        sample: Sample with an image.
        preprocess: Function from an upright image of any mode to pixels, uint8 ``(S, S, 3)``.
        thumbnail: Whether to make a thumbnail.
        salvage: Whether what is there of a picture that breaks off is taken.

    Returns:
        The photo, or the row of errors that takes its place.
    """
    assert sample.image is not None
    try:
        image, own = open_image(sample.image, salvage)
        pixels = preprocessed(image, preprocess)
    except PhotoError as error:
        return ErrorRow(sample.key, Stage.PHOTO, error.status, str(error))
    known = PhotoPositions(own, sample.sidecar)
    return PhotoRecord(sample.key, pixels, known, small_jpeg(image) if thumbnail else None)


def preprocessed(image: Image.Image, preprocess: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """Applies an encoder's preprocessing to an upright image; raises PhotoError where it fails."""
    try:
        return preprocess(image)
    except Exception as error:  # an odd shape, a lack of memory: one photo, not the job
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
    return upright(image), own_position(data, image.info)

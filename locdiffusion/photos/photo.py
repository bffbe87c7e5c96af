"""Decodes the bytes of a sample to pixels and positions, or says why that fails."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from locdiffusion.photos.archive import Sample
from locdiffusion.photos.exif import exif_position, upright
from locdiffusion.photos.image_formats import (
    HEIF,
    HEIF_REMEDY,
    format_names,
    is_heif,
    open_picture,
    readable_formats,
)
from locdiffusion.photos.thumbnails import small_jpeg
from schemas.geotags import ErrorRow, Stage, Status
from schemas.samples import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, Truth

REDUCE_ABOVE_PIXELS = 25_000_000
"""A JPEG with more pixels is decoded at 1/2, 1/4 or 1/8 of its size; smaller ones as they are."""

REDUCED_SIDE = 1024
"""Fewest pixels on the shorter side after reduced decoding."""


@dataclass(frozen=True)
class PhotoRecord:
    """A decoded photo.

    Attributes:
        key: Key of the sample.
        pixels: Preprocessed pixels, uint8 ``(S, S, 3)``.
        exif: Position that the camera wrote, if it is sound.
        truth: Position in the sample's JSON, if there is one.
        thumbnail: Small JPEG, if it was asked for and could be made.
    """

    key: str
    pixels: np.ndarray
    exif: Truth | None
    truth: Truth | None
    thumbnail: bytes | None = None


def decode_photo(
    sample: Sample, preprocess: Callable[[Image.Image], np.ndarray], thumbnail: bool = False
) -> PhotoRecord | ErrorRow:
    """Decodes one sample; never raises for what is in the bytes.

    Args:
        sample: Sample with an image.
        preprocess: Function from an upright image of any mode to pixels, uint8 ``(S, S, 3)``.
        thumbnail: Whether to make a thumbnail.

    Returns:
        The photo, or the row of errors that takes its place.
    """
    assert sample.image is not None
    truth = sample.sidecar.position if sample.sidecar else None
    try:
        image, exif = open_image(sample.image)
        pixels = preprocessed(image, preprocess)
    except PhotoError as error:
        return ErrorRow(sample.key, Stage.PHOTO, error.status, str(error))
    return PhotoRecord(sample.key, pixels, exif, truth, small_jpeg(image) if thumbnail else None)


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


class PhotoError(ValueError):
    """An image that cannot or must not be decoded."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


def open_image(data: bytes) -> tuple[Image.Image, Truth | None]:
    """Decodes an image and turns it upright.

    Returns:
        The image in its own mode, and its EXIF position if there is a sound one.

    Raises:
        PhotoError: The bytes are too many, are none of `readable_formats`, hold too many pixels
            (noticed before they are decoded) or break off.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise PhotoError(
            Status.TOO_MANY_BYTES,
            f"the image has {len(data):,} bytes, limit {MAX_IMAGE_BYTES:,}; store a smaller one",
        )
    image = _open(data)
    width, height = image.size
    if width * height > MAX_IMAGE_PIXELS:
        raise _too_many_pixels(f"{width} x {height} pixels")
    if image.format == "JPEG" and width * height > REDUCE_ABOVE_PIXELS:
        image.draft("RGB", (REDUCED_SIDE, REDUCED_SIDE))
    # Pillow's parsers raise almost anything on hostile bytes; whatever it is, this photo is broken.
    try:
        image.load()
    except Exception as error:
        raise PhotoError(
            Status.BROKEN_IMAGE,
            f"the {image.format} of {len(data):,} bytes cannot be decoded "
            f"({type(error).__name__}: {error}); copy the photo again from its source",
        ) from None
    return upright(image), exif_position(image)


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Our own limit follows, with a remedy.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return open_picture(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise _too_many_pixels("more than Pillow opens") from None
    except UnidentifiedImageError:
        remedy = "convert the photo before packing it"
        if is_heif(data) and HEIF not in readable_formats():
            remedy = HEIF_REMEDY
        raise PhotoError(
            Status.NOT_AN_IMAGE,
            f"none of {format_names()}: the {len(data):,} bytes begin with {data[:16]!r}; {remedy}",
        ) from None
    except Exception as error:  # hostile bytes again
        raise PhotoError(
            Status.BROKEN_IMAGE,
            f"the header is broken ({type(error).__name__}: {error}); "
            "copy the photo again from its source",
        ) from None


def _too_many_pixels(found: str) -> PhotoError:
    return PhotoError(
        Status.TOO_MANY_PIXELS,
        f"{found}, limit {MAX_IMAGE_PIXELS:,}; scale the photo down before packing it",
    )

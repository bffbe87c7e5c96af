"""Reads what EXIF says of a photo: which way is up, and where the camera was.

A broken EXIF block costs only what cannot be read of it: the picture stays as it was stored, or has
no position.
"""

from __future__ import annotations

import math
from typing import Any

from PIL import ExifTags, Image

from schemas.samples import Truth

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_CARRIERS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")


def upright(image: Image.Image) -> Image.Image:
    """Turns a picture as its EXIF orientation says.

    A turned picture no longer carries EXIF, so that nobody turns it a second time: read its
    position before.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a tag parser on hostile bytes raises almost anything
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    if turn is None:
        return image
    turned = image.transpose(turn)
    for name in _CARRIERS:
        turned.info.pop(name, None)
    return turned


def exif_position(image: Image.Image) -> Truth | None:
    """Reads the GPS position of an opened image that was not turned yet.

    Returns:
        The position, or None where there is no sound one.
    """
    try:
        return read_gps(image.getexif().get_ifd(ExifTags.IFD.GPSInfo))
    except Exception:  # as above
        return None


def read_gps(gps: dict[int, Any]) -> Truth | None:
    """Reads a position out of an EXIF GPS block.

    Args:
        gps: Values by tag number; degrees, minutes and seconds are three rationals.

    Returns:
        The position; None where a part is missing or impossible, or where the position is exactly
        (0, 0), which cameras write when they have no fix.
    """
    latitude = _angle(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), "NS")
    longitude = _angle(
        gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), "EW"
    )
    if latitude is None or longitude is None or latitude == longitude == 0:
        return None
    try:
        return Truth(latitude, longitude)
    except ValueError:
        return None


def _angle(parts: Any, reference: Any, letters: str) -> float | None:
    """Converts three rationals and a hemisphere letter to degrees; None if one is wrong."""
    if isinstance(reference, bytes):
        reference = reference.decode("ascii", "replace")
    if not isinstance(reference, str) or reference.strip("\0 ").upper() not in tuple(letters):
        return None
    try:
        degrees, minutes, seconds = (float(part) for part in parts)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    angle = degrees + minutes / 60 + seconds / 3600
    if not math.isfinite(angle) or min(degrees, minutes, seconds) < 0:
        return None
    return -angle if reference.strip("\0 ").upper() == letters[1] else angle

"""Reads what EXIF says of a photo: which way is up, and where the camera was.

A broken EXIF block costs only what cannot be read of it: the picture stays as it was stored, or has
no position. Only the tags that are named here are read; see `photos.tiff`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping

from PIL import ExifTags, Image

from locdiffusion.photos.carriers import CARRIERS, Blocks, blocks_of_info
from locdiffusion.photos.coordinates import (
    NOTHING,
    Angle,
    CoordinateError,
    Reading,
    Source,
    parse_angle,
    place,
)
from locdiffusion.photos.tiff import (
    ASCII,
    EXIF_IFD,
    GPS_IFD,
    SIGNED,
    UNDEFINED,
    UTF8,
    Field,
    Tiff,
    TiffError,
)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = int(ExifTags.Base.Orientation)
_METHOD = int(ExifTags.GPS.GPSProcessingMethod)
_LATITUDE = int(ExifTags.GPS.GPSLatitude), int(ExifTags.GPS.GPSLatitudeRef)
_LONGITUDE = int(ExifTags.GPS.GPSLongitude), int(ExifTags.GPS.GPSLongitudeRef)
_TEXTS = (ASCII, UNDEFINED, UTF8)
_GPS_TAGS = (*_LATITUDE, *_LONGITUDE, _METHOD)

_CHARSETS = (b"ASCII\0\0\0", b"UNICODE\0", b"JIS\0\0\0\0\0", bytes(8))
"""What stands before a text whose type is undefined (Exif 3.0, table 9)."""

_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|>)([0-9])")


def upright(image: Image.Image) -> Image.Image:
    """Turns a picture as its EXIF orientation says, or that of its XMP where it has no EXIF.

    A turned picture no longer carries either, so that nobody turns it a second time: read its
    position before.
    """
    turn = _TURNS.get(_orientation(blocks_of_info(image.info)))
    if turn is None:
        return image
    turned = image.transpose(turn)
    for name in CARRIERS:
        turned.info.pop(name, None)
    return turned


def _orientation(blocks: Blocks) -> int:
    for block in blocks.exif:
        with contextlib.suppress(TiffError, IndexError, ValueError, OverflowError):
            tiff = Tiff.parse(block)
            found = tiff.find(tiff.first, {_ORIENTATION}).get(_ORIENTATION)
            if found is not None:
                return int(tiff.numbers(found)[0])
    return next((int(found[1]) for found in map(_XMP_ORIENTATION.search, blocks.xmp) if found), 1)


def read_gps(block: bytes) -> Reading:
    """Reads the position out of an EXIF block.

    Args:
        block: Bytes of the block, from its TIFF header on.

    Returns:
        The position; or a problem where the block holds one that cannot be read, or cannot be read
        itself; or neither.
    """
    try:
        tiff = Tiff.parse(block)
        for at in _gps_directories(tiff):
            found = _position(tiff, tiff.find(at, _GPS_TAGS))
            if found.position is not None:
                return found
    except CoordinateError as error:
        return Reading(problem=f"the EXIF has a position that cannot be read: {error}")
    except TiffError as error:
        return Reading(problem=f"the EXIF, which may hold a position, cannot be read: {error}")
    return NOTHING


def _gps_directories(tiff: Tiff) -> list[int]:
    """Returns the offsets of the GPS directories; the first directory points to one, as a rule.

    Raises:
        TiffError: The first directory is broken.
    """
    found = _targets(tiff, tiff.first, GPS_IFD)
    later = tiff.directory(tiff.first)[1]
    for pointer in (EXIF_IFD, None):
        with contextlib.suppress(TiffError):  # often broken, and seldom with GPS tags
            others = _targets(tiff, tiff.first, pointer) if pointer else [later]
            for at in filter(None, others):
                found += _targets(tiff, at, GPS_IFD)
    return found


def _targets(tiff: Tiff, at: int, tag: int) -> list[int]:
    """Returns where a pointer in a directory points: one offset, or none without the pointer."""
    pointer = tiff.find(at, {tag}).get(tag)
    return [int(number) for number in tiff.numbers(pointer)[:1]] if pointer else []


def _position(tiff: Tiff, fields: Mapping[int, Field]) -> Reading:
    angles = [
        _angle(tiff, fields.get(value), fields.get(letter))
        for value, letter in (_LATITUDE, _LONGITUDE)
    ]
    method = tiff.content(fields[_METHOD]) if _METHOD in fields else b""
    method = method.removeprefix(method[:8] if method[:8] in _CHARSETS else b"").replace(b"\0", b"")
    return place(angles, Source.EXIF, method.decode("latin-1").strip())


def _angle(tiff: Tiff, value: Field | None, letter: Field | None) -> Angle | None:
    if value is None:
        return None
    hemisphere = tiff.text(letter) if letter else ""
    if letter and hemisphere[:1].upper() in ("S", "W") and _overlooked(tiff, letter):
        raise CoordinateError(f"other programs overlook the hemisphere {hemisphere[:20]!r}")
    if value.kind not in _TEXTS:
        return Angle(tuple(tiff.numbers(value)), hemisphere, value.kind in SIGNED)
    text = tiff.text(value)
    if text and not hemisphere:
        raise CoordinateError(f"{text[:40]!r} has no hemisphere")
    return parse_angle(text, hemisphere) if text else None


def _overlooked(tiff: Tiff, letter: Field) -> bool:
    """Whether exiftool takes a hemisphere for none, because of its type or a blank before it."""
    text = letter.kind in _TEXTS and (letter.kind != UNDEFINED or letter.length > 1)
    return not text or tiff.content(letter)[:1].isspace()

"""Reads what EXIF says of a photo: which way is up, and where, when and with what it was taken.

A broken EXIF block costs only what cannot be read of it: the picture stays as it was stored, or has
no position or no time. Only the tags that are named here are read; see `photos.tiff`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping

from PIL import ExifTags, Image

from locdiffusion.photos.capture_time import Camera, CaptureTime, TimeSource, parse_time
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
_TAG = ExifTags.Base
_ORIENTATION = int(_TAG.Orientation)
_METHOD = int(ExifTags.GPS.GPSProcessingMethod)
_LATITUDE = int(ExifTags.GPS.GPSLatitude), int(ExifTags.GPS.GPSLatitudeRef)
_LONGITUDE = int(ExifTags.GPS.GPSLongitude), int(ExifTags.GPS.GPSLongitudeRef)
_TEXTS = (ASCII, UNDEFINED, UTF8)


def _time_tags(kind: str) -> tuple[int, ...]:
    names = (f"{tag}{kind}" for tag in ("DateTime", "OffsetTime", "SubsecTime"))
    return tuple(int(getattr(_TAG, name)) for name in names)


_TIMES = {
    TimeSource.EXIF_ORIGINAL: _time_tags("Original"),
    TimeSource.EXIF_DIGITIZED: _time_tags("Digitized"),
    TimeSource.EXIF_MODIFIED: _time_tags(""),
}
"""Tags of a time, of its offset and of its sub-seconds, by source."""

_GPS_DATE, _GPS_TIME = int(ExifTags.GPS.GPSDateStamp), int(ExifTags.GPS.GPSTimeStamp)
_CAMERA = (_TAG.Make, _TAG.Model, _TAG.BodySerialNumber, _TAG.CameraOwnerName)
"""Tags of make, model, serial number of the body, and owner."""
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


def read_times(block: bytes) -> dict[TimeSource, CaptureTime]:
    """Reads the times in an EXIF block, by their source; GPS has UTC.

    Args:
        block: Bytes of the block, from its TIFF header on.
    """
    found: dict[TimeSource, CaptureTime] = {}
    with contextlib.suppress(TiffError):
        tiff = Tiff.parse(block)
        texts = _texts(tiff, {tag for tags in _TIMES.values() for tag in tags})
        for source, tags in _TIMES.items():
            time = parse_time(texts[tags[0]], source, texts[tags[1]], texts[tags[2]])
            if time is not None:
                found[source] = time
        for at in _gps_directories(tiff):
            time = _gps_time(tiff, tiff.find(at, (_GPS_DATE, _GPS_TIME)))
            if time is not None:
                found.setdefault(TimeSource.GPS, time)
    return found


def _gps_time(tiff: Tiff, fields: Mapping[int, Field]) -> CaptureTime | None:
    if _GPS_DATE not in fields or _GPS_TIME not in fields:
        return None
    numbers = tiff.numbers(fields[_GPS_TIME])
    if len(numbers) != 3 or not all(0 <= number <= 60 for number in numbers):
        return None
    minutes, seconds = divmod(3600 * numbers[0] + 60 * numbers[1] + numbers[2], 60)
    clock = f"{minutes // 60:02.0f}:{minutes % 60:02.0f}:{seconds:09.6f}"
    return parse_time(f"{tiff.text(fields[_GPS_DATE])} {clock}Z", TimeSource.GPS)


def read_camera(block: bytes) -> Camera:
    """Reads the names and numbers of the camera in an EXIF block.

    Args:
        block: Bytes of the block, from its TIFF header on.
    """
    with contextlib.suppress(TiffError):
        texts = _texts(Tiff.parse(block), _CAMERA)
        return Camera(*(texts[tag] for tag in _CAMERA))
    return Camera()


def _texts(tiff: Tiff, tags: Collection[int]) -> dict[int, str]:
    """Reads texts of the first directory and that of EXIF; empty where there is none to read."""
    found = dict.fromkeys(tags, "")
    for pointer in (None, EXIF_IFD):
        with contextlib.suppress(TiffError):
            for at in _targets(tiff, tiff.first, pointer) if pointer else [tiff.first]:
                for tag, field in tiff.find(at, tags).items():
                    with contextlib.suppress(TiffError):
                        found[tag] = found[tag] or (
                            tiff.text(field) if field.kind in _TEXTS else ""
                        )
    return found


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

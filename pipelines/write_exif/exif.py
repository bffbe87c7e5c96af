"""Writes a position into the EXIF block of a JPEG without touching anything else in the file.

The picture is not decoded. A TIFF block is addressed by offsets from its start, so the new GPS
directory and a copy of the first directory that points to it are appended behind what is there:
maker notes, thumbnails and all other tags stay where they are, to the byte (CIPA DC-008, Exif 3.0,
§4.5-4.6).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction

_SOI, _APP0, _APP1, _EXIF = b"\xff\xd8", 0xE0, 0xE1, b"Exif\0\0"
_MAX_SEGMENT = 65_535 - 2
_GPS_POINTER = 0x8825
_BYTE, _ASCII, _LONG, _RATIONAL, _UNDEFINED = 1, 2, 4, 5, 7
_VERSION, _LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 0, 1, 2, 3, 4
_DATUM, _METHOD, _AREA, _ERROR_M = 18, 27, 28, 31

Entry = tuple[int, int, int, bytes]
"""Tag, type, count, and the bytes of the value: the four in the directory, or all that are new."""


class ExifError(ValueError):
    """The metadata of a file cannot be extended safely."""


@dataclass(frozen=True)
class Position:
    """Position that is written.

    Attributes:
        latitude: Latitude in degrees, WGS84.
        longitude: Longitude in degrees, WGS84.
        error_km: Horizontal error in km; becomes `GPSHPositioningError` in metres.
        method: Way in which the position was found; becomes `GPSProcessingMethod`.
        note: Text for people; becomes `GPSAreaInformation`.
    """

    latitude: float
    longitude: float
    error_km: float
    method: str
    note: str


def with_position(jpeg: bytes, position: Position) -> bytes:
    """Returns a copy of a JPEG with a position in its EXIF.

    Raises:
        ExifError: The file is no JPEG, or its EXIF block is broken or has no room.
    """
    start, stop, tiff = _find_exif(jpeg)
    body = _EXIF + _with_gps(tiff, position)
    if len(body) > _MAX_SEGMENT:
        raise ExifError(f"the EXIF block would have {len(body):,} bytes, limit {_MAX_SEGMENT:,}")
    segment = struct.pack(">BBH", 0xFF, _APP1, len(body) + 2) + body
    return jpeg[:start] + segment + jpeg[stop:]


def _find_exif(jpeg: bytes) -> tuple[int, int, bytes]:
    """Finds the first and last byte of the EXIF segment and its TIFF block; empty if none."""
    if jpeg[:2] != _SOI:
        raise ExifError(f"no JPEG: the file begins with {jpeg[:4]!r}")
    at = place = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if not (_APP0 <= marker <= 0xEF or marker == 0xFE):
            break
        (length,) = struct.unpack(">H", jpeg[at + 2 : at + 4])
        stop = at + 2 + length
        if marker == _APP1 and jpeg[at + 4 : at + 10] == _EXIF:
            return at, stop, jpeg[at + 10 : stop]
        if marker == _APP0:
            place = stop  # JFIF wants to be first
        at = stop
    return place, place, b"II*\0\x08\0\0\0" + b"\0\0" + b"\0\0\0\0"


def _with_gps(tiff: bytes, position: Position) -> bytes:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        raise ExifError(f"the EXIF block begins with {tiff[:4]!r}, wanted II*\\0 or MM\\0*")
    first, after = _directory(tiff, _offset(tiff, 4, order), order)
    old = next((raw for tag, *_, raw in first if tag == _GPS_POINTER), None)
    kept = _directory(tiff, struct.unpack(order + "I", old)[0], order)[0] if old else []
    ours = _gps_entries(position, order)
    written = {tag for tag, *_ in ours}
    gps = sorted([entry for entry in kept if entry[0] not in written] + ours, key=lambda e: e[0])
    out = tiff + b"\0" * (len(tiff) % 2)
    gps_at = len(out)
    out += _packed(gps, gps_at, 0, order)
    out += b"\0" * (len(out) % 2)
    pointer = (_GPS_POINTER, _LONG, 1, struct.pack(order + "I", gps_at))
    others = [entry for entry in first if entry[0] != _GPS_POINTER]
    first_at = len(out)
    out += _packed(sorted([*others, pointer], key=lambda e: e[0]), first_at, after, order)
    return out[:4] + struct.pack(order + "I", first_at) + out[8:]


def _offset(tiff: bytes, at: int, order: str) -> int:
    found: int = struct.unpack_from(order + "I", tiff, at)[0] if at + 4 <= len(tiff) else -1
    if not 8 <= found < len(tiff):
        raise ExifError(f"the EXIF block of {len(tiff):,} bytes points to byte {found:,}")
    return found


def _directory(tiff: bytes, at: int, order: str) -> tuple[list[Entry], int]:
    """Reads the entries of a directory, with their four value bytes, and the next offset."""
    if not 8 <= at <= len(tiff) - 2:
        raise ExifError(f"the EXIF block of {len(tiff):,} bytes points to byte {at:,}")
    (count,) = struct.unpack_from(order + "H", tiff, at)
    end = at + 2 + 12 * count
    if end + 4 > len(tiff):
        raise ExifError(f"a directory of {count:,} tags does not fit into the EXIF block")
    entries = [struct.unpack_from(order + "HHI4s", tiff, at + 2 + 12 * i) for i in range(count)]
    return entries, struct.unpack_from(order + "I", tiff, end)[0]


def _packed(entries: list[Entry], at: int, after: int, order: str) -> bytes:
    """Packs a directory for an offset, followed by the values of more than four bytes."""
    table = struct.pack(order + "H", len(entries))
    values = b""
    values_at = at + 2 + 12 * len(entries) + 4
    for tag, kind, count, raw in entries:
        if len(raw) > 4:
            raw, values = struct.pack(order + "I", values_at + len(values)), values + raw
            values += b"\0" * (len(values) % 2)
        table += struct.pack(order + "HHI4s", tag, kind, count, raw.ljust(4, b"\0"))
    return table + struct.pack(order + "I", after) + values


def _gps_entries(position: Position, order: str) -> list[Entry]:
    method = b"ASCII\0\0\0" + position.method.encode("ascii", "replace")
    note = b"ASCII\0\0\0" + position.note.encode("ascii", "replace")
    error_m = Fraction(round(position.error_km * 1000), 1)
    return [
        (_VERSION, _BYTE, 4, bytes([2, 4, 0, 0])),
        (_LATITUDE_REF, _ASCII, 2, b"N\0" if position.latitude >= 0 else b"S\0"),
        (_LATITUDE, _RATIONAL, 3, _rationals(_sexagesimal(position.latitude), order)),
        (_LONGITUDE_REF, _ASCII, 2, b"E\0" if position.longitude >= 0 else b"W\0"),
        (_LONGITUDE, _RATIONAL, 3, _rationals(_sexagesimal(position.longitude), order)),
        (_DATUM, _ASCII, 7, b"WGS-84\0"),
        (_METHOD, _UNDEFINED, len(method), method),
        (_AREA, _UNDEFINED, len(note), note),
        (_ERROR_M, _RATIONAL, 1, _rationals([error_m], order)),
    ]


def _sexagesimal(degrees: float) -> list[Fraction]:
    """Converts degrees to degrees, minutes, and seconds to 1/10000 (3 mm)."""
    if not math.isfinite(degrees):
        raise ExifError(f"the position is {degrees}, wanted a number of degrees")
    ticks = round(abs(degrees) * 36_000_000)
    whole, rest = divmod(ticks, 36_000_000)
    minutes, ticks = divmod(rest, 600_000)
    return [Fraction(whole), Fraction(minutes), Fraction(ticks, 10_000)]


def _rationals(values: list[Fraction], order: str) -> bytes:
    return b"".join(struct.pack(order + "II", v.numerator, v.denominator) for v in values)

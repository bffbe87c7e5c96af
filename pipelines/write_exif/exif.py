"""Writes an estimated position into the EXIF block of a JPEG; nothing else in the file changes.

A TIFF block is addressed by offsets from its start, so the new GPS directory is appended behind
what is there: maker notes, thumbnails and all other tags stay where they are, to the byte (CIPA
DC-008, Exif 3.0, §4.5-4.6).
"""

from __future__ import annotations

import contextlib
import math
import struct
from dataclasses import dataclass
from fractions import Fraction

from locdiffusion.photos.tiff import (
    ASCII,
    BYTE,
    EXIF_IFD,
    GPS_IFD,
    LONG,
    RATIONAL,
    SHORT,
    UNDEFINED,
    Field,
    Tiff,
    TiffError,
)
from pipelines.write_exif.jpeg import UnsafeError, read_header, with_exif
from pipelines.write_exif.xmp import without_position

MAX_POINTERS = 4
"""Most pointers to directories of EXIF, and of GPS; a block has one, or two of careless hands."""

_EMPTY = b"II*\0\x08\0\0\0" + b"\0\0" + b"\0\0\0\0"
_VERSION, _LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 0, 1, 2, 3, 4
_DATUM, _METHOD, _AREA, _ERROR_M = 18, 27, 28, 31
_MEASUREMENT = (8, 9, 10, 11, 30)
"""Satellites, status, measure mode, DOP, differential: how a receiver measured the position."""


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
    """Returns a copy of a JPEG with an estimated position in its EXIF.

    Of an earlier GPS block the time, altitude, speed and directions stay; what it says of another
    position goes. In the XMP, another position is overwritten with spaces.

    Raises:
        JpegError: The file is no JPEG, or a broken one.
        TiffError: Its EXIF block is broken.
        UnsafeError: Something else in the file would break.
    """
    header = read_header(jpeg)
    tiff = header.exif.data[6:] or _EMPTY
    return with_exif(without_position(jpeg, header), header, _with_gps(tiff, position))


def _with_gps(block: bytes, position: Position) -> bytes:
    tiff = Tiff.parse(block)
    fields, after = tiff.directory(tiff.first)
    first = list(fields)
    _refuse_many(first, EXIF_IFD)
    _refuse_cut(tiff, first)
    out = bytearray(block + b"\0" * (len(block) % 2))
    old = [one for one in first if one.tag == GPS_IFD]
    for at in [*(_offset(tiff, one) for one in first if one.tag == EXIF_IFD), after]:
        old += _take_pointers(tiff, at, out)
    _refuse_many(old, GPS_IFD)
    gps_at = len(out)
    out += _packed(_gps_fields(tiff, old, position), gps_at, 0, tiff.order)
    out += b"\0" * (len(out) % 2)
    struct.pack_into(tiff.order + "I", out, 4, len(out))
    others = [one for one in first if one.tag != GPS_IFD]
    pointer = Field(GPS_IFD, LONG, 1, struct.pack(tiff.order + "I", gps_at))
    return bytes(out + _packed([*others, pointer], len(out), after, tiff.order))


def _refuse_many(fields: list[Field], tag: int) -> None:
    """Refuses a block with so many pointers that following them all would take hours.

    Raises:
        UnsafeError: It has more than MAX_POINTERS of this tag.
    """
    count = sum(one.tag == tag for one in fields)
    if count > MAX_POINTERS:
        raise UnsafeError(f"it has {count:,} pointers {tag:#x}, wanted at most {MAX_POINTERS}")


def _refuse_cut(tiff: Tiff, first: list[Field]) -> None:
    """Refuses tags whose values lie behind the block: what is appended would become their values.

    Raises:
        UnsafeError: There is one, in the first directory or in that of EXIF.
    """
    fields = list(first)
    for pointer in first:
        if pointer.tag == EXIF_IFD:
            with contextlib.suppress(TiffError):
                fields += tiff.directory(_offset(tiff, pointer))[0]
    for one in fields:
        if tiff.is_cut(one):
            raise UnsafeError(f"the value of its tag {one.tag:#x} lies behind the EXIF block")


def _take_pointers(tiff: Tiff, at: int, out: bytearray) -> list[Field]:
    """Takes pointers to GPS directories out of a directory where they do not belong."""
    try:
        fields, after = tiff.directory(at)
    except TiffError:
        return []
    found = list(fields)
    kept = [one for one in found if one.tag != GPS_IFD]
    if len(kept) < len(found):
        table = _packed(kept, at, after, tiff.order)
        out[at : at + len(table)] = table
    return [one for one in found if one.tag == GPS_IFD]


def _offset(tiff: Tiff, pointer: Field) -> int:
    code = "H" if pointer.kind == SHORT else "I"
    return int(struct.unpack_from(tiff.order + code, pointer.raw)[0])


def _packed(fields: list[Field], at: int, after: int, order: str) -> bytes:
    """Packs a directory for an offset, followed by the values of more than four bytes."""
    table = struct.pack(order + "H", len(fields))
    values = b""
    values_at = at + 2 + 12 * len(fields) + 4
    for tag, kind, count, raw in sorted(fields, key=lambda one: one.tag):
        if len(raw) > 4:
            raw, values = struct.pack(order + "I", values_at + len(values)), values + raw
            values += b"\0" * (len(values) % 2)
        table += struct.pack(order + "HHI4s", tag, kind, count, raw.ljust(4, b"\0"))
    return table + struct.pack(order + "I", after) + values


def _gps_fields(tiff: Tiff, pointers: list[Field], position: Position) -> list[Field]:
    """Returns the new GPS directory: ours, and of the old ones what is still true."""
    fields = {one.tag: one for one in _estimate(position, tiff.order)}
    for pointer in pointers:
        with contextlib.suppress(TiffError):  # what nobody can read is not kept
            for one in tiff.directory(_offset(tiff, pointer))[0]:
                if one.tag not in _MEASUREMENT and not tiff.is_cut(one):
                    fields.setdefault(one.tag, one)
    return list(fields.values())


def _estimate(position: Position, order: str) -> list[Field]:
    method = b"ASCII\0\0\0" + position.method.encode("ascii", "replace")
    note = b"ASCII\0\0\0" + position.note.encode("ascii", "replace")
    error_m = Fraction(round(position.error_km * 1000), 1)
    return [
        Field(_VERSION, BYTE, 4, bytes([2, 4, 0, 0])),
        Field(_LATITUDE_REF, ASCII, 2, b"N\0" if position.latitude >= 0 else b"S\0"),
        Field(_LATITUDE, RATIONAL, 3, _rationals(_sexagesimal(position.latitude), order)),
        Field(_LONGITUDE_REF, ASCII, 2, b"E\0" if position.longitude >= 0 else b"W\0"),
        Field(_LONGITUDE, RATIONAL, 3, _rationals(_sexagesimal(position.longitude), order)),
        Field(_DATUM, ASCII, 7, b"WGS-84\0"),
        Field(_METHOD, UNDEFINED, len(method), method),
        Field(_AREA, UNDEFINED, len(note), note),
        Field(_ERROR_M, RATIONAL, 1, _rationals([error_m], order)),
    ]


def _sexagesimal(degrees: float) -> list[Fraction]:
    """Converts degrees to degrees, minutes, and seconds to 1/10000 (3 mm)."""
    if not math.isfinite(degrees):
        raise ValueError(f"the position is {degrees}, wanted a number of degrees")
    ticks = round(abs(degrees) * 36_000_000)
    whole, rest = divmod(ticks, 36_000_000)
    minutes, ticks = divmod(rest, 600_000)
    return [Fraction(whole), Fraction(minutes), Fraction(ticks, 10_000)]


def _rationals(values: list[Fraction], order: str) -> bytes:
    return b"".join(struct.pack(order + "II", v.numerator, v.denominator) for v in values)

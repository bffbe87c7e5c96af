"""Replaces the EXIF segment of a JPEG so that every other byte, and all that points to it, holds.

The picture is not decoded. What follows the EXIF segment moves, and two things may point there:
the index of a multi-picture file (APP2 `MPF`, CIPA DC-007, §5.2), which is corrected, and maker
notes or signatures, which cannot be: such a file is refused.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from locdiffusion.photos.carriers import exif_start
from locdiffusion.photos.file_structure import EOI, SOS, jpeg_segments
from locdiffusion.photos.tiff import Tiff, TiffError

EXIF, XMP, MPF = b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0"
EXIF_HEADER = b"Exif\0\0"
MAX_SEGMENT_BYTES = 65_535 - 2

_SOI = b"\xff\xd8"
_APP0, _APP1, _APP2, _APP11, _APP13 = 0xE0, 0xE1, 0xE2, 0xEB, 0xED
_WITHOUT_LENGTH = (0x01, 0xD8)
_MP_ENTRIES, _MP_ENTRY_BYTES = 0xB002, 16
_KINDS = range(1, 14)  # of values in a TIFF directory
_PHOTOSHOP_METADATA = re.compile(rb"8BIM\x04[\x22\x23\x24]")  # EXIF and XMP once more
_AFCP = re.compile(rb"AXS(?:!(.{4})|[*](.{4}))", re.DOTALL)  # its place in the file, at its end
_ITEMS = re.compile(rb":(?:li|Item)\b")
_PRIMARY = re.compile(rb":Semantic\s*(?:=\s*[\"']|>)\s*Primary")
_LENGTH = re.compile(rb":Length\s*(?:=\s*[\"']|>)\s*0*[1-9]")


class JpegError(ValueError):
    """The file is no JPEG, or a broken one."""


class UnsafeError(ValueError):
    """A JPEG that cannot be changed without breaking something else in it."""


@dataclass(frozen=True)
class Segment:
    """One segment of a JPEG's header.

    Attributes:
        marker: Second byte of its marker.
        start: Position of its marker in the file.
        stop: Position behind its last byte.
        data: Bytes behind its length.
    """

    marker: int
    start: int
    stop: int
    data: bytes


@dataclass(frozen=True)
class Header:
    """What stands before the pixels of a JPEG.

    Attributes:
        segments: All segments before the first scan, in order.
        scan: Position of the first scan.
    """

    segments: tuple[Segment, ...]
    scan: int

    def app(self, number: int, beginning: bytes) -> list[Segment]:
        """Returns the application segments with a number whose data begin so."""
        return [
            segment
            for segment in self.segments
            if segment.marker == _APP0 + number and segment.data.startswith(beginning)
        ]

    @property
    def exif(self) -> Segment:
        """EXIF segment; without data, where it belongs, if there is none.

        Raises:
            UnsafeError: There are several, or other bytes are before it.
        """
        found = [one for one in self.app(1, b"") if exif_start(one.data) >= 0]
        if len(found) > 1 or not all(one.data.startswith(EXIF) for one in found):
            raise UnsafeError(
                f"it has {len(found)} EXIF segments, wanted one that begins with Exif"
            )
        if found:
            return found[0]
        place = 2
        for segment in self.segments:  # JFIF wants to be first
            if segment.marker != _APP0:
                break
            place = segment.stop
        return Segment(_APP1, place, place, b"")


def read_header(jpeg: bytes) -> Header:
    """Reads the segments of a JPEG up to its first scan.

    Raises:
        JpegError: The file is no JPEG, or it breaks off or is damaged before the scan.
    """
    if jpeg[:2] != _SOI:
        raise JpegError(f"no JPEG: the file begins with {jpeg[:4]!r}")
    segments: list[Segment] = []
    stop = 2
    for marker, at in jpeg_segments(jpeg):
        if marker == SOS:
            return Header(tuple(segments), at)
        if marker in _WITHOUT_LENGTH:
            continue
        start, stop = at - 2, at + int.from_bytes(jpeg[at : at + 2], "big")
        if not at + 2 <= stop <= len(jpeg) or marker == EOI:
            break
        segments.append(Segment(marker, start, stop, jpeg[at + 2 : stop]))
    raise JpegError(f"the JPEG is broken at byte {stop:,}, before its pixels")


def with_exif(jpeg: bytes, header: Header, tiff: bytes) -> bytes:
    """Returns a copy of a JPEG with another TIFF block in its EXIF segment.

    Args:
        jpeg: Bytes of the file.
        header: Its header.
        tiff: The new block.

    Raises:
        UnsafeError: The block is too long, or something in the file would no longer hold.
    """
    old = header.exif
    data = (old.data[:6] or EXIF_HEADER) + tiff
    if len(data) > MAX_SEGMENT_BYTES:
        raise UnsafeError(
            f"the EXIF block would have {len(data):,} bytes, limit {MAX_SEGMENT_BYTES:,}"
        )
    _refuse_what_breaks(jpeg, header)
    segment = struct.pack(">BBH", 0xFF, _APP1, len(data) + 2) + data
    growth = len(segment) - (old.stop - old.start)
    copy = bytearray(jpeg[: old.start] + segment + jpeg[old.stop :])
    for index in header.app(2, MPF):
        _move_pictures(copy, index, old, growth)
    return bytes(copy)


def _refuse_what_breaks(jpeg: bytes, header: Header) -> None:
    if any(b"jumb" in one.data and b"c2pa" in one.data for one in header.app(11, b"")):
        raise UnsafeError("its content credentials (C2PA) sign the whole file")
    if any(_PHOTOSHOP_METADATA.search(one.data) for one in header.app(13, b"")):
        raise UnsafeError("a Photoshop segment (APP13) holds a second EXIF or XMP block")
    for xmp in header.app(1, XMP):
        items = _ITEMS.split(xmp.data)
        if any(_PRIMARY.search(item) and _LENGTH.search(item) for item in items):
            raise UnsafeError("its XMP states the length of the first picture")
    end = jpeg.find(b"\xff\xd9", header.scan) + 2  # of the first picture
    if end in (1, len(jpeg)):
        return
    for found in _AFCP.finditer(jpeg, end):
        place = int.from_bytes(found[1] or b"", "big") + int.from_bytes(found[2] or b"", "little")
        if place and jpeg.startswith(b"AXS", place):
            raise UnsafeError("a block behind the pixels (AFCP) counts from the start of the file")
    tiff_at = header.exif.start + 10
    tiff = header.exif.data[6:]
    for place in sorted(tiff_at + offset for offset in _pointed_at(tiff)):
        if place == end or (place > end and jpeg.startswith(b"\xff\xd8\xff", place)):
            raise UnsafeError(f"its EXIF block points to byte {place:,}, behind the pixels")


def _pointed_at(tiff: bytes) -> set[int]:
    """Returns the offsets in an EXIF block; a small one counts only as a directory's entry."""
    found = set()
    for order in "<>":
        number, entry = struct.Struct(order + "I"), struct.Struct(order + "HI")
        for at in range(len(tiff) - 3):
            (offset,) = number.unpack_from(tiff, at)
            kind, count = entry.unpack_from(tiff, at - 6) if at >= 8 else (0, 0)
            if offset > MAX_SEGMENT_BYTES or (kind in _KINDS and count):
                found.add(offset)
    return found


def _move_pictures(copy: bytearray, index: Segment, exif: Segment, growth: int) -> None:
    """Corrects the index of a multi-picture file: the first picture's size, the others' places."""
    base = index.start + 4 + len(MPF)
    moved = base + (growth if base >= exif.stop else 0)
    block = index.data[len(MPF) :]
    try:
        tiff = Tiff.parse(block)
        order = tiff.order
        entries = tiff.find(tiff.first, {_MP_ENTRIES}).get(_MP_ENTRIES)
        if entries is None:
            return
        (at,) = struct.unpack(order + "I", entries.raw)
        if entries.length % _MP_ENTRY_BYTES or at + entries.length > len(block):
            raise TiffError("it is cut off")
        for entry in range(at, at + entries.length, _MP_ENTRY_BYTES):
            length, offset = struct.unpack_from(order + "II", block, entry + 4)
            start = base + offset if offset else 0
            if length and start <= exif.start < start + length:
                length += growth
            if offset:
                offset = start + (growth if start >= exif.stop else 0) - moved
            struct.pack_into(order + "II", copy, moved + entry + 4, length, offset)
    except (TiffError, struct.error):
        raise UnsafeError("the index of its pictures (MPF) is broken") from None

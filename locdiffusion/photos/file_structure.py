"""Walks the structure of a picture's file: its parts, and where a whole one would end.

Nothing here decodes pixels, and nothing raises for what is in the bytes. Every walk ends after
MAX_PARTS parts.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from locdiffusion.photos.image_formats import AVIF, BMP, GIF, HEIF, JPEG, JPEG2000, PNG, TIFF, WEBP
from locdiffusion.photos.tiff_layout import COMPRESSION, TiffLayout

SOS, EOI = 0xDA, 0xD9
MAX_TEXT_BYTES = 4 * 2**20
"""Longest text of a PNG, such as its XMP or its EXIF as text, that is kept."""

MAX_PARTS = 2**19
"""Most segments, chunks, boxes or blocks of a file: those of 64 MiB in parts of 128 bytes."""

_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
PNG_START = 8
PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
PNG_KEYWORDS = (b"XML:com.adobe.xmp\0", b"Raw profile type ")
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of the segment of a JPEG that tells its size and its components."""
_RARE_FRAMES = FRAMES - {0xC0, 0xC1, 0xC2}  # lossless, hierarchical, arithmetic
_TIFF_USUAL = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946}


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields the marker of each segment of a JPEG and the place behind its two bytes."""
    at = 0
    for _ in range(MAX_PARTS):
        if not (found := _MARKER.search(data, at)):
            return
        marker, at = found[1][0], found.end()
        yield marker, at
        if marker == EOI:
            return
        if marker != 0xD8 and marker != 0x01:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields the type of each chunk of a PNG, its start and its end, perhaps behind the file's."""
    at = PNG_START
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            return
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        yield kind, at, end
        if kind == b"IEND" or not kind.isalpha():
            return
        at = end


def riff_chunks(
    data: bytes, at: int = 12, end: int | None = None
) -> Iterator[tuple[bytes, int, int]]:
    """Yields the type of each chunk of a WebP, its start and its end, perhaps behind the file's."""
    for _ in range(MAX_PARTS):
        if at + 8 > (len(data) if end is None else end):
            return
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at, at + 8 + length + length % 2
        at += 8 + length + length % 2


def boxes(data: bytes, at: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yields the type of each box of an ISO file, where its body starts, and where it ends.

    A box of length 0 reaches to the end; after one that is too short nothing follows.
    """
    last = len(data) if end is None else end
    for _ in range(MAX_PARTS):
        if at + 8 > last:
            return
        length, head = int.from_bytes(data[at : at + 4], "big"), 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        length = length or last - at
        if length < head:
            return
        yield data[at + 4 : at + 8], at + head, at + length
        at += length


def wanted_bytes(kind: str, data: bytes) -> int:
    """Computes how long a picture's file would be if it were whole, as far as its structure says.

    Args:
        kind: Pillow's name of the format.
        data: Bytes of the file.

    Returns:
        At least so many bytes; more than `data` has if the file breaks off, less or 0 if that
        cannot be said.
    """
    size = len(data)
    if kind == JPEG:
        return 0 if any(marker == EOI for marker, _ in jpeg_segments(data)) else size + 2
    if kind == PNG:
        chunks = list(png_chunks(data))
        if not chunks:
            return size + 12
        last, _, end = chunks[-1]
        return end if last == b"IEND" else max(end, size) + 12 if last.isalpha() else 0
    if kind == WEBP:
        return 8 + int.from_bytes(data[4:8], "little")
    if kind in (HEIF, AVIF) or (kind == JPEG2000 and not data.startswith(b"\xff")):
        return _boxes_end(data)
    if kind == JPEG2000:
        return 0 if data.rstrip(b"\0").endswith(b"\xff\xd9") else size + 2
    if kind == GIF:
        return gif_walk(data).end
    return _bmp_end(data) if kind == BMP else TiffLayout(data).end


def canvas(kind: str, data: bytes) -> tuple[int, int]:
    """Reads width and height of formats for which Pillow does more than that; others give 0, 0."""

    def number(at: int, width: int) -> int:
        return int.from_bytes(data[at : at + width], "little")

    if kind == GIF:
        at = gif_walk(data).start
        left, top, width, height = (number(at + 1 + 2 * i, 2) for i in range(4))
        return max(number(6, 2), left + width), max(number(8, 2), top + height)
    if kind != WEBP:
        return 0, 0
    if data[12:16] == b"VP8X":
        return number(24, 3) + 1, number(27, 3) + 1
    if data[12:16] == b"VP8L":
        return (number(21, 4) & 0x3FFF) + 1, (number(21, 4) >> 14 & 0x3FFF) + 1
    return number(26, 2) & 0x3FFF, number(28, 2) & 0x3FFF


def is_rare(kind: str, data: bytes) -> bool:
    """Returns whether a JPEG or TIFF is coded in a way that many programs do not read."""
    if kind == JPEG:
        return any(marker in _RARE_FRAMES for marker, _ in jpeg_segments(data))
    coded = TiffLayout(data).numbers(COMPRESSION) if kind == TIFF else ()
    return not _TIFF_USUAL.issuperset(coded)


def png_text(name: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Returns the keyword and the text of a PNG's chunk; no text if it is too long or broken."""
    keyword, _, text = body.partition(b"\0")
    packed = name == b"zTXt"
    if name == b"iTXt":
        packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
    elif packed:
        text = text[1:]
    if packed:
        try:
            text = zlib.decompressobj().decompress(text, MAX_TEXT_BYTES + 1)
        except zlib.error:
            text = b""
    return keyword, text if len(text) <= MAX_TEXT_BYTES else b""


def _boxes_end(data: bytes) -> int:
    """Returns the end of the last box of an ISO file."""
    at, names = 0, set()
    for name, _, end in boxes(data):
        names.add(name)
        at = end
    if at < len(data) and 0 < int.from_bytes(data[at : at + 4], "big") < 8:
        return 0
    return at if at >= len(data) and names & {b"mdat", b"jp2c"} else max(at, len(data)) + 8


class GifWalk(NamedTuple):
    """The way to the first picture of a GIF.

    Attributes:
        left_out: Start and end of each extension that the picture does not need.
        start: Start of the picture, or of what stands there instead.
        end: End of the picture; 0 where something else stands.
        parts: Number of blocks on the way.
    """

    left_out: list[tuple[int, int]]
    start: int
    end: int
    parts: int


def gif_walk(data: bytes) -> GifWalk:
    """Walks to the end of a GIF's first picture."""
    left_out: list[tuple[int, int]] = []
    at, parts = 13 + _palette_bytes(data[10:11]), 0
    while data[at : at + 1] == b"\x21" and parts < MAX_PARTS:
        start = at
        at, blocks = _blocks_end(data, at + 2, MAX_PARTS - parts)
        parts += blocks
        if data[start + 1 : start + 2] != b"\xf9" and at <= len(data):
            left_out.append((start, at))
    if at >= len(data):
        return GifWalk(left_out, at, at + 1, parts)
    if data[at] != 0x2C:
        return GifWalk(left_out, at, 0, parts)
    pixels = at + 11 + _palette_bytes(data[at + 9 : at + 10])
    end, blocks = _blocks_end(data, pixels, MAX_PARTS - parts)
    return GifWalk(left_out, at, end, parts + blocks)


def _palette_bytes(flags: bytes) -> int:
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _blocks_end(data: bytes, at: int, most: int) -> tuple[int, int]:
    """Returns the end of a row of blocks, and how many they are."""
    for blocks in range(1, most + 1):
        if at >= len(data) or not data[at]:
            return at + 1, blocks
        at += data[at] + 1
    return at, most


def _bmp_end(data: bytes) -> int:
    start, header = (int.from_bytes(data[at : at + 4], "little") for at in (10, 14))
    if header < 40 or len(data) < 34 or data[30] not in (0, 3):
        return int.from_bytes(data[2:6], "little")
    width, height = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (18, 22))
    bits = int.from_bytes(data[28:30], "little")
    return start + (width * bits + 31) // 32 * 4 * abs(height)

"""Walks the structure of a picture's file: where a whole one would end, and what can be left out.

Nothing here decodes pixels, and nothing raises for what is in the bytes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from locdiffusion.photos.image_formats import AVIF, BMP, GIF, HEIF, JPEG, JPEG2000, PNG, TIFF, WEBP

SOS, EOI = 0xDA, 0xD9
MAX_TEXT_BYTES = 4 * 2**20
"""Longest text of a PNG, such as its XMP or its EXIF as text, that is kept."""

_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
_PNG_START = 8
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"}
PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
PNG_KEYWORDS = (b"XML:com.adobe.xmp\0", b"Raw profile type ")
_RARE_FRAMES = {*range(0xC3, 0xD0)} - {0xC4, 0xC8, 0xCC}  # lossless, hierarchical, arithmetic
_TIFF_COMPRESSION = 259
_TIFF_USUAL = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946}
_TIFF_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_PIXELS = (273, 279, 324, 325)  # offsets and lengths of strips, then of tiles


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields the marker of each segment of a JPEG and the place behind its two bytes."""
    at = 0
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        yield marker, at
        if marker == EOI:
            return
        if marker != 0xD8 and marker != 0x01:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields the type of each chunk of a PNG, its start and its end, perhaps behind the file's."""
    at = _PNG_START
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        yield kind, at, end
        if kind == b"IEND" or not kind.isalpha():
            return
        at = end


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
        return _gif_end(data)
    return _bmp_end(data) if kind == BMP else _tiff_end(data)


def canvas(kind: str, data: bytes) -> tuple[int, int]:
    """Reads width and height of formats for which Pillow does more than that; others give 0, 0."""

    def number(at: int, width: int) -> int:
        return int.from_bytes(data[at : at + width], "little")

    if kind == GIF:
        _, at = _gif_walk(data)
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
    coded = _tiff_numbers(data)[0].get(_TIFF_COMPRESSION, ()) if kind == TIFF else ()
    return not _TIFF_USUAL.issuperset(coded)


def without_ancillary(kind: str, data: bytes) -> bytes:
    """Leaves out what a picture can do without: texts, profiles, animations, comments.

    Pillow refuses a PNG for a long text or profile, and takes hours over a long comment in a GIF.
    EXIF and XMP are kept up to MAX_TEXT_BYTES, for positions.
    """
    if kind == GIF:
        comments = _gif_walk(data)[0]
        starts = [0, *(end for _, end in comments)]
        ends = [*(start for start, _ in comments), len(data)]
        return b"".join(data[a:b] for a, b in zip(starts, ends, strict=True)) if comments else data
    if kind != PNG:
        return data
    parts = [data[:_PNG_START]]
    last = _PNG_START
    for name, start, end in png_chunks(data):
        last = end
        if name in PNG_TEXTS:
            parts.append(_text_chunk(name, data[start + 8 : end - 4]))
        elif name in (b"tRNS", b"eXIf"):
            if zlib.crc32(data[start + 4 : end - 4]).to_bytes(4, "big") == data[end - 4 : end]:
                parts.append(data[start:end])
        elif name in _PNG_CHUNKS or not name[:1].islower():
            parts.append(data[start:end])
    return b"".join([*parts, data[last:]]) if len(parts) > 1 else data


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


def _text_chunk(name: bytes, body: bytes) -> bytes:
    """Returns a text that positions may need as an uncompressed chunk, nothing for others."""
    keyword, text = png_text(name, body)
    if not text or not (keyword + b"\0").startswith(PNG_KEYWORDS):
        return b""
    start = b"iTXt%b\0\0\0\0\0" if name == b"iTXt" else b"tEXt%b\0"
    whole = start % keyword + text
    return (len(whole) - 4).to_bytes(4, "big") + whole + zlib.crc32(whole).to_bytes(4, "big")


def _boxes_end(data: bytes) -> int:
    """Returns the end of the last box of an ISO file; a box of length 0 reaches to the end."""
    at = 0
    names = set()
    while at + 8 <= len(data):
        names.add(data[at + 4 : at + 8])
        length = int.from_bytes(data[at : at + 4], "big")
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        if length < 8:
            return 0
        at += length
    return at if at >= len(data) and names & {b"mdat", b"jp2c"} else max(at, len(data)) + 8


def _gif_walk(data: bytes) -> tuple[list[tuple[int, int]], int]:
    """Returns the extensions that a GIF's first picture does not need, and that picture's start."""
    left_out: list[tuple[int, int]] = []
    at = 13 + _palette_bytes(data[10:11])
    while data[at : at + 1] == b"\x21":
        start, at = at, _blocks_end(data, at + 2)
        if data[start + 1 : start + 2] != b"\xf9" and at <= len(data):
            left_out.append((start, at))
    return left_out, at


def _gif_end(data: bytes) -> int:
    _, at = _gif_walk(data)
    if at >= len(data):
        return at + 1
    if data[at] != 0x2C:
        return 0
    return _blocks_end(data, at + 11 + _palette_bytes(data[at + 9 : at + 10]))


def _palette_bytes(flags: bytes) -> int:
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _blocks_end(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += data[at] + 1
    return at + 1


def _bmp_end(data: bytes) -> int:
    start, header = (int.from_bytes(data[at : at + 4], "little") for at in (10, 14))
    if header < 40 or len(data) < 34 or data[30] not in (0, 3):
        return int.from_bytes(data[2:6], "little")
    width, height = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (18, 22))
    bits = int.from_bytes(data[28:30], "little")
    return start + (width * bits + 31) // 32 * 4 * abs(height)


def _tiff_end(data: bytes) -> int:
    """Returns the end of the first directory of a TIFF and of the pixels that it names."""
    lists, end = _tiff_numbers(data)
    for starts, sizes in (_TIFF_PIXELS[:2], _TIFF_PIXELS[2:]):
        ends = [a + b for a, b in zip(lists.get(starts, ()), lists.get(sizes, ()), strict=False)]
        end = max([end, *ends])
    return end


def _tiff_numbers(data: bytes) -> tuple[dict[int, list[int]], int]:
    """Returns the values of a few tags of a TIFF's first directory, and where all of them end."""
    order = "little" if data[:1] == b"I" else "big"
    big = b"+" in data[2:4]

    def number(at: int, width: int) -> int:
        return int.from_bytes(data[at : at + width], order)  # type: ignore[arg-type]

    at, counts, width = (number(8, 8), 8, 8) if big else (number(4, 4), 2, 4)
    entry = 4 + 2 * width
    entries = at + counts + min(number(at, counts), 4096) * entry
    end = entries + width
    lists: dict[int, list[int]] = {}
    if end > len(data):
        return lists, end
    for start in range(at + counts, entries, entry):
        tag, kind, values = number(start, 2), number(start + 2, 2), number(start + 4, width)
        each = _TIFF_SIZES.get(kind, 1)
        place = start + 4 + width
        place = place if each * values <= width else number(place, width)
        end = max(end, place + each * values)
        if tag in (*_TIFF_PIXELS, _TIFF_COMPRESSION) and end <= len(data):
            lists[tag] = [number(place + each * i, each) for i in range(values)]
    return lists, end

"""Leaves out of a picture's file all that its pixels do not need: that is what decoders are given.

What readers do with metadata, profiles, comments and further pictures is decided by the file, and a
hostile one lets it take gigabytes or hours. `photos.carriers` reads EXIF and XMP out of the file as
it was.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from locdiffusion.photos.file_structure import (
    PNG_START,
    SOS,
    boxes,
    gif_walk,
    jpeg_segments,
    png_chunks,
    riff_chunks,
)
from locdiffusion.photos.image_formats import AVIF, GIF, HEIF, JPEG, JPEG2000, PNG, TIFF, WEBP
from locdiffusion.photos.picture_items import PictureItems
from locdiffusion.photos.tiff_layout import TiffLayout

Range = tuple[int, int]

_PNG_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
"""Segments of applications but for JFIF and Adobe, which tell the colours; and comments."""

_WEBP_CHUNKS = {b"ANIM", b"ALPH"}
_WEBP_PIXELS = {b"VP8 ", b"VP8L", b"ANMF"}
_WEBP_FLAGS = 0x12
"""Transparency and animation; further flags promise a profile, EXIF and XMP."""

_JP2_HEADERS = {b"ihdr", b"bpcc", b"colr", b"pclr", b"cmap", b"cdef"}
_JP2_LONGEST, _JP2_MOST = 2**16, 64


def bare_file(kind: str, data: bytes) -> bytes:
    """Returns a file with the same first picture and nothing else.

    Args:
        kind: Pillow's name of the format.
        data: Bytes of the file, whole or broken off.
    """
    if kind == JPEG:
        return _joined(data, _jpeg(data))
    if kind == PNG:
        return _joined(data, _png(data))
    if kind == GIF:
        return _joined(data, _without(data, gif_walk(data).left_out))
    if kind == WEBP:
        return _webp(data)
    if kind == TIFF:
        return TiffLayout(data).bare()
    if kind in (HEIF, AVIF):
        return PictureItems(data).bare()
    return _jp2(data) if kind == JPEG2000 and not data.startswith(b"\xff") else data


def _joined(data: bytes, ranges: Iterable[Range]) -> bytes:
    """Joins some ranges of a file, which come in its order."""
    merged: list[Range] = []
    for start, end in ranges:
        if start == end:
            continue
        if merged and merged[-1][1] == start:
            merged[-1] = merged[-1][0], end
        else:
            merged.append((start, end))
    if len(merged) == 1 and merged[0][0] == 0 and merged[0][1] >= len(data):
        return data
    whole = memoryview(data)
    return b"".join(whole[start:end] for start, end in merged)


def _without(data: bytes, ranges: Iterable[Range]) -> Iterator[Range]:
    at = 0
    for start, end in ranges:
        yield at, start
        at = end
    yield at, len(data)


def _jpeg(data: bytes) -> Iterator[Range]:
    """What stands between segments goes too: a wrong length of metadata, as Photoshop wrote."""
    for marker, at in jpeg_segments(data):
        if marker == SOS:
            yield at - 2, len(data)
            return
        if marker not in _JPEG_METADATA:
            length = int.from_bytes(data[at : at + 2], "big")
            yield at - 2, at + (0 if marker in (0xD8, 0x01) else length)


def _png(data: bytes) -> Iterator[Range]:
    last = PNG_START
    yield 0, last
    for name, start, end in png_chunks(data):
        last = end
        if name == b"tRNS":
            if zlib.crc32(data[start + 4 : end - 4]).to_bytes(4, "big") == data[end - 4 : end]:
                yield start, end
        elif name in _PNG_CHUNKS or not name[:1].islower():
            yield start, end
    yield last, max(last, len(data))


def _webp(data: bytes) -> bytes:
    if data[12:16] != b"VP8X":
        return data
    parts = [data[:12]]
    for name, start, end in riff_chunks(data):
        if name == b"VP8X":
            parts += [data[start : start + 8], bytes([data[start + 8] & _WEBP_FLAGS])]
            parts.append(data[start + 9 : end])
        elif name in _WEBP_CHUNKS or name in _WEBP_PIXELS:
            parts.append(data[start:end])
        if name in _WEBP_PIXELS:
            break
    whole = b"".join(parts)
    return whole[:4] + (len(whole) - 8).to_bytes(4, "little") + whole[8:]


def _jp2(data: bytes) -> bytes:
    parts = [data[:12]]
    for name, start, end in boxes(data, 12):
        if name == b"ftyp":
            parts.append(_box(name, data[start : min(end, start + _JP2_MOST)]))
        elif name == b"jp2h":
            inside = [
                _box(kind, data[at:stop])
                for kind, at, stop in boxes(data, start, end)
                if kind in _JP2_HEADERS and stop - at <= _JP2_LONGEST
            ]
            parts.append(_box(name, b"".join(inside[:_JP2_MOST])))
        elif name == b"jp2c":
            parts.append(_box(name, data[start:end]))
            break
    return b"".join(parts)


def _box(name: bytes, body: bytes) -> bytes:
    return (8 + len(body)).to_bytes(4, "big") + name + body

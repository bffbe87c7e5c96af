"""Says what decoding a picture would cost, from the structure of its file, before it is decoded.

Limits on bytes and pixels bound neither time nor memory: a few kilobytes may hold one picture
thousands of times. The limits here are far above what cameras and programs write.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from locdiffusion.photos.file_structure import (
    FRAMES,
    MAX_PARTS,
    SOS,
    boxes,
    gif_walk,
    jpeg_segments,
    png_chunks,
    riff_chunks,
)
from locdiffusion.photos.image_formats import (
    AVIF,
    BMP,
    GIF,
    HEIF,
    JPEG,
    JPEG2000,
    PNG,
    TIFF,
    WEBP,
    format_name,
)
from locdiffusion.photos.jpeg2000_layout import Jpeg2000Layout, jpeg2000_excess
from locdiffusion.photos.picture_items import MAX_ITEMS, PictureItems
from locdiffusion.photos.tiff_layout import TiffLayout
from schemas.samples import MAX_IMAGE_PIXELS

MAX_SCANS = 500
"""Most scans of a JPEG; programs write up to 20."""

MAX_BLOCK_VISITS = 2**26
"""Most blocks of 8 x 8, over all scans of a JPEG: those of a baseline JPEG of 1.4 gigapixels, or of
a progressive one of 200 megapixels in 14 scans. They take 3 seconds at most."""

ARITHMETIC_VISITS = 8
"""Cost of a block of arithmetic coding, which may come without a byte, in other blocks."""

MAX_TABLE_BYTES = 2**20
"""Most bytes of tables before the first scan of a JPEG, which are read by Python; usual are 700."""

BYTES_A_PIXEL = {WEBP: 16, AVIF: 8, HEIF: 8}
"""Memory for a pixel while it is decoded: copies, where a whole picture comes at once. Measured."""

BYTES_A_ROW = 24
"""Memory for a row beside its pixels, while the picture is converted; it may be turned."""

MAX_RUN_PIXELS, MAX_RUN_BYTES = 2**24, 2**22
"""Most pixels and bytes of a BMP with run lengths, which Pillow decodes by Python."""

_TABLES = {0xC4, 0xCC, 0xDB}
_ARITHMETIC = range(0xC9, 0xD0)
_AGAIN = "save it again with another program"


def excess(kind: str, data: bytes) -> str:
    """Says what of a file costs far more than its pixels, and what to do; empty if nothing does.

    Args:
        kind: Pillow's name of the format.
        data: Bytes of the file.
    """
    found = _EXCESSES[kind](data)
    return (
        f"the {format_name(kind)} would take too long to decode: {found}; {_AGAIN}" if found else ""
    )


def needed_bytes(kind: str, size: tuple[int, int], data: bytes) -> int:
    """Estimates the memory that decoding a picture takes, beside its file.

    Args:
        kind: Pillow's name of the format.
        size: Width and height of what is decoded, in pixels; of a JPEG at any scale.
        data: Bytes of the file.
    """
    pixels = size[0] * size[1]
    if kind == JPEG:
        return _coefficient_bytes(data)
    needed = BYTES_A_PIXEL.get(kind, 4) * pixels + BYTES_A_ROW * max(size)
    if kind == TIFF:
        return needed + TiffLayout(data).unit_bytes
    if kind == JPEG2000:
        layout = Jpeg2000Layout(data)
        return needed + layout.components * 5 * min(pixels, layout.tile_pixels)
    return needed


def _coefficient_bytes(data: bytes) -> int:
    """Returns the memory for the coefficients of a JPEG in several scans, which no scale saves."""
    frame = JpegFrame(0, 0, {})
    for marker, at in jpeg_segments(data):
        body = data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")]
        if marker in FRAMES and body and not frame.blocks:
            frame = JpegFrame.parse(body)
            progressive = marker & 3 == 2
        elif marker == SOS:
            one = frame.blocks and body and body[0] == len(frame.blocks) and not progressive
            return 0 if one else 128 * sum(frame.blocks.values())
    return 0


class JpegFrame(NamedTuple):
    """The frame of a JPEG.

    Attributes:
        width: Pixels.
        height: Pixels.
        blocks: Number of blocks of each component, by its id.
    """

    width: int
    height: int
    blocks: Mapping[int, int]

    @classmethod
    def parse(cls, body: bytes) -> JpegFrame:
        """Reads the body of a frame's segment, as far as it is there."""
        height, width = (int.from_bytes(body[at : at + 2], "big") for at in (1, 3))
        parts = [body[at : at + 3] for at in range(6, len(body) - 2, 3)]
        most = [max([1, *(part[1] >> shift & 15 for part in parts)]) for shift in (4, 0)]
        blocks = {
            number: -(-width * (factors >> 4) // (8 * most[0]))
            * -(-height * (factors & 15) // (8 * most[1]))
            for number, factors, _ in parts
        }
        return cls(width, height, blocks)


def _jpeg(data: bytes) -> str:
    segments = scans = visits = tables = 0
    frame, each = JpegFrame(0, 0, {}), 1
    for marker, at in jpeg_segments(data):
        segments += 1
        length = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + length] if marker == SOS or marker in FRAMES else b""
        if marker in FRAMES and body and not frame.blocks:
            frame = JpegFrame.parse(body)
            each = ARITHMETIC_VISITS if marker in _ARITHMETIC else 1
        elif marker == SOS and body:
            scans += 1
            chosen = body[1 : 1 + 2 * body[0] : 2]
            visits += each * sum(frame.blocks.get(number, 0) for number in chosen)
        elif marker in _TABLES and not scans:
            tables += length
    if tables > MAX_TABLE_BYTES:
        return f"it has {tables:,} bytes of tables, limit {MAX_TABLE_BYTES:,}"
    if scans > MAX_SCANS:
        return f"it has {scans:,} scans, limit {MAX_SCANS:,}"
    if visits > MAX_BLOCK_VISITS:
        size = f"{frame.width:,} x {frame.height:,} pixels in {scans:,} scans"
        return f"{size} have {visits:,} blocks, limit {MAX_BLOCK_VISITS:,}"
    return _many(segments, "segments")


def _many(parts: int, name: str) -> str:
    return f"it has more than {MAX_PARTS - 1:,} {name}" if parts >= MAX_PARTS else ""


def _counted(walk: Callable[[bytes], Iterator[object]], name: str) -> Callable[[bytes], str]:
    return lambda data: _many(sum(1 for _ in walk(data)), name)


def _bmp(data: bytes) -> str:
    if int.from_bytes(data[14:18], "little") < 40 or data[30:31] not in (b"\1", b"\2"):
        return ""
    width, height = (
        abs(int.from_bytes(data[at : at + 4], "little", signed=True)) for at in (18, 22)
    )
    if width * max(height, 1) <= MAX_RUN_PIXELS and len(data) <= MAX_RUN_BYTES:
        return ""
    found = f"run lengths of {width:,} x {height:,} pixels in {len(data):,} bytes"
    return f"{found}, limits {MAX_RUN_PIXELS:,} and {MAX_RUN_BYTES:,}"


def _items(data: bytes) -> str:
    most = sum(1 for _ in itertools.islice(boxes(data), MAX_PARTS))
    pictures, pixels = PictureItems(data).most_work()
    if pictures > MAX_ITEMS:
        return f"it is made of {pictures:,} pictures, limit {MAX_ITEMS:,}"
    if pixels > 4 * MAX_IMAGE_PIXELS:
        return f"it is made of pictures of {pixels:,} pixels, limit {4 * MAX_IMAGE_PIXELS:,}"
    return _many(most, "boxes")


_EXCESSES: Mapping[str, Callable[[bytes], str]] = {
    JPEG: _jpeg,
    PNG: _counted(png_chunks, "chunks"),
    WEBP: _counted(riff_chunks, "chunks"),
    GIF: lambda data: _many(gif_walk(data).parts, "blocks"),
    BMP: _bmp,
    TIFF: lambda data: TiffLayout(data).excess(),
    JPEG2000: jpeg2000_excess,
    HEIF: _items,
    AVIF: _items,
}

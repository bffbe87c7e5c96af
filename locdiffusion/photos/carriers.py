"""Finds the blocks of EXIF and XMP in the file of a picture, whatever carries them.

Files are searched here, because Pillow reads some blocks in part, or at a cost that a hostile file
decides.
"""

from __future__ import annotations

import binascii
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from locdiffusion.photos.file_structure import (
    PNG_KEYWORDS,
    PNG_TEXTS,
    SOS,
    boxes,
    jpeg_segments,
    png_chunks,
    png_text,
    riff_chunks,
)
from locdiffusion.photos.image_formats import (
    AVIF,
    GIF,
    HEIF,
    JPEG,
    JPEG2000,
    PNG,
    TIFF,
    WEBP,
    image_format,
)
from locdiffusion.photos.picture_items import PictureItems
from locdiffusion.photos.tiff import HEADS, Tiff, TiffError
from locdiffusion.photos.xmp import MAX_XMP_BYTES

_XMP_HEAD = re.compile(rb"(?:http|XMP\0)://ns\.adobe\.com/xap/1\.0/\0*")

CARRIERS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Names under which Pillow's `Image.info` holds blocks."""

MAX_BLOCKS = 16
"""Most blocks of a kind that are read."""

MAX_TEXTS = 64
"""Most texts of a PNG that are unpacked in search of blocks."""

MAX_FOUND, MAX_FOUND_BYTES = 2**12, 2**26
"""Most segments with blocks, or parts of them, and most bytes, which may come packed: as many bytes
as a file may have, in twice as many segments as they need in a JPEG."""

_APP1, _XMP_TAG = 0xE1, 700
_UUIDS = (b"JpgTiffExif->JP2", bytes.fromhex("be7acfcb97a942e89c71999491e3afac"))
"""Boxes of JPEG 2000 with EXIF, as exiftool and ImageMagick write it, and with XMP."""

_MORE_XMP_HEAD = b"http://ns.adobe.com/xmp/extension/\0"
_MORE_XMP_BYTES = 40
"""Bytes of digest, length and offset before each part of a long packet."""


@dataclass(frozen=True)
class Blocks:
    """EXIF blocks from their TIFF headers on, and XMP packets, in the order of the file."""

    exif: tuple[bytes, ...] = ()
    xmp: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, found: Iterable[bytes]) -> Blocks:
        """Tells EXIF from XMP by how a block begins, and joins blocks of several segments."""
        exif: list[list[bytes]] = []
        xmp: list[bytes] = []
        more: list[bytes] = []
        size = 0
        for block in itertools.islice(filter(None, found), MAX_FOUND):
            size += len(block)
            if size > MAX_FOUND_BYTES:
                break
            if head := _XMP_HEAD.match(block):
                xmp.append(block[head.end() :])
            elif block.startswith(_MORE_XMP_HEAD):
                more.append(block[len(_MORE_XMP_HEAD) :])
            elif block.lstrip(b"\xef\xbb\xbf\xfe\xff\0 \t\r\n")[:1] == b"<":
                xmp.append(block)
            else:
                tiff = _without_head(block)
                if not exif or tiff == block or tiff[:4] in HEADS:
                    exif.append([])
                exif[-1].append(tiff)
        more.sort(key=lambda part: part[:_MORE_XMP_BYTES])  # by packet and by offset
        xmp += [b"".join(part[_MORE_XMP_BYTES:] for part in more)] if more else []
        return cls(tuple(map(b"".join, exif))[:MAX_BLOCKS], tuple(xmp)[:MAX_BLOCKS])


def exif_start(block: bytes) -> int:
    """Returns where `Exif` stands at the beginning of a block, in any letters; -1 if nowhere."""
    return block[:10].lower().find(b"exif\0")


def find_blocks(data: bytes) -> Blocks:
    """Finds the blocks in the bytes of a file."""
    kind = image_format(data)
    if kind == TIFF:
        return Blocks((data,), _tiff_xmp(data))
    return Blocks.of(_SEARCHES[kind](data)) if kind in _SEARCHES else Blocks()


def blocks_of_info(info: Mapping[Any, Any]) -> Blocks:
    """Takes the blocks out of the `info` of an image that Pillow opened."""
    values = {name: info.get(name) for name in CARRIERS}
    found = {
        name: value.encode("utf-8", "replace") if isinstance(value, str) else value
        for name, value in values.items()
        if isinstance(value, str | bytes)
    }
    return Blocks.of(_raw_profile(b) if "profile" in name else b for name, b in found.items())


def _jpeg(data: bytes) -> Iterator[bytes]:
    for marker, at in jpeg_segments(data):
        if marker == SOS:
            return
        start = data[at + 2 : at + 12]
        if marker == _APP1 and (exif_start(start) >= 0 or start[:4] in (b"http", b"XMP\0")):
            yield data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")]


def _png(data: bytes) -> Iterator[bytes]:
    texts = 0
    for name, at, end in png_chunks(data):
        if name == b"eXIf":
            yield data[at + 8 : end - 4]
        elif name in PNG_TEXTS and texts < MAX_TEXTS and data.startswith(PNG_KEYWORDS, at + 8):
            body = data[at + 8 : end - 4]
            texts += 1
            keyword, text = png_text(name, body)
            profile = keyword.removeprefix(b"Raw profile type ")
            if profile == keyword:
                yield text
            elif profile in (b"exif", b"APP1", b"xmp"):
                yield _raw_profile(text)


def _webp(data: bytes) -> Iterator[bytes]:
    for name, start, end in riff_chunks(data):
        if name in (b"EXIF", b"XMP "):
            length = int.from_bytes(data[start + 4 : start + 8], "little")
            yield data[start + 8 : min(start + 8 + length, end)]


def _jpeg2000(data: bytes) -> Iterator[bytes]:
    for name, start, end in boxes(data):
        if name == b"uuid" and data[start : start + 16] in _UUIDS:
            yield data[start + 16 : end]


def _items(data: bytes) -> Iterator[bytes]:
    return PictureItems(data).metadata()


def _gif(data: bytes) -> Iterator[bytes]:
    _, found, rest = data.partition(b"\x21\xff\x0bXMP DataXMP")
    packet = rest.partition(b"\x01\xff\xfe\xfd")[0]
    if found and packet[:1] == b"<":
        yield packet


def _raw_profile(text: bytes) -> bytes:
    """Decodes what ImageMagick writes: a name, a length and lines of hexadecimal digits."""
    try:
        return binascii.unhexlify(b"".join(text.split()[2:]))
    except binascii.Error:
        return b""


def _tiff_xmp(data: bytes) -> tuple[bytes, ...]:
    try:
        tiff = Tiff.parse(data)
        found = tiff.find(tiff.first, {_XMP_TAG}).get(_XMP_TAG)
        return () if found is None else (tiff.content(found, MAX_XMP_BYTES),)
    except TiffError:
        return ()


def _without_head(block: bytes) -> bytes:
    """Returns an EXIF block from its TIFF header on; HEIC puts an offset before it."""
    at = exif_start(block)
    if at >= 0:
        return block[at + 6 :]
    return block[4:] if block[:4] not in HEADS and block[4:8] in HEADS else block


_SEARCHES: Mapping[str | None, Callable[[bytes], Iterator[bytes]]] = {
    **{JPEG: _jpeg, PNG: _png, WEBP: _webp, GIF: _gif, JPEG2000: _jpeg2000},
    **{HEIF: _items, AVIF: _items},
}

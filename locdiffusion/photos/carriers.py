"""Finds the blocks of EXIF and XMP in the file of a picture, whatever carries them.

Most formats are searched here, because Pillow reads their blocks in part, or
at a cost that a hostile file decides. For other formats Pillow's readers hand the blocks out.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from locdiffusion.photos.file_structure import SOS, jpeg_segments, png_chunks
from locdiffusion.photos.image_formats import GIF, JPEG, JPEG2000, PNG, TIFF, WEBP, image_format
from locdiffusion.photos.tiff import HEADS, Tiff, TiffError

EXIF_HEAD = b"Exif\0"
XMP_HEAD = b"http://ns.adobe.com/xap/1.0/"

CARRIERS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Names under which Pillow's `Image.info` holds blocks."""

MAX_BLOCK_BYTES = 2**24
"""Most bytes that a compressed block may become."""

_APP1, _XMP_TAG = 0xE1, 700
_MORE_XMP_HEAD = b"http://ns.adobe.com/xmp/extension/\0"
_JP2_UUIDS = (b"JpgTiffExif->JP2", bytes.fromhex("be7acfcb97a942e89c71999491e3afac"))


@dataclass(frozen=True)
class Blocks:
    """Metadata of a picture.

    Attributes:
        exif: EXIF blocks from their TIFF headers on, in the order of the file.
        xmp: XMP packets, in the order of the file.
    """

    exif: tuple[bytes, ...] = ()
    xmp: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, found: Iterable[bytes]) -> Blocks:
        """Tells EXIF from XMP by how a block begins, and joins blocks of several segments."""
        exif: list[bytes] = []
        xmp: list[bytes] = []
        more = b""
        for block in found:
            if block.startswith(XMP_HEAD):
                xmp.append(block[len(XMP_HEAD) :].lstrip(b"\0"))
            elif block.startswith(_MORE_XMP_HEAD):
                more += block[len(_MORE_XMP_HEAD) + 40 :]
            elif block.lstrip(b"\xef\xbb\xbf\xfe\xff\0 \t\r\n")[:1] == b"<":
                xmp.append(block)
            else:
                tiff = _without_head(block)
                if exif and tiff != block and tiff[:4] not in HEADS:
                    exif[-1] += tiff
                else:
                    exif.append(tiff)
        return cls(tuple(filter(None, exif)), (*xmp, more) if more else tuple(xmp))


def find_blocks(data: bytes) -> Blocks | None:
    """Finds the blocks in the bytes of a file; None if its format is not one that is searched."""
    kind = image_format(data)
    if kind == TIFF:
        return Blocks((data,), _tiff_xmp(data))
    return Blocks.of(_SEARCHES[kind](data)) if kind in _SEARCHES else None


def blocks_of_info(info: Mapping[Any, Any]) -> Blocks:
    """Takes the blocks out of the `info` of an image that Pillow opened."""
    values = (info.get(name) for name in CARRIERS)
    blocks = (
        _raw_profile(value) if "profile" in name else value
        for name, value in zip(CARRIERS, values, strict=True)
        if isinstance(value, str | bytes)
    )
    return Blocks.of(
        block.encode("utf-8", "replace") if isinstance(block, str) else block for block in blocks
    )


def _jpeg(data: bytes) -> Iterator[bytes]:
    for marker, at in jpeg_segments(data):
        if marker == SOS:
            return
        start = data[at + 2 : at + 12]
        if marker == _APP1 and (EXIF_HEAD in start or start[:4] == XMP_HEAD[:4]):
            yield data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")]


def _png(data: bytes) -> Iterator[bytes]:
    for name, at, end in png_chunks(data):
        if name == b"eXIf":
            yield data[at + 8 : end - 4]
        elif name in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, _, text = data[at + 8 : end - 4].partition(b"\0")
            if keyword == b"XML:com.adobe.xmp":
                yield _png_text(name, text)
            elif keyword.startswith(b"Raw profile type "):
                yield _raw_profile(_png_text(name, text))


def _webp(data: bytes) -> Iterator[bytes]:
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] in (b"EXIF", b"XMP "):
            yield data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _gif(data: bytes) -> Iterator[bytes]:
    _, found, rest = data.partition(b"\x21\xff\x0bXMP DataXMP")
    if found:
        yield rest.partition(b"\x01\xff\xfe\xfd")[0]


def _png_text(name: bytes, text: bytes) -> bytes:
    """Returns the text of a chunk behind its keyword (PNG, third edition, 11.3.3)."""
    packed = name == b"zTXt"
    if name == b"iTXt":
        packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
    elif packed:
        text = text[1:]
    if not packed:
        return text
    try:
        return zlib.decompressobj().decompress(text, MAX_BLOCK_BYTES)
    except zlib.error:
        return b""


def _raw_profile(text: str | bytes) -> bytes:
    """Decodes what ImageMagick writes: a name, a length and lines of hexadecimal digits."""
    if isinstance(text, str):
        text = text.encode("latin-1", "replace")
    try:
        return binascii.unhexlify(b"".join(text.split()[2:]))
    except binascii.Error:
        return b""


def _tiff_xmp(data: bytes) -> tuple[bytes, ...]:
    try:
        tiff = Tiff.parse(data)
        found = tiff.find(tiff.first, {_XMP_TAG}).get(_XMP_TAG)
        return () if found is None else (tiff.content(found, MAX_BLOCK_BYTES),)
    except TiffError:
        return ()


def _jp2(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 24 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"uuid" and data[at + 8 : at + 24] in _JP2_UUIDS:
            yield data[at + 24 : at + length] if length else data[at + 24 :]
        if length < 8:
            return
        at += length


def _without_head(block: bytes) -> bytes:
    """Returns an EXIF block from its TIFF header on; HEIC puts an offset before it."""
    at = block[:10].find(EXIF_HEAD)
    if at >= 0:
        return block[at + 6 :]
    return block[4:] if block[:4] not in HEADS and block[4:8] in HEADS else block


_SEARCHES: Mapping[str | None, Callable[[bytes], Iterator[bytes]]] = {
    **{JPEG: _jpeg, PNG: _png, WEBP: _webp, GIF: _gif, JPEG2000: _jp2}
}

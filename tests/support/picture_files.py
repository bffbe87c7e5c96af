"""Sound pictures in every format that is read, and parts of files to damage them with."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from support.archives import encode

SAVES: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "mpo": ("MPO", {}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "avif": ("AVIF", {}),
    "tiff": ("TIFF", {}),
    "lzw tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "gif": ("GIF", {"interlace": 0}),
    "bmp": ("BMP", {}),
    "jp2": ("JPEG2000", {}),
    "j2k": ("JPEG2000", {"no_jp2": True}),
}
"""Pillow's format and options by the name of a kind of file; HEIC comes from `heic`."""


def scene(size: tuple[int, int] = (96, 64), seed: int = 0) -> Image.Image:
    """A picture in which no two rows are equal."""
    noise = np.random.default_rng(seed).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def picture_file(kind: str, image: Image.Image | None = None, **save: Any) -> bytes:
    """A sound file of one of SAVES."""
    name, options = SAVES[kind]
    if kind == "mpo":
        save |= {"save_all": True, "append_images": [scene(seed=1)]}
    return encode(image or scene(), name, **options, **save)


def heic(image: Image.Image | None = None) -> bytes | None:
    """A sound HEIC, or None where nothing here writes one."""
    try:
        import pillow_heif
    except ImportError:
        return None
    file = io.BytesIO()
    pillow_heif.from_pillow(image or scene()).save(file)
    return file.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    checksum = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def png_with(*chunks: bytes, image: Image.Image | None = None) -> bytes:
    """A sound PNG with more chunks before its pixels."""
    data = picture_file("png", image)
    return data[:33] + b"".join(chunks) + data[33:]


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    """A sound JPEG with more segments (marker, body) at its start."""
    data = picture_file("jpeg")
    more = (struct.pack(">BBH", 0xFF, mark, len(body) + 2) + body for mark, body in segments)
    return data[:2] + b"".join(more) + data[2:]


def jpeg_header(width: int, height: int, marker: int = 0xC0, precision: int = 8) -> bytes:
    """A JPEG that says it has so many pixels, and breaks off in their first bytes."""
    data = picture_file("jpeg")
    at = data.index(b"\xff\xc0")
    frame = struct.pack(">BHH", precision, height, width)
    return data[:at] + bytes((0xFF, marker)) + data[at + 2 : at + 4] + frame + data[at + 9 :]

"""Tiny archives, sound and damaged, for the tests of the pipeline."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Members = list[tuple[str, bytes]]


def photo(index: int, size: tuple[int, int] = (24, 16), kind: str = "JPEG", **save: Any) -> bytes:
    """A photo of one colour that depends on the index."""
    colour = tuple(int(value) for value in np.random.default_rng(index).integers(0, 255, 3))
    return encode(Image.new("RGB", size, colour), kind, **save)


def encode(image: Image.Image, kind: str = "JPEG", **save: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **save)
    return buffer.getvalue()


def truth(latitude: object = 10.0, longitude: object = 20.0) -> bytes:
    return json.dumps({"latitude": latitude, "longitude": longitude}).encode()


def sound_members(count: int, start: int = 0) -> Members:
    """Photos in all formats; every other one has its truth."""
    kinds = (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("JPEG", "JPEG"))
    members: Members = []
    for index in range(start, start + count):
        extension, kind = kinds[index % len(kinds)]
        members.append((f"dir/{index:04d}.{extension}", photo(index, kind=kind)))
        if index % 2 == 0:
            members.append((f"dir/{index:04d}.json", truth(1 + index % 89, index)))
    return members


def tar_bytes(members: Iterable[tuple[str, bytes]], mode: str = "w", **kind: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **kind) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_bytes(members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members, mode))
    return path


def huge_png(width: int, height: int) -> bytes:
    """A PNG that says it is huge in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def bad_members() -> dict[str, tuple[Members, str]]:
    """One bad photo each: name, its members and the status that it must end with."""
    white = encode(Image.new("RGB", (9, 9), "white"), "PNG")
    return {
        "half_jpeg": ([("half.jpg", photo(1, (300, 200))[:700])], "incomplete_image"),
        "text": ([("text.jpg", b"this is not a photo")], "not_an_image"),
        "empty": ([("empty.jpg", b"")], "empty_file"),
        "huge": ([("huge.png", huge_png(30_000, 30_000))], "too_many_pixels"),
        "large": ([("large.png", huge_png(12_000, 11_000))], "too_many_pixels"),
        "twice": (
            [("twice.jpg", photo(2)), ("x.jpg", photo(3)), ("twice.jpg", photo(4))],
            "duplicate_key",
        ),
        "white": ([("white.png", white)], "inference_failed"),
    }

"""Preprocessings that do harm or tell of the child process in which they run."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
from PIL import Image

from locdiffusion.photos.photo_process import IsolatedDecoder
from support.fake_pixels import pixels
from support.picture_files import picture_file

HARM = {"burn": 11, "eat": 12, "eat C memory": 13, "crash": 14, "raise": 15}
"""Widths of pictures one pixel high that do harm."""


def harmful(image: Image.Image) -> np.ndarray:
    does = (
        {width: does for does, width in HARM.items()}.get(image.width)
        if image.height == 1
        else None
    )
    if does == "burn":
        while True:
            pass
    if does == "eat":
        held = []
        while True:
            held.append(bytearray(2**22))
    if does == "eat C memory":
        image.resize((20_000, 20_000))
    if does == "crash":
        import ctypes

        ctypes.string_at(0)
    if does == "raise":
        raise ValueError("no use for it")
    return pixels(image)


def talkative(image: Image.Image) -> np.ndarray:
    if image.size != (8, 8):
        raise ValueError("x" * 10**6)
    return pixels(image)


def verbose_pixels(image: Image.Image) -> np.ndarray:
    """Far more pixels of a photo than were promised."""
    return np.zeros((1, 8 if image.size == (8, 8) else 3_200_000, 3), np.uint8)


def number_pixels(value: int) -> np.ndarray:
    """A number as pixels ``(1, 8, 3)``."""
    return np.frombuffer(value.to_bytes(24, "little"), np.uint8).reshape(1, 8, 3)


def read_number(found: np.ndarray) -> int:
    return int.from_bytes(found.tobytes(), "little")


def resident_pixels(image: Image.Image) -> np.ndarray:
    with open("/proc/self/statm", encoding="ascii") as file:
        return number_pixels(int(file.read().split()[1]) * 4096)


def process_pixels(image: Image.Image) -> np.ndarray:
    return number_pixels(os.getpid())


HEAVY = ("torch", "fsspec", "scipy", "apache_beam", "shapely", "aiohttp")


def heavy_pixels(image: Image.Image) -> np.ndarray:
    return number_pixels(sum(name in sys.modules and 1 << at for at, name in enumerate(HEAVY)))


def modules() -> set[str]:
    """Heavy modules that a child has imported."""
    found = read_number(IsolatedDecoder()(picture_file("jpeg"), heavy_pixels).pixels)
    return {name for at, name in enumerate(HEAVY) if found >> at & 1}


def resident(decode: IsolatedDecoder, data: bytes) -> int:
    """Bytes of memory that a child has while it decodes."""
    return read_number(decode(data, resident_pixels).pixels)


def tell_and_wait() -> None:
    """Prints the id of a child process, and waits."""
    decode = IsolatedDecoder()
    print(read_number(decode(picture_file("jpeg"), process_pixels).pixels), flush=True)
    time.sleep(3600)

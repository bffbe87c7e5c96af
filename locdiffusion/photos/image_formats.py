"""Opens pictures of the few formats that untrusted bytes may have, HEIC if pi-heif is there."""

from __future__ import annotations

import functools
import importlib
import os
from pathlib import Path

from PIL import Image, UnidentifiedImageError

BUILT_IN = ("JPEG", "PNG", "WEBP")
HEIF = "HEIF"
HEIF_REMEDY = "install the reader of iPhone photos with `pip install pi-heif`"

# ISO/IEC 23008-12:2022, annex B: brands of still images and of bursts coded with HEVC.
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Returns Pillow's names of the formats that are opened."""
    try:
        importlib.import_module("pi_heif").register_heif_opener(thumbnails=False)
    except ImportError:
        return BUILT_IN
    return (*BUILT_IN, HEIF)


def is_heif(head: bytes) -> bool:
    """Returns whether a file begins as HEIC does."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def format_names() -> str:
    """Returns the formats in words, for messages."""
    heic = "HEIC" if HEIF in readable_formats() else f"HEIC ({HEIF_REMEDY})"
    return f"JPEG, PNG, WebP, {heic}"


def open_picture(stream: object) -> Image.Image:
    """Opens a picture as Pillow's `Image.open` does, in these formats only."""
    opened: Image.Image = Image.open(stream, formats=readable_formats())  # type: ignore[arg-type]
    return opened


def load_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Decodes the file of a picture; `exif.upright` turns it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has another format, or is damaged.
    """
    file = Path(path)
    if not file.is_file():
        found = "is a folder" if file.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {found}; want the file of one photo ({format_names()}).")
    try:
        image = open_picture(file)
        image.load()
    except UnidentifiedImageError:
        with file.open("rb") as stream:
            head = stream.read(16)
        remedy = HEIF_REMEDY if is_heif(head) else "convert it first"
        raise ValueError(
            f"{path} is none of {format_names()}: it begins with {head!r}; {remedy}."
        ) from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be decoded ({error}); copy the photo again from its source."
        ) from error
    return image

"""Tells what a file is from its first bytes, and which formats the installed packages read.

The ending of a name is never believed: a PNG called .jpg is a PNG.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from typing import NamedTuple

from PIL import Image

from schemas.geotags import Status

JPEG, PNG, GIF, TIFF, BMP = "JPEG", "PNG", "GIF", "TIFF", "BMP"
WEBP, AVIF, JPEG2000, HEIF = "WEBP", "AVIF", "JPEG2000", "HEIF"

PLUGINS = {
    JPEG: "JpegImagePlugin",
    PNG: "PngImagePlugin",
    WEBP: "WebPImagePlugin",
    HEIF: "",
    AVIF: "AvifImagePlugin",
    TIFF: "TiffImagePlugin",
    GIF: "GifImagePlugin",
    BMP: "BmpImagePlugin",
    JPEG2000: "Jpeg2KImagePlugin",
}
"""Pillow's module of each format that is read, by Pillow's name of the format."""

_WORDS = {WEBP: "WebP", HEIF: "HEIC", JPEG2000: "JPEG 2000"}
_ENDINGS = {
    HEIF: ("heic", "heif", "hif"),
    AVIF: ("avif",),
    JPEG2000: ("jp2", "j2k"),
    WEBP: ("webp",),
}
HEIF_REMEDY = "pip install pi-heif"
_PILLOW_REMEDY = "pip install --upgrade --force-reinstall pillow"

# ISO/IEC 23008-12:2022, annex B: brands of still images and of bursts coded with HEVC.
_HEIF_BRANDS = {*(b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")}
_AVIF_BRANDS = {b"avif", b"avis"}

_SIGNATURES = (
    (JPEG, rb"\xff\xd8"),
    (PNG, rb"\x89PNG"),
    (WEBP, rb"RIFF.{4}WEBP"),
    (TIFF, rb"II[*+]\0|MM\0[*+]"),
    (GIF, rb"GIF8[79]a"),
    (BMP, rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
    (JPEG2000, rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
)

_COPY = "copy the photo again from its source"
_DEVELOP = "convert it to JPEG, or give the JPEG that the camera stored with it"
VIDEO = "a video"
_TAKE_OUT = "take it out of the archive"
_PICTURES = (
    (
        "a RAW file",
        rb"FUJIFILMCCD-RAW|II(U\0|RO|RS)|MMOR|FOVb|\0MRM|II\x1a\0\0\0HEAPCCDR",
        _DEVELOP,
    ),
    ("a RAW file of Canon (CR2)", rb"II\*\0.{4}CR\x02", _DEVELOP),
    ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL ", "convert it to JPEG"),
    ("a Photoshop document", rb"8BPS", "export it as JPEG"),
    (
        "a picture of a kind that nothing here reads",
        rb"P[1-6]\s+(#.*?\n)*\d+\s+\d|\0\0[\1\2]\0[^\0]\0|icns|DDS |gimp xcf|v/1\x01|#\?RADIANCE|"
        rb"II\xbc\x01|SIMPLE  =|AT&TFORM|qoif|BPG\xfb|.{128}DICM|%!PS|\xd7\xcd\xc6\x9a|/\* XPM",
        "convert it to JPEG",
    ),
    ("a drawing (SVG)", rb"(\xef\xbb\xbf)?\s*(<\?xml.{0,400})?<svg", "export it as JPEG"),
)
_OTHERS = (
    (
        "a web page",
        rb"(\xef\xbb\xbf)?\s*(<\?xml.{0,400})?<(?i:!doctype html|html|head)",
        "download the photo itself",
    ),
    ("a pointer of Git LFS", rb"version https://git-lfs", "fetch the photo with `git lfs pull`"),
    ("a PDF", rb"%PDF", "take the photos out of it"),
    ("a zip archive", rb"PK\x03\x04", "name it .zip, or unpack it"),
    ("a gzip file", rb"\x1f\x8b", "unpack it"),
    ("notes of macOS about a file (AppleDouble)", rb"\0\x05\x16\x07", _TAKE_OUT),
    (
        VIDEO,
        rb".{4}(ftyp|moov|mdat|wide|pnot)|RIFF.{4}AVI |\x1a\x45\xdf\xa3|\0\0\x01[\xb3\xba]",
        f"{_TAKE_OUT}, or give a frame of it as JPEG",
    ),
)
_HEAD = 512

MOST_QUOTED = 4
"""Most bytes that a message quotes of a file that is no photo: it may be somebody's secret."""


class Contents(NamedTuple):
    """What a file is that is no picture of a format that is read.

    Attributes:
        status: NO_READER for pictures, NOT_AN_IMAGE for anything else.
        found: What it is, in words.
        remedy: What to do about it.
    """

    status: Status
    found: str
    remedy: str


def image_format(data: bytes) -> str | None:
    """Returns Pillow's name of the format that a file has by its first bytes, None for others."""
    head = data[:_HEAD]
    if head[4:8] == b"ftyp":
        end = min(max(int.from_bytes(head[:4], "big"), 12), _HEAD)
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
        return AVIF if brands & _AVIF_BRANDS else HEIF if brands & _HEIF_BRANDS else None
    if _matches(_PICTURES[1][1], head):
        return None
    return next((name for name, start in _SIGNATURES if _matches(start, head)), None)


def other_contents(data: bytes) -> Contents:
    """Says what a file is for which `image_format` gives None."""
    head = data[:_HEAD]
    if head[4:12] == b"ftypcrx ":
        return Contents(Status.NO_READER, "a RAW file of Canon (CR3)", _DEVELOP)
    for status, table in ((Status.NO_READER, _PICTURES), (Status.NOT_AN_IMAGE, _OTHERS)):
        for found, start, remedy in table:
            if _matches(start, head):
                return Contents(status, found, remedy)
    at = head.find(b"\xff\xd8\xff")
    if at > 0:
        found, remedy = f"damaged: a JPEG begins at byte {at}, behind other bytes", _COPY
    elif not data.strip(b"\0"):
        found, remedy = "nothing but zeros", _COPY
    elif len(data) < 16:
        found, remedy = "too short for a picture", _COPY
    elif re.fullmatch(rb"[\t\n\r\x20-\x7e\x80-\xff]*", head):
        found, remedy = "text", f"{_COPY}, or {_TAKE_OUT}"
    else:
        found = f"none of {format_names()}: it begins with {data[:MOST_QUOTED]!r}"
        remedy = "convert it to JPEG if it is a picture"
    return Contents(Status.NOT_AN_IMAGE, found, remedy)


def picture_or_film(data: bytes) -> str:
    """Returns what a file is by its first bytes, if it is for the eye; empty for others."""
    if name := image_format(data):
        return f"a picture ({name})"
    contents = other_contents(data)
    return contents.found if contents.status is Status.NO_READER or contents.found == VIDEO else ""


def _matches(start: bytes, head: bytes) -> bool:
    return re.match(start, head, re.DOTALL) is not None


@functools.cache
def missing_readers() -> dict[str, str]:
    """Returns the formats that the installed packages do not read, each with its remedy."""
    missing = {}
    try:
        importlib.import_module("pi_heif").register_heif_opener(thumbnails=False)
    except ImportError:
        missing[HEIF] = HEIF_REMEDY
    for name, module in ((WEBP, "PIL._webp"), (AVIF, "PIL._avif")):
        if importlib.util.find_spec(module) is None:
            missing[name] = _PILLOW_REMEDY
    if not hasattr(Image.core, "jpeg2k_decoder"):
        missing[JPEG2000] = _PILLOW_REMEDY
    return missing


def readable_formats() -> tuple[str, ...]:
    """Returns Pillow's names of the formats that the installed packages read."""
    return tuple(name for name in PLUGINS if name not in missing_readers())


def unreadable_endings() -> dict[str, str]:
    """Returns the endings of photos that cannot be read here, each with the command that helps."""
    return {
        ending: remedy for name, remedy in missing_readers().items() for ending in _ENDINGS[name]
    }


def format_name(name: str) -> str:
    """Returns the name of a format as people write it."""
    return _WORDS.get(name, name)


def format_names() -> str:
    """Returns the formats in words, for messages."""
    return ", ".join(map(format_name, PLUGINS))

"""Decodes the bytes of a picture within limits, and says truly why one cannot be decoded."""

from __future__ import annotations

import bisect
import contextlib
import importlib
import io
import os
import re
from pathlib import Path

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from locdiffusion.photos.bare_files import bare_file
from locdiffusion.photos.carriers import find_blocks
from locdiffusion.photos.decoding_cost import excess, needed_bytes
from locdiffusion.photos.file_structure import (
    EOI,
    SOS,
    canvas,
    is_rare,
    jpeg_segments,
    wanted_bytes,
)
from locdiffusion.photos.image_formats import (
    AVIF,
    BMP,
    GIF,
    HEIF,
    JPEG,
    JPEG2000,
    PLUGINS,
    PNG,
    TIFF,
    WEBP,
    format_name,
    format_names,
    image_format,
    missing_readers,
    other_contents,
)
from locdiffusion.photos.jpeg2000_layout import Jpeg2000Layout
from locdiffusion.photos.tiff_layout import TiffLayout
from schemas.geotags import Status
from schemas.samples import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS

REDUCE_ABOVE_PIXELS = 25_000_000
"""A JPEG 2000 with more pixels is decoded at 1/2, 1/4 or 1/8 of its size."""

REDUCE_ABOVE_BYTES = 2**25
"""A JPEG 2000 of more bytes is decoded at 1/2 at most, which saves most of 20 seconds."""

REDUCED_SIDE = 1024
"""Fewest pixels on the shorter side of a JPEG decoded at 1/2, 1/4 or 1/8 of its size, unless
MAX_IMAGE_PIXELS wants fewer: twice the side that the largest encoders take."""

MAX_JPEG_SIDE = 65_500
"""Limit of libjpeg."""

MAX_DECODING_BYTES = 1000 * 2**20
"""Most memory that decoding takes, beside the file: that of 120 megapixels of PNG, twice."""

MAX_RESCUE_BYTES = 1150 * 2**20
"""Most memory for what is there of a picture, which is decoded twice."""

SALVAGE_LEAST = 0.1
"""Share of a picture's rows from which `salvage` takes them."""

NO_MEMORY = "its pixels do not fit into the memory of its decoder; scale the photo down"
COPY_AGAIN = "copy the photo again from its source"

_BY_ROWS = (PNG, GIF, TIFF, BMP)
"""Formats of which Pillow keeps the rows that it has decoded when it fails."""

_BAND_PIXELS = 2**20
_ZEROS = bytes(512)
_FILLER = bytes((181 * i + 90) % 250 for i in range(1, 1024))
_UNSUPPORTED = re.compile(
    r"(?i)unknown|unsupported|not supported|cannot handle|not available|KeyError"
)


class PhotoError(ValueError):
    """An image that cannot or must not be decoded."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


def load_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Decodes the file of a picture; `exif.upright` turns it.

    Raises:
        FileNotFoundError: There is no such file.
        PhotoError: As from `decode_picture`.
    """
    try:
        return decode_picture(read_picture(path))
    except PhotoError as error:
        raise PhotoError(error.status, f"{path} cannot be decoded: {error}.") from None


def read_picture(path: str | os.PathLike[str]) -> bytes:
    """Reads the file of a picture, and no more than one byte beyond the limit.

    Raises:
        FileNotFoundError: There is no such file.
    """
    file = Path(path)
    if not file.is_file():
        found = "is a folder" if file.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {found}; want the file of one photo ({format_names()}).")
    from locdiffusion.photos.storage import open_stream  # and fsspec, which decoders do not need

    with open_stream(str(file)) as stream:
        data: bytes = stream.read(MAX_IMAGE_BYTES + 1)
    return data


def decode_picture(data: bytes, salvage: bool = False) -> Image.Image:
    """Decodes a picture of one of `image_formats.readable_formats`, of several the first.

    Args:
        data: Bytes of the file.
        salvage: Whether the rows that are there are taken if the file breaks off.

    Returns:
        The picture in its own mode, not turned upright; a large JPEG at reduced scale.

    Raises:
        PhotoError: The bytes are none, too many, no picture, one without a reader, too many pixels
            (noticed before they are decoded), broken, or break off.
    """
    size = len(data)
    if not size:
        raise PhotoError(Status.EMPTY_FILE, f"the file has 0 bytes; {COPY_AGAIN}")
    if size > MAX_IMAGE_BYTES:
        raise PhotoError(
            Status.TOO_MANY_BYTES,
            f"the image has more than {MAX_IMAGE_BYTES:,} bytes; store a smaller one",
        )
    kind = image_format(data)
    if kind is None:
        status, found, remedy = other_contents(data)
        raise PhotoError(status, f"the file of {size:,} bytes is {found}; {remedy}")
    if kind in missing_readers():
        name, remedy = format_name(kind), missing_readers()[kind]
        raise PhotoError(Status.NO_READER, f"nothing here reads {name}: install it with `{remedy}`")
    if found := excess(kind, data):
        raise PhotoError(Status.TOO_SLOW, found)
    _check_pixels(kind, *canvas(kind, data))
    # Pillow's parsers raise almost anything on hostile bytes; whatever it is, this photo is broken.
    image, why = None, ""
    try:
        image = _loaded(_opened(kind, data))
    except PhotoError:
        raise
    except MemoryError:
        raise PhotoError(Status.TOO_LARGE, NO_MEMORY) from None
    except Exception as error:  # which holds what was decoded, and is let go of
        why = f"{type(error).__name__}: {error}"
    filled = (
        kind in (JPEG, WEBP, AVIF, HEIF) and data.endswith(_ZEROS) and _there(kind, data)[1] > 0
    )
    if image is None or filled:
        del image
        image = _what_is_there(kind, data, why, salvage)
    return _with_metadata(kind, data, image)


def _loaded(image: Image.Image) -> Image.Image:
    """Decodes a picture, and lets go of what its decoder keeps: twelve bytes a pixel of a WebP."""
    image.load()
    if image.format in (WEBP, AVIF):
        image.fp = image._decoder = None  # type: ignore[attr-defined]
    return image


def _opened(kind: str, data: bytes) -> Image.Image:
    """Reads a picture's header and sets its scale; raises PhotoError if it is large."""
    stream = io.BytesIO(bare_file(kind, data))
    image: Image.Image
    scale = 1
    if kind == JPEG:
        # Not Pillow's factory, which would open the other pictures of an MPO too.
        image = JpegImageFile(stream)
        if max(image.size) > MAX_JPEG_SIDE:
            raise PhotoError(
                Status.TOO_MANY_PIXELS,
                f"the JPEG has {image.width} x {image.height} pixels, limit {MAX_JPEG_SIDE:,} a "
                "side; cut it, or scale the photo down",
            )
        _check_memory("progressive JPEG", image.size, needed_bytes(kind, image.size, data))
        _reduce(image)
    else:
        if PLUGINS[kind]:
            importlib.import_module(f"PIL.{PLUGINS[kind]}")
        image = Image.OPEN[kind][0](stream, b"")
        if kind == JPEG2000:
            scale = _reduce_levels(image, Jpeg2000Layout(data), len(data))
    _check_pixels(kind, *image.size)
    if kind != JPEG:
        size = image.width // scale, image.height // scale
        _check_memory(format_name(kind), image.size, needed_bytes(kind, size, data))
    if kind == TIFF and TiffLayout(data).is_raw:
        raise PhotoError(
            Status.NO_READER,
            "the file is a RAW file (DNG, NEF or the like), of which only a small preview can be "
            "read; convert it to JPEG, or give the JPEG that the camera stored with it",
        )
    return image


def _reduce(image: JpegImageFile) -> None:
    width, height = image.size
    scale = 1
    while scale < 8 and (
        min(width, height) >= 2 * scale * REDUCED_SIDE
        or width * height > MAX_IMAGE_PIXELS * scale**2
    ):
        scale *= 2
    if scale > 1:
        image.draft(None, (max(1, width // scale), max(1, height // scale)))


def _reduce_levels(image: Image.Image, layout: Jpeg2000Layout, size: int) -> int:
    """Has a large JPEG 2000 decoded without its finest levels, and tells its scale."""
    _check_pixels(JPEG2000, *layout.size)
    levels = int(size > REDUCE_ABOVE_BYTES)
    while layout.size[0] * layout.size[1] >> 2 * levels > REDUCE_ABOVE_PIXELS:
        levels += 1
    levels = min(levels, layout.levels)
    image.reduce = levels  # type: ignore[method-assign, assignment]
    return 2**levels


def _check_memory(name: str, size: tuple[int, int], needed: int) -> None:
    """Raises PhotoError where decoding a picture needs too much memory."""
    if needed > MAX_DECODING_BYTES:
        raise PhotoError(
            Status.TOO_LARGE,
            f"the {name} of {size[0]:,} x {size[1]:,} pixels needs {needed >> 20:,} MiB to be "
            f"decoded, limit {MAX_DECODING_BYTES >> 20:,}; save it as a baseline JPEG, of which "
            "any size is read, or scale the photo down",
        )


def _check_pixels(kind: str, width: int, height: int) -> None:
    if width * height > MAX_IMAGE_PIXELS:
        raise PhotoError(
            Status.TOO_MANY_PIXELS,
            f"the {format_name(kind)} has {width} x {height} pixels, limit {MAX_IMAGE_PIXELS:,}; "
            "scale the photo down, or save it as a baseline JPEG, of which larger ones are read",
        )


def _there(kind: str, data: bytes) -> tuple[bytes, int]:
    """Returns what there is of a file, without zeros at its end, and how many bytes are missing."""
    there = data.rstrip(b"\0") if kind == JPEG or data.endswith(_ZEROS) else data
    return there, wanted_bytes(kind, there) - len(there)


def _what_is_there(kind: str, data: bytes, why: str, salvage: bool) -> Image.Image:
    """Tells a picture that breaks off from a broken one, and returns what is wanted of it.

    Args:
        kind: Pillow's name of the format.
        data: Bytes of the file.
        why: Error at which decoding ended, if it did.
        salvage: As of `decode_picture`.
    """
    name, tail = format_name(kind), ""
    there, missing = _there(kind, data)
    if missing <= 0:
        if is_rare(kind, data) or _UNSUPPORTED.search(why):
            found = f"nothing here reads this kind of {name} ({why}); convert it to a usual JPEG"
            raise PhotoError(Status.NO_READER, found) from None
        found = f"the {name} of {len(data):,} bytes is broken ({why}); {COPY_AGAIN}"
        raise PhotoError(Status.BROKEN_IMAGE, found) from None
    if len(data) - len(there) >= len(_ZEROS):
        tail = f", then {len(data) - len(there):,} zeros follow"
    found = f"the {name} breaks off after {len(there):,} bytes{tail}"
    rescued = _rescued(kind, there, missing)
    if rescued is None:
        more = f"; at least {missing:,} bytes are missing, and what is there gives no picture"
        raise PhotoError(Status.INCOMPLETE_IMAGE, f"{found}{more}; {COPY_AGAIN}") from None
    image, upper, lower, coarse = rescued
    share = (lower - upper) / image.height
    if share == 1 and not coarse:
        return image
    if salvage and share >= SALVAGE_LEAST:
        return image.crop((0, upper, image.width, lower))
    if coarse:
        more = "without its fine detail"
    elif share == 0:
        more = "none of its rows is whole"
    else:
        more = f"{min(max(1 - share, 0.01), 0.99):.0%} of its rows are missing"
    remedy = ", or geotag what is there with --salvage" if share >= SALVAGE_LEAST else ""
    raise PhotoError(Status.INCOMPLETE_IMAGE, f"{found}, {more}; {COPY_AGAIN}{remedy}") from None


def _rescued(kind: str, there: bytes, missing: int) -> tuple[Image.Image, int, int, bool] | None:
    """Decodes what there is of a picture; None if that gives nothing.

    It is decoded with two different fillings of what is missing: the rows that differ are those
    that are missing.

    Returns:
        The picture, the first row that is there, the one behind the last, and whether all rows are
        there without the later scans of a progressive JPEG.
    """
    whole = len(there) + missing
    if missing * SALVAGE_LEAST > len(there) or 4 * whole > MAX_RESCUE_BYTES:
        return None
    try:
        image = _filled(kind, there, missing, 0)
        needed = needed_bytes(kind, image.size, there) + 4 * image.width * image.height
        if needed + 2 * whole > MAX_RESCUE_BYTES:
            return None
        other = _filled(kind, there, missing, 1)
    except PhotoError:
        raise
    except Exception:
        return None
    height = image.height
    differ = _differing_rows(image, other)
    if not differ:
        return image, 0, height, False
    if kind == JPEG and sum(marker == SOS for marker, _ in jpeg_segments(there)) > 1:
        return image, 0, height, bool(image.info.get("progressive"))
    if kind in _BY_ROWS and height - differ.stop > differ.start:
        return image, differ.stop, height, False
    return image, 0, differ.start, False


def _differing_rows(image: Image.Image, other: Image.Image) -> range:
    """Returns the rows from the first to the last in which two pictures of one size differ."""
    width, height = image.size
    step = max(1, _BAND_PIXELS // width)

    def differ(upper: int, lower: int) -> bool:
        box = (0, upper, width, min(lower, height))
        return image.crop(box).tobytes() != other.crop(box).tobytes()

    bands = [upper for upper in range(0, height, step) if differ(upper, upper + step)]
    if not bands:
        return range(0)
    first, last = (range(upper, min(upper + step, height)) for upper in (bands[0], bands[-1]))
    start = bisect.bisect_left(first, True, key=lambda row: differ(first.start, row + 1))
    stop = bisect.bisect_left(last, True, key=lambda row: not differ(row, last.stop))
    return range(first.start + start, last.start + stop)


def _filled(kind: str, there: bytes, missing: int, filling: int) -> Image.Image:
    if kind == JPEG:
        there = there.rstrip(b"\xff") + _FILLER * filling + bytes((0xFF, EOI))
    elif kind not in (PNG, GIF):
        there += bytes([0x55 * filling]) * missing
    image = _opened(kind, there)
    if kind not in _BY_ROWS:
        return _loaded(image)
    prepare = image.load_prepare  # type: ignore[attr-defined]

    def prefill() -> None:
        prepare()
        bands = len(image.getbands())
        ink = 255 * filling
        image.im.paste((ink,) * bands if bands > 1 else ink, (0, 0, *image.size))

    image.load_prepare = prefill  # type: ignore[attr-defined]
    with contextlib.suppress(Exception):
        image.load()
    image.tile = []  # type: ignore[attr-defined]
    return image


def _with_metadata(kind: str, data: bytes, image: Image.Image) -> Image.Image:
    """Gives a picture what its file says of it, which the decoder has not seen."""
    if kind == TIFF:
        image.info["exif"] = TiffLayout(data).orientation()
    elif kind in (JPEG, PNG, WEBP):
        blocks = find_blocks(data)
        if blocks.exif:
            image.info["exif"] = b"Exif\0\0" + blocks.exif[0]
        if blocks.xmp:
            image.info["xmp"] = blocks.xmp[0]
    return image

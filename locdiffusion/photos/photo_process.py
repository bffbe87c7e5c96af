"""Decodes photos in child processes, with limits on the time and the memory of each.

Decoders in C read bytes of strangers. In a child such bytes can take no more than the limits, and
a crash costs the photo that caused it. `photo.decoded` is the plain reference: both give the same
pixels, positions, times and errors. What a child answers is JSON and bytes, and is checked.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import struct
from datetime import datetime
from typing import Any

import numpy as np
from PIL import Image

from locdiffusion.isolation import IsolatedError, IsolatedFunction, Limits, Overrun, OverrunError
from locdiffusion.photos.capture_time import Capture, CaptureTime, TimeSource
from locdiffusion.photos.coordinates import Reading, Source
from locdiffusion.photos.photo import Decoded, Preprocess, decoded
from locdiffusion.photos.picture import COPY_AGAIN, PhotoError
from schemas.geotags import Status
from schemas.layers import THUMBNAIL_SIDE
from schemas.samples import Truth

LIMITS = Limits()
"""A sound photo takes a few seconds and a few hundred MiB, one of 120 megapixels included."""

MOST_TEXT = 4096
"""Most characters of a message of a child."""

_REMEDIES = {
    Overrun.TIME: (
        Status.TOO_SLOW,
        "decoding it was stopped: {}; scale the photo down, or save it as a baseline JPEG",
    ),
    Overrun.MEMORY: (Status.TOO_LARGE, "decoding it was stopped: {}; scale the photo down"),
    Overrun.CRASH: (Status.BROKEN_IMAGE, f"its decoder crashed ({{}}); {COPY_AGAIN}"),
}
_THUMBNAIL, _SALVAGE = 1, 2
_CAMERA = re.compile(r"([0-9a-f]{12})?\Z").match
_HEADER = struct.Struct("<I")
_MOST_HEADER_BYTES = 16 * MOST_TEXT
"""Most bytes of JSON, in which a character may take twelve."""
_MOST_THUMBNAIL_BYTES = 4 * THUMBNAIL_SIDE**2 + 4096


class IsolatedDecoder:
    """Decodes photos as `photo.decoded` does, in child processes that threads share.

    Args:
        limits: Limits of one photo.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._children = functools.lru_cache(2)(functools.partial(_children, limits))

    def __call__(
        self, data: bytes, preprocess: Preprocess, thumbnail: bool = False, salvage: bool = False
    ) -> Decoded:
        """Decodes the bytes of a photo; see `photo.decoded`.

        Args:
            data: Bytes of the file.
            preprocess: Preprocessing of the encoder, which pickle sends to the child.
            thumbnail: Whether to make a thumbnail.
            salvage: Whether what is there of a picture that breaks off is taken.

        Raises:
            PhotoError: The photo cannot or must not be decoded, or not within the limits.
        """
        function, like = self._children(preprocess)
        options = bytes([_THUMBNAIL * thumbnail | _SALVAGE * salvage])
        return read_answer(call(function, options + data), like)


def call(function: IsolatedFunction, request: bytes) -> bytes:
    """Calls a function of a photo in a child process.

    Raises:
        PhotoError: The function raised, or the photo drove it to a limit.
    """
    try:
        return function(request)
    except OverrunError as error:
        status, told = _REMEDIES[error.overrun]
        raise PhotoError(status, told.format(error)) from None
    except IsolatedError as error:
        why = f"cannot be decoded ({str(error)[:MOST_TEXT]}); {COPY_AGAIN}"
        raise PhotoError(Status.BROKEN_IMAGE, why) from None


def _children(limits: Limits, preprocess: Preprocess) -> tuple[IsolatedFunction, np.ndarray]:
    """Returns the function in children, and pixels of the shape that it gives."""
    like = preprocess(Image.new("RGB", (8, 8)))
    most = like.nbytes + _MOST_THUMBNAIL_BYTES + _MOST_HEADER_BYTES
    limits = dataclasses.replace(limits, reply_bytes=most)
    return IsolatedFunction(functools.partial(answer, preprocess), limits), like


def answer(preprocess: Preprocess, request: bytes) -> bytes:
    """Decodes a photo in the child.

    Args:
        preprocess: Preprocessing of the encoder.
        request: A byte of options, and the bytes of the file.

    Returns:
        Length of a JSON header, the header, and the bytes of pixels and thumbnail.
    """
    options = request[0]
    try:
        found = decoded(
            request[1:], preprocess, bool(options & _THUMBNAIL), bool(options & _SALVAGE)
        )
    except PhotoError as error:
        return _packed({"status": error.status.value, "message": str(error)[:MOST_TEXT]})
    position, source, problem = found.own.position, found.own.source, found.own.problem
    time = found.capture.time
    header = {
        "shape": found.pixels.shape,
        "thumbnail": None if found.thumbnail is None else len(found.thumbnail),
        "position": position and [position.latitude, position.longitude],
        "source": source and source.value,
        "problem": problem[:MOST_TEXT],
        "camera": found.capture.camera,
        "time": time and [time.local.isoformat(), time.source.value, time.offset_min],
    }
    return _packed(header, found.pixels.tobytes(), found.thumbnail or b"")


def read_answer(data: bytes, like: np.ndarray) -> Decoded:
    """Reads what a child answers, and believes nothing of it.

    Args:
        data: Answer of a child, as of `answer`.
        like: Pixels of the shape that is wanted.

    Raises:
        PhotoError: The child says that the photo cannot be decoded, or its answer is none.
    """
    try:
        return _unpacked(data, like)
    except PhotoError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, struct.error) as error:
        status, told = _REMEDIES[Overrun.CRASH]
        why = f"its answer is none: {type(error).__name__}"
        raise PhotoError(status, told.format(why)) from None


def _packed(header: dict[str, Any], *parts: bytes) -> bytes:
    text = json.dumps(header).encode()
    return b"".join([_HEADER.pack(len(text)), text, *parts])


def _unpacked(data: bytes, like: np.ndarray) -> Decoded:
    """Reads what a child answers; raises ValueError, TypeError or KeyError for anything else."""
    (length,) = _HEADER.unpack_from(data)
    start = _HEADER.size + length
    header = json.loads(data[_HEADER.size : start])
    if "status" in header:
        status = Status(header["status"])
        if status.of_shard:
            raise ValueError(status)
        raise PhotoError(status, str(header["message"])[:MOST_TEXT])
    thumbnail = header["thumbnail"]
    size = 0 if thumbnail is None else int(thumbnail)
    end = start + like.nbytes
    if header["shape"] != list(like.shape) or len(data) != end + size:
        raise ValueError(header["shape"])
    if not 0 <= size <= _MOST_THUMBNAIL_BYTES:
        raise ValueError(size)
    pixels = np.frombuffer(data, np.uint8, like.size, start).reshape(like.shape)
    picture = None if thumbnail is None else data[end:]
    return Decoded(pixels, _reading(header), picture, _capture(header))


def _reading(header: dict[str, Any]) -> Reading:
    position, source = header["position"], header["source"]
    return Reading(
        None if position is None else Truth(*map(float, position)),
        None if source is None else Source(source),
        str(header["problem"])[:MOST_TEXT],
    )


def _capture(header: dict[str, Any]) -> Capture:
    time, camera = header["time"], str(header["camera"])
    if not _CAMERA(camera):
        raise ValueError(camera)
    if time is None:
        return Capture(camera=camera)
    local, source, offset = time
    when = datetime.fromisoformat(local)
    offset = None if offset is None else int(offset)
    return Capture(CaptureTime(when, TimeSource(source), offset), camera)


isolated = IsolatedDecoder()
"""The decoder of this process; its children end with the process."""

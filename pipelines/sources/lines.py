"""Reads the lines of a metadata file, plain or bzip2."""

from __future__ import annotations

import bz2
import itertools
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from locdiffusion.photos.storage import ReadError, open_stream

CHUNK = 2**20
MAX_LINE_BYTES = 2**20
"""Longest line; a longer one is cut. The longest of YFCC100M has less than a tenth of this."""

BZIP2_MAGIC = b"BZh"

MAX_UNPACKED_RATIO = 200
"""Most that a bzip2 unpacks to; lists unpack to 4 to 10 times their size."""

_ANY_RATIO_BYTES = 64 * 2**20
"""Up to this size a list may unpack from however little."""

# A stream may be as short as 14 bytes, and each copies the rest of its piece.
_PIECE = 4096


def read_lines(url: str) -> Iterator[bytes]:
    """Yields the lines of a file without their newlines, holding one chunk at a time.

    The first bytes tell whether a file is bzip2, not its name.

    Args:
        url: Path of the file, or a URL that fsspec opens.

    Raises:
        OSError: The file cannot be opened.
        ReadError: The file cannot be read to its end, or is a bzip2 that is cut or damaged.
    """
    with open_stream(url) as file:
        head = file.read(CHUNK)
        packed = head.startswith(BZIP2_MAGIC)
        chunks = itertools.chain([head] if head else [], chunks_of(file))
        data = _unpacked(chunks, url) if packed else chunks
        yield from (line for _, line in split_lines(data))


def chunks_of(file: BinaryIO) -> Iterator[bytes]:
    """Yields the rest of a file in chunks."""
    return iter(lambda: file.read(CHUNK), b"")


def _unpacked(chunks: Iterable[bytes], url: str) -> Iterator[bytes]:
    """Decompresses one stream after the other, as parallel bzip2 writes them.

    bz2.BZ2File takes damage from the second stream on for the end of the file.
    """
    stream = bz2.BZ2Decompressor()
    begun = False
    taken = made = 0
    for left in _pieces(chunks):
        taken += len(left)
        while left or not (stream.eof or stream.needs_input):
            if stream.eof:
                stream, begun = bz2.BZ2Decompressor(), False
            try:
                data = stream.decompress(left, CHUNK)
            except OSError as error:
                raise ReadError(f"{url} is a damaged bzip2 ({error}); copy it again") from None
            begun = begun or bool(left)
            left = stream.unused_data if stream.eof else b""
            made += len(data)
            if made > max(_ANY_RATIO_BYTES, MAX_UNPACKED_RATIO * taken):
                raise ReadError(
                    f"{url} unpacks to more than {MAX_UNPACKED_RATIO} times its size, which no "
                    "list does; if it is one, unpack it first"
                )
            if data:
                yield data
    if begun and not stream.eof:
        raise ReadError(f"{url} is a bzip2 that breaks off; copy it again")


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        yield from (chunk[start : start + _PIECE] for start in range(0, len(chunk), _PIECE))


def split_lines(chunks: Iterable[bytes], position: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yields the byte at which each line begins, and the line, cut to MAX_LINE_BYTES.

    Args:
        chunks: Parts of a file.
        position: Byte of the file at which the first part begins.
    """
    rest, cut = b"", 0
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield position, line[:MAX_LINE_BYTES]
            position, cut = position + len(line) + cut + 1, 0
        cut += len(rest[MAX_LINE_BYTES:])
        rest = rest[:MAX_LINE_BYTES]
    if rest:
        yield position, rest

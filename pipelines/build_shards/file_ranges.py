"""Cuts metadata files into ranges of bytes that workers read side by side.

A line belongs to the range in which it begins. A bzip2, a tar and a
msgpack shard are one range each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from locdiffusion.files import file_system
from locdiffusion.photos.storage import DataError, ReadError, open_stream
from pipelines.sources.lines import BZIP2_MAGIC, chunks_of, read_lines, split_lines

RANGE_BYTES = 16 * 2**20
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class FileRange:
    """Range of the bytes of a file, or the whole file.

    Attributes:
        id: Name of the range in output files.
        url: Path or URL of the file.
        start: First byte.
        stop: Byte after the last one; None for a file that cannot be cut.
        first_line: First line of the file, which may name its columns; empty if it has no line, or
            was not asked for.
    """

    id: str
    url: str
    start: int = 0
    stop: int | None = None
    first_line: bytes = b""


def file_bytes(url: str) -> int | None:
    """Returns the size of a file in bytes; None if it is unknown."""
    filesystem, path = file_system(url)
    try:
        size = filesystem.size(path)
    except OSError as error:
        raise DataError(
            f"{url} cannot be looked at ({type(error).__name__}: {error}); check the path"
        ) from error
    return None if size is None else int(size)


def line_ranges(
    name: str, urls: Iterable[str], range_bytes: int = RANGE_BYTES, first_lines: bool = False
) -> list[FileRange]:
    """Cuts files of lines into ranges.

    Args:
        name: First part of the ids of the ranges.
        urls: Paths or URLs of the files, in an order that does not change.
        range_bytes: Size of a range in bytes.
        first_lines: Whether each range holds the first line of its file.

    Raises:
        DataError: A file is missing, gzipped or damaged.
    """
    ranges = []
    for url in urls:
        head, size = _head(url), file_bytes(url)
        if head.startswith(GZIP_MAGIC):
            raise DataError(f"{url} is gzipped; gunzip it, or give it as .bz2")
        whole = size is None or head.startswith(BZIP2_MAGIC)
        steps = [(0, None)] if whole else _steps(size or 0, range_bytes)
        line = _first_line(url) if first_lines else b""
        ranges += [(url, start, stop, line) for start, stop in steps]
    return [FileRange(f"{name}-{number:05d}", *span) for number, span in enumerate(ranges)]


def whole_files(name: str, urls: Iterable[str]) -> list[FileRange]:
    """Returns a range per file."""
    return [FileRange(f"{name}-{number:05d}", url) for number, url in enumerate(urls)]


def _steps(size: int, range_bytes: int) -> list[tuple[int, int | None]]:
    starts = range(0, max(size, 1), range_bytes)
    return [(start, min(start + range_bytes, size)) for start in starts]


def _head(url: str) -> bytes:
    try:
        with open_stream(url) as file:
            return file.read(4)
    except OSError as error:
        raise DataError(
            f"{url} cannot be read ({type(error).__name__}: {error}); check the path"
        ) from error


def _first_line(url: str) -> bytes:
    try:
        return next(read_lines(url), b"")
    except (OSError, ReadError) as error:
        raise DataError(f"{url} cannot be read ({error}); check the file") from error


def lines_of(span: FileRange) -> Iterator[bytes]:
    """Yields the lines that begin in a range, without their newlines.

    Raises:
        OSError: The file cannot be read.
    """
    if span.stop is None:
        yield from read_lines(span.url)
        return
    # From one byte before: if that is a newline, the range begins with a whole line.
    begin = max(span.start - 1, 0)
    with open_stream(span.url) as file:
        file.seek(begin)
        for position, line in split_lines(chunks_of(file), begin):
            if position >= span.stop:
                return
            if position >= span.start:
                yield line

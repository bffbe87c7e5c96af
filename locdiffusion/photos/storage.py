"""Opens files wherever they lie, reads them in blocks ahead, and raises one kind of error."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

BLOCK_BYTES, BLOCKS_HELD = 8 * 2**20, 4
READ_AHEAD: dict[str, Any] = {
    # The block behind the one in use is fetched meanwhile. Set here because gcsfs on its own would
    # hold up to 256 MiB per open file, and a worker has a file open per thread.
    "cache_type": "background",
    "block_size": BLOCK_BYTES,
    "cache_options": {"maxblocks": BLOCKS_HELD},
}


class DataError(ValueError):
    """Photos, shards or lists are missing or unusable; the message names the remedy."""


class ReadError(OSError):
    """A file could not be opened or read, for whatever reason of its file system."""


class _Stream(io.BufferedIOBase):
    """A file that raises ReadError, whatever fails."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        # Block by block: a read over more blocks than are held would fetch some of them twice.
        left = sys.maxsize if size is None or size < 0 else size
        parts: list[bytes] = []
        try:
            while left and (part := self._file.read(min(left, READ_AHEAD["block_size"]))):
                parts.append(part)
                left -= len(part)
        except Exception as error:
            raise ReadError(explained(error)) from error
        return b"".join(parts)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            position: int = self._file.seek(offset, whence)
        except Exception as error:
            raise ReadError(explained(error)) from error
        return position

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def open_stream(url: str) -> BinaryIO:
    """Opens a file that is read forwards; a few blocks of it are held in memory.

    File systems retry on their own (gcsfs six times within half a minute), so an error is final.

    Args:
        url: Path of the file, or a URL that fsspec opens.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: The path is a directory.
        PermissionError: The file may not be read.
        ReadError: The file cannot be opened for another reason.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        ahead = {} if isinstance(filesystem, LocalFileSystem) else READ_AHEAD
        file = filesystem.open(path, "rb", **ahead)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # aiohttp's, google-auth's, gcsfs's, botocore's, ...
        raise ReadError(explained(error)) from error
    return cast(BinaryIO, _Stream(file))


def version(url: str) -> list[object]:
    """Returns where a file lies, and what changes when it is written again."""
    filesystem, path = fsspec.core.url_to_fs(url)
    if isinstance(filesystem, LocalFileSystem):
        status = os.stat(path)
        return [os.path.abspath(path), status.st_size, status.st_mtime_ns]
    info = filesystem.info(path)
    marks = ("size", "etag", "ETag", "generation", "mtime", "created")
    return [url, *(str(info[mark]) for mark in marks if mark in info)]


def explained(error: Exception) -> str:
    """Returns what a file system raised, or how to install the package that it needs."""
    if isinstance(error, ImportError) and "gcsfs" in str(error):
        return "the Python package gcsfs is missing: pip install 'locdiffusion[gcp]'"
    return f"{type(error).__name__}: {error}"

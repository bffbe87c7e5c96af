"""Files wherever they lie: read in blocks ahead with one kind of error. No Beam."""

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
    """A file could not be opened or read on, for whatever reason its file system has for it."""


class _Stream(io.BufferedIOBase):
    """A file whose every failure is a ReadError."""

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
            raise _told(error) from error
        return b"".join(parts)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            position: int = self._file.seek(offset, whence)
        except Exception as error:
            raise _told(error) from error
        return position

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def open_stream(url: str) -> BinaryIO:
    """Opens a file to be read forwards, holding a few blocks of it.

    File systems retry what may pass (gcsfs six times, within half a minute); what comes through is
    final for now.

    Args:
        url: A path, or anything that fsspec opens.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: It is none.
        PermissionError: It may not be read.
        ReadError: Everything else.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        ahead = {} if isinstance(filesystem, LocalFileSystem) else READ_AHEAD
        file = filesystem.open(path, "rb", **ahead)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # aiohttp's, google-auth's, gcsfs's, botocore's, ...
        raise _told(error) from error
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


def _told(error: Exception) -> ReadError:
    return ReadError(f"{type(error).__name__}: {error}")

"""Opens files wherever they lie, reads them in blocks ahead, and raises one kind of error.

Only what has a `://` is a URL. Any other place is a path of this machine, taken letter by letter:
it may hold colons, brackets, braces and bytes that are not UTF-8.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Mapping
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
        if "://" not in url:
            return cast(BinaryIO, _Stream(_open_file(url)))
        filesystem, path = fsspec.core.url_to_fs(url)
        ahead = {} if isinstance(filesystem, LocalFileSystem) else READ_AHEAD
        file = filesystem.open(path, "rb", **ahead)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # aiohttp's, google-auth's, gcsfs's, botocore's, ...
        raise ReadError(explained(error)) from error
    return cast(BinaryIO, _Stream(file))


def _open_file(path: str) -> Any:
    """Opens a file of this machine; a pipe or a device, which may never answer, is refused."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ReadError(f"{path} is a pipe, a socket or a device, wanted a file")
    return open(path, "rb")


def version(url: str) -> list[object]:
    """Returns where a file lies, and what changes when it is written again.

    That is size and time of change, or ETag or generation; only the place if there is no file. The
    times are those of the content and of the file itself: some programs set the first back.
    """
    filesystem = None
    if "://" in url:
        filesystem, path = fsspec.core.url_to_fs(url)
    if filesystem is None or isinstance(filesystem, LocalFileSystem):
        path = os.path.abspath(url if filesystem is None else path)
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return [path]
        return [path, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    try:
        return [url, *_marks(filesystem.info(path))]
    except Exception:  # of any client; whoever opens the file is told why
        return [url]


def exists(url: str) -> bool:
    """Returns whether a file or folder lies there; raises what its file system raises."""
    if "://" in url:
        filesystem, path = fsspec.core.url_to_fs(url)
        return bool(filesystem.exists(path))
    try:
        os.lstat(url)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _marks(info: Mapping[str, Any]) -> list[str]:
    marks = ("size", "etag", "ETag", "generation", "mtime", "created", "last_modified")
    return [str(info[mark]) for mark in marks if info.get(mark) is not None]


def find_files(folder: str, deep: bool) -> dict[str, list[str]]:
    """Lists a folder that has a URL; raises what its file system raises.

    Args:
        folder: URL of the folder.
        deep: Whether to list the folders in it, too.

    Returns:
        For each file by URL what changes when it is written again.
    """
    filesystem, path = fsspec.core.url_to_fs(folder)
    found = filesystem.find(path, maxdepth=None if deep else 1, detail=True)
    return {filesystem.unstrip_protocol(name): _marks(info) for name, info in found.items()}


def explained(error: Exception) -> str:
    """Returns what a file system raised, or how to install the package that it needs."""
    if isinstance(error, ImportError) and "gcsfs" in str(error):
        return "the Python package gcsfs is missing: pip install 'locdiffusion[gcp]'"
    return f"{type(error).__name__}: {error}"

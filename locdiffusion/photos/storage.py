"""Opens files wherever they lie, reads them in blocks ahead, and raises one kind of error.

Only what has a `://` is a URL. Any other place is a path of this machine, taken letter by letter:
it may hold colons, brackets, braces and bytes that are not UTF-8. What a listing names is opened as
a name: it joins no file systems (`locdiffusion.files.CHAINS`), and where links of a folder lead out
of it, or to a pipe or a device, `open_inside` refuses them, whenever they were put there.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, cast

from fsspec.implementations.local import LocalFileSystem

from locdiffusion.files import file_system, is_chain

PAUSES_S = (0.5, 2.5)
"""Seconds between the tries to read what could not be read for a moment."""

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


class LinkError(ReadError):
    """A file lies outside of the folder in which it was listed, where a link leads."""


_FINAL = (
    *(FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError),
    *(ImportError, ValueError),
)
_FINAL_NUMBERS = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EINVAL)
_PASSING_CODES = (408, 425, 429)


def passes(error: BaseException | None) -> bool:
    """Returns whether a file may be readable in a moment: not if it is missing or forbidden.

    Args:
        error: What opening or reading raised. A ReadError without a cause is a refusal of ours.
    """
    while isinstance(error, ReadError):
        error = error.__cause__
    if error is None or isinstance(error, _FINAL) or str(error).startswith("Forbidden"):
        return False
    if isinstance(error, OSError) and error.errno in _FINAL_NUMBERS:
        return False
    code = getattr(error, "status", None) or getattr(error, "code", None)
    refused = isinstance(code, int) and 400 <= code < 500 and code not in _PASSING_CODES
    return not refused and getattr(error, "retryable", True) is not False


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
        filesystem, path = file_system(url)
        ahead = {} if isinstance(filesystem, LocalFileSystem) else READ_AHEAD
        file = filesystem.open(path, "rb", **ahead)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # aiohttp's, google-auth's, gcsfs's, botocore's, ...
        raise ReadError(explained(error)) from error
    return cast(BinaryIO, _Stream(file))


def _open_file(path: str, flags: int = 0, folder: int | None = None) -> Any:
    """Opens a file of this machine; a pipe or a device, which may never answer, is refused.

    What opening a device does is not known, so it is looked at before; and again once it is open.

    Args:
        path: Path of the file.
        flags: Flags of `os.open`; with O_NOFOLLOW, a link is an OSError.
        folder: Open folder from which the path leads on.
    """
    status = os.stat(path, dir_fd=folder, follow_symlinks=not flags & os.O_NOFOLLOW)
    if stat.S_IFMT(status.st_mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise ReadError(f"{path} is a pipe, a socket or a device, wanted a file")
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags, dir_fd=folder)
    kind = stat.S_IFMT(os.fstat(opened).st_mode)
    if kind == stat.S_IFREG:
        return os.fdopen(opened, "rb")
    os.close(opened)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise ReadError(f"{path} is a pipe, a socket or a device, wanted a file")


def open_inside(folder: str, path: str) -> BinaryIO:
    """Opens a file of a folder; links are followed as long as they stay in the folder.

    No link is followed by the system itself, so that none that is put there meanwhile leads out.

    Args:
        folder: Path or URL of the folder, which may be a link itself.
        path: Path of the file within the folder, as a listing named it.

    Raises:
        LinkError: The file lies outside of the folder.
        OSError: As from `open_stream`.
    """
    if "://" in folder:
        return open_stream(f"{folder}/{path}")
    try:
        return cast(BinaryIO, _Stream(_open_below(folder, path)))
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
    inner = path_inside(folder, path)
    if inner is None:
        raise LinkError(f"{folder}/{path} is a link that leads out of {folder}")
    return cast(BinaryIO, _Stream(_open_below(folder, inner)))


def path_inside(folder: str, path: str) -> str | None:
    """Returns the path of a file within a local folder without links; None if it lies outside."""
    real = os.path.realpath(folder or "/").rstrip("/") + "/"
    place = os.path.realpath(f"{folder}/{path}")
    return place.removeprefix(real) if f"{place}/".startswith(real) else None


def _open_below(folder: str, path: str) -> Any:
    """Opens a file of a folder without following a link within the folder."""
    *folders, name = path.split("/")
    enter = os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)
    here = os.open(folder or "/", enter)
    try:
        for part in folders:
            inner = os.open(part, enter | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = inner
        return _open_file(name, os.O_NOFOLLOW, here)
    finally:
        os.close(here)


def version(url: str) -> list[object]:
    """Returns where a file lies, and what changes when it is written again.

    That is size and time of change, or ETag or generation; only the place if there is no file. The
    times are those of the content and of the file itself: some programs set the first back.
    """
    if "://" not in url:
        return _version_here(os.path.abspath(url))
    filesystem, path = file_system(url)
    if isinstance(filesystem, LocalFileSystem):
        return _version_here(os.path.abspath(path))
    try:
        return [url, *marks_of(filesystem.info(path))]
    except Exception:  # of any client; whoever opens the file is told why
        return [url]


def _version_here(path: str) -> list[object]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return [path]
    return [path, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def exists(url: str) -> bool:
    """Returns whether a file or folder lies there; raises what its file system raises."""
    if "://" in url:
        filesystem, path = file_system(url)
        return bool(filesystem.exists(path))
    try:
        os.lstat(url)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def marks_of(info: Mapping[str, Any]) -> list[str]:
    """Returns what a file system says of a file that changes when it is written again."""
    marks = ("size", "etag", "ETag", "generation", "mtime", "created", "last_modified")
    return [str(info[mark]) for mark in marks if info.get(mark) is not None]


def find_files(folder: str, deep: bool) -> dict[str, list[str]]:
    """Lists a folder that has a URL; raises what its file system raises.

    Args:
        folder: URL of the folder.
        deep: Whether to list the folders in it, too.

    Returns:
        For each file by URL what changes when it is written again. What a listing names outside of
        the folder, as a web server may, is left out.
    """
    filesystem, path = file_system(folder)
    found = filesystem.find(path, maxdepth=None if deep else 1, detail=True)
    within = listed_url(filesystem, path).rstrip("/") + "/"
    files = {listed_url(filesystem, name): marks_of(info) for name, info in found.items()}
    return {url: mark for url, mark in files.items() if url.startswith(within)}


def listed_url(filesystem: Any, name: str) -> str:
    """Returns the place of a file or folder that a file system lists: its URL, or its local path.

    Raises:
        ReadError: The URL would be read as one that joins file systems.
    """
    url: str = filesystem.unstrip_protocol(name)
    if url.startswith(("file://", "local://")):
        return str(LocalFileSystem._strip_protocol(url))
    if is_chain(url):
        raise ReadError(
            f"{url[:200]!r} has '::' in a name; copy or unpack the files, and name them"
        )
    return url


def explained(error: Exception) -> str:
    """Returns what a file system raised, or how to install the package that it needs."""
    if isinstance(error, ImportError) and "gcsfs" in str(error):
        return "the Python package gcsfs is missing: pip install 'locdiffusion[gcp]'"
    return f"{type(error).__name__}: {error}"

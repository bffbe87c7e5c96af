"""Writes files that appear whole or not at all, on a local disk or wherever fsspec reaches.

Only what has a `://` is a URL. Any other place is a path of this machine, taken letter by letter.
In a URL, `::` joins file systems only behind one of `CHAINS`, as a person types it; elsewhere it is
part of the name of a file, such as one that a bucket lists.

A local file is written under a temporary name beside its place and then renamed. A killed process
leaves at most a file that matches `LEFT_OVER`; it never leaves half a file under the final name.
The temporary file is made anew under a name that nobody can guess, and renaming replaces a link: no
link that lies in the folder is written through.
The temporary names are short, so that every name that the file system allows can be written.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

_LOCAL = LocalFileSystem()
LEFT_OVER = ".locdiffusion-*.tmp"

CHAINS = (
    *("simplecache", "filecache", "blockcache", "cached", "zip", "tar", "libarchive", "dir"),
    *("reference", "asyncwrapper", "async_wrapper"),
)
"""File systems of fsspec that stand before another one, joined to it by `::`."""


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path; what the block writes there appears at the target when it ends.

    The temporary file is removed if the block raises.

    Args:
        target: Path of the file, or a URL that fsspec opens. The folder is made if it is missing.
    """
    filesystem, path = _remote(target)
    if filesystem:
        with tempfile.TemporaryDirectory(prefix="locdiffusion-") as private:
            yield Path(private, "file")
            filesystem.put_file(os.path.join(private, "file"), path)
        return
    folder = os.path.dirname(path) or os.curdir
    os.makedirs(folder, exist_ok=True)
    temporary = Path(folder, LEFT_OVER.replace("*", secrets.token_hex(8)))
    temporary.touch(exist_ok=False)  # O_EXCL: neither a file nor a link that was there before
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(target: str | os.PathLike[str], data: bytes | str) -> None:
    """Writes a file: locally by renaming, elsewhere by one PUT.

    Args:
        target: Path of the file, or a URL that fsspec opens. The folder is made if it is missing.
        data: Content of the file; a text is written as UTF-8.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    filesystem, path = _remote(target)
    if filesystem:
        filesystem.pipe_file(path, content)
        return
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(content)


def create_atomically(target: str | os.PathLike[str], data: bytes) -> bool:
    """Writes a file if there is none under its name; one request on a storage that knows the wish.

    Args:
        target: Path of the file, or a URL that fsspec opens. The folder is made if it is missing.
        data: Content of the file.

    Returns:
        Whether there was none.
    """
    filesystem, path = _remote(target)
    if filesystem is None:
        if os.path.lexists(path):
            return False
        write_atomically(Path(path), data)
        return True
    asynchronous = getattr(filesystem, "_pipe_file", None)
    if "mode" not in inspect.signature(asynchronous or filesystem.pipe_file).parameters:
        if filesystem.exists(path):
            return False
        filesystem.pipe_file(path, data)
        return True
    try:
        filesystem.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    return True


def write_json(target: str | os.PathLike[str], content: Any, sort_keys: bool = False) -> None:
    """Writes a JSON file; refuses NaN and infinity."""
    text = json.dumps(content, indent=1, sort_keys=sort_keys, allow_nan=False)
    write_atomically(target, text + "\n")


def absolute(root: str) -> str:
    """Returns a path or URL that means the same in another process's directory."""
    return root if not root or "://" in root else os.path.abspath(root)


def file_system(place: str) -> tuple[Any, str]:
    """Returns fsspec's file system of a place, and the path on it."""
    if "://" not in place:
        return _LOCAL, os.path.abspath(place)
    if is_chain(place):
        filesystem, path = fsspec.core.url_to_fs(place)
        return filesystem, path
    protocol = place.partition("://")[0]
    kind = fsspec.get_filesystem_class(protocol)
    settings = kind._get_kwargs_from_urls(place)
    return fsspec.filesystem(protocol, **settings), kind._strip_protocol(place)


def is_chain(url: str) -> bool:
    """Returns whether fsspec reads the URL through one file system after the other."""
    first, joined, _ = url.partition("::")
    return bool(joined) and first.partition("://")[0] in CHAINS


def _remote(target: str | os.PathLike[str]) -> tuple[Any, str]:
    """Returns the remote file system of a target, or None, and the path of the target in it."""
    if isinstance(target, os.PathLike):
        return None, os.fspath(target)
    filesystem, path = file_system(target)
    return None if isinstance(filesystem, LocalFileSystem) else filesystem, path

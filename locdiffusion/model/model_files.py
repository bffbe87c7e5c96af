"""Copies checkpoints and encoder weights from a bucket to the local disk, once per process.

A worker on another machine does not see the disk of the machine from which a job was submitted.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import fsspec

from locdiffusion.model.weights import join_name, split_name

_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # kept, and so emptied when the process ends


class ModelFileError(ValueError):
    """A file of a model cannot be copied; the message names the remedy."""


def local_checkpoint(path: str | None) -> str | None:
    """Finds a local directory of a checkpoint, and copies one at a URL.

    Args:
        path: A URL that fsspec knows, for example gs://BUCKET/DIR. A local path, a name or None is
            returned unchanged.

    Raises:
        ModelFileError: Nothing can be read from the URL.
    """
    return path if path is None or "://" not in path else str(_copied(path))


def local_encoder(name: str) -> str:
    """Replaces a URL in an encoder's name by a local copy of the weights.

    Args:
        name: Name for `load_image_encoder`, such as `open_clip:MODEL/URL` or `geoclip:URL`.

    Raises:
        ModelFileError: Nothing can be read from the URL.
    """
    model, weights = split_name(name)
    return join_name(model, str(_copied(weights))) if "://" in weights else name


@functools.cache
def _copied(url: str) -> Path:
    """Copies a file, or the files directly in a directory."""
    folder = tempfile.TemporaryDirectory(prefix="locdiffusion-")
    _FOLDERS.append(folder)
    target = Path(folder.name) / url.rstrip("/").rpartition("/")[2]
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        if filesystem.isfile(path):
            filesystem.get_file(path, str(target))
        else:
            _copy_files(filesystem, path.rstrip("/"), target)
    except ModelFileError:
        raise
    except Exception as error:  # each file system has its own
        raise ModelFileError(
            f"{url} cannot be read ({type(error).__name__}: {error}); check the path, and that you "
            "and the job's workers may read it"
        ) from error
    return target


def _copy_files(filesystem: Any, path: str, target: Path) -> None:
    found = [entry["name"] for entry in filesystem.ls(path, detail=True) if entry["type"] == "file"]
    if not found:
        raise FileNotFoundError("no file lies there")
    target.mkdir()
    for name in found:
        filesystem.get_file(name, str(target / name.rpartition("/")[2]))

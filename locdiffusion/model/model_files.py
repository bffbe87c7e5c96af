"""Checkpoints and encoder weights in a bucket: copied once per process, to where they can be read.

A worker on another machine sees nothing of the disk that a job was submitted from. Knows no Beam.
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
    """A model's file cannot be had from where it is said to lie; the message names the remedy."""


def local_checkpoint(path: str | None) -> str | None:
    """A checkpoint as a local directory.

    Args:
        path: A URL that fsspec knows, for example of gs://; a local path or a name, and None, are
            returned as they are.

    Raises:
        ModelFileError: Nothing can be read there.
    """
    return path if path is None or "://" not in path else str(_copied(path))


def local_encoder(name: str) -> str:
    """An encoder's name, with a local file in place of a URL.

    Args:
        name: As `load_image_encoder` takes it, `open_clip:MODEL/URL` or `geoclip:URL`.

    Raises:
        ModelFileError: Nothing can be read there.
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

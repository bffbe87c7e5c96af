"""Reads the bytes of an image from the place that its ImageRef names."""

from __future__ import annotations

import os

from fsspec.implementations.local import LocalFileSystem

from locdiffusion.files import file_system
from locdiffusion.photos.storage import open_stream
from pipelines.sources.download import FetchError, FetchSettings, shared
from pipelines.sources.record import ImageRef
from schemas.training import DropReason

DEFAULTS = FetchSettings()

_WEB = ("http://", "https://")


def read(ref: ImageRef, settings: FetchSettings = DEFAULTS) -> bytes:
    """Reads one image, and of a larger file only the image's own bytes.

    Whatever lies behind http(s) comes through the downloader, also under a folder's root.

    Raises:
        FetchError: There is no image, it is too large, or it cannot be read.
    """
    if is_web(ref):
        return shared(settings).get(ref.url)
    path = _local_path(ref.url)
    if path is not None and settings.within and not _leads_into(path, settings.within):
        why = f"{ref.url} is a link that leads out of {settings.within}; wanted a file in it, or "
        raise FetchError(DropReason.NO_IMAGE, why + "--follow-links")
    return _read_file(ref, path, settings.max_bytes)


def is_web(ref: ImageRef) -> bool:
    """Returns whether an image is a whole file behind http(s), which is downloaded."""
    whole = ref.offset == 0 and ref.length is None
    return ref.kind == "url" or (whole and ref.url.lower().startswith(_WEB))


def _local_path(url: str) -> str | None:
    """Returns the path of a file of this machine, None for other places."""
    if "://" not in url:
        return url
    return LocalFileSystem._strip_protocol(url) if url.startswith("file://") else None


def _leads_into(path: str, folder: str) -> bool:
    root = os.path.realpath(_local_path(folder) or folder)
    return os.path.commonpath([os.path.realpath(path), root]) == root


def _read_file(ref: ImageRef, path: str | None, limit: int) -> bytes:
    if ref.length is not None and ref.length > limit:
        raise FetchError(DropReason.TOO_LARGE, f"{ref.length:,} bytes, limit {limit:,}")
    # One byte more than the limit shows that a file is too large.
    wanted = limit + 1 if ref.length is None else ref.length
    try:
        if path is not None:
            with open_stream(path) as file:
                file.seek(ref.offset)
                data = file.read(wanted)
        else:
            filesystem, name = file_system(ref.url)
            data = filesystem.cat_file(name, ref.offset, ref.offset + wanted)
    except FileNotFoundError:
        raise FetchError(DropReason.NO_IMAGE, f"there is no {ref.url}") from None
    except Exception as error:  # gcsfs, s3fs, aiohttp, an unknown protocol, ...
        why = f"{ref.url} cannot be read ({type(error).__name__}: {error})"
        raise FetchError(DropReason.FETCH_FAILED, why[:500]) from error
    if ref.length is None and len(data) > limit:
        raise FetchError(DropReason.TOO_LARGE, f"{ref.url}: more than {limit:,} bytes")
    if ref.length is not None and len(data) != ref.length:
        why = (
            f"{ref.url} has {len(data):,} bytes at {ref.offset:,}, wanted {ref.length:,}; "
            "the file is not the one that was indexed"
        )
        raise FetchError(DropReason.FETCH_FAILED, why)
    return data

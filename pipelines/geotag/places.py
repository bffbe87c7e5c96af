"""Decides what becomes of rows whose shard is not in the input: kept, replaced, gone or refused."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence

from locdiffusion.photos.listing import Shard
from locdiffusion.photos.names import is_archive
from locdiffusion.photos.storage import exists


class Places:
    """The places from which the shards of a run come.

    Args:
        shards: Shards of the run.
        embedded: Whether they are of kept embeddings: the photos may be gone, their rows are not.
    """

    def __init__(self, shards: Sequence[Shard], embedded: bool = False) -> None:
        self._real = functools.cache(_real)
        self.shards = shards
        self.embedded = embedded
        # Those that can be listed.
        self.folders = {self._real(shard.folder) for shard in shards if shard.photos or shard.table}
        if embedded:
            self.folders |= {self._real(folder_of(shard.url)) for shard in shards} - {""}
        self.around = {
            above: folder for folder in self.folders for above in _with_those_around(folder)
        }
        self.asked = {"", *(_host(shard.url) for shard in shards)}
        self.replaced = functools.cache(self._replaced)

    def twice(self, source: str) -> str | None:
        """Returns the folder of this run whose photos a source around it holds already."""
        return self.around.get(self._real(folder_of(source)))

    def comes_again(self, source: str) -> bool:
        """Returns whether photos of a folder come again, as those of a folder of this run."""
        return self.replaced(self._real(folder_of(source)))

    def is_there(self, source: str) -> bool:
        """Returns whether a source still exists, as far as this run may ask for it."""
        return self.embedded or _host(source) not in self.asked or _is_there(source)

    def _replaced(self, folder: str) -> bool:
        if folder in self.folders or self.folders.isdisjoint(_with_those_around(folder)):
            return folder in self.folders
        return any(
            f"{root}/{photo.path}".startswith(f"{folder}/")
            for shard in self.shards
            for root in (self._real(shard.folder),)
            for photo in shard.photos
        )


def folder_of(source: str) -> str:
    """Returns the folder of a group's source; empty for an archive."""
    return "" if is_archive(source) else source.rpartition("#")[0]


def _real(folder: str | None) -> str:
    """One spelling for a folder, without links."""
    return os.path.realpath(folder) if folder and "://" not in folder else folder or ""


def _host(url: str) -> str:
    """Protocol and host or bucket of a URL, empty for a path: a manifest sends no run to others."""
    return "/".join(url.split("/")[:3]) if "://" in url else ""


def _with_those_around(folder: str) -> Iterator[str]:
    """Yields a folder, and all folders in which it lies; nothing for no folder."""
    while folder.strip("/"):
        yield folder
        folder = folder.rpartition("/")[0]


def _is_there(source: str) -> bool:
    """Whether a tar or the folder of a group still exists; True where nobody can say.

    On a disk that is not mounted nothing is left around it either: that is not gone.
    """
    places = [place for place in (source, source.rpartition("#")[0]) if place]
    try:
        found = any(exists(place) for place in places)
        return found or ("://" not in source and not os.listdir(os.path.dirname(places[-1])))
    except Exception:  # each file system has its own
        return True

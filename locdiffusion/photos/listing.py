"""Lists the shards that paths, URLs, folders and patterns name, with stable ids.

Tars are shards as they are; photos in folders, and photos named one by one, are grouped into
virtual shards (`locdiffusion.photos.folder`).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import fsspec

from locdiffusion.photos.folder import (
    PhotoFile,
    find_photos,
    fingerprint,
    folder_name,
    group_photos,
)
from locdiffusion.photos.names import extension
from locdiffusion.photos.storage import DataError, explained
from schemas.samples import IMAGE_EXTENSIONS

TAR_ENDINGS = (".tar.gz", ".tgz", ".tar")


@dataclass(frozen=True)
class Shard:
    """One tar, or a group of photos in a folder.

    Attributes:
        id: Name of the shard's output files, unique within a run.
        url: Path or URL of the tar, absolute if local; `FOLDER#FINGERPRINT` for a group.
        photos: Files of the group; empty for a tar.
    """

    id: str
    url: str
    photos: tuple[PhotoFile, ...] = field(default=(), repr=False)

    @property
    def folder(self) -> str | None:
        """Folder of a group; None for a tar."""
        return self.url.rpartition("#")[0] if self.photos else None

    @property
    def bytes(self) -> int | None:
        """Size in bytes, by which a resumed run notices another file; None if it is unknown."""
        if self.photos:
            return sum(photo.bytes for photo in self.photos)
        filesystem, path = fsspec.core.url_to_fs(self.url)
        try:
            return int(filesystem.size(path))
        except (OSError, TypeError):
            return None


def expand_patterns(patterns: Iterable[str]) -> list[str]:
    """Finds the files and folders that paths, URLs, globs and braces such as `{000..009}` name.

    Args:
        patterns: Local paths, or URLs that fsspec knows.

    Returns:
        Locations in the order of the patterns, each once; local ones are absolute. A folder that
        was named itself ends with a slash; globs find files only.

    Raises:
        DataError: A pattern, or a name that its braces stand for, matches nothing.
    """
    from braceexpand import braceexpand

    parts = [part for pattern in patterns for part in braceexpand(pattern, escape=False)]
    return list(dict.fromkeys(location for part in parts for location in _matches(part)))


def _matches(pattern: str) -> list[str]:
    with _listing(pattern):
        filesystem, path = fsspec.core.url_to_fs(pattern)
        if filesystem.isfile(path):  # a name may hold the very characters of a glob
            return [_shown(filesystem, path, pattern)]
        if filesystem.isdir(path):
            return [_shown(filesystem, path, pattern).rstrip("/") + "/"]
        found = filesystem.glob(path) if re.search(r"[*?\[]", path) else []
        files = sorted(name for name in found if not filesystem.isdir(name))
    if not files:
        raise DataError(
            f"no file matches {pattern!r}; check how it is spelled, look with `ls {pattern}`, keep "
            "the quotes around globs, and write a range of files that are all there as {000..009}"
        )
    return [_shown(filesystem, name, pattern) for name in files]


@contextlib.contextmanager
def _listing(place: str) -> Iterator[None]:
    """Turns whatever a file system raises (gcsfs, aiohttp, google-auth, ...) into a DataError."""
    try:
        yield
    except Exception as error:
        raise DataError(
            f"{place} cannot be listed ({explained(error)}); check the name, your rights and, for "
            "gs://, that you are logged in: gcloud auth application-default login"
        ) from error


def list_shards(patterns: Iterable[str], tell: Callable[[str], None] = print) -> list[Shard]:
    """Expands paths, folders, globs and braces such as `{000..009}`.

    Args:
        patterns: Local paths or URLs that fsspec knows; at least one.
        tell: Receives a sentence about files in folders that are no photos.

    Returns:
        The shards, each once: tars sorted by URL, then groups of photos.

    Raises:
        DataError: A pattern matches nothing, or names a folder without photos or with tars.
    """
    tars: set[str] = set()
    loose: dict[str, int] = {}
    folders: dict[str, list[PhotoFile]] = {}
    for url in expand_patterns(patterns):
        if url.endswith("/"):
            root = url.rstrip("/") or "/"
            folders[root] = photos_in(root, tell)
        elif extension(url) in IMAGE_EXTENSIONS:
            with _listing(url):
                filesystem, path = fsspec.core.url_to_fs(url)
                loose[url] = int(filesystem.size(path))
        else:
            tars.add(url)
    if loose:
        root = _common_folder(loose)
        folders[root] = find_photos(loose, root)[0] + folders.get(root, [])
    ordered = sorted(tars)
    shards = [Shard(id, url) for id, url in zip(shard_ids(ordered), ordered, strict=True)]
    return shards + _groups(folders)


def _common_folder(urls: Iterable[str]) -> str:
    folders = [url.split("/")[:-1] for url in urls]
    first, last = min(folders), max(folders)
    same = [a == b for a, b in zip(first, last, strict=False)] + [False]
    return "/".join(first[: same.index(False)]) or "/"


def _groups(folders: dict[str, list[PhotoFile]]) -> list[Shard]:
    """Groups photos into virtual shards; a photo of two nested folders is taken once."""
    seen: set[str] = set()
    shards: dict[str, Shard] = {}
    for root in sorted(folders):
        photos = [photo for photo in folders[root] if photo.url not in seen]
        seen |= {photo.url for photo in photos}
        for group in group_photos(photos):
            mark = fingerprint(group)
            id = f"{folder_name(root)}-{mark}"
            if id in shards:  # the same photos lie in two places
                place = hashlib.sha256(root.encode("utf-8", "surrogateescape")).hexdigest()[:6]
                id = f"{folder_name(root)}-{place}-{mark}"
            shards[id] = Shard(id, f"{root}#{mark}", group)
    return list(shards.values())


def photos_in(folder: str, tell: Callable[[str], None] = print) -> list[PhotoFile]:
    """Lists all photos below a folder.

    Args:
        folder: Path or URL of the folder, without a slash at its end.
        tell: Receives a sentence about the files in the folder that are no photos.

    Raises:
        DataError: The folder holds tars, or no photo.
    """
    with _listing(folder):
        filesystem, path = fsspec.core.url_to_fs(folder)
        found = filesystem.find(path, detail=True)
    files = {_shown(filesystem, name, folder): int(info["size"]) for name, info in found.items()}
    photos, others = find_photos(files, folder)
    tars = sum(others[f".{ending}"] for ending in ("tar", "tgz")) + sum(
        name.lower().endswith(".tar.gz") for name in files
    )
    if tars:
        raise DataError(
            f"{folder} is a directory that holds {tars:,} tar shards and {len(photos):,} photos; "
            f"pass '{folder}/*.tar' for the shards, '{folder}/*.jpg' for photos beside them"
        )
    if not photos:
        kinds = ", ".join(IMAGE_EXTENSIONS)
        raise DataError(
            f"no photo lies in the directory {folder} (looked for {kinds}, hidden files left out);"
            f" found {_counted(others) or 'nothing'}"
        )
    if others:
        tell(f"{folder}: {len(photos):,} photos; no photos and left out: {_counted(others)}")
    return photos


def _counted(others: Counter[str]) -> str:
    named = [
        f"{count:,} {kind if kind != '.' else 'without extension'}"
        for kind, count in others.most_common(8)
    ]
    return ", ".join(named)


def _shown(filesystem: Any, path: str, pattern: str) -> str:
    """Returns a path as it goes into results: with a protocol only where the user gave one."""
    shown: str = filesystem.unstrip_protocol(path) if "://" in pattern else path
    return shown


def shard_ids(urls: list[str]) -> list[str]:
    """Makes ids from base names; equal ones are told apart by their folder, then by a hash.

    Args:
        urls: N different paths or URLs.

    Returns:
        N different ids without slashes.
    """
    parts = [url.rstrip("/").split("/") for url in urls]
    names = [_stem(part[-1]) for part in parts]
    wider = [f"{part[-2] or 'root'}-{name}" for part, name in zip(parts, names, strict=True)]
    hashed = [
        f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
        for name, url in zip(wider, urls, strict=True)
    ]
    for better in (wider, hashed):
        counts = Counter(names)
        names = [
            other if counts[name] > 1 else name for name, other in zip(names, better, strict=True)
        ]
    return names


def _stem(name: str) -> str:
    for ending in TAR_ENDINGS:
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name

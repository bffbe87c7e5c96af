"""Lists the shards that paths, URLs, folders and patterns name, with stable ids.

Tars are shards as they are; photos in folders, and photos named one by one, are grouped into
virtual shards (`locdiffusion.photos.folder`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import fsspec

from locdiffusion.photos.folder import PhotoFile, find_photos, group_mark, group_photos, legible
from locdiffusion.photos.names import extension, is_archive, stem
from locdiffusion.photos.storage import DataError, explained, version
from schemas.samples import IMAGE_EXTENSIONS

ID_DIGITS, STEM_BYTES = 10, 100

_EXPORT_PART = re.compile(r"(.*takeout-\d{8}T\d{6}Z-(?:\d+-)?)(\d{3,})(\.zip|\.tgz)\Z", re.I | re.S)


@dataclass(frozen=True)
class Shard:
    """One tar or zip, or a group of photos in a folder.

    Attributes:
        id: Name of the shard's output files, as of `shard_id`; unique within a run.
        url: Path or URL of the tar, absolute if local; `FOLDER#MARK` for a group.
        photos: Files of the group; empty for a tar.
        siblings: Other parts of the same Takeout export, the nearest first: documents about the
            photos of this part may lie there.
    """

    id: str
    url: str
    photos: tuple[PhotoFile, ...] = field(default=(), repr=False)
    siblings: tuple[str, ...] = field(default=(), repr=False)

    @property
    def folder(self) -> str | None:
        """Folder of a group; None for a tar."""
        return self.url.rpartition("#")[0] if self.photos else None

    @property
    def version(self) -> str:
        """Digest that changes when the tar, or a file of the group, is written again."""
        files = [url for photo in self.photos for url in (photo.url, photo.metadata) if url]
        marks = []
        for url in files or [self.url]:
            with contextlib.suppress(Exception):  # what is gone, or cannot be asked for, has none
                marks.append(version(url))
        return hashlib.sha256(json.dumps(marks).encode("utf-8", "surrogatepass")).hexdigest()[:32]


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
        DataError: A pattern matches nothing, or names a folder without photos or with tars; or
            two URLs differ in credentials or signatures only.
    """
    tars: dict[str, str] = {}
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
        elif (same := tars.setdefault(_same_file(url), url)) != url:
            tell(f"{url} is the same file as {same}; it is read once")
    if loose:
        root = _common_folder(loose)
        folders[root] = find_photos(loose, root)[0] + folders.get(root, [])
    siblings = export_parts(tars.values())
    shards = [
        Shard(shard_id(url.rpartition("/")[2], url), url, siblings=siblings.get(url, ()))
        for url in sorted(tars.values())
    ]
    return _all_different([*shards, *_groups(folders)])


def export_parts(urls: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Finds the parts of Takeout exports, `takeout-20200101T000000Z-001.zip` and so on.

    Returns:
        For each part the other parts of its export, the nearest first.
    """
    exports: dict[tuple[str, str], dict[str, int]] = {}
    for url in urls:
        if match := _EXPORT_PART.match(url):
            exports.setdefault((match[1], match[3].lower()), {})[url] = int(match[2])
    return {
        url: tuple(sorted(parts.keys() - {url}, key=lambda other: (abs(parts[other] - n), other)))
        for parts in exports.values()
        for url, n in parts.items()
    }


def _same_file(url: str) -> str:
    return url if "://" in url else os.path.realpath(url)


def _all_different(shards: list[Shard]) -> list[Shard]:
    seen: dict[str, str] = {}
    for shard in shards:
        if (other := seen.setdefault(shard.id, shard.url)) != shard.url:
            raise DataError(
                f"{other} and {shard.url} both have the id {shard.id}; give one of them, or "
                "rename one"
            )
    return shards


def _common_folder(urls: Iterable[str]) -> str:
    folders = [url.split("/")[:-1] for url in urls]
    first, last = min(folders), max(folders)
    same = [a == b for a, b in zip(first, last, strict=False)] + [False]
    return "/".join(first[: same.index(False)]) or "/"


def _groups(folders: dict[str, list[PhotoFile]]) -> list[Shard]:
    """Groups photos into virtual shards; a photo of two nested folders is taken once."""
    seen: set[str] = set()
    shards = []
    for root in sorted(folders):
        photos = [photo for photo in folders[root] if photo.url not in seen]
        seen |= {photo.url for photo in photos}
        for group in group_photos(photos):
            url = f"{root}#{group_mark(group)}"
            shards.append(Shard(shard_id(root.rpartition("/")[2], url), url, group))
    return shards


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


def shard_id(name: str, source: str) -> str:
    """Makes the id of a shard, which does not depend on what else is read.

    Args:
        name: Base name of the tar, or name of the folder. The id begins with it, without its
            ending, cut at `STEM_BYTES` so that file names stay short.
        source: Where the shard lies. An id differs where this differs, however it is spelled.
    """
    bare = stem(name) if is_archive(name) else name
    bare = stem(bare) if extension(bare) == "tar" and bare != name else bare
    shown = re.sub(r"[^\w.-]", "_", legible(bare)).lstrip(".")
    shown = shown.encode()[:STEM_BYTES].decode(errors="ignore") or "photos"
    digest = hashlib.sha256(_same_source(source).encode("utf-8", "surrogateescape"))
    return f"{shown}-{digest.hexdigest()[:ID_DIGITS]}"


def shard_stem(id: str) -> str:
    """Returns the name with which an id begins."""
    return re.sub(rf"-[0-9a-f]{{{ID_DIGITS}}}\Z", "", id)


def _same_source(url: str) -> str:
    """One spelling for a place: without links to folders, credentials and signatures."""
    if "://" in url:
        bare = re.sub(r"(?<=://)[^/@]*@", "", url)
        return re.sub(r"[?#].*", "", bare) if bare.startswith("http") else bare
    folder, base = os.path.split(url)
    return os.path.join(os.path.realpath(folder), base)

"""Finds the photos in folders, and groups them as if they had been packed into shards.

Photos are grouped into virtual shards without writing a tar. A group ends where the hash of a key
says so, not after a fixed number, so that a photo that is added or removed changes the group it
falls into and no other. A group is known by its keys; whether its photos have changed is another
question, which `fingerprint` answers.

Local folders are listed by `os.scandir` and never looked at file by file. Knows no Beam.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, repeat
from operator import attrgetter
from typing import NamedTuple

from locdiffusion.photos.left_out import LeftOut
from locdiffusion.photos.names import (
    EXCLUDED,
    NameKind,
    excluded,
    extension,
    is_archive,
    junk_folder,
    kind_of,
    left_out_kind,
    legible,
    match_documents,
    plain_photos,
)
from locdiffusion.photos.storage import find_files, path_inside, version

GROUP_MEAN, GROUP_MOST = 256, 1024

MOST_COUNTED = 10_000
"""Most files that are counted in a folder that is left out, such as one full of snapshots."""

OUTPUT_KIND = "outputs of locdiffusion"
"""Kind under which folders are counted that a run has written: they hold `OUTPUT_MARKS`."""

OUTPUT_MARKS = ("run.json", "_manifest")

UNREAD = ("7z", "rar")
"""Endings of archives that are left out even where archives are read."""

LINKS_OUT = "links out of the folder"
"""Kind under which links are counted that lead out of the folder that was named."""

FOLLOW = "name the place it leads to, or, where the command has it, trust it with --follow-links"
"""Remedy for links that lead out."""

_READ = (NameKind.PHOTO, NameKind.DOCUMENT)

Marks = Mapping[str, list[str]] | None


class PhotoFile(NamedTuple):
    """One photo in a folder.

    Attributes:
        folder: Path or URL of the folder, without a slash at its end.
        path: Path of the photo within the folder, with `/`.
        documents: Paths of the documents about it within the folder, the nearest first.
        mark: What changes when the photo or a document is written again, where listing told it;
            local files are looked at when `version` is called.
        follow_links: Whether a link is read that leads out of the folder.
        apart: Number of folders that tell the photo from its `twins`; 0 if it has none.
    """

    folder: str
    path: str
    documents: tuple[str, ...] = ()
    mark: str = ""
    follow_links: bool = False
    apart: int = 0

    @property
    def key(self) -> str:
        """Path within the folder, with the ending, so that keys are unique; in UTF-8."""
        return legible(self.path)

    @property
    def url(self) -> str:
        """Path or URL of the photo."""
        return f"{self.folder}/{self.path}"

    def version(self) -> str:
        """Returns what changes when the photo or one of its documents is written again."""
        if self.mark:
            return self.mark
        files = (self.url, *(f"{self.folder}/{document}" for document in self.documents))
        followed = "followed" if self.follow_links and any(map(os.path.islink, files)) else ""
        return repr([version(file)[1:] for file in files]) + followed


@dataclass
class FolderContent:
    """What lies in a folder.

    Attributes:
        root: Path or URL of the folder, without a slash at its end.
        exclude: Patterns of what is left out, as of `names.excluded`.
        seen: Folders, and files elsewhere, that were found before. They are not found again.
        follow_links: Whether links are followed that lead out of the folder.
        photos: Photos below the folder, sorted by path.
        archives: Archives below it, with what changes when one with a URL is written again.
        left_out: Other files below it that are neither photos nor documents about them.
        unread: Why a folder below it could not be listed, by its path within the root.
        repeated: Whether a folder or file was met that was found before.
        followed: Number of links that lead out of the folder and are followed.
    """

    root: str
    exclude: Sequence[str]
    seen: set[object]
    follow_links: bool = False
    photos: list[PhotoFile] = field(default_factory=list)
    archives: dict[str, list[str]] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)
    unread: dict[str, str] = field(default_factory=dict)
    repeated: bool = False
    followed: int = 0

    @classmethod
    def walk(
        cls, root: str, exclude: Sequence[str], seen: set[object], follow_links: bool = False
    ) -> FolderContent:
        """Finds all photos below a folder.

        Links to folders are followed when all other folders are done, each folder once, so loops
        do no harm. A photo that is a link out of the folder is found, and refused when it is read.

        Args:
            root: Path or URL of the folder.
            exclude: Patterns of what is left out.
            seen: What was found before; what is found now is added.
            follow_links: Whether links are followed that lead out of the folder.
        """
        content = cls(root.rstrip("/"), exclude, seen, follow_links)
        if "://" in root:
            content._find_elsewhere()
        else:
            links = [""]
            while links:
                inner = [links.pop(0)]
                while inner:
                    folders, linked = content._scan(inner.pop())
                    inner += folders
                    links += linked
        content.photos.sort(key=attrgetter("path"))
        return content

    @classmethod
    def take(
        cls,
        root: str,
        paths: Iterable[str],
        exclude: Sequence[str],
        seen: set[object],
        follow_links: bool = False,
    ) -> FolderContent:
        """Takes photos that were named one by one, unless their folders were walked.

        Args:
            root: Path or URL of a folder in which all photos lie.
            paths: Their paths within the folder.
            exclude: Patterns of what is left out.
            seen: What was found before.
            follow_links: Whether links are followed that lead out of the folder.
        """
        content = cls(root.rstrip("/"), exclude, seen, follow_links)
        by_folder: dict[str, set[str]] = {}
        for path in paths:
            folder, _, base = path.rpartition("/")
            by_folder.setdefault(folder, set()).add(base)
        for folder, names in by_folder.items():
            if "://" in root:
                content._find_elsewhere(folder, names)
            else:
                content._scan(folder, names)
        content.photos.sort(key=attrgetter("path"))
        return content

    @property
    def is_output(self) -> bool:
        """Whether a run has written the folder itself."""
        return self.left_out.counts[OUTPUT_KIND] > 0 and self.left_out.named[:1] == [self.root]

    @cached_property
    def _above(self) -> str:
        """Name of the root and a slash; empty if that alone would make junk of all below."""
        name = self.root.rpartition("/")[2]
        return "" if not name or junk_folder(name) else f"{name}/"

    def _scan(
        self, folder: str, only: Collection[str] | None = None
    ) -> tuple[list[str], list[str]]:
        """Lists one local folder; returns the folders in it, and the links to folders."""
        place = f"{self.root}/{folder}" if folder else self.root or "/"
        prefix = folder and f"{folder}/"
        entries: list[os.DirEntry[str]] = []
        try:
            status = os.stat(place)
            if (identity := (status.st_dev, status.st_ino)) in self.seen:
                self.repeated = True
                return [], []
            if only is None:
                self.seen.add(identity)
            with os.scandir(place) as found:
                entries.extend(found)
        except OSError as error:
            self.unread[folder] = f"{place} cannot be listed ({error.strerror or error})"
        names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        folders: list[str] = []
        links: list[str] = []
        if len(names) < len(entries):
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.is_symlink() and (only is None or kind_of(entry.name) in _READ):
                    files, places = self._linked(entry, prefix + entry.name)
                    names += files
                    links += places
                elif not entry.is_file(follow_symlinks=False):
                    names.append(entry.name)
        if OUTPUT_MARKS[0] in names and OUTPUT_MARKS[1] in folders:
            self.left_out.add(place, OUTPUT_KIND, named=True)
            return [], []
        self._sort_out(prefix, names, only)
        if only is not None:
            return [], []
        return self._entered(prefix, folders), self._entered(prefix, links)

    def _linked(self, link: os.DirEntry[str], path: str) -> tuple[list[str], list[str]]:
        """Returns the name of a link as that of a file or of a folder; neither if it is left out.

        A photo, or a document about one, stays: whoever reads it says that it leads out.
        """
        folder = self._leads_to_folder(link)
        if path_inside(self.root, path) is None:
            if self.follow_links:
                self.followed += 1
            elif excluded(path, self.exclude):
                self.left_out.add(path, EXCLUDED)
                return [], []
            elif folder or kind_of(path) is NameKind.OTHER:
                self.left_out.add(f"{self.root}/{path}", LINKS_OUT, named=True)
                return [], []
        return ([], [link.name]) if folder else ([link.name], [])

    @staticmethod
    def _leads_to_folder(link: os.DirEntry[str]) -> bool:
        try:
            return link.is_dir()
        except PermissionError:  # a folder for all we know; entering it fails and is told
            return kind_of(link.name) is NameKind.OTHER
        except OSError:
            return False

    def _entered(self, prefix: str, folders: list[str]) -> list[str]:
        """Returns the folders that are searched, and counts the files in the others."""
        entered = []
        for name in folders:
            path = prefix + name
            kind = junk_folder(self._above + path)
            if not kind and excluded(path, self.exclude):
                kind = EXCLUDED
            if kind:
                self.left_out.counts[kind] += _count_files(f"{self.root}/{path}")
            else:
                entered.append(path)
        return entered

    def _sort_out(
        self, prefix: str, names: Iterable[str], only: Collection[str] | None, marks: Marks = None
    ) -> None:
        """Finds the photos among the files of one folder, with their documents."""
        photos = [] if self.exclude or only is not None else plain_photos(names)
        documents: list[str] = []
        for name in sorted(set(names).difference(photos)):
            kind = kind_of(name)
            if excluded(prefix + name, self.exclude):
                if only is None or name in only:
                    self.left_out.add(prefix + name, EXCLUDED)
            elif kind is NameKind.DOCUMENT:
                documents.append(name)
            elif only is not None and name not in only:
                continue
            elif kind is NameKind.PHOTO:
                photos.append(name)
            elif kind is NameKind.OTHER and is_archive(name) and extension(name) not in UNREAD:
                self.archives[f"{self.root}/{prefix}{name}"] = (marks or {}).get(prefix + name, [])
            else:
                packed = kind is NameKind.OTHER and is_archive(name)
                place = f"{self.root}/{prefix}{name}"
                self.left_out.add(place, left_out_kind(name), named=packed)
        photos.sort()
        if not documents and marks is None:
            paths = [prefix + name for name in photos]
            self.photos += _photo_files(self.root, paths, self.follow_links)
            return
        matched = match_documents(photos, documents)
        for name in photos:
            beside = tuple(prefix + document for document in matched.get(name, ()))
            files = (prefix + name, *beside)
            mark = repr([marks[file] for file in files]) if marks is not None else ""
            found = PhotoFile(self.root, prefix + name, beside, mark, self.follow_links)
            self.photos.append(found)
        if only is None:
            used = {document for beside in matched.values() for document in beside}
            for document in documents:
                if document not in used:
                    self.left_out.add(document)

    def _find_elsewhere(self, within: str = "", only: Collection[str] | None = None) -> None:
        """Lists a folder that has a URL: with all below, or the named photos of one folder."""
        files = find_files(f"{self.root}/{within}".rstrip("/"), deep=only is None)
        marks = {url.removeprefix(f"{self.root}/"): mark for url, mark in files.items()}
        outputs = self._outputs(marks)
        by_folder: dict[str, list[str]] = {}
        for path in sorted(marks):
            folder, _, base = path.rpartition("/")
            if (url := f"{self.root}/{path}") in self.seen:
                self.repeated = True
            elif kind := folder and junk_folder(self._above + folder):
                self.left_out.counts[kind] += 1
            elif not path.startswith(outputs):
                by_folder.setdefault(folder, []).append(base)
                self.seen.add(url)
        for folder, names in by_folder.items():
            self._sort_out(folder and f"{folder}/", names, only, marks)

    def _outputs(self, paths: Collection[str]) -> tuple[str, ...]:
        """Returns what the paths in outputs of runs begin with."""
        run, manifests = OUTPUT_MARKS
        inner = (path.removesuffix(run) for path in paths if f"/{path}".endswith(f"/{run}"))
        outputs = [
            folder
            for folder in inner
            if any(path.startswith(f"{folder}{manifests}/") for path in paths)
        ]
        for folder in outputs:
            self.left_out.add(f"{self.root}/{folder}".rstrip("/"), OUTPUT_KIND, named=True)
        return tuple(outputs)


def _photo_files(root: str, paths: Sequence[str], follow_links: bool) -> Iterable[PhotoFile]:
    """Photos without documents, made without a call of Python for each of a million."""
    same = map(repeat, (follow_links, PhotoFile._field_defaults["apart"]))
    fields = zip(repeat(root), paths, repeat(()), repeat(""), *same, strict=False)
    return map(tuple.__new__, repeat(PhotoFile), fields)


def _count_files(folder: str) -> int:
    """Number of files below a folder that is left out; one if it cannot be listed."""
    count, inner = 0, [folder]
    while inner and count < MOST_COUNTED:
        try:
            with os.scandir(inner.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        inner.append(entry.path)
                    else:
                        count += 1
        except OSError:
            count += 1
    return count


def group_photos(photos: Sequence[PhotoFile]) -> Iterator[tuple[PhotoFile, ...]]:
    """Cuts a list of photos, sorted by path, into groups of about `GROUP_MEAN`."""
    names = (photo.path.encode("utf-8", "surrogateescape") for photo in photos)
    ends = [number for number, name in enumerate(names, 1) if zlib.crc32(name) % GROUP_MEAN == 0]
    for start, end in pairwise([0, *ends, len(photos)]):
        for first in range(start, end, GROUP_MOST):
            yield tuple(photos[first : min(first + GROUP_MOST, end)])


def group_mark(photos: Iterable[PhotoFile]) -> str:
    """Computes ten hexadecimal digits that change with any path, and with nothing else."""
    return _digest(photo.path for photo in photos)[:10]


def fingerprint(photos: Iterable[PhotoFile]) -> str:
    """Computes a digest that changes when a photo or a document is written again, or comes.

    A twin of a photo, which changes its identity, changes the digest, too.
    """
    return _digest(f"{p.path}\0{p.version()}{f'+{p.apart}' if p.apart else ''}" for p in photos)


def _digest(lines: Iterable[str]) -> str:
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:32]

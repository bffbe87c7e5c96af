"""Lists the shards that paths, URLs, folders and patterns name, with stable ids.

Archives are shards as they are; photos in folders, and photos named one by one, are grouped into
virtual shards (`locdiffusion.photos.folder`). What cannot be listed is a shard with a problem, so
that a run tells of it and tries it again.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from locdiffusion.photos.archive import ShardReader
from locdiffusion.photos.folder import (
    FOLLOW,
    LINKS_OUT,
    FolderContent,
    PhotoFile,
    fingerprint,
    group_mark,
    group_photos,
)
from locdiffusion.photos.folder_reader import FolderReader
from locdiffusion.photos.left_out import LeftOut, number
from locdiffusion.photos.names import NameKind, extension, is_archive, kind_of, legible, stem
from locdiffusion.photos.patterns import RIGHTS, find_locations, listing_errors, refuse_twice
from locdiffusion.photos.storage import DataError, version
from locdiffusion.photos.table import TableGroup, is_table, list_groups
from locdiffusion.photos.table_reader import TableReader
from locdiffusion.photos.twins import archive_twins, table_twins, tell_photos_apart
from schemas.samples import IMAGE_EXTENSIONS

ID_DIGITS, STEM_BYTES = 10, 100

_EXPORT_PART = re.compile(
    r"(.*takeout-(?:[^/]*-)?)(\d{1,4})(?: ?\(\d+\))?(\.zip|\.tgz)\Z", re.I | re.S
)
"""Part of an export; people shorten the name, and browsers number what is downloaded twice."""


@dataclass(frozen=True)
class Shard:
    """One archive, or a group of photos in a folder.

    Attributes:
        id: Name of the shard's output files, as of `shard_id`; unique within a run.
        url: Path or URL of the archive, absolute if local; `FOLDER#MARK` for a group, `FOLDER#PATH`
            for what could not be listed in a folder.
        photos: Files of the group; empty for an archive.
        exclude: Patterns of members that are left out, as of `names.excluded`.
        problem: Why the folder cannot be listed; empty for all others.
        table: Rows of the group of a table; None for all others.
        siblings: Other parts of the same Takeout export, the nearest first: documents about the
            photos of this part may lie there.
        listed: Version of an archive, where the listing told it; no worker asks for it then.
        apart: Number of folders that tell an archive from its `twins`; 0 if it has none.
    """

    id: str
    url: str
    photos: tuple[PhotoFile, ...] = field(default=(), repr=False)
    exclude: tuple[str, ...] = ()
    problem: str = ""
    siblings: tuple[str, ...] = field(default=(), repr=False)
    listed: str = field(default="", repr=False, compare=False)
    table: TableGroup | None = None
    apart: int = field(default=0, compare=False)

    @property
    def folder(self) -> str | None:
        """Folder of a group, or the table; None for an archive."""
        grouped = self.photos or self.problem or self.table
        return self.url.rpartition("#")[0] if grouped else None

    @property
    def version(self) -> str:
        """Digest by which a resumed run notices another file, or that other members are wanted.

        Looks at every file, and at the other parts of an export, whose documents may have changed.
        What was listed may be older than what is read: the next run then sees another version.
        """
        if self.table:
            return self.table.version
        if self.photos:
            return fingerprint(self.photos)
        return self.listed or _archive_version(self, lambda url: version(url)[1:])

    def reader(
        self,
        photos: Sequence[PhotoFile] | None = None,
        kept: Container[str] = (),
        sleep: Callable[[float], None] = time.sleep,
        keep: tuple[str, ...] = (),
    ) -> FolderReader | ShardReader:
        """Returns what reads the shard.

        Args:
            photos: Photos of a group that are read, instead of all.
            kept: Keys of photos of a group that are not read; of an archive all come.
            sleep: Waits so many seconds before another try to read a photo of a group.
            keep: Names of fields of documents that are taken along.
        """
        if self.table:
            return TableReader((), group=self.table, kept=kept, sleep=sleep)
        if self.folder is None:
            more = self.siblings, True, self.exclude, self.apart, keep
            return ShardReader(self.url, {}, *more)
        chosen = self.photos if photos is None else photos
        return FolderReader(chosen, self.problem, kept=kept, sleep=sleep, keep=keep)


def list_shards(
    patterns: Iterable[str],
    tell: Callable[[str], None] = print,
    exclude: Sequence[str] = (),
    left_out: LeftOut | None = None,
    follow_links: bool = False,
    tables: bool = False,
) -> list[Shard]:
    """Lists what paths, folders, globs and braces such as `{000..009}` name.

    A folder without photos that holds archives stands for these; in one with photos, archives are
    left out and named. A folder that a run has written is never read.

    Args:
        patterns: Local paths or URLs, as of `expand_patterns`; at least one.
        tell: Receives sentences about what is left out or read once.
        exclude: Patterns of what is left out, as of `names.excluded`.
        left_out: Receives the files in folders that are no photos.
        follow_links: Whether links in folders are followed that lead out of them.
        tables: Whether a file that is named and ends as a table is read as one.

    Returns:
        The shards, each once: archives sorted by URL, then groups of photos, then those of tables,
        then folders that cannot be listed.

    Raises:
        DataError: A pattern matches nothing, names a folder without photos, or a table that cannot
            be used; a place is named twice; or two URLs differ in credentials or signatures only.
    """
    _real_folder.cache_clear()  # links may lead elsewhere by now
    unread: dict[str, str] = {}
    marks: dict[str, list[str]] = {}
    patterns = list(patterns)
    refuse_twice(patterns)
    locations = find_locations(patterns, unread, marks)
    rules: tuple[Sequence[str], set[object], bool] = (tuple(exclude), set(), follow_links)
    archives: dict[str, str] = {}
    contents = []
    for location in sorted(location for location in locations if location.endswith("/")):
        content = _content(location, *rules)
        contents.append(content)
        closed = _leave_out(content, locations) if content.photos or content.unread else 0
        if closed:
            tell(
                f"{content.root}: {number(closed, 'archive')} beside photos not opened; name "
                "archives as well to read them"
            )
        marks.update(content.archives)
        for archive in content.archives:
            archives.setdefault(_same_file(archive), archive)
        _tell_left_out(content, tell)
    files = [location for location in locations if not location.endswith("/")]
    loose = [file for file in files if extension(file) in IMAGE_EXTENSIONS]
    if loose:
        root = _common_folder(loose)
        with listing_errors(root):
            paths = [file.removeprefix(root.rstrip("/") + "/") for file in loose]
            contents.append(FolderContent.take(root, paths, *rules))
    beside = LeftOut()
    listed = sorted(filter(is_table, files)) if tables and not loose else []
    if listed and exclude:
        raise DataError(
            f"{listed[0]} is a table, wanted photos that --exclude may leave out; take their "
            "rows out of the table, and geotag it without --exclude"
        )
    for file in sorted(set(files).difference(loose, listed)):
        if _beside_photos(file, bool(loose)):
            beside.add(file)
        elif (same := archives.setdefault(_same_file(file), file)) != file:
            tell(f"{file} is the same file as {same}; it is read once")
    if beside.total:
        tell(f"left out: {beside}")
    if left_out is not None:
        left_out.update(LeftOut.joined([*(content.left_out for content in contents), beside]))
    tell_photos_apart([content.photos for content in contents])
    shards = _archive_shards(archives.values(), tuple(exclude), marks)
    shards += [shard for content in contents for shard in _groups(content)]
    twins = table_twins(listed, follow_links)
    for table in listed:
        shards += _table_shards(table, follow_links, twins.get(table, 0))
    shards += [
        _unread(place, "", f"{place} cannot be listed ({why})") for place, why in unread.items()
    ]
    return _all_different(shards)


def _table_shards(url: str, follow_links: bool, apart: int) -> Iterator[Shard]:
    for mark, group in list_groups(url, follow_links):
        source, table = f"{url}#{mark}", replace(group, apart=apart)
        yield Shard(shard_id(stem(url.rpartition("/")[2]), source), source, table=table)


def _archive_shards(
    urls: Collection[str], exclude: tuple[str, ...], marks: Mapping[str, list[str]]
) -> list[Shard]:
    siblings, twins = export_parts(urls), archive_twins(urls, marks)
    shards = []
    for url in sorted(urls):
        others = siblings.get(url, ())
        id = shard_id(url.rpartition("/")[2], url)
        shard = Shard(id, url, exclude=exclude, siblings=others, apart=twins.get(url, 0))
        if all(len(marks.get(place, ())) > 1 for place in (url, *others)):  # more than a size
            shard = replace(shard, listed=_archive_version(shard, marks.__getitem__))
        shards.append(shard)
    return shards


def _archive_version(shard: Shard, marks: Callable[[str], Sequence[object]]) -> str:
    others = [[url.rpartition("/")[2], *marks(url)] for url in sorted(shard.siblings)]
    told = [*marks(shard.url), *sorted(shard.exclude), *others, *[shard.apart] * bool(shard.apart)]
    return hashlib.sha256(repr(told).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _content(
    location: str, exclude: Sequence[str], seen: set[object], follow_links: bool = False
) -> FolderContent:
    """Lists a folder that was named; raises DataError if nothing in it can be read."""
    with listing_errors(location):
        content = FolderContent.walk(location, exclude, seen, follow_links)
    if content.is_output:
        raise DataError(
            f"{content.root} is a folder that this program has written; name the folder or the "
            "archives of the photos"
        )
    found = content.photos or content.archives or content.unread or content.repeated
    if not found:
        kinds = ", ".join(IMAGE_EXTENSIONS)
        raise DataError(
            f"no photo lies in the directory {location.rstrip('/') or '/'} (looked for {kinds}); "
            f"found {str(content.left_out) or 'nothing'}{_on_links(content)}"
        )
    return content


def _leave_out(content: FolderContent, named: Collection[str] = ()) -> int:
    """Moves archives among photos to what is left out, but for named ones; returns how many."""
    known = {_same_file(file) for file in named if is_archive(file)}
    closed = [archive for archive in content.archives if _same_file(archive) not in known]
    for archive in closed:
        content.left_out.add(archive)
    content.archives.clear()
    return len(closed)


def _tell_left_out(content: FolderContent, tell: Callable[[str], None]) -> None:
    if content.left_out.total:
        found = number(len(content.photos), "photo")
        if content.archives:
            found = number(len(content.archives), "archive")
        tell(f"{content.root}: {found}; left out: {content.left_out}{_on_links(content)}")
    if content.followed:
        tell(f"{content.root}: followed {number(content.followed, 'link')} out of the folder")


def _on_links(content: FolderContent) -> str:
    return f"; links: {FOLLOW}" if content.left_out.counts[LINKS_OUT] else ""


def _beside_photos(file: str, photos: bool) -> bool:
    """Whether a file that was named is left out, as it would be in a folder."""
    kind = kind_of(file.rpartition("/")[2])
    if kind is NameKind.OTHER:
        return photos and extension(file) != "" and not is_archive(file)
    return True


def _common_folder(urls: Iterable[str]) -> str:
    folders = [url.split("/")[:-1] for url in urls]
    first, last = min(folders), max(folders)
    same = [a == b for a, b in zip(first, last, strict=False)] + [False]
    return "/".join(first[: same.index(False)]) or "/"


def _groups(content: FolderContent) -> Iterator[Shard]:
    """Groups photos into virtual shards; a folder that could not be listed is one of its own."""
    name = content.root.rpartition("/")[2]
    for group in group_photos(content.photos):
        url = f"{content.root}#{group_mark(group)}"
        yield Shard(shard_id(name, url), url, group)
    for path, why in content.unread.items():
        yield _unread(content.root, path, why)


def _unread(root: str, path: str, why: str) -> Shard:
    url = f"{root}#{path}"
    id = shard_id((path or root).rpartition("/")[2], url)
    return Shard(id, url, problem=legible(f"{why}; {RIGHTS}"))


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
    if "://" in url or os.path.islink(url):
        return url if "://" in url else os.path.realpath(url)
    folder, base = os.path.split(url)
    return os.path.join(_real_folder(folder), base)


@functools.lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _all_different(shards: list[Shard]) -> list[Shard]:
    seen: dict[str, str] = {}
    for shard in shards:
        if (other := seen.setdefault(shard.id, shard.url)) != shard.url:
            raise DataError(
                f"{other} and {shard.url} both have the id {shard.id}; give one of them, or "
                "rename one"
            )
    return shards


def photos_in(folder: str, tell: Callable[[str], None] = print) -> list[PhotoFile]:
    """Lists all photos below a folder.

    Args:
        folder: Path or URL of the folder, without a slash at its end.
        tell: Receives a sentence about the files in the folder that are no photos.

    Raises:
        DataError: The folder holds no photo, or a folder in it cannot be listed.
    """
    content = _content(folder, (), set())
    for why in content.unread.values():
        raise DataError(f"{why}; {RIGHTS}")
    if not content.photos:
        ending = os.path.splitext(next(iter(content.archives)))[1]
        raise DataError(
            f"{folder} is a directory of {number(len(content.archives), 'archive')} without a "
            f"photo; name the archives: '{folder}/*{ending}'"
        )
    _leave_out(content)
    _tell_left_out(content, tell)
    return content.photos


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
    return os.path.join(_real_folder(folder), base)

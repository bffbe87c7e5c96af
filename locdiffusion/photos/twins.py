"""Finds photos of one listing that would share an identity, and what tells them apart.

Two photos share one only if their bytes are equal, and bytes are not read here. Twins are therefore
files of one name and one size, in two folders; archives of one name and one size; and tables that
give one key to files of one size. Each is told from its twins by the folders above it, by as many
as that takes. Photos that have no twin do not change.
"""

from __future__ import annotations

import ast
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from locdiffusion.photos.folder import PhotoFile
from locdiffusion.photos.storage import version
from locdiffusion.photos.table import ROWS_AT_ONCE, TableRow, open_table, place_of


def tell_photos_apart(lists: Sequence[list[PhotoFile]]) -> None:
    """Sets `apart` of photos in folders that have twins. Only files of one name are looked at.

    Args:
        lists: Photos of each folder that was named; changed in place.
    """
    hashes = (hash(photo.path.rpartition("/")[2]) for photos in lists for photo in photos)
    shared = _shared([np.fromiter(hashes, np.int64)])
    names: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, photos in enumerate(lists if shared else ()):
        for row, photo in enumerate(photos):
            if hash(name := photo.path.rpartition("/")[2]) in shared:
                names[name].append((number, row))
    for places in names.values():
        found = [lists[number][row] for number, row in places]
        folders = _folders([photo.url for photo in found], map(_size_of_photo, found))
        for (number, row), photo, count in zip(places, found, folders, strict=True):
            if count:
                lists[number][row] = photo._replace(apart=count)


def archive_twins(urls: Iterable[str], marks: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Finds archives of one name and one size.

    Args:
        urls: Paths and URLs of archives.
        marks: What listing told of some of them, of which a number is the size.

    Returns:
        For each archive that has a twin the number of folders that tell them apart.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for url in urls:
        names[url.rpartition("/")[2]].append(url)
    twins: dict[str, int] = {}
    for same in names.values():
        if len(same) > 1:
            sizes = (_size(marks.get(url) or version(url)[1:]) for url in same)
            twins.update(zip(same, _folders(same, sizes), strict=True))
    return {url: folders for url, folders in twins.items() if folders}


def table_twins(urls: Sequence[str], follow_links: bool) -> dict[str, int]:
    """Finds tables that give one key to files of one size, or of which no size is known here.

    Args:
        urls: Paths and URLs of tables.
        follow_links: Whether what lies outside of the folder of a table is read.

    Returns:
        For each of these tables its own name and the folders that tell it from the others, counted.
    """
    if len(urls) < 2:
        return {}
    keys = (np.fromiter((hash(row.key) for row in _rows(url)), np.int64) for url in urls)
    shared = _shared([np.unique(hashes) for hashes in keys])
    owners: dict[tuple[str, str | None], str] = {}
    twins: set[str] = set()
    for url in urls if shared else ():
        for row in _rows(url):
            if hash(row.key) in shared:
                photo = place_of(row, url, follow_links).photo
                here = photo is not None and "://" not in photo.folder
                size = _size_of_photo(photo) if photo is not None and here else None
                other = owners.setdefault((row.key, size), url)
                if other != url:
                    twins |= {url, other}
    names = sorted(twins)
    # The name of the table itself is the first of what tells it apart.
    folders = _apart([f"{url}/." for url in names])
    return dict(zip(names, folders, strict=True))


def _shared(hashes: Sequence[NDArray[np.int64]]) -> set[int]:
    """Numbers that come more than once."""
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    return set(values[counts > 1].tolist())


def _rows(url: str) -> Iterable[TableRow]:
    table = open_table(url)
    for start in range(0, len(table), ROWS_AT_ONCE):
        yield from table.rows(start, ROWS_AT_ONCE)


def _folders(urls: Sequence[str], sizes: Iterable[str | None]) -> list[int]:
    """Numbers of folders that tell files of one name apart; 0 for those without a twin.

    A file of unknown size is a twin of all others of unknown size.
    """
    of_size: dict[str | None, list[int]] = defaultdict(list)
    for row, size in enumerate(sizes):
        of_size[size].append(row)
    folders = [0] * len(urls)
    for rows in of_size.values():
        if len(rows) > 1:
            counts = _apart([urls[row] for row in rows])
            for row, count in zip(rows, counts, strict=True):
                folders[row] = count
    return folders


def _apart(urls: Sequence[str]) -> list[int]:
    """Numbers of folders above files after which each file differs from all others."""
    above = [url.split("/")[-2::-1] for url in urls]
    found: list[int] = [0] * len(urls)
    open_rows, count = list(range(len(urls))), 0
    while open_rows and count < max(map(len, above)):
        count += 1
        parts = [tuple(folders[:count]) for folders in above]
        seen, left = Counter(parts), []
        for row in open_rows:
            if seen[parts[row]] == 1:
                found[row] = count
            else:
                left.append(row)
        open_rows = left
    for row in open_rows:  # one place that is spelled in two ways
        found[row] = len(above[row])
    return found


def _size_of_photo(photo: PhotoFile) -> str | None:
    if photo.mark:
        try:
            return _size(ast.literal_eval(photo.mark)[0])
        except (ValueError, SyntaxError, LookupError, TypeError):
            return None
    try:
        return str(os.stat(photo.url).st_size)
    except (OSError, ValueError):
        return None


def _size(marks: Sequence[object]) -> str | None:
    first = str(marks[0]) if marks else ""
    return first if first.isdecimal() else None

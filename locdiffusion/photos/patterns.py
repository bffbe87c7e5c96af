"""Finds the files and folders that paths, URLs, globs and braces name."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import translate
from functools import partial

from locdiffusion.files import file_system
from locdiffusion.photos.storage import DataError, explained, listed_url, marks_of

MOST_LETTERS = 2**28
"""Most letters of all names together that braces stand for: a million long ones, and no more."""

MOST_ASKED = 32
"""Files named by braces in one folder that are asked for one by one; the folder of more is listed.
"""

RIGHTS = "look who may read it with `ls -ld`, and type the same command again"


def expand_patterns(patterns: Iterable[str]) -> list[str]:
    """Finds the files and folders that paths, URLs, globs and braces such as `{000..009}` name.

    A path that exists is meant letter by letter, whatever its name holds; so is the part of a path
    that exists, up to a `/`. In the rest, `*`, `?`, `[...]`, `**/` and braces are expanded. A `~`
    at the beginning is the home directory. Only what has a `://` is a URL, which fsspec expands.

    Args:
        patterns: Local paths, or URLs that fsspec knows.

    Returns:
        Locations in the order of the patterns, each once; local ones are absolute. A folder that
        was named itself ends with a slash; globs find files only, and none that are hidden.

    Raises:
        DataError: A pattern, or a name that its braces stand for, matches nothing; or a folder
            cannot be listed.
    """
    unread: dict[str, str] = {}
    found = find_locations(patterns, unread)
    for place, why in unread.items():
        raise DataError(f"{place} cannot be listed ({why}); {RIGHTS}")
    return found


def refuse_twice(patterns: Iterable[str]) -> None:
    """Refuses a place that two words name: somebody meant another one, or would count it twice.

    A place that a glob finds as well is no mistake, and is read once.

    Raises:
        DataError: A place is named twice.
    """
    seen: dict[str, str] = {}
    for word in patterns:
        place = word.rstrip("/")
        if "://" not in word:
            place = os.path.abspath(os.path.expanduser(word or "\0"))
            if "\0" in place or not os.path.lexists(place):
                continue
        if place in seen:
            also = f", as {seen[place]!r} before" if seen[place] != word else ""
            raise DataError(
                f"{word!r} is named twice{also}, wanted each source once; leave one of the two out"
            )
        seen[place] = word


def find_locations(
    patterns: Iterable[str], unread: dict[str, str], marks: dict[str, list[str]] | None = None
) -> list[str]:
    """Does what `expand_patterns` does, and keeps what a listing says besides names.

    Args:
        patterns: Local paths, or URLs that fsspec knows.
        unread: Receives why a place could not be listed.
        marks: Receives what changes when a file that has a URL is written again.
    """
    locations: dict[str, None] = {}
    marks = {} if marks is None else marks
    for pattern in patterns:
        before = len(unread)
        parts = _parts(pattern) if "://" in pattern else [pattern]
        listed = _named_in_folders(parts, marks) if len(parts) >= MOST_ASKED else {}
        for part in parts:
            if part in listed:
                found = [listed[part]]
            else:
                found = _elsewhere(part, marks) if "://" in part else _here(part, unread)
            locations.update(dict.fromkeys(found))
            if not found and len(unread) == before:
                raise DataError(
                    f"no file matches {part!r}; check how it is spelled, look with `ls {part}`, "
                    "keep the quotes around globs, and write a range of files that are all there "
                    "as {000..009}"
                )
    return list(locations)


def _parts(pattern: str) -> list[str]:
    from braceexpand import braceexpand

    if "{" not in pattern:
        return [pattern]
    try:
        if (letters := _names(pattern) * len(pattern)) > MOST_LETTERS:
            raise DataError(
                f"the braces of {pattern[:200]!r} stand for names of {letters:.1e} letters, wanted "
                f"at most {MOST_LETTERS:.1e}; name fewer files at once, or a glob"
            )
        return list(braceexpand(pattern, escape=False))
    except DataError:
        raise
    except (ValueError, RecursionError):  # braces that are not closed, or without end
        return [pattern]


def _names(pattern: str) -> int:
    """Counts the names that braces stand for, without making them."""
    open_at, others, names = [0], [0], [1]  # of each brace that is open, and of the whole
    for at, letter in enumerate(pattern):
        if letter == "{":
            open_at.append(at + 1)
            others.append(0)
            names.append(1)
        elif letter == "," and len(names) > 1:
            others[-1] += names[-1]
            names[-1] = 1
        elif letter == "}" and len(names) > 1:
            inner = others.pop() + names.pop()
            if span := _RANGE.fullmatch(pattern, open_at.pop(), at):
                first, last, step = (int(number or 1) for number in span.groups())
                inner = abs(last - first) // max(1, abs(step)) + 1
            names[-1] *= inner
    return sum(others) + sum(names)


_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")


def _named_in_folders(urls: Iterable[str], marks: dict[str, list[str]]) -> dict[str, str]:
    """Finds files that are named in braces, as many as may be by listing their folders once."""
    by_folder: dict[str, list[str]] = {}
    for url in urls:
        by_folder.setdefault(url.rpartition("/")[0], []).append(url)
    found = {}
    for folder, named in by_folder.items():
        if len(named) < MOST_ASKED or re.search(r"[*?\[]", folder):
            continue
        try:
            filesystem, place = file_system(folder)
            infos = {info["name"]: info for info in filesystem.ls(place, detail=True)}
        except Exception:  # whoever asks for each of them is told why
            continue
        for url in named:
            name = f"{place.rstrip('/')}/{url.rpartition('/')[2]}"
            if infos.get(name, {}).get("type") == "file":
                found[url] = listed_url(filesystem, name)
                marks[found[url]] = marks_of(infos[name])
    return found


def _elsewhere(url: str, marks: dict[str, list[str]]) -> list[str]:
    """Finds what a URL without braces names."""
    with listing_errors(url):
        filesystem, path = file_system(url)
        shown: Callable[[str], str] = partial(listed_url, filesystem)
        if filesystem.isfile(path):  # a name may hold the very characters of a glob
            return [shown(path)]
        if filesystem.isdir(path):
            folder = shown(path).rstrip("/") + "/"
            if "://" not in folder and "://" in shown(path):
                raise ValueError("it names all there is; name a bucket, or a folder")
            return [folder]
        found = filesystem.glob(path, detail=True) if re.search(r"[*?\[]", path) else {}
        files = {
            shown(name): marks_of(info)
            for name, info in sorted(found.items())
            if info["type"] != "directory"
            and (info["type"] == "file" or not filesystem.isdir(name))
        }
        marks.update(files)
        return list(files)


@contextlib.contextmanager
def listing_errors(place: str) -> Iterator[None]:
    """Turns whatever a file system raises (gcsfs, aiohttp, google-auth, ...) into a DataError."""
    try:
        yield
    except Exception as error:
        raise DataError(
            f"{place} cannot be listed ({explained(error)}); check the name, your rights and, for "
            "gs://, that you are logged in: gcloud auth application-default login"
        ) from error


def _here(typed: str, unread: dict[str, str]) -> list[str]:
    """Finds what a local path names; raises DataError for a name that braces stand for alone."""
    path = os.path.abspath(os.path.expanduser(typed or "\0"))  # an empty word is no folder
    literal, rest = "/", path.strip("/").split("/")
    while rest and rest != [""]:
        try:
            os.lstat(os.path.join(literal, rest[0]))
        except (FileNotFoundError, NotADirectoryError):
            break
        except (OSError, ValueError) as error:
            if not isinstance(error, PermissionError):  # a name that is too long, or has a \0
                break
            unread[literal] = error.strerror or str(error)
            return []
        literal = os.path.join(literal, rest.pop(0))
    else:
        return [literal.rstrip("/") + "/" if os.path.isdir(literal) else literal]
    pattern = "/".join(rest)
    parts = _parts(pattern)
    if parts == [pattern]:
        return sorted(_globbed(literal, rest, unread)) if re.search(r"[*?\[]", pattern) else []
    head = typed.removesuffix(pattern) if typed.endswith(pattern) else f"{literal}/"
    return find_locations([head + part for part in parts], unread)


def _globbed(folder: str, parts: Sequence[str], unread: dict[str, str]) -> Iterator[str]:
    """Yields the files below a folder that match the parts of a glob, one by one."""
    matches = re.compile(translate(parts[0])).match
    last, deep = len(parts) == 1, parts[0] == "**"
    if deep and not last:
        yield from _globbed(folder, parts[1:], unread)
    try:
        with os.scandir(folder) as found:
            entries = [one for one in found if parts[0][:1] == "." or one.name[:1] != "."]
    except NotADirectoryError:
        return
    except OSError as error:
        unread[folder] = error.strerror or str(error)
        return
    for entry in entries:
        if deep and entry.is_dir(follow_symlinks=False):
            yield from _globbed(entry.path, parts, unread)
        elif matches(entry.name) and last and not entry.is_dir():
            yield entry.path
        elif matches(entry.name) and not last:
            yield from _globbed(entry.path, parts[1:], unread)

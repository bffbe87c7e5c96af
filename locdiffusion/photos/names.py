"""What a file's name says: photo, document about a photo, or neither. One rule for every archive.

Folders, tars and zips are read by these rules alike, so that the same files give the same photos
however they are packed. A name is a path within the archive, with `/` between its parts.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from fnmatch import fnmatchcase, translate
from functools import cache, lru_cache

from schemas.samples import DOCUMENT_EXTENSIONS, IMAGE_EXTENSIONS, METADATA_EXTENSION

ARCHIVE_EXTENSIONS = ("tar", "tgz", "tbz2", "txz", "tzst", "zip", "7z", "rar")
"""Last endings of files that may hold photos of their own."""

COMPRESSED = ("gz", "bz2", "xz", "zst")
"""Endings that a compressed tar has behind `.tar`."""

LIBRARIES = ("*.photo*library", "*.migratedphotolibrary", "*.aplibrary")
"""Libraries of Photos, iPhoto and Aperture."""

JUNK_FOLDERS = (
    *(
        "@eaDir",
        "@tmp",
        "#recycle",
        "@Recycle",
        "#snapshot",
        "@Recently-Snapshot",
    ),  # Synology, QNAP
    *("~snapshot", "Network Trash Folder", "Temporary Items", "lost+found"),
    *("__MACOSX", "*.lrdata", "*.photo*library/resources", "*.photo*library/database"),
    *("*.photo*library/private", "*.photo*library/scopes"),
    *(f"{library}/{of}" for library in LIBRARIES for of in ("Thumbnails", "Previews")),
    *("thumbs/*-*-*-*-*", "appdata_*/preview", "storage/cache"),  # Immich, Nextcloud, PhotoPrism
    *("$RECYCLE.BIN", "RECYCLER", "System Volume Information"),
)
"""Folders that programs keep for themselves: previews, bins, snapshots."""

JUNK_FILES = ("Thumbs.db", "ehthumbs.db", "desktop.ini", "Icon\r", "SYNOPHOTO_THUMB*", "~$*")
"""Files that programs leave beside photos."""

SUPPLEMENT = ".supplemental-metadata"
"""What Google Takeout puts between a photo's name and `.json`, whole or cut anywhere."""

MAX_NAME_LENGTH = 4096
"""Most characters of a path: no file of Linux has a longer one."""

MOST_SHOWN = 300
"""Most characters of a name that a message quotes: more than one part of a path has."""

MOST_OF_ENDING = 12
"""Most characters behind the last dot that are the ending of a kind of files."""

OTHER_KINDS = "other endings"
"""Kind under which files are counted whose ending is no kind."""

EXCLUDED = "excluded"
"""Kind under which files are counted that a person asked to leave out."""

CUT_NAME_LENGTH, MOST_OF_CUT_NAME = 40, 255
"""Fewest and most characters of a document's name that may be the cut name of its photo: Takeout
cuts at 46 characters, or 51 with the ending; no file's name is longer than 255."""

EDITED = (
    *("-edited", "-bearbeitet", "-modifié", "-editado", "-editada", "-modificato", "-bewerkt"),
    *("-edytowane", "-redigerad", "-redigert", "-redigeret", "-muokattu", "-upravené", "-upraveno"),
    *("-düzenlendi", "-szerkesztett", "-editat", "-измененный", "-змінено", "-編集済み", "-编辑"),
    *("-已編輯", "-수정됨", "-edited-edited", "-effects", "-smile", "-mix", "-animation"),
)
"""What Google Photos puts behind the name of a changed copy, which has no document of its own."""

_NUMBERED = re.compile(r"(.*)(\(\d+\))\Z", re.DOTALL)
_META = re.compile(r"__meta__/|__[^/]*__\Z")  # webdataset's own members
_ENDING = re.compile(r"(?!\d+\Z)[^\W\d]*\d{0,3}[^\W\d]*~?")


class NameKind(str, Enum):
    """What a file is by its name."""

    PHOTO = "photo"
    DOCUMENT = "document"
    OTHER = "other"
    JUNK = "junk"


def extension(path: str) -> str:
    """Returns what follows the last dot of a base name, in lower case; empty for hidden files."""
    stem, dot, last = path.rpartition("/")[2].rpartition(".")
    return last.lower() if dot and stem else ""


def stem(path: str) -> str:
    """Returns a path without the last ending of its base name."""
    ending = extension(path)
    return path[: -len(ending) - 1] if ending or path.endswith(".") else path


def legible(name: str) -> str:
    """Replaces bytes of a name that are not UTF-8 by backslashes and hexadecimal digits."""
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def brief(name: str) -> str:
    """Returns a name in quotes as a message has it, without the middle of a long one."""
    half = MOST_SHOWN // 2
    return repr(name if len(name) <= MOST_SHOWN else f"{name[:half]}...{name[-half:]}")


def shortened(name: str) -> str:
    """Returns the beginning of a name, a hash of the whole, and its ending: still of its kind."""
    ending = extension(name)
    tail = f".{ending}" if 0 < len(ending) <= MOST_OF_ENDING else ""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name[: MOST_SHOWN // 2]}~{digest[:16]}{tail}"


def first_dot_key(name: str) -> str:
    """Returns the key of a member by webdataset's rule: its path up to the base's first dot."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def junk(path: str) -> str:
    """Returns what a file is that no person put there, such as `@eaDir/`; empty for others.

    Args:
        path: Path of a file within the archive; hidden are names that begin with a dot.
    """
    if "__" in path and _META.match(path):
        return "__meta__"
    if path.startswith(".") or "/." in path:
        for part in path.split("/"):
            if part.startswith("._"):
                return "._*"
            if part.startswith(".") and part not in (".", ".."):
                return ".DS_Store" if part == ".DS_Store" else "hidden"
    folder, slash, base = path.rpartition("/")
    if slash and (found := _junk_around(folder + "/")):
        return found
    if _JUNK_BASE(base):
        return next(one for one in JUNK_FILES if fnmatchcase(base, one)).strip("\r")
    return ""


@lru_cache(maxsize=1024)
def _junk_around(folder: str) -> str:
    if not _JUNK_WITHIN(folder):
        return ""
    return next(f"{one}/" for one in JUNK_FOLDERS if _within(one)(folder))


def junk_folder(path: str) -> str:
    """Returns what a folder is whose files are all `junk`; empty for others."""
    found = junk(f"{path}/x")
    return "" if found == "__meta__" else found


def _pattern(glob: str) -> str:
    """Returns the expression of a glob.

    Each star but the last ends at the first place that fits and never tries another one, so that
    the work is linear in the length of a name.
    """
    first, *parts = glob.split("*")
    text = re.escape(first)
    if len(parts) > 1 and not first:  # quickly past most names
        text = f"(?=[^/]*{re.escape(parts[-1].partition('/')[0])})"
    for part in parts[:-1]:
        start, rest = re.escape(part[0]), re.escape(part[1:])
        text += f"[^/{start}]*(?:{start}(?!{rest})[^/{start}]*)*{start}{rest}"
    return f"{text}[^/]*{re.escape(parts[-1])}" if parts else text


@cache
def _within(folder: str) -> Callable[[str], object]:
    return re.compile(rf"(?:.*/|){_pattern(folder)}/", re.DOTALL | re.IGNORECASE).match


_JUNK_WITHIN = re.compile(
    rf"(?:.*/|)(?:{'|'.join(map(_pattern, JUNK_FOLDERS))})/", re.DOTALL | re.IGNORECASE
).match
_MAYBE_JUNK = frozenset([".", *(one[0] for one in JUNK_FILES if one.endswith("*"))])
_PLAIN = frozenset([*IMAGE_EXTENSIONS, *map(str.upper, IMAGE_EXTENSIONS)])
_JUNK_BASE = re.compile("|".join(rf"(?:{_pattern(one)})\Z" for one in JUNK_FILES)).match


def kind_of(path: str) -> NameKind:
    """Returns what a file is by its name."""
    if junk(path):
        return NameKind.JUNK
    ending = extension(path)
    if ending in _PLAIN:
        return NameKind.PHOTO
    return NameKind.DOCUMENT if ending in DOCUMENT_EXTENSIONS else NameKind.OTHER


def plain_photos(names: Iterable[str]) -> list[str]:
    """Returns those among the names of files that are photos at first sight, quickly.

    The few photos with an unusual name are not among them; `kind_of` knows these, too.
    """
    return [
        name
        for name in names
        if name[0] not in _MAYBE_JUNK and name.rpartition(".")[2] in _PLAIN and name not in _PLAIN
    ]


def is_archive(path: str) -> bool:
    """Returns whether a file is an archive by its name, such as `backup.tar.gz`."""
    ending = extension(path)
    packed = ending in COMPRESSED and extension(stem(path)) == "tar"
    return packed or ending in ARCHIVE_EXTENSIONS


def left_out_kind(path: str) -> str:
    """Returns the kind under which a file that is not read is counted: `.mov`, `@eaDir/`, ...

    What follows the last dot may be a date, a number or the rest of a sentence, in every file
    another one. These are counted together.
    """
    if found := junk(path):
        return found
    ending = extension(path)
    if is_archive(path) and ending in COMPRESSED:
        return f".tar.{ending}"
    if len(ending) > MOST_OF_ENDING or not _ENDING.fullmatch(ending):
        return OTHER_KINDS
    return f".{ending}" if ending else "without ending"


def excluded(path: str, patterns: Sequence[str]) -> bool:
    """Returns whether a file or folder is left out because a person asked for it.

    Args:
        path: Path within the archive, or within the folder of photos.
        patterns: Globs, in which `*` stands for anything. A file is left out if one of them is its
            path, its name, or path or name of a folder in which it lies.
    """
    return bool(patterns) and _one_of(tuple(patterns))(path) is not None


@lru_cache(maxsize=64)
def _one_of(patterns: tuple[str, ...]) -> Callable[[str], object]:
    """A function that is None for what none of the patterns names."""
    plain = (pattern.removeprefix("./").removeprefix("**/").strip("/") for pattern in patterns)
    globs = (translate(pattern)[:-2] for pattern in plain)
    anywhere = "|".join(rf"(?:.*/)?{glob}(?:/.*)?\Z" for glob in globs)  # whose end was cut off
    return re.compile(anywhere, re.DOTALL).match


def photo_key(path: str, used: Callable[[str], bool]) -> str | None:
    """Returns the key of a photo in a tar or zip: its path without the ending, where that is free.

    Args:
        path: Path of the photo in the archive.
        used: Function that says whether an earlier photo of the archive has a key.

    Returns:
        The path without its last ending; if another photo has that key, the whole path; None if
        that is taken, too.
    """
    return next((key for key in (stem(path), path) if not used(key)), None)


def match_documents(photos: Iterable[str], documents: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Finds the documents about each photo.

    A document lies in the folder of its photo `NAME.jpg` and is called `NAME.json`, `NAME.xmp`,
    `NAME.jpg.json`, `NAME.jpg.xmp`, or as Google Takeout calls it: `NAME.jpg.supplemental-
    metadata.json`, cut anywhere; `NAME.jpg(1).json` for `NAME(1).jpg`; that of the original for
    `NAME-edited.jpg`. By webdataset's rule `NAME.json` also belongs to `NAME.left.jpg`.

    Args:
        photos: Paths of photos.
        documents: Paths of documents, in any order.

    Returns:
        The documents of each photo that has one, the nearest first.
    """
    by_folder: dict[str, dict[str, str]] = defaultdict(dict)
    for document in documents:
        folder, _, base = document.rpartition("/")
        by_folder[folder].setdefault(_same(base), document)
    if not by_folder:
        return {}
    cut = {folder: _cut_names(names) for folder, names in by_folder.items()}
    starts = {
        folder: Counter(name.partition(".")[0] for name in names)
        for folder, names in by_folder.items()
    }
    matched = {}
    for photo in photos:
        folder, _, base = photo.rpartition("/")
        if folder in by_folder:
            names, base = by_folder[folder], _same(base)
            # Only a numbered or edited copy may have documents that begin with another name.
            copied = stem(base).endswith((")", *EDITED))
            most = len(names) if copied else starts[folder][base.partition(".")[0]]
            found: dict[str, None] = {}
            for name in document_names(base) if most else ():
                if name in names:
                    found[names[name]] = None
                    if len(found) == most:
                        break
            found |= dict.fromkeys(_cut_documents(base, cut[folder]))
            if found:
                matched[photo] = tuple(found)
    return matched


def document_names(base: str) -> Iterable[str]:
    """Yields the names that a photo's documents may have whole, the nearest first.

    Args:
        base: Name of the photo, without its folder.
    """
    bare, ending = stem(base), base[len(stem(base)) :]
    originals = [(bare, "")]
    if numbered := _NUMBERED.match(bare):
        originals.append((numbered[1], numbered[2]))
    originals += [
        (name.removesuffix(suffix), number)
        for name, number in originals
        for suffix in EDITED
        if name.endswith(suffix)
    ]
    for name, number in originals:
        yield f"{name}{ending}{number}.{METADATA_EXTENSION}"
        for length in range(len(SUPPLEMENT), 0, -1):
            yield f"{name}{ending}{SUPPLEMENT[:length]}{number}.{METADATA_EXTENSION}"
        for other in DOCUMENT_EXTENSIONS:
            yield f"{name}{ending}{number}.{other}"
            yield f"{name}{number}.{other}"
    first = base.partition(".")[0]
    if first and first != bare:
        for other in DOCUMENT_EXTENSIONS:
            yield f"{first}.{other}"


def _cut_names(names: Mapping[str, str]) -> dict[str, str]:
    """Documents whose names are so long that they may have been cut, by name without `.json`."""
    ending = f".{METADATA_EXTENSION}"
    return {
        name.removesuffix(ending): document
        for name, document in names.items()
        if name.endswith(ending) and CUT_NAME_LENGTH <= len(name) - len(ending) <= MOST_OF_CUT_NAME
    }


def _cut_documents(base: str, cut: Mapping[str, str]) -> list[str]:
    if not cut or len(base) <= CUT_NAME_LENGTH:
        return []
    longest = min(len(base) - 1, MOST_OF_CUT_NAME)
    return [cut[base[:n]] for n in range(longest, CUT_NAME_LENGTH - 1, -1) if base[:n] in cut]


def _same(name: str) -> str:
    """One spelling for a name in the two normal forms of Unicode, in capitals or not."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).lower()

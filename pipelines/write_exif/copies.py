"""The folder of the copies: where each copy goes, and what may be replaced there.

`write_exif.json` in the folder has a line for each photo, and for each copy the SHA-256 of its
bytes. A file that this list does not know, or that was changed since, is somebody's own and stays.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from locdiffusion.cli.terminal import printable
from locdiffusion.files import atomic_path, file_system, write_atomically
from locdiffusion.photos.storage import DataError
from schemas.samples import MAX_IMAGE_BYTES

LIST = "write_exif.json"
EARLIER = "copy of an earlier run"
MAX_NAME_BYTES = 255
MAX_PLACE_BYTES = 1_000
"""Longest path within the folder: object stores take 1,024 bytes, Linux 4,096 with the folder's."""
MAX_COPY_BYTES = MAX_IMAGE_BYTES + 2**17
"""No copy is longer: a photo and a segment of EXIF."""
_STOPS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)
"""Errors that the next copy would meet, too; others are of one name."""
_NO_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that stand for no byte of a name."""


class PlaceTakenError(ValueError):
    """A copy cannot be written, because something else is in its place."""


@dataclass(frozen=True)
class Original:
    """What is known of the file that is copied.

    Attributes:
        shard: Path or URL of the photo's shard.
        key: Key of the photo.
        changed_ns: Time of its last change in nanoseconds since 1970, if it is known.
        rights: Its permissions, if they are known.
    """

    shard: str
    key: str
    changed_ns: int | None = None
    rights: int | None = None


@dataclass
class Copies:
    """The folder of the copies.

    Attributes:
        root: Path or URL of the folder.
        earlier: SHA-256 of what earlier runs wrote, by path within the folder.
        written: SHA-256 of what this run wrote, or found as it would be written.

    Raises:
        DataError: Another program's `write_exif.json` is in the folder.
    """

    root: str
    earlier: dict[str, str] = field(init=False)
    written: dict[str, str] = field(init=False, default_factory=dict)
    _taken: set[str] = field(init=False, default_factory=lambda: {_folded(LIST)})

    def __post_init__(self) -> None:
        self._files, self._path = file_system(self.root)
        self._local = isinstance(self._files, LocalFileSystem)
        try:
            self.earlier = _listed(self._read(LIST))
        except (ValueError, TypeError, LookupError, RecursionError):
            raise DataError(
                f"{self.root}/{LIST} is no list of this command; choose another --output"
            ) from None

    def place(self, name: str, original: Original) -> str:
        """Returns the path within the folder for a copy.

        No name leads out of the folder. Where a name is longer than file systems allow, or leads to
        the path of another copy, a digest makes it short and different.

        Args:
            name: Wanted path within the folder.
            original: The photo that is copied.
        """
        told = f"{original.shard}\0{original.key}".encode("utf-8", "surrogatepass")
        mark = "-" + hashlib.sha256(told).hexdigest()[:10]
        name = _NO_BYTES.sub(lambda found: printable(found[0]), name.replace("\0", ""))
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        parts = [
            _marked(part, mark)
            if len(os.fsencode(part)) > MAX_NAME_BYTES or _folded(part) == _folded(LIST)
            else part
            for part in parts
        ]
        place = "/".join(parts)
        if len(os.fsencode(place)) > MAX_PLACE_BYTES:
            return _marked(parts[-1], mark)
        if not place or _folded(place) in self._taken:
            place = "/".join([*parts[:-1], _marked("".join(parts[-1:]), mark)])
        return place

    def write(self, place: str, copy: bytes, original: Original, dry: bool = False) -> str:
        """Writes a copy, with the time and the permissions of its original.

        Args:
            place: Path within the folder, as of `place`.
            copy: Bytes of the copy.
            original: The photo that is copied.
            dry: Whether only to check that the copy could be written.

        Returns:
            The SHA-256 of the copy.

        Raises:
            PlaceTakenError: Another file is there, or the path leads through a file or a link.
            OSError: The folder cannot be written.
        """
        digest = hashlib.sha256(copy).hexdigest()
        if _folded(place) in self._taken:
            raise PlaceTakenError(f"{self._full(place)} is the copy of another photo; rename one")
        try:
            there = self._read(place)
            known = (digest, self.earlier.get(place))
            if there is not None and hashlib.sha256(there).hexdigest() not in known:
                self.earlier.pop(place, None)  # it is no copy of ours any more
                raise PlaceTakenError(
                    f"{self._full(place)} was not written by this command, or was changed since; "
                    "move it away or choose another --output"
                )
            if there != copy and not dry:
                self._replace(place, copy, original)
        except OSError as error:
            usable = self._local and os.access(self._path, os.W_OK)
            if error.errno in _STOPS or not usable:
                raise
            raise PlaceTakenError(
                f"{self._full(place)} cannot be made ({error.strerror}); rename the photo, or "
                "choose another --output"
            ) from None
        self.written[place] = digest
        self._taken.add(_folded(place))
        return digest

    def write_list(self, summary: Mapping[str, Any], fates: Iterable[Mapping[str, Any]]) -> None:
        """Writes `write_exif.json`.

        Args:
            summary: Numbers of photos by fate, and what else is told of the run.
            fates: A line for each photo. Lines for the copies of earlier runs follow.
        """
        older = (
            {"fate": EARLIER, "copy": place, "sha256": digest}
            for place, digest in self.earlier.items()
            if place not in self.written
        )
        lines = [json.dumps(line, ensure_ascii=False) for line in (*fates, *older)]
        head = json.dumps(summary, indent=1, ensure_ascii=False).removesuffix("\n}")
        text = f'{head},\n "fates": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
        data = text.encode("utf-8", "backslashreplace")
        if self._local:
            write_atomically(Path(self._full(LIST)), data)
        else:
            self._files.pipe_file(self._full(LIST), data)

    def _full(self, place: str) -> str:
        return "/".join([self._path.rstrip("/"), place])

    def _read(self, place: str) -> bytes | None:
        """Reads a file of the folder; None where there is none."""
        path = self._full(place)
        if not self._local:
            try:
                content: bytes = self._files.cat_file(path)
            except FileNotFoundError:
                return None
            return content
        if os.path.realpath(path) != os.path.join(os.path.realpath(self._path), place):
            raise PlaceTakenError(f"{path} leads through a link; remove the link")
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return None
        most = MAX_COPY_BYTES if place != LIST else status.st_size
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise PlaceTakenError(f"{path} is no copy; move it away or choose another --output")
        return Path(path).read_bytes()

    def _replace(self, place: str, copy: bytes, original: Original) -> None:
        if not self._local:
            self._files.pipe_file(self._full(place), copy)
            return
        with atomic_path(Path(self._full(place))) as temporary:
            temporary.write_bytes(copy)
            if original.rights is not None:
                with contextlib.suppress(OSError):  # not every file system has them
                    temporary.chmod(original.rights)
            if original.changed_ns is not None:
                os.utime(temporary, ns=(original.changed_ns, original.changed_ns))


def _listed(content: bytes | None) -> dict[str, str]:
    """Reads what a list says of copies; a list of before 0.5 says nothing of them."""
    document: dict[str, Any] = json.loads(content) if content is not None else {"photos": 0}
    document["photos"]
    return {line["copy"]: line["sha256"] for line in document.get("fates", ()) if "sha256" in line}


def _folded(name: str) -> str:
    """One spelling for names that some file systems take for one: capitals, forms of Unicode."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _marked(name: str, mark: str) -> str:
    """Puts a mark before the ending of a file's name, and cuts the name to what may be."""
    stem, ending = os.path.splitext(name)
    room = MAX_NAME_BYTES - len(mark) - len(os.fsencode(ending))
    if room < 0:
        stem, ending, room = name, "", MAX_NAME_BYTES - len(mark)
    return os.fsencode(stem)[:room].decode("utf-8", "ignore") + mark + ending

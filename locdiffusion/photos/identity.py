"""Gives a photo an identity: the same wherever its archive lies, and whatever else is read.

The identity is a hash of three things: the name of the archive without its folders, the path of the
photo in it, and the bytes of the photo. A photo of a folder has its file name alone, one of a table
its key. So another machine, a renamed folder above, or a glob that names more give the same
identity. Files that would share one, such as copies in two folders, are told apart by as many
folders as that takes, see `twins`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from locdiffusion.photos.names import stem

PHOTO_ID_BYTES = 10
"""Bytes of an identity: among a billion photos two share one with a probability below 1e-6."""


class Holder(str, Enum):
    """What holds a photo."""

    ARCHIVE = "archive"
    FOLDER = "folder"
    TABLE = "table"


class PhotoPlace(NamedTuple):
    """Where a photo lies.

    Attributes:
        holder: What holds the photo.
        holder_name: Name of the archive, or what tells a table from others; empty for folders.
        name: Name of the photo in there, of which its identity is made.
        path: Path of the photo in its archive or in the folder that was named, for people.
    """

    holder: Holder = Holder.FOLDER
    holder_name: str = ""
    name: str = ""
    path: str = ""


@dataclass(frozen=True)
class PhotoIdentity:
    """What tells a photo from all others; empty where no photo was read.

    Attributes:
        photo_id: Hexadecimal digits, twice `PHOTO_ID_BYTES`.
        path: Path of the photo in its archive or in the folder that was named.
        sha256: SHA-256 of its bytes; None if it was not asked for.
    """

    photo_id: str = ""
    path: str = ""
    sha256: str | None = None

    @property
    def stem(self) -> str:
        """Name of the file without its folders and its ending."""
        return stem(self.path.rpartition("/")[2])


UNIDENTIFIED = PhotoIdentity()


def identify(place: PhotoPlace, data: bytes, sha256: bool = False) -> PhotoIdentity:
    """Computes the identity of a photo: 1 to 2 ms per MB of its bytes.

    Args:
        place: Where the photo lies.
        data: Bytes of the photo.
        sha256: Whether to compute the SHA-256 of the bytes, too.
    """
    parts = (place.holder.value, place.holder_name, place.name)
    named = "".join(f"{len(part)}:{part}" for part in parts)  # two places never give one text
    digest = hashlib.blake2b(named.encode("utf-8", "surrogateescape"), digest_size=PHOTO_ID_BYTES)
    digest.update(data)
    whole = hashlib.sha256(data).hexdigest() if sha256 else None
    return PhotoIdentity(digest.hexdigest(), place.path, whole)


def last_parts(url: str, folders: int) -> str:
    """Returns the name of a file with the names of so many folders above it."""
    return "/".join(url.split("/")[-1 - folders :])


def archive_name(url: str, folders: int = 0) -> str:
    """Returns the name of an archive, and so many folders; signatures of web addresses are none."""
    web = url.startswith(("http://", "https://"))
    return last_parts(re.sub(r"[?#].*", "", url) if web else url, folders)

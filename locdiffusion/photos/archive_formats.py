"""Opens archives by what their first bytes say, and says of other files what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from locdiffusion.photos.blocks import ArchiveDamage, TarStatus
from locdiffusion.photos.image_formats import MOST_QUOTED, picture_or_film
from locdiffusion.photos.storage import ReadError
from locdiffusion.photos.tar import Member, read_members
from locdiffusion.photos.zip import MAGIC as ZIP_MAGIC
from locdiffusion.photos.zip import read_zip_members

UNPACK = "unpack it and pass the folder"
OTHER_ARCHIVES = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "RAR", b"\x1f\x9d": "compress"}
OTHER_ARCHIVES |= {b"\x04\x22\x4d\x18": "lz4", b"LZIP": "lzip", b"MSCF": "cabinet"}
OTHER_ARCHIVES |= {b"07070": "cpio"}
"""Archives that are not read, by their first bytes."""


def read_archive(
    file: BinaryIO, limit_of: Callable[[str], int | None], tell: Callable[[str], None]
) -> Iterator[Member]:
    """Yields the members of a tar or a zip, whichever the first bytes say it is.

    Args:
        file: Seekable file.
        limit_of: Function as of `tar.read_members`.
        tell: Receives a sentence about an end that is unusual.
    """
    try:
        file.seek(0)
        zipped = file.read(4) in ZIP_MAGIC
        file.seek(0)
    except ReadError as error:
        raise ArchiveDamage(TarStatus.UNREADABLE, 0, f"reading failed ({error})") from error
    return (read_zip_members if zipped else read_members)(file, limit_of, tell)


def why_unopened(url: str, error: OSError) -> str:
    """Says why an archive could not be opened, and what to do."""
    if isinstance(error, IsADirectoryError):
        return f"{url} is a directory, wanted a tar; pass {url.rstrip('/')}/*.tar"
    return (
        f"{url} cannot be opened ({type(error).__name__}: {error}); check the path and its rights"
    )


def why_unread(file: BinaryIO, damage: ArchiveDamage) -> str:
    """Says what a file is that is damaged from its first byte on, and what to do."""
    file.seek(0)
    head = file.read(512)
    where = f"{TarStatus.UNREADABLE.value} at byte 0"
    for magic, kind in OTHER_ARCHIVES.items():
        if head.startswith(magic):
            return f"{where}: {kind} is not read; {UNPACK}"
    if not head:
        return f"{where}: the file is empty, wanted a tar; copy or download the shard again"
    if found := picture_or_film(head):
        return f"{where}: {found}, no archive; leave it out, or give a photo its ending: NAME.jpg"
    page = " (a web page: did the download fail?)" if head.lstrip()[:1] == b"<" else ""
    return (
        f"{where}: not a tar, the file begins with {head[:MOST_QUOTED]!r}{page} and {damage.why}; "
        "wanted .tar, .tar.gz, .tar.bz2, .tar.xz or .zip"
    )

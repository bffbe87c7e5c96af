"""Reads zip files strictly: every photo in the directory at the end is had whole, or told.

`zipfile` reads the directory; this module adds limits, and tells of each member why it cannot be
had. Members that are wanted come one at a time, in the order of the directory.
"""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from locdiffusion.photos.storage import ReadError
from locdiffusion.photos.tar import ArchiveDamage, Member, TarStatus, linked_path, too_large
from schemas.geotags import Status

MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
"""First bytes of a zip: of its first member, of the directory of an empty one, of a volume."""
MAX_READ_BYTES = 2**26
"""Most bytes at once: of a member, and of the whole directory, some 600,000 members."""
MAX_END_BYTES = 22 + 2**16
"""Most bytes of the record that ends a zip, with its comment."""
MAX_LINK_BYTES = 4096
ENCRYPTED = 0x1
UTF8_FLAG = 0x08
"""Flag, in the second byte of two, of a member whose name is UTF-8."""
HEADER, HEADER_BYTES = MAGIC[0], 30
"""First bytes of what stands before a member, and its length without the name."""
ENTRY, ENTRY_BYTES = b"PK\x01\x02", 46
"""The same of a member's entry in the directory."""
UNIX = 3
"""Number of the system on which a member was packed."""


class _Limited(io.BufferedIOBase):
    """A file that gives no more than MAX_READ_BYTES at once and raises ArchiveDamage."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.size = self.seek(0, io.SEEK_END)

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            if size is not None and 0 <= size <= MAX_READ_BYTES:
                return _without_flags(self._file.read(size))
            data = self._file.read(MAX_READ_BYTES)
            if len(data) < MAX_READ_BYTES:
                return data
        except ReadError as error:
            raise _unread(error) from error
        why = f"its directory says that it has more than {MAX_READ_BYTES:,} bytes"
        raise ArchiveDamage(TarStatus.CORRUPT, self._file.tell(), why)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if offset + (self.size if whence == io.SEEK_END else 0) < 0:
            raise OSError("an offset before the beginning")
        try:
            return self._file.seek(offset, whence)
        except ReadError as error:
            raise _unread(error) from error

    def readable(self) -> bool:
        return True


def _unread(error: ReadError) -> ArchiveDamage:
    return ArchiveDamage(TarStatus.UNREADABLE, 0, f"reading failed ({error})")


def _without_flags(data: bytes) -> bytes:
    """Takes the flag of UTF-8 from headers: `zipfile` reads nothing if a flagged name is not."""
    if data.startswith(HEADER) and len(data) == HEADER_BYTES:
        return data[:7] + bytes([data[7] & ~UTF8_FLAG]) + data[8:]
    if not data.startswith(ENTRY):
        return data
    directory, at = bytearray(data), 0
    while directory.startswith(ENTRY, at) and at + ENTRY_BYTES <= len(data):
        directory[at + 9] &= ~UTF8_FLAG
        at += ENTRY_BYTES + sum(struct.unpack_from("<3H", data, at + 28))
    return bytes(directory)


def read_zip_members(
    stream: BinaryIO, limit_of: Callable[[str], int | None], tell: Callable[[str], None]
) -> Iterator[Member]:
    """Yields the members of a zip, holding one payload at a time.

    Args:
        stream: Seekable binary file.
        limit_of: Function from a member's name to the most bytes that its payload may have, or to
            None for a member that is skipped.
        tell: Receives nothing: the end of a zip is as it must be, or damaged.

    Raises:
        ArchiveDamage: The directory at the end is not there, or cannot be read.
    """
    file = _Limited(stream)
    try:
        archive = ZipFile(file)
    except (BadZipFile, NotImplementedError, ValueError, OSError) as error:
        cut = not _end_record(file)
        why = f"the directory at the end of the zip cannot be read ({error})"
        if cut:
            why = "the zip ends without its directory; is a download or a copy unfinished?"
        status = TarStatus.TRUNCATED if cut else TarStatus.CORRUPT
        raise ArchiveDamage(status, file.size, why) from None
    members = archive.infolist()
    for info in members:
        name = member_name(info)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if name.endswith("/") or kind == stat.S_IFDIR:
            continue
        if kind == stat.S_IFLNK:
            target = _member(archive, info, name, MAX_LINK_BYTES).data
            path = (target or b"").decode("utf-8", "backslashreplace")
            yield Member(name, link=linked_path(name, path, True) if path else "")
        elif kind not in (0, stat.S_IFREG):
            why = f"{name!r} is a device or a pipe, wanted a file; put the photo itself there"
            yield Member(name, problem=(Status.MISSING_IMAGE, why))
        elif (limit := limit_of(name)) is None:
            yield Member(name)
        else:
            yield _member(archive, info, name, limit)
    count = int.from_bytes(_end_record(file)[10:12], "little")
    if count not in (len(members) % 2**16, 2**16 - 1):
        why = f"the directory has {len(members):,} members, and says that it has {count:,}"
        raise ArchiveDamage(TarStatus.CORRUPT, file.size, why)


def _end_record(file: _Limited) -> bytes:
    """The record that ends a zip; empty if there is none."""
    file.seek(max(0, file.size - MAX_END_BYTES))
    data = file.read(MAX_END_BYTES)
    at = data.rfind(b"PK\x05\x06")
    return data[at:] if at >= 0 else b""


def member_name(info: ZipInfo) -> str:
    """Returns the name of a member: UTF-8 if it can be, whatever a flag says, `/` in it.

    Some programs of Windows write backslashes between them; on Unix they belong to a name.
    """
    name = info.filename
    if not name.isascii():
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    told = "/" in name or info.create_system == UNIX
    return name if told else name.replace("\\", "/")


def _member(archive: ZipFile, info: ZipInfo, name: str, limit: int) -> Member:
    """Reads a member, or says why it cannot be had."""
    if info.file_size > limit:
        return Member(name, problem=too_large(name, info.file_size, limit))
    if info.flag_bits & ENCRYPTED:
        why = f"{name!r} is encrypted; unpack the zip with its password and pass the folder"
        return Member(name, problem=(Status.MISSING_IMAGE, why))
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        why = f"{name!r} is compressed by method {info.compress_type}; unpack the zip"
        return Member(name, problem=(Status.MISSING_IMAGE, why))
    try:
        with archive.open(info) as file:
            data = file.read(limit + 1)
        if len(data) == info.file_size:
            return Member(name, data, changed_s=_changed_s(info))
        found = f"{len(data):,} bytes, wanted {info.file_size:,}"
    except (
        *(BadZipFile, zlib.error, EOFError, OSError),
        *(NotImplementedError, RuntimeError, ValueError),
    ) as error:
        found = str(error) or type(error).__name__
    why = f"{name!r} is damaged in the zip ({found}); copy or download the zip again"
    return Member(name, problem=(Status.BROKEN_IMAGE, why))


def _changed_s(info: ZipInfo) -> float | None:
    """Time of a member, which zips store as a clock on the wall shows it."""
    try:
        return datetime(*info.date_time).timestamp()
    except (ValueError, OverflowError, OSError):
        return None

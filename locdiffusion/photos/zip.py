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
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from locdiffusion.photos.blocks import PARSED, UNPACKED, Allowance, ArchiveDamage, TarStatus
from locdiffusion.photos.names import MAX_NAME_LENGTH, MOST_SHOWN, brief
from locdiffusion.photos.storage import ReadError
from locdiffusion.photos.tar import Member, linked_path, too_large, too_long
from schemas.geotags import Status
from schemas.samples import MAX_METADATA_BYTES

MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
"""First bytes of a zip: of its first member, of the directory of an empty one, of a volume."""
MAX_READ_BYTES = 2**26
"""Most bytes at once: of a member, and of the whole directory."""
MAX_MEMBERS = 500_000
"""Most entries of the directory: as many photos of 2 MB are a terabyte."""
MAX_EXTRA_BYTES = 1024
"""Most bytes of an entry's extra fields, which `zipfile` reads in quadratic time. Programs write
some dozens: times, owners, and 32 that a member beyond 4 GiB needs."""
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
ZIP64, UNICODE_NAME = 0x1, 0x7075
"""Kinds of extra fields that `zipfile` reads."""
UNIX = 3
"""Number of the system on which a member was packed."""


class _Limited(io.BufferedIOBase):
    """A file that gives no more than MAX_READ_BYTES at once and raises ArchiveDamage.

    Attributes:
        size: Bytes of the file.
        opened: Whether the directory was read, so that what looks like it is a payload.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.opened = False
        self.size = 0
        self.size = self.seek(0, io.SEEK_END)

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            if size is not None and 0 <= size <= MAX_READ_BYTES:
                return _without_flags(self._file.read(size), self.opened)
            data = self._file.read(MAX_READ_BYTES)
            if len(data) < MAX_READ_BYTES:
                return data
        except ReadError as error:
            raise _unread(error) from error
        why = f"its directory says that it has more than {MAX_READ_BYTES:,} bytes"
        raise ArchiveDamage(TarStatus.CORRUPT, self._file.tell(), why)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        place = offset + (self.size if whence == io.SEEK_END else 0)
        if whence != io.SEEK_CUR and not 0 <= place <= self.size:
            raise OSError(f"an offset of {place:,} in a file of {self.size:,} bytes")
        try:
            return self._file.seek(offset, whence)
        except ReadError as error:
            raise _unread(error) from error

    def readable(self) -> bool:
        return True


def _unread(error: ReadError) -> ArchiveDamage:
    return ArchiveDamage(TarStatus.UNREADABLE, 0, f"reading failed ({error})")


def _without_flags(data: bytes, opened: bool) -> bytes:
    """Takes from headers what `zipfile` does badly with.

    Those are the flag of UTF-8, as it reads nothing if a flagged name is not; a version, which may
    be one of the future; and extra fields that are long or broken, for which it reads nothing
    either. They become a single one of no meaning.
    """
    if data.startswith(HEADER) and len(data) == HEADER_BYTES:
        return data[:7] + bytes([data[7] & ~UTF8_FLAG]) + data[8:]
    if opened or not data.startswith(ENTRY):
        return data
    directory, at, members = bytearray(data), 0, 0
    while directory.startswith(ENTRY, at) and at + ENTRY_BYTES <= len(data):
        directory[at + 6], directory[at + 9] = 0, data[at + 9] & ~UTF8_FLAG
        large = 8 * sum(data.startswith(b"\xff" * 4, at + place) for place in (20, 24, 42))
        name, extra, comment = struct.unpack_from("<3H", data, at + 28)
        at += ENTRY_BYTES + name
        fields = data[at : at + extra]
        if len(fields) >= 4 and not _sound(fields, large):
            struct.pack_into("<2H", directory, at, 0xFFFF, len(fields) - 4)
        at += extra + comment
        members += 1
    if members > MAX_MEMBERS:
        why = f"its directory has {members:,} members, limit {MAX_MEMBERS:,}; pack several zips"
        raise ArchiveDamage(TarStatus.CORRUPT, 0, why)
    return bytes(directory)


def _sound(extra: bytes, large: int) -> bool:
    """Whether `zipfile` reads extra fields, of which that of ZIP64 must be so `large`."""
    at = 0
    while at + 4 <= len(extra) <= MAX_EXTRA_BYTES:
        kind, length = struct.unpack_from("<2H", extra, at)
        named = extra[at + 9 : at + 4 + length].decode(errors="replace")
        wrong = length < 5 or "\ufffd" in named
        if (kind == ZIP64 and length < large) or (kind == UNICODE_NAME and wrong):
            return False
        at += 4 + length
    return at <= len(extra) <= MAX_EXTRA_BYTES


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
    file.opened = True
    members = archive.infolist()
    payloads = _Payloads(file, archive)
    for info in members:
        name = member_name(info)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if name.endswith("/") or kind == stat.S_IFDIR:
            continue
        if len(name) > MAX_NAME_LENGTH:
            name, problem = too_long(name)
            yield Member(name, problem=problem)
        elif kind == stat.S_IFLNK:
            target = payloads.member(info, name, MAX_LINK_BYTES).data
            path = (target or b"").decode("utf-8", "backslashreplace")
            yield Member(name, link=linked_path(name, path, True) if path else "")
        elif kind not in (0, stat.S_IFREG):
            why = f"{brief(name)} is a device or a pipe, wanted a file; put the photo itself there"
            yield Member(name, problem=(Status.MISSING_IMAGE, why))
        elif (limit := limit_of(name)) is None:
            yield Member(name)
        else:
            yield payloads.member(info, name, limit)
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


class _Payloads:
    """Reads the payloads of a zip.

    Every byte of the file belongs to one member. Otherwise the same kilobytes could be thousands of
    photos, under as many names.
    """

    def __init__(self, file: _Limited, archive: ZipFile) -> None:
        self._file = file
        self._archive = archive
        self._starts = sorted(info.header_offset for info in archive.infolist())
        self._starts.append(archive.start_dir)
        self._beyond: Counter[Allowance] = Counter()  # bytes beyond the ratio of each

    def member(self, info: ZipInfo, name: str, limit: int) -> Member:
        """Reads a member, or says why it cannot be had."""
        called = brief(name)
        if info.file_size > limit:
            return Member(name, problem=too_large(name, info.file_size, limit))
        if info.flag_bits & ENCRYPTED:
            why = f"{called} is encrypted; unpack the zip with its password, and pass the folder"
            return Member(name, problem=(Status.MISSING_IMAGE, why))
        if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            why = f"{called} is compressed by method {info.compress_type}; unpack the zip"
            return Member(name, problem=(Status.MISSING_IMAGE, why))
        allowance = PARSED if limit <= MAX_METADATA_BYTES else UNPACKED
        beyond = max(0, info.file_size - allowance.ratio * info.compress_size)
        self._beyond[allowance] += beyond
        if beyond and allowance.exceeded(self._beyond[allowance], 0):
            why = f"{called} unpacks to {info.file_size:,} bytes from {info.compress_size:,}, "
            why += f"and so do others before it; limit {allowance.ratio} to one beyond "
            why += f"{allowance.free_bytes:,}; if you trust the zip, unpack it and pass the folder"
            return Member(name, problem=(Status.TOO_MANY_BYTES, why))
        try:
            if self._shares_bytes(info):
                why = f"{called} shares bytes of the zip with another member; pack it again"
                return Member(name, problem=(Status.BROKEN_IMAGE, why))
            with self._archive.open(info) as file:
                data = file.read(limit + 1)
            if len(data) == info.file_size:
                return Member(name, data, changed_s=_changed_s(info))
            found = f"{len(data):,} bytes, wanted {info.file_size:,}"
        except (
            *(BadZipFile, zlib.error, EOFError, OSError),
            *(NotImplementedError, RuntimeError, ValueError),
        ) as error:
            found = str(error) or type(error).__name__
        why = f"{called} is damaged in the zip ({found[:MOST_SHOWN]}); "
        why += "copy or download the zip again"
        return Member(name, problem=(Status.BROKEN_IMAGE, why))

    def _shares_bytes(self, info: ZipInfo) -> bool:
        """Whether a member begins where another does, or ends behind the next one's beginning."""
        self._file.seek(info.header_offset)
        header = self._file.read(HEADER_BYTES)
        if not header.startswith(HEADER) or len(header) < HEADER_BYTES:
            return False  # opening it will say so
        after = bisect_right(self._starts, info.header_offset)
        if after - bisect_left(self._starts, info.header_offset) > 1:
            return True
        end = info.header_offset + HEADER_BYTES + info.compress_size
        return end + sum(struct.unpack_from("<2H", header, 26)) > self._starts[after]


def _changed_s(info: ZipInfo) -> float | None:
    """Time of a member, which zips store as a clock on the wall shows it."""
    try:
        return datetime(*info.date_time).timestamp()
    except (ValueError, OverflowError, OSError):
        return None

"""Reads tar files strictly and forwards: every byte is accounted for.

The standard library and webdataset stop silently at a damaged header and lose what follows. This
reader goes block by block, uses `tarfile.TarInfo` only to parse headers, demands the two zero
blocks at the end, and says at which byte an archive is truncated or corrupt.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import BinaryIO

from locdiffusion.photos.storage import ReadError
from schemas.geotags import Status

BLOCK = 512
CHUNK = 2**20
ENCODING = "utf-8"
MAGIC = re.compile(rb"(?P<gzip>\x1f\x8b)|(?P<bz2>BZh[1-9]1AY&SY)|(?P<lzma>\xfd7zXZ\0)")
"""First bytes of a compressed file, each under the module that opens it."""
MAX_EXTENDED_HEADER_BYTES = 2**20
MAX_FILLING_BYTES = tarfile.RECORDSIZE
"""Most zero bytes after the end; a file that was reserved and not filled holds more."""


class TarStatus(str, Enum):
    """State of a whole shard."""

    COMPLETE = "complete"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Member:
    """One file of the archive.

    Attributes:
        name: Name as it is stored.
        data: Payload, if it was wanted.
        problem: Status and message of a payload that was wanted and is missing.
        offset: First byte of the payload in the file; None if it is compressed.
    """

    name: str
    data: bytes | None = None
    problem: tuple[Status, str] | None = None
    offset: int | None = None


class ArchiveDamage(Exception):
    """The archive ends here too early, or cannot be read on.

    Attributes:
        status: State of the archive.
        offset: Byte of the decompressed archive at which the damage was noticed.
        why: What was found at that byte.
        member: Name of the member whose payload is cut, if its header was sound.
    """

    def __init__(self, status: TarStatus, offset: int, why: str, *, member: str = "") -> None:
        super().__init__(f"{status.value} at byte {offset}: {why}")
        self.status = status
        self.offset = offset
        self.why = why
        self.member = member


class _Blocks:
    """Counts the bytes of a stream and turns a short read into ArchiveDamage."""

    def __init__(self, stream: BinaryIO) -> None:
        self.offset = 0
        try:
            magic = MAGIC.match(stream.read(10))
            stream.seek(0)
        except ReadError as error:
            raise _unread(error, 0) from error
        self.compression = magic and magic.lastgroup
        module = import_module(self.compression) if self.compression else None
        self._stream: BinaryIO = module.open(stream) if module else stream
        self._faults = (OSError, zlib.error, getattr(module, "LZMAError", OSError))

    def read(self, size: int, member: str = "") -> bytes:
        """Reads `size` bytes; returns fewer only at the end of the file."""
        start, parts, left = self.offset, [], size
        try:
            while left and (part := self._stream.read(left)):
                parts.append(part)
                left -= len(part)
        except ReadError as error:
            raise _unread(error, start, member) from error
        except EOFError:
            why = f"the {self.compression} stream ends early"
            raise ArchiveDamage(TarStatus.TRUNCATED, start, why, member=member) from None
        except self._faults as error:
            why = f"{self.compression} says {error}; what was read before may be wrong, too"
            raise ArchiveDamage(TarStatus.CORRUPT, start, why, member=member) from None
        data = b"".join(parts)
        self.offset += len(data)
        return data

    def payload(self, size: int, member: str) -> bytes:
        """Reads a payload and the padding to the next block."""
        padded = -(-size // BLOCK) * BLOCK
        data = self.read(padded, member)
        if len(data) < padded:
            self._cut(size - len(data), member)
        return data[:size]

    def skip(self, size: int, member: str) -> None:
        """Passes over a payload without holding it."""
        left = -(-size // BLOCK) * BLOCK
        while left:
            got = len(self.read(min(left, CHUNK), member))
            if not got:
                self._cut(left, member)
            left -= got

    def _cut(self, missing: int, member: str) -> None:
        raise ArchiveDamage(
            TarStatus.TRUNCATED,
            self.offset,
            f"the file ends {max(missing, 0):,} bytes before the end of member {member!r}",
            member=member,
        )


def _unread(error: ReadError, start: int, member: str = "") -> ArchiveDamage:
    return ArchiveDamage(TarStatus.UNREADABLE, start, f"reading failed ({error})", member=member)


def read_members(stream: BinaryIO, limit_of: Callable[[str], int | None]) -> Iterator[Member]:
    """Yields the members of a tar, plain or compressed, holding one payload at a time.

    Args:
        stream: Seekable binary file at its start; it is read forwards once.
        limit_of: Function from a member's name to the most bytes that its payload may have, or to
            None for a member that is skipped.

    Raises:
        ArchiveDamage: From this byte on nothing can be trusted.
    """
    blocks = _Blocks(stream)
    path, size = None, None  # from extended headers, valid for the next member only
    while True:
        start = blocks.offset
        header = blocks.read(BLOCK)
        if header == bytes(BLOCK):
            if path is not None or size is not None:
                raise ArchiveDamage(TarStatus.CORRUPT, start, "a member's name without the member")
            _check_end(blocks)
            return
        info = _parse_header(header, start)
        if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
            records = _pax_records(_extended(blocks, info, start), start)
            if info.type != tarfile.XGLTYPE:
                path, size = records.get("path", path), records.get("size", size)
                path = path and path.rstrip(b"/")
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            path = _extended(blocks, info, start).split(b"\0", 1)[0]
        elif info.type == tarfile.GNUTYPE_LONGLINK:
            _extended(blocks, info, start)
        elif info.type == tarfile.GNUTYPE_SPARSE:
            raise ArchiveDamage(TarStatus.CORRUPT, start, "sparse members are not supported")
        else:
            if path is not None:
                info.name = path.decode(ENCODING, "backslashreplace")
            if size is not None:
                info.size = _pax_size(size, info.size, start)
            path = size = None
            yield from _read_member(blocks, info, limit_of(info.name))


def _parse_header(header: bytes, start: int) -> tarfile.TarInfo:
    if len(header) < BLOCK:
        why = "the file ends without the two zero blocks that close a tar"
        raise ArchiveDamage(TarStatus.TRUNCATED, start, why)
    try:
        info = tarfile.TarInfo.frombuf(header, ENCODING, "backslashreplace")
    except tarfile.HeaderError as error:
        raise ArchiveDamage(TarStatus.CORRUPT, start, f"no tar header here ({error})") from None
    if info.size < 0:
        raise ArchiveDamage(TarStatus.CORRUPT, start, f"a member of {info.size} bytes")
    return info


def _check_end(blocks: _Blocks) -> None:
    """Checks what follows the first zero block: another one, and then at most a few zeros."""
    start = blocks.offset
    if blocks.read(BLOCK) != bytes(BLOCK):
        end = blocks.offset - start < BLOCK
        status = TarStatus.TRUNCATED if end else TarStatus.CORRUPT
        raise ArchiveDamage(status, start, "a lone zero block")
    end_blocks = blocks.offset
    while chunk := blocks.read(CHUNK):
        if chunk.count(0) != len(chunk):
            why = "data follows the end of the archive; were two tars joined with cat?"
            raise ArchiveDamage(TarStatus.CORRUPT, end_blocks, why)
    zeros = blocks.offset - end_blocks
    if zeros > MAX_FILLING_BYTES:
        why = f"{zeros:,} zero bytes follow the end of the archive; is a download unfinished?"
        raise ArchiveDamage(TarStatus.CORRUPT, end_blocks, why)
    if zeros % BLOCK:  # bytes may have gone or come inside the last payload
        why = f"{blocks.offset:,} bytes are no whole number of blocks of {BLOCK}"
        raise ArchiveDamage(TarStatus.TRUNCATED, end_blocks, why)


def _extended(blocks: _Blocks, info: tarfile.TarInfo, start: int) -> bytes:
    if info.size > MAX_EXTENDED_HEADER_BYTES:
        raise ArchiveDamage(TarStatus.CORRUPT, start, f"an extended header of {info.size:,} bytes")
    return blocks.payload(info.size, "")


def _pax_records(data: bytes, start: int) -> dict[str, bytes]:
    """Parses the records of a pax header, each `LENGTH KEY=VALUE` and a newline."""
    records: dict[str, bytes] = {}
    rest = data.rstrip(b"\0")
    while rest:
        digits, space, _ = rest.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = rest[len(digits) + 1 : length]
        name, equals, value = record.partition(b"=")
        if not space or not equals or not value.endswith(b"\n") or len(rest) < length:
            raise ArchiveDamage(TarStatus.CORRUPT, start, "a broken pax header")
        records[name.decode(ENCODING, "backslashreplace")] = value[:-1]
        rest = rest[length:]
    if any(name.startswith("GNU.sparse") for name in records):
        raise ArchiveDamage(TarStatus.CORRUPT, start, "sparse members are not supported")
    return records


def _pax_size(text: bytes, in_header: int, start: int) -> int:
    """Parses the size in a pax header, which no checksum protects: the header's must agree."""
    if not text.isdigit() or len(text) > 18 or in_header not in (0, int(text)):
        why = f"a pax size of {text[:20]!r}, {in_header:,} bytes in the header"
        raise ArchiveDamage(TarStatus.CORRUPT, start, why)
    return int(text)


def _read_member(blocks: _Blocks, info: tarfile.TarInfo, limit: int | None) -> Iterator[Member]:
    name = info.name
    has_payload = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
    if not has_payload:
        if not info.isdir():
            why = f"{name!r} is a link or device; repack with tar --dereference --hard-dereference"
            yield Member(name, problem=(Status.MISSING_IMAGE, why))
        return
    if limit is not None and info.size <= limit:
        start = None if blocks.compression else blocks.offset
        yield Member(name, blocks.payload(info.size, name), offset=start)
        return
    blocks.skip(info.size, name)
    if limit is None:
        yield Member(name)
    else:
        why = f"{name!r} has {info.size:,} bytes, limit {limit:,}; store a smaller file"
        yield Member(name, problem=(Status.TOO_MANY_BYTES, why))

"""Reads tar files strictly and forwards: every byte is accounted for.

The standard library and webdataset stop silently at a damaged header and lose what follows. This
reader goes block by block, uses `tarfile.TarInfo` only to parse headers, and says at which byte an
archive is truncated or corrupt.

What is at the end decides whether an archive is complete. Two zero blocks close it, and zeros fill
the last record, which a writer chooses freely (`tar -b`). A writer may leave them away: a file that
ends exactly behind the data of a member is complete, too, and a note says that nothing vouches for
it. An unfinished download whose space was reserved ends in zeros as well. It is told apart by where
its zeros begin, hardly ever between two members: they are no filling of a record, and the last
member ends in zeros, too.
"""

from __future__ import annotations

import posixpath
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
MAGIC = re.compile(
    rb"(?P<gzip>\x1f\x8b)|(?P<bz2>BZh[1-9]1AY&SY)|(?P<lzma>\xfd7zXZ\0|]\0\0)"
    rb"|(?P<zstd>\x28\xb5\x2f\xfd)"
)
"""First bytes of a compressed file, each under the module that opens it, but for zstd."""
MAX_EXTENDED_HEADER_BYTES = 2**20
RECORD_BYTES = (tarfile.RECORDSIZE, *(BLOCK * 2**power for power in range(18)))
"""Usual sizes of a record, up to 64 MiB: `tar -b 20`, which is the default, and powers of two."""
TAIL_BYTES = 64
"""A member that ends in so many zeros may be cut, if more zeros follow than fill a record."""
NO_MEMBERS = (b"A", b"D", b"I", b"N", b"V")
"""Types of what is no file: lists of rights, dumps of folders, labels of volumes."""
GNU_MAGIC = b"ustar  \0"
CONTINUED = b"M"
SPARSE_NAME = "GNU.sparse.name"
UNVOUCHED = "if it was copied or downloaded, compare its size with that of the original"


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
        link: Path within the archive that a link names; None if the member is no link.
        changed_s: Time of the file's last change in seconds since 1970, if it is known.
    """

    name: str
    data: bytes | None = None
    problem: tuple[Status, str] | None = None
    offset: int | None = None
    link: str | None = None
    changed_s: float | None = None


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
        self.may_be_cut = True  # what came before: a payload that ends in zeros, or nothing
        self._stream: BinaryIO = stream
        self._faults: tuple[type[Exception], ...] = (OSError, zlib.error)
        if self.compression == "zstd":
            self._stream, fault = _zstd(stream)
            self._faults += (fault,)
        elif self.compression:
            module = import_module(self.compression)
            self._stream = module.open(stream)
            self._faults += (getattr(module, "LZMAError", OSError),)

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
        data = self.read(size, member)
        self._end_payload(size - len(data), data[-TAIL_BYTES:], member)
        self._padding(size, member)
        return data

    def skip(self, size: int, member: str) -> None:
        """Passes over a payload without holding it."""
        left, tail = size, b""
        while left and (part := self.read(min(left, CHUNK), member)):
            left -= len(part)
            tail = (tail + part)[-TAIL_BYTES:]
        self._end_payload(left, tail, member)
        self._padding(size, member)

    def _end_payload(self, missing: int, tail: bytes, member: str) -> None:
        if missing:
            self._cut(missing, member)
        self.may_be_cut = bool(tail) and not tail.strip(b"\0")

    def _padding(self, size: int, member: str) -> None:
        """Passes over what fills up a block; a file that ends here ends behind the payload."""
        wanted = -size % BLOCK
        if len(self.read(wanted, member)) not in (0, wanted):
            self._cut(0, member)

    def _cut(self, missing: int, member: str) -> None:
        what = f"the end of member {member!r}" if member else "the end of an extended header"
        before = f"{missing:,} bytes before" if missing else "in the filling behind"
        why = f"the file ends {before} {what}"
        raise ArchiveDamage(TarStatus.TRUNCATED, self.offset, why, member=member)


def _zstd(stream: BinaryIO) -> tuple[BinaryIO, type[Exception]]:
    """Opens a file that zstd compressed, and names the error that its module raises."""
    try:
        module = import_module("compression.zstd")  # of Python 3.14
        return module.open(stream), module.ZstdError
    except ImportError:
        pass
    try:
        module = import_module("zstandard")
    except ImportError:
        why = "compressed with zstd: unpack it with `zstd -d FILE`, or pip install zstandard"
        raise ArchiveDamage(TarStatus.UNREADABLE, 0, why) from None
    reader = module.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
    return reader, module.ZstdError


def _unread(error: ReadError, start: int, member: str = "") -> ArchiveDamage:
    return ArchiveDamage(TarStatus.UNREADABLE, start, f"reading failed ({error})", member=member)


def read_members(
    stream: BinaryIO,
    limit_of: Callable[[str], int | None],
    tell: Callable[[str], None] = lambda note: None,
) -> Iterator[Member]:
    """Yields the members of a tar, plain or compressed, holding one payload at a time.

    Args:
        stream: Seekable binary file at its start; it is read forwards once.
        limit_of: Function from a member's name to the most bytes that its payload may have, or to
            None for a member that is skipped.
        tell: Receives a sentence about an end that is unusual and no damage.

    Raises:
        ArchiveDamage: From this byte on nothing can be trusted.
    """
    blocks = _Blocks(stream)
    extended: dict[str, bytes] = {}  # what extended headers say of the next member
    while True:
        start = blocks.offset
        header = blocks.read(BLOCK)
        if header in (b"", bytes(BLOCK)) and extended:
            status = TarStatus.CORRUPT if header else TarStatus.TRUNCATED
            raise ArchiveDamage(status, start, "a member's name without the member")
        if header == bytes(BLOCK):
            _check_end(blocks, tell)
            return
        if not header and start:
            tell(f"no zero blocks close the archive of {start:,} bytes; {UNVOUCHED}")
            return
        info = _parse_header(header, start)
        if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
            records = _pax_records(_extended(blocks, info, start), start)
            if info.type != tarfile.XGLTYPE:
                extended |= records
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            extended["path"] = _extended(blocks, info, start).split(b"\0", 1)[0]
        elif info.type == tarfile.GNUTYPE_LONGLINK:
            extended["linkpath"] = _extended(blocks, info, start).split(b"\0", 1)[0]
        else:
            if (path := extended.get(SPARSE_NAME, extended.get("path"))) is not None:
                info.name = path.rstrip(b"/").decode(ENCODING, "backslashreplace")
            if (link := extended.get("linkpath")) is not None:
                info.linkname = link.decode(ENCODING, "backslashreplace")
            if (size := extended.get("size")) is not None:
                info.size = _pax_size(size, info.size, start)
            sparse = any(name.startswith("GNU.sparse") for name in extended)
            extended = {}
            if info.type == tarfile.GNUTYPE_SPARSE:
                sparse, more = True, header[482]
                while more:
                    more = _whole_block(blocks, info.name)[504]
            yield from _read_member(blocks, info, limit_of(info.name), sparse)


def _parse_header(header: bytes, start: int) -> tarfile.TarInfo:
    if len(header) < BLOCK:
        why = "the file ends without the two zero blocks that close a tar"
        raise ArchiveDamage(TarStatus.TRUNCATED, start, why)
    try:
        info = tarfile.TarInfo.frombuf(header, ENCODING, "backslashreplace")
    except tarfile.HeaderError as error:
        raise ArchiveDamage(TarStatus.CORRUPT, start, f"no tar header here ({error})") from None
    if header[257:265] == GNU_MAGIC:  # where others have a prefix, it may have times
        info.name = header[:100].split(b"\0", 1)[0].decode(ENCODING, "backslashreplace")
    if info.size < 0:
        raise ArchiveDamage(TarStatus.CORRUPT, start, f"a member of {info.size} bytes")
    return info


def _whole_block(blocks: _Blocks, member: str) -> bytes:
    data = blocks.read(BLOCK, member)
    if len(data) < BLOCK:
        why = "the file ends inside a header"
        raise ArchiveDamage(TarStatus.TRUNCATED, blocks.offset, why, member=member)
    return data


def _check_end(blocks: _Blocks, tell: Callable[[str], None]) -> None:
    """Checks what follows the first zero block: another one, and then zeros only."""
    second = blocks.offset
    data_bytes = second - BLOCK
    block = blocks.read(BLOCK)
    if not block and data_bytes:
        tell(f"one zero block closes the archive of {second:,} bytes, wanted two; {UNVOUCHED}")
        return
    if block != bytes(BLOCK):
        status = TarStatus.TRUNCATED if len(block) < BLOCK else TarStatus.CORRUPT
        raise ArchiveDamage(status, second, "a lone zero block")
    end_blocks = blocks.offset
    while chunk := blocks.read(CHUNK):
        if chunk.count(0) != len(chunk):
            why = "data follows the end of the archive; were two tars joined with cat?"
            raise ArchiveDamage(TarStatus.CORRUPT, end_blocks, why)
    zeros = blocks.offset - data_bytes
    if zeros % BLOCK:  # bytes may have gone or come inside the last payload
        why = f"{blocks.offset:,} bytes are no whole number of blocks of {BLOCK}"
        raise ArchiveDamage(TarStatus.TRUNCATED, end_blocks, why)
    few = zeros <= tarfile.RECORDSIZE + 2 * BLOCK
    if few or blocks.compression or (data_bytes and _fills_record(blocks.offset, zeros)):
        return
    found = f"{zeros:,} zero bytes end the archive of {blocks.offset:,} bytes"
    if blocks.may_be_cut or zeros > max(RECORD_BYTES):
        raise ArchiveDamage(TarStatus.CORRUPT, end_blocks, f"{found}; is a download unfinished?")
    if data_bytes:
        tell(f"{found}, more than fill a record; {UNVOUCHED}")


def _fills_record(total: int, zeros: int) -> bool:
    """Whether zeros at the end are two blocks, and what fills the last record behind them."""
    return any(total % record == 0 and zeros <= record + BLOCK for record in RECORD_BYTES)


def _extended(blocks: _Blocks, info: tarfile.TarInfo, start: int) -> bytes:
    if info.size > MAX_EXTENDED_HEADER_BYTES:
        raise ArchiveDamage(TarStatus.CORRUPT, start, f"an extended header of {info.size:,} bytes")
    return blocks.payload(info.size, "")


def _pax_records(data: bytes, start: int) -> dict[str, bytes]:
    """Parses the records of a pax header, each `LENGTH KEY=VALUE` and a newline.

    Returns:
        Those that say where a member lies and what it is called.
    """
    records: dict[str, bytes] = {}
    rest = data.rstrip(b"\0")
    while rest:
        digits, space, _ = rest.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = rest[len(digits) + 1 : length]
        name, equals, value = record.partition(b"=")
        if not space or not equals or not value.endswith(b"\n") or len(rest) < length:
            raise ArchiveDamage(TarStatus.CORRUPT, start, "a broken pax header")
        if name in (b"path", b"size", b"linkpath") or name.startswith(b"GNU.sparse"):
            records[name.decode(ENCODING, "backslashreplace")] = value[:-1]
        rest = rest[length:]
    return records


def _pax_size(text: bytes, in_header: int, start: int) -> int:
    """Parses the size in a pax header, which no checksum protects: the header's must agree."""
    if not text.isdigit() or len(text) > 18 or in_header not in (0, int(text)):
        why = f"a pax size of {text[:20]!r}, {in_header:,} bytes in the header"
        raise ArchiveDamage(TarStatus.CORRUPT, start, why)
    return int(text)


def _read_member(
    blocks: _Blocks, info: tarfile.TarInfo, limit: int | None, sparse: bool
) -> Iterator[Member]:
    name = info.name
    if info.islnk() or info.issym():
        yield Member(name, link=linked_path(name, info.linkname, info.issym()))
    elif info.isdir():
        return
    elif info.isdev():
        why = f"{name!r} is a device or a pipe, wanted a file; put the photo itself there"
        yield Member(name, problem=(Status.MISSING_IMAGE, why))
    elif sparse or info.type == CONTINUED:
        blocks.skip(info.size, name)
        if sparse:
            why = f"{name!r} is stored with holes; pack it again, tar without --sparse, bsdtar "
            why += "with --no-read-sparse"
        else:
            why = f"{name!r} begins in another volume; unpack all volumes and pass the folder"
        yield Member(name, problem=(Status.MISSING_IMAGE, why))
    elif info.type in NO_MEMBERS:
        blocks.skip(info.size, name)
    elif limit is not None and info.size <= limit:
        start = None if blocks.compression else blocks.offset
        data = blocks.payload(info.size, name)
        yield Member(name, data, offset=start, changed_s=float(info.mtime))
    else:
        blocks.skip(info.size, name)
        yield Member(name, problem=None if limit is None else too_large(name, info.size, limit))


def too_large(name: str, size: int, limit: int) -> tuple[Status, str]:
    """Returns status and message of a member with too many bytes."""
    why = f"{name!r} has {size:,} bytes, limit {limit:,}; store a smaller file"
    return Status.TOO_MANY_BYTES, why


def linked_path(name: str, target: str, relative: bool) -> str:
    """Returns the path within the archive that a link names; empty if it lies outside.

    Args:
        name: Name of the link.
        target: What it names.
        relative: Whether that is as seen from the folder of the link.
    """
    found = plain_path(posixpath.join(posixpath.dirname(name), target) if relative else target)
    return "" if found.startswith("../") else found


def plain_path(name: str) -> str:
    """Returns one spelling for `a.jpg`, `./a.jpg` and `/a.jpg`."""
    return posixpath.normpath(name).lstrip("/")

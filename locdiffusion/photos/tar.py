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
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from locdiffusion.photos.blocks import BLOCK, CHUNK, ArchiveDamage, ArchiveLimit, Blocks, TarStatus
from locdiffusion.photos.names import MAX_NAME_LENGTH, brief, shortened
from schemas.geotags import Status
from schemas.samples import MAX_METADATA_BYTES

ENCODING = "utf-8"
MAX_EXTENDED_HEADER_BYTES = 2**20
MAX_EXTENDED_HEADERS = 16
"""Most headers before that of a member; usual are up to four: name, link, times, all files."""
PAX_LENGTH_DIGITS = len(str(MAX_EXTENDED_HEADER_BYTES))
"""Most digits of the length of a pax record."""
RECORD_COST = 16
"""Bytes of a header that take as long to read as a pax record."""
LATEST_S = 2**33
"""Latest time of change that is believed; in nanoseconds, 64 bits hold no later one."""
RECORD_BYTES = (tarfile.RECORDSIZE, *(BLOCK * 2**power for power in range(18)))
"""Usual sizes of a record, up to 64 MiB: `tar -b 20`, which is the default, and powers of two."""
NO_MEMBERS = (b"A", b"D", b"I", b"N", b"V")
"""Types of what is no file: lists of rights, dumps of folders, labels of volumes."""
GNU_MAGIC = b"ustar  \0"
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
EXTENDED = (*PAX, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
"""Types of headers that tell more of the next member."""
CONTINUED = b"M"
SPARSE, SPARSE_NAME = b"GNU.sparse", "GNU.sparse.name"
WANTED = (b"path", b"size", b"linkpath", SPARSE_NAME.encode())
"""Records of pax headers that say where a member lies and what it is called."""
UNVOUCHED = "if it was copied or downloaded, compare its size with that of the original"


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
    blocks = Blocks(stream)
    extended: dict[str, bytes] = {}  # what extended headers say of the next member
    headers = 0  # of these
    while True:
        start = blocks.offset
        header = blocks.read(BLOCK)
        blocks.count_parsed(len(header))
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
        headers = headers + 1 if info.type in EXTENDED else 0
        if headers > MAX_EXTENDED_HEADERS:
            why = f"more than {MAX_EXTENDED_HEADERS} headers before that of a member"
            raise ArchiveLimit(TarStatus.CORRUPT, start, why)
        if info.type in PAX:
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
            if len(info.linkname) > MAX_NAME_LENGTH:  # leads nowhere
                info.linkname = ""
            if info.type == tarfile.GNUTYPE_SPARSE:
                sparse, more = True, header[482]
                while more:
                    more = _whole_block(blocks, info.name[:MAX_NAME_LENGTH])[504]
            yield from _read_member(blocks, info, limit_of(info.name[-MAX_NAME_LENGTH:]), sparse)


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


def _whole_block(blocks: Blocks, member: str) -> bytes:
    data = blocks.read(BLOCK, member)
    blocks.count_parsed(BLOCK, member)
    if len(data) < BLOCK:
        why = "the file ends inside a header"
        raise ArchiveDamage(TarStatus.TRUNCATED, blocks.offset, why, member=member)
    return data


def _check_end(blocks: Blocks, tell: Callable[[str], None]) -> None:
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
        if not blocks.compression and blocks.offset - data_bytes > max(RECORD_BYTES) + 2 * BLOCK:
            why = f"more than {max(RECORD_BYTES):,} zero bytes follow; is a download unfinished?"
            raise ArchiveDamage(TarStatus.CORRUPT, end_blocks, why)
    zeros = blocks.offset - data_bytes
    if zeros % BLOCK:  # bytes may have gone or come inside the last payload
        why = f"{blocks.offset:,} bytes are no whole number of blocks of {BLOCK}"
        raise ArchiveDamage(TarStatus.TRUNCATED, end_blocks, why)
    few = zeros <= tarfile.RECORDSIZE + 2 * BLOCK
    if few or blocks.compression or (data_bytes and _fills_record(blocks.offset, zeros)):
        return
    found = f"{zeros:,} zero bytes end the archive of {blocks.offset:,} bytes"
    if blocks.may_be_cut:
        raise ArchiveDamage(TarStatus.CORRUPT, end_blocks, f"{found}; is a download unfinished?")
    if data_bytes:
        tell(f"{found}, more than fill a record; {UNVOUCHED}")


def _fills_record(total: int, zeros: int) -> bool:
    """Whether zeros at the end are two blocks, and what fills the last record behind them."""
    return any(total % record == 0 and zeros <= record + BLOCK for record in RECORD_BYTES)


def _extended(blocks: Blocks, info: tarfile.TarInfo, start: int) -> bytes:
    if info.size > MAX_EXTENDED_HEADER_BYTES:
        why = f"an extended header of {info.size:,} bytes, limit {MAX_EXTENDED_HEADER_BYTES:,}"
        raise ArchiveLimit(TarStatus.CORRUPT, start, why)
    data = blocks.payload(info.size, "")
    lines = data.count(b"\n")  # as many records, if it has any
    blocks.count_parsed(min(len(data), MAX_NAME_LENGTH) + RECORD_COST * lines)
    return data


def _pax_records(data: bytes, start: int) -> dict[str, bytes]:
    """Parses the records of a pax header, each `LENGTH KEY=VALUE` and a newline.

    Returns:
        Those that say where a member lies and what it is called.
    """
    records: dict[str, bytes] = {}
    at, end = 0, len(data.rstrip(b"\0"))
    while at < end:
        space = data.find(b" ", at, at + PAX_LENGTH_DIGITS + 1)
        digits = data[at : max(space, at)]
        stop = at + int(digits) if digits.isdigit() else 0
        equals = data.find(b"=", space, stop)
        if equals < 0 or stop > end or data[stop - 1 : stop] != b"\n":
            raise ArchiveDamage(TarStatus.CORRUPT, start, "a broken pax header")
        name = data[space + 1 : equals]
        if name in WANTED:
            records[name.decode()] = data[equals + 1 : stop - 1]
        elif name.startswith(SPARSE):
            records[SPARSE.decode()] = b""
        at = stop
    return records


def _pax_size(text: bytes, in_header: int, start: int) -> int:
    """Parses the size in a pax header, which no checksum protects: the header's must agree."""
    if not text.isdigit() or len(text) > 18 or in_header not in (0, int(text)):
        why = f"a pax size of {text[:20]!r}, {in_header:,} bytes in the header"
        raise ArchiveDamage(TarStatus.CORRUPT, start, why)
    return int(text)


def _read_member(
    blocks: Blocks, info: tarfile.TarInfo, limit: int | None, sparse: bool
) -> Iterator[Member]:
    name, problem = info.name, None
    if len(name) > MAX_NAME_LENGTH:
        name, problem = too_long(name)
    if info.isdir():
        return
    if problem is not None:
        if not (info.islnk() or info.issym() or info.isdev()):
            blocks.skip(info.size, name)
        yield Member(name, problem=problem)
    elif info.islnk() or info.issym():
        yield Member(name, link=linked_path(name, info.linkname, info.issym()))
    elif info.isdev():
        why = f"{brief(name)} is a device or a pipe, wanted a file; put the photo itself there"
        yield Member(name, problem=(Status.MISSING_IMAGE, why))
    elif sparse or info.type == CONTINUED:
        blocks.skip(info.size, name)
        if sparse:
            why = f"{brief(name)} is stored with holes; pack it again, tar without --sparse, "
            why += "bsdtar with --no-read-sparse"
        else:
            why = f"{brief(name)} begins in another volume; unpack all volumes and pass the folder"
        yield Member(name, problem=(Status.MISSING_IMAGE, why))
    elif info.type in NO_MEMBERS:
        blocks.skip(info.size, name)
    elif limit is not None and info.size <= limit:
        if limit <= MAX_METADATA_BYTES:
            blocks.count_parsed(info.size, name)
        start = None if blocks.compression else blocks.offset
        data = blocks.payload(info.size, name)
        changed_s = float(info.mtime) if 0 <= info.mtime < LATEST_S else None
        yield Member(name, data, offset=start, changed_s=changed_s)
    else:
        blocks.skip(info.size, name)
        yield Member(name, problem=None if limit is None else too_large(name, info.size, limit))


def too_long(name: str) -> tuple[str, tuple[Status, str]]:
    """Returns what a member is called that has too long a name, and its status and message."""
    why = f"a name has {len(name):,} characters, limit {MAX_NAME_LENGTH:,}; give it a shorter one"
    return shortened(name), (Status.NAME_TOO_LONG, why)


def too_large(name: str, size: int, limit: int) -> tuple[Status, str]:
    """Returns status and message of a member with too many bytes."""
    why = f"{brief(name)} has {size:,} bytes, limit {limit:,}; store a smaller file"
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

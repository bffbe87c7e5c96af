"""Reads an archive's bytes forwards, plain or unpacked, within limits on what few bytes become.

Kilobytes can unpack to terabytes of zeros, or to millions of members. Sound archives do that, too:
a disk image is mostly zeros. So a shard has a free share, which any archive may use, and beyond it
its own size decides.
"""

from __future__ import annotations

import io
import lzma
import re
import zlib
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Any, BinaryIO, cast

from locdiffusion.photos.names import brief
from locdiffusion.photos.storage import ReadError

BLOCK = 512
CHUNK = 2**20
MAGIC = re.compile(
    rb"(?P<gzip>\x1f\x8b)|(?P<bz2>BZh[1-9]1AY&SY)|(?P<lzma>\xfd7zXZ\0|]\0\0)"
    rb"|(?P<zstd>\x28\xb5\x2f\xfd)"
)
"""First bytes of a compressed file, each under the module that opens it, but for zstd."""
TAIL_BYTES = 64
"""A member that ends in so many zeros may be cut, if more zeros follow than fill a record."""
MAX_WINDOW_BYTES = 2**28
"""Most memory for unpacking xz: four times what `xz -9` needs. Others bound it themselves."""
IF_TRUSTED = "if you trust it, unpack it and pass the folder"


class TarStatus(str, Enum):
    """State of a whole shard."""

    COMPLETE = "complete"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    UNREADABLE = "unreadable"


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


class ArchiveLimit(ArchiveDamage):
    """The archive is sound up to here, and asks for more than it may."""


@dataclass(frozen=True)
class Allowance:
    """How many bytes may come of few.

    Attributes:
        free_bytes: Bytes that any archive may unpack to.
        ratio: Bytes that may come of each byte of the archive beyond these.
    """

    free_bytes: int
    ratio: int

    def exceeded(self, unpacked: int, packed: int) -> bool:
        """Whether more was unpacked than so many bytes of an archive may."""
        return unpacked > self.free_bytes + self.ratio * packed


UNPACKED = Allowance(2**31, 200)
"""Of all bytes. Text and logs shrink to a fiftieth, disk images of zeros to less than a thousandth;
2 GiB of these take seconds."""
PARSED = Allowance(2**24, 100)
"""Of headers and documents, each of which costs memory and much time. Headers of empty files with
numbered names shrink to a fortieth; 16 MiB are 32,768 of them."""


class Blocks:
    """Counts the bytes of a stream and turns a short read into ArchiveDamage.

    Attributes:
        offset: Bytes that were read, unpacked.
        compression: How the file is compressed; None if it is not.
        may_be_cut: Whether what came before is a payload that ends in zeros, or nothing.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.offset = 0
        try:
            magic = MAGIC.match(stream.read(10))
            stream.seek(0)
        except ReadError as error:
            raise _unread(error, 0) from error
        self.compression = magic and magic.lastgroup
        self.may_be_cut = True
        self._parsed = 0
        self._packed = _Counted(stream)
        self._stream: BinaryIO = stream
        self._faults: tuple[type[Exception], ...] = (OSError, zlib.error, lzma.LZMAError)
        packed = cast(BinaryIO, io.BufferedReader(self._packed))  # a gzip's name is read bytewise
        if self.compression == "zstd":
            self._stream, fault = _zstd(packed)
            self._faults += (fault,)
        elif self.compression == "lzma":
            self._stream = cast(BinaryIO, _Lzma(packed))
        elif self.compression:
            self._stream = import_module(self.compression).open(packed)

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
            if "memory" in str(error).lower():  # for its window
                why = f"{self.compression} says {error}; {IF_TRUSTED}"
                raise ArchiveLimit(TarStatus.CORRUPT, start, why, member=member) from None
            why = f"{self.compression} says {error}; what was read before may be wrong, too"
            raise ArchiveDamage(TarStatus.CORRUPT, start, why, member=member) from None
        data = b"".join(parts)
        self.offset += len(data)
        self._check("bytes", self.offset, UNPACKED, member)
        return data

    def count_parsed(self, size: int, member: str = "") -> None:
        """Counts bytes of a header or of a document."""
        self._parsed += size
        self._check("bytes of headers and documents", self._parsed, PARSED, member)

    def _check(self, what: str, unpacked: int, allowance: Allowance, member: str) -> None:
        packed = self._packed.size
        if self.compression and allowance.exceeded(unpacked, packed):
            why = f"{packed:,} bytes of {self.compression} unpack to {unpacked:,} {what}, limit "
            why += f"{allowance.ratio} to one beyond {allowance.free_bytes:,}"
            why += f"; {IF_TRUSTED}"
            raise ArchiveLimit(TarStatus.CORRUPT, self.offset, why, member=member)

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
            tail = (tail + part[-TAIL_BYTES:])[-TAIL_BYTES:]
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
        what = f"the end of member {brief(member)}" if member else "the end of an extended header"
        before = f"{missing:,} bytes before" if missing else "in the filling behind"
        why = f"the file ends {before} {what}"
        raise ArchiveDamage(TarStatus.TRUNCATED, self.offset, why, member=member)


class _Counted(io.RawIOBase):
    """A file that counts the bytes that are read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        data = self._file.read(len(view))
        view[: len(data)] = data
        self.size += len(data)
        return len(data)

    def readable(self) -> bool:
        return True


class _Lzma(io.RawIOBase):
    """Unpacks xz and lzma; Python's `lzma.open` takes as much memory as a file asks for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = lzma.LZMADecompressor(memlimit=MAX_WINDOW_BYTES)

    def read(self, size: int = -1, /) -> bytes:
        data = b""
        while True:
            if self._decoder.eof:  # another stream may follow, behind zeros
                data = self._decoder.unused_data
                while data := data or self._file.read(io.DEFAULT_BUFFER_SIZE):
                    if data := data.lstrip(b"\0"):
                        break
                else:
                    return b""
                self._decoder = lzma.LZMADecompressor(memlimit=MAX_WINDOW_BYTES)
            elif self._decoder.needs_input and not (
                data := self._file.read(io.DEFAULT_BUFFER_SIZE)
            ):
                raise EOFError
            if part := self._decoder.decompress(data, size):
                return part
            data = b""


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

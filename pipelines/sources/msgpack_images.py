"""Indexes the `shard_N.msg` files in which MP-16 circulates: streams of maps {id, image, ...}.

A file is indexed once, entry by entry; then any image is a range of its bytes. Values are passed
over and not built: of ten megabytes a library makes objects of seven hundred.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from locdiffusion.photos.storage import open_stream
from pipelines.sources.record import Drop, ImageRef, RowError, checked_key
from schemas.training import DropReason

ID, IMAGE = b"id", b"image"

MAX_VALUES = 10_000
"""Most values of one entry, with those within them; the entries of MP-16 have four keys."""

MAX_KEY_BYTES = 4096
"""Longest id, or name of a value."""

_CHUNK = 2**20

# https://github.com/msgpack/msgpack/blob/master/spec.md: bytes behind the first one, by that one.
_NUMBERS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_PLAIN = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}
_PLAIN |= {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}  # extensions, with the byte of their type
# Bytes of the length that follows.
_STRINGS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_ARRAYS, _MAPS = {0xDC: 2, 0xDD: 4}, {0xDE: 2, 0xDF: 4}


class _Damage(Exception):
    """The bytes are no msgpack, or no entry of such a shard; the rest cannot be read."""


class _Head(NamedTuple):
    """Beginning of a value.

    Attributes:
        is_text: Whether it is a string or bytes.
        is_map: Whether the values within are names and values.
        size: Bytes that follow.
        values: Values that follow the bytes.
        number: The value, if it is a whole number.
    """

    is_text: bool = False
    is_map: bool = False
    size: int = 0
    values: int = 0
    number: int | None = None


def index_shard(url: str) -> Iterator[tuple[str, ImageRef] | Drop]:
    """Yields the place of each image of a msgpack shard, holding none in memory.

    Args:
        url: Path of the shard, or a URL that fsspec opens; it goes into each ImageRef as it is.

    Yields:
        The id as the shard spells it and the place of the image's bytes, or a Drop for an entry
        that cannot be used. A shard that is cut or damaged ends in a Drop without a key.

    Raises:
        OSError: The file cannot be opened or read.
    """
    with open_stream(url) as file:
        shard = _Shard(file)
        while shard.more():
            start = shard.position
            try:
                yield _entry(shard, url)
            except EOFError:
                why = f"{url} breaks off within the entry at byte {start:,}; copy it again"
                yield Drop(None, DropReason.UNUSABLE_SHARD, why)
                return
            except _Damage as damage:
                why = f"{url} holds no map of id and image at byte {start:,} ({damage})"
                yield Drop(None, DropReason.UNUSABLE_SHARD, f"{why}; copy it again")
                return


class _Shard:
    """The values of a file, one after the other.

    Attributes:
        position: Byte of the file that comes next.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.position = 0
        self._file = file
        self._chunk, self._at = b"", 0

    def more(self) -> bool:
        """Returns whether anything is left."""
        if self._at == len(self._chunk):
            self._chunk, self._at = self._file.read(_CHUNK), 0
        return bool(self._chunk)

    def take(self, size: int) -> bytes:
        """Reads bytes, of which there are few."""
        parts = []
        while size:
            if not self.more():
                raise EOFError
            parts.append(self._chunk[self._at : self._at + size])
            self._move(len(parts[-1]))
            size -= len(parts[-1])
        return b"".join(parts)

    def pass_bytes(self, size: int) -> None:
        """Passes over bytes, of which there may be more than memory holds."""
        while size:
            if not self.more():
                raise EOFError
            step = min(size, len(self._chunk) - self._at)
            self._move(step)
            size -= step

    def _move(self, size: int) -> None:
        self._at += size
        self.position += size

    def head(self) -> _Head:
        """Reads the beginning of a value."""
        kind = self.take(1)[0]
        if kind < 0x80 or kind >= 0xE0:
            return _Head(number=kind if kind < 0x80 else kind - 256)
        if kind < 0xA0:
            is_map = kind < 0x90
            return _Head(is_map=is_map, values=(kind & 15) * (2 if is_map else 1))
        if kind < 0xC0:
            return _Head(is_text=True, size=kind & 31)
        if kind in _NUMBERS:
            return _Head(number=self._whole(_NUMBERS[kind], signed=kind >= 0xD0))
        if kind in _PLAIN:
            return _Head(size=_PLAIN[kind])
        if kind in _STRINGS:
            return _Head(is_text=True, size=self._whole(_STRINGS[kind]))
        if kind in _EXTENSIONS:
            return _Head(size=self._whole(_EXTENSIONS[kind]) + 1)
        if kind in _ARRAYS:
            return _Head(values=self._whole(_ARRAYS[kind]))
        if kind in _MAPS:
            return _Head(is_map=True, values=2 * self._whole(_MAPS[kind]))
        raise _Damage(f"byte {kind:#04x} begins no value")

    def _whole(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "big", signed=signed)

    def pass_value(self, head: _Head, most: int) -> int:
        """Passes over the rest of a value; returns the number of values in it, itself included.

        Args:
            head: Its beginning.
            most: Most values that may be in it.
        """
        seen, left = 1, head.values
        self.pass_bytes(head.size)
        while left:
            if seen + left > most:
                raise _Damage(f"more than {MAX_VALUES:,} values")
            one = self.head()
            self.pass_bytes(one.size)
            left += one.values - 1
            seen += 1
        return seen


def _entry(shard: _Shard, url: str) -> tuple[str, ImageRef] | Drop:
    entry = shard.head()
    if not entry.is_map or entry.values > MAX_VALUES:
        raise _Damage("the value is no map" if not entry.is_map else f"{entry.values:,} values")
    key: bytes | int | None = None
    image = None
    left = MAX_VALUES
    for _ in range(entry.values // 2):
        name, used = _text_or_number(shard, left)
        left -= used
        if name == ID:
            key, used = _text_or_number(shard, left)
        else:
            value = shard.head()
            if name == IMAGE and value.is_text:
                image = ImageRef("msgpack", url, shard.position, value.size)
            used = shard.pass_value(value, left)
        left -= used
    try:
        text = _key(key)
    except RowError as error:
        return Drop(None, error.reason, f"{error} (in {url})")
    if image is None:
        return Drop(text, DropReason.NO_IMAGE, f"the entry in {url} has no bytes under 'image'")
    return text, image


def _text_or_number(shard: _Shard, most: int) -> tuple[bytes | int | None, int]:
    """Reads a short string or a whole number; of all else the value is None.

    Returns:
        The value, and the number of values that were passed over.
    """
    head = shard.head()
    if head.is_text and head.size <= MAX_KEY_BYTES:
        return shard.take(head.size), 1
    return head.number, shard.pass_value(head, most)


def _key(value: bytes | int | None) -> str:
    if isinstance(value, int):
        return str(value)
    if value is None:
        why = f"the id is neither a number nor text of up to {MAX_KEY_BYTES:,} bytes"
        raise RowError(DropReason.MALFORMED_ROW, why)
    try:
        return checked_key(value.decode())
    except UnicodeDecodeError:
        why = f"the id is {value[:40]!r}, wanted UTF-8"
        raise RowError(DropReason.MALFORMED_ROW, why) from None

"""Indexes the `shard_N.msg` files in which MP-16 circulates: streams of maps {id, image, ...}.

A file is indexed once, entry by entry; then any image is a range of its bytes. Nothing else of an
entry is kept: of ten megabytes of small values the library would make objects of seven hundred.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import msgpack

from locdiffusion.photos.storage import open_stream
from pipelines.sources.record import Drop, ImageRef, RowError, checked_key
from schemas.samples import MAX_IMAGE_BYTES
from schemas.training import DropReason

ID, IMAGE = b"id", b"image"

MAX_ENTRY_BYTES = 4 * MAX_IMAGE_BYTES
"""Largest entry in bytes; a larger one makes the rest of the file unreadable."""

_MAX_KEYS = 64
"""Most keys of an entry, and most values of what stands where an id or a name is wanted."""

_CHUNK = 2**20


def index_shard(url: str) -> Iterator[tuple[str, ImageRef] | Drop]:
    """Yields the place of each image of a msgpack shard, holding one image in memory at a time.

    Args:
        url: Path of the shard, or a URL that fsspec opens; it goes into each ImageRef as it is.

    Yields:
        The id as the shard spells it and the place of the image's bytes, or a Drop for an entry
        that cannot be used. A shard that is cut or damaged ends in a Drop without a key.

    Raises:
        OSError: The file cannot be opened or read.
    """
    with open_stream(url) as file:
        counted = _Counted(file)
        limits = dict.fromkeys(("max_str_len", "max_bin_len", "max_ext_len"), MAX_ENTRY_BYTES)
        unpacker = msgpack.Unpacker(
            counted,
            raw=True,  # files of before msgpack had a type for bytes call everything a string
            read_size=_CHUNK,
            max_buffer_size=2 * MAX_ENTRY_BYTES,
            max_array_len=_MAX_KEYS,
            max_map_len=_MAX_KEYS,
            strict_map_key=False,
            list_hook=_nothing,
            object_pairs_hook=_nothing,
            ext_hook=_nothing,
            **limits,
        )
        while True:
            start = unpacker.tell()
            try:
                yield _entry(unpacker, url)
            except msgpack.OutOfData:
                if start != counted.bytes:
                    why = f"{url} breaks off within the entry at byte {start:,}; copy it again"
                    yield Drop(None, DropReason.UNUSABLE_SHARD, why)
                return
            except OSError:
                raise
            except Exception as error:  # the unpacker raises many kinds on bytes that are not its
                why = (
                    f"{url} holds no map of id and image at byte {start:,} "
                    f"({type(error).__name__}: {error}); copy it again"
                )
                yield Drop(None, DropReason.UNUSABLE_SHARD, why)
                return


def _nothing(*_: object) -> None:
    """Stands for an array, a map or an extension, as soon as it is read."""


class _Counted:
    """Counts the bytes that the unpacker has taken from a file; it reads ahead of `tell`."""

    def __init__(self, file: BinaryIO) -> None:
        self.bytes = 0
        self._file = file

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.bytes += len(data)
        return data


def _entry(unpacker: msgpack.Unpacker, url: str) -> tuple[str, ImageRef] | Drop:
    key, image = None, None
    keys = unpacker.read_map_header()
    if keys > _MAX_KEYS:
        raise ValueError(f"{keys:,} keys, limit {_MAX_KEYS}")
    for _ in range(keys):
        name = unpacker.unpack()
        if name == ID:
            key = unpacker.unpack()
        elif name == IMAGE and isinstance(value := unpacker.unpack(), bytes):
            # The bytes of a value are the last thing that was read of it.
            image = ImageRef("msgpack", url, unpacker.tell() - len(value), len(value))
        elif name != IMAGE:
            unpacker.skip()
    try:
        text = _key(key)
    except RowError as error:
        return Drop(None, error.reason, f"{error} (in {url})")
    if image is None:
        return Drop(text, DropReason.NO_IMAGE, f"the entry in {url} has no bytes under 'image'")
    return text, image


def _key(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, bytes):
        why = f"the id is {str(value)[:40]!r}, wanted text or a number"
        raise RowError(DropReason.MALFORMED_ROW, why)
    try:
        return checked_key(value.decode())
    except UnicodeDecodeError:
        why = f"the id is {value[:40]!r}, wanted UTF-8"
        raise RowError(DropReason.MALFORMED_ROW, why) from None

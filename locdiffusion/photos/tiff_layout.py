"""Reads where the pixels of a TIFF lie, and leaves out of it all that they do not need.

Pillow and libtiff read every tag of every directory into memory. They are given a file with one
directory, of the tags that pixels need (TIFF 6.0, sections 2 to 22; BigTIFF, 2007).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

MAX_VALUES = 2**18
"""Most strips or tiles; 268 megapixels have so many tiles of 32 x 32."""

_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SUBFILE, WIDTH, HEIGHT, COMPRESSION, _DNG_VERSION, _SUB_IFDS = 254, 256, 257, 259, 50706, 330
_ROWS_A_STRIP, _TILE_WIDTH, _TILE_HEIGHT = 278, 322, 323
_ORIENTATION = 274
_PIXELS = (273, 279, 324, 325)  # offsets and lengths of strips, then of tiles
_WANTED = {
    *(_SUBFILE, WIDTH, HEIGHT, 258, COMPRESSION, 262, 266, 277, _ROWS_A_STRIP, 284, 292, 293),
    *(317, 320, _TILE_WIDTH, _TILE_HEIGHT, 332, 338, 339, 347, *range(512, 522), 529, 530, 531),
    *(532, 50674, *_PIXELS),
}
_LONG_LISTS = {tag: MAX_VALUES for tag in _PIXELS} | {320: 3 * 2**16, 347: 2**16}
_MOST_VALUES = 256
_MOST_FIELDS = 4096
_LARGE_TILE = 2**24
"""Pixels that a tile may have in a picture of any size."""


class _Field(NamedTuple):
    tag: int
    kind: int
    values: int
    entry: int
    place: int


@dataclass(frozen=True)
class TiffLayout:
    """The first directory of a TIFF.

    Attributes:
        data: Bytes of the file.
    """

    data: bytes

    @functools.cached_property
    def _big(self) -> bool:
        return b"+" in self.data[2:4]

    @functools.cached_property
    def _width(self) -> int:
        return 8 if self._big else 4

    def _number(self, at: int, width: int) -> int:
        order = "little" if self.data[:1] == b"I" else "big"
        return int.from_bytes(self.data[at : at + width], order)  # type: ignore[arg-type]

    @functools.cached_property
    def _table(self) -> tuple[int, int]:
        """Where the entries of the directory begin and end."""
        counts = 8 if self._big else 2
        at = self._number(8 if self._big else 4, self._width)
        fields = min(self._number(at, counts), _MOST_FIELDS)
        return at + counts, at + counts + fields * (4 + 2 * self._width)

    @functools.cached_property
    def fields(self) -> tuple[_Field, ...]:
        """The entries of the directory; none if it breaks off."""
        start, end = self._table
        return tuple(self._fields(start, end)) if end + self._width <= len(self.data) else ()

    def _fields(self, start: int, end: int) -> Iterator[_Field]:
        width = self._width
        for entry in range(start, end, 4 + 2 * width):
            tag, kind = self._number(entry, 2), self._number(entry + 2, 2)
            values, place = self._number(entry + 4, width), entry + 4 + width
            if _SIZES.get(kind, 1) * values > width:
                place = self._number(place, width)
            yield _Field(tag, kind, values, entry, place)

    def numbers(self, tag: int) -> list[int]:
        """Returns the values of a tag that pixels need; none if they are too many or not there."""
        field = next((one for one in self.fields if one.tag == tag), None)
        if field is None or field.values > _LONG_LISTS.get(tag, _MOST_VALUES):
            return []
        each = _SIZES.get(field.kind, 1)
        if field.place + each * field.values > len(self.data):
            return []
        return [self._number(field.place + each * i, each) for i in range(field.values)]

    @property
    def is_raw(self) -> bool:
        """Whether this is a RAW file, whose first picture is a preview of another."""
        tags = {field.tag for field in self.fields}
        return _DNG_VERSION in tags or (_SUB_IFDS in tags and any(self.numbers(_SUBFILE)))

    def orientation(self) -> bytes:
        """Returns an EXIF block that says which way is up, and nothing else."""
        turn = min((self.numbers(_ORIENTATION) or [1])[0], 0xFFFF)
        return b"Exif\0\0" + struct.pack("<4sIHHHIII", b"II*\0", 8, 1, _ORIENTATION, 3, 1, turn, 0)

    @property
    def end(self) -> int:
        """End of the directory, of its values, and of the pixels that it names."""
        ends = [self._table[1] + self._width]
        ends += [one.place + _SIZES.get(one.kind, 1) * one.values for one in self.fields]
        for starts, sizes in (_PIXELS[:2], _PIXELS[2:]):
            pairs = zip(self.numbers(starts), self.numbers(sizes), strict=False)
            ends += [start + size for start, size in pairs]
        return max(ends)

    def bare(self) -> bytes:
        """Returns the file with one more directory at its end, the only one that counts."""
        entries: dict[int, bytes] = {}
        for field in self.fields:
            few = field.values <= _LONG_LISTS.get(field.tag, _MOST_VALUES)
            if few and field.tag in _WANTED:
                entry = self.data[field.entry : field.entry + 4 + 2 * self._width]
                entries.setdefault(field.tag, entry)
        if not entries:
            return self.data
        head, pointer = (16, 8) if self._big else (8, 4)
        place = self._packed(len(self.data) + len(self.data) % 2, self._width)
        rest = bytes(len(self.data) % 2) + self._packed(len(entries), 8 if self._big else 2)
        parts: list[bytes | memoryview] = [
            self.data[:pointer],
            place,
            memoryview(self.data)[head:],
            rest,
        ]
        return b"".join([*parts, *entries.values(), bytes(self._width)])

    def _packed(self, number: int, width: int) -> bytes:
        return number.to_bytes(width, "little" if self.data[:1] == b"I" else "big")

    def excess(self) -> str:
        """Says what of the file costs far more than its pixels; empty if nothing does."""
        for field in self.fields:
            most = _LONG_LISTS.get(field.tag, _MOST_VALUES)
            if field.tag in _WANTED and field.values > most:
                return f"tag {field.tag} has {field.values:,} values, limit {most:,}"
        width, height, tile_width, tile_height = (
            next(iter(self.numbers(tag)), 0) for tag in (WIDTH, HEIGHT, _TILE_WIDTH, _TILE_HEIGHT)
        )
        tiles = len(self.numbers(_PIXELS[2]))
        if tiles * tile_width * tile_height > 4 * width * height + _LARGE_TILE:
            found = f"{tiles:,} tiles of {tile_width:,} x {tile_height:,} pixels"
            return f"it has {found}, far more than its {width:,} x {height:,} pixels need"
        sizes = self.numbers(_PIXELS[1]) + self.numbers(_PIXELS[3])
        read = sum(min(size, len(self.data)) for size in sizes)  # some writers give wrong ones
        if read > 2 * len(self.data) + 16 * width * height:
            return f"its strips and tiles have {read:,} bytes, in a file of {len(self.data):,}"
        return ""

    @property
    def unit_bytes(self) -> int:
        """Bytes of the largest strip or tile when it is unpacked."""
        width, height, tile_width, tile_height, rows = (
            next(iter(self.numbers(tag)), 0)
            for tag in (WIDTH, HEIGHT, _TILE_WIDTH, _TILE_HEIGHT, _ROWS_A_STRIP)
        )
        bits = sum(self.numbers(258)) or 1
        samples = max(1, *self.numbers(277), len(self.numbers(258)))
        bits *= samples if len(self.numbers(258)) == 1 else 1
        pixels = tile_width * tile_height or width * min(rows or height, height)
        return pixels * bits // 8

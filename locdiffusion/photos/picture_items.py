"""Reads the items of a HEIC or AVIF: its EXIF and XMP, and of how many pictures it is made.

Readers of these formats copy every item of metadata into memory, and decode what an item refers to
as often as it refers to it (ISO/IEC 14496-12, section 8.11; ISO/IEC 23008-12, section 6).
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from locdiffusion.photos.file_structure import boxes

MAX_ITEMS = 8192
"""Most items, and most pictures of which one is made; 200 megapixels have 3,052 of 256 x 256."""

MAX_EXTENTS = 32
"""Most pieces of which an item's bytes are joined."""

_METADATA = re.compile(rb"(infe(?:\x02.{3}.{2}|\x03.{3}.{4}).{2})(?:Exif|mime|uri )", re.DOTALL)
"""Boxes that describe items of metadata, wherever they stand: those of films lie deeper."""

_XMP = b"application/rdf+xml\0"
_MOST_PARTS = 2**17
_DEEPEST = 16
_ENDLESS = 2**62


@dataclass(frozen=True)
class PictureItems:
    """The items of a file.

    Attributes:
        data: Bytes of the file.
    """

    data: bytes

    def _number(self, at: int, width: int) -> int:
        return int.from_bytes(self.data[at : at + width], "big")

    @functools.cached_property
    def _meta(self) -> dict[bytes, tuple[int, int]]:
        """Where the boxes about items lie: start behind name and length, and end."""
        metas = (one for one in boxes(self.data) if one[0] == b"meta")
        _, start, stop = next(metas, (b"", 0, 0))
        found: dict[bytes, tuple[int, int]] = {}
        for name, at, end in boxes(self.data, start + 4, stop):
            found.setdefault(name, (at, end))  # of several, readers take the first
        return found

    def _box(self, name: bytes) -> tuple[int, int, int]:
        """Returns a box's version, and its start behind version and flags and its end."""
        at, end = self._meta.get(name, (0, 0))
        return (self.data[at], at + 4, end) if at and at + 4 <= end <= len(self.data) else (0, 0, 0)

    @functools.cached_property
    def kinds(self) -> dict[int, int]:
        """Where the type of each item stands, by its number."""
        version, at, end = self._box(b"iinf")
        found = {}
        for name, start, stop in boxes(self.data, at + (4 if version else 2), end):
            width = 4 if self.data[start : start + 1] == b"\3" else 2
            if name == b"infe" and start + 10 + width <= stop:
                found[self._number(start + 4, width)] = start + 6 + width
        return found

    @functools.cached_property
    def _places(self) -> dict[int, list[tuple[int, int]]]:
        """Start and length of the pieces of each item."""
        version, at, end = self._box(b"iloc")
        widths = self._number(at, 2)
        offset, length, base, index = (widths >> shift & 15 for shift in (12, 8, 4, 0))
        index = index if version else 0
        wide = 4 if version == 2 else 2
        count, at = self._number(at + 2, wide), at + 2 + wide
        (inside, _), found = self._meta.get(b"idat", (0, 0)), {}
        for _ in range(min(count, MAX_ITEMS + 1)):
            number, at = self._number(at, wide), at + wide
            method, at = (self._number(at, 2) & 15, at + 2) if version else (0, at)
            start, at = self._number(at + 2, base), at + 2 + base
            pieces, at = self._number(at, 2), at + 2
            step = index + offset + length
            if at > end or not length or method > 1:
                break
            start += inside if method else 0
            found[number] = [
                (
                    start + self._number(one + index, offset),
                    self._number(one + index + offset, length),
                )
                for one in range(at, min(at + step * min(pieces, MAX_EXTENTS), end), step)
            ]
            at += pieces * step
        return found

    def metadata(self) -> Iterator[bytes]:
        """Yields the bytes of each item of EXIF or XMP."""
        for number, at in self.kinds.items():
            kind = self.data[at : at + 4]
            name_end = self.data.find(b"\0", at + 4) + 1
            if kind == b"Exif" or (kind == b"mime" and self.data.startswith(_XMP, name_end)):
                pieces = self._places.get(number, [])
                yield b"".join(self.data[start : start + size] for start, size in pieces)

    def bare(self) -> bytes:
        """Returns the file with its metadata hidden, as items of a type that no reader knows."""
        whole = bytearray(_METADATA.sub(rb"\1none", self.data))
        _, at, end = self._box(b"iref")
        for name, start, _ in boxes(self.data, at, end):
            if name == b"cdsc":
                whole[start - 4 : start] = b"none"
        return bytes(whole)

    @functools.cached_property
    def _parts(self) -> dict[int, Counter[int]]:
        """The items of which another is made, and how often each."""
        version, at, end = self._box(b"iref")
        width = 4 if version else 2
        found: dict[int, Counter[int]] = {}
        left = _MOST_PARTS
        for name, start, stop in boxes(self.data, at, end):
            if name == b"dimg" and left > 0:
                first = start + width + 2
                last = min(stop, first + width * self._number(start + width, 2))
                left -= (last - first) // width
                parts = (self._number(one, width) for one in range(first, last, width))
                found.setdefault(self._number(start, width), Counter()).update(parts)
        return found

    @functools.cached_property
    def _areas(self) -> dict[int, int]:
        """Pixels of each item."""
        at, end = self._meta.get(b"iprp", (0, 0))
        inside = {name: (start, stop) for name, start, stop in boxes(self.data, at, end)}
        sizes = [
            self._number(start + 4, 4) * self._number(start + 8, 4) if name == b"ispe" else 0
            for name, start, _ in boxes(self.data, *inside.get(b"ipco", (0, 0)))
        ]
        at, end = inside.get(b"ipma", (0, 0))
        wide, pair = (4 if self._number(at, 1) else 2), 1 + (self._number(at + 3, 1) & 1)
        count, at, found = self._number(at + 4, 4), at + 8, {}
        for _ in range(min(count, MAX_ITEMS + 1)):
            item, owned, at = self._number(at, wide), self._number(at + wide, 1), at + wide + 1
            named = [self._number(at + pair * n, pair) for n in range(owned)]
            places = [one & (2 ** (8 * pair - 1) - 1) for one in named]
            found[item] = max((sizes[n - 1] for n in places if 0 < n <= len(sizes)), default=0)
            at += pair * owned
            if at > end:
                break
        return found

    def most_work(self) -> tuple[int, int]:
        """Returns of how many pictures, and of how many pixels, the largest item is made."""
        known: dict[int, tuple[int, int]] = {}

        def work(item: int, depth: int) -> tuple[int, int]:
            if depth > _DEEPEST:
                return _ENDLESS, _ENDLESS
            if item not in known:
                parts = self._parts.get(item, Counter[int]())
                costs = [(often, *work(part, depth + 1)) for part, often in parts.items()]
                pictures = 1 + sum(often * count for often, count, _ in costs)
                pixels = self._areas.get(item, 0) + sum(often * size for often, _, size in costs)
                known[item] = min(pictures, _ENDLESS), min(pixels, _ENDLESS)
            return known[item]

        works = [work(item, 0) for item in self.kinds or self._parts]
        return max([len(self.kinds), *(count for count, _ in works)]), max(
            (pixels for _, pixels in works), default=0
        )

"""Reads how a JPEG 2000 is cut into tiles, precincts and blocks, each of which costs memory.

ISO/IEC 15444-1, annexes A and B.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from locdiffusion.photos.file_structure import MAX_PARTS, boxes

MAX_COMPONENTS = 4
"""Most components: Pillow reads colours and transparency."""

MAX_TILES = 2**14
"""Most tiles; 200 megapixels have 3,052 of 256 x 256."""

MAX_CODE_BLOCKS = 2**21
"""Most blocks and precincts; usual are blocks of 64 x 64."""

MAX_PACKETS = 2**24
"""Most packets: one for each layer of each precinct."""

_SIZE, _CODING, _CODING_OF_COMPONENT, _TILE, _DATA, _END = 0x51, 0x52, 0x53, 0x90, 0x93, 0xD9


@dataclass(frozen=True)
class Jpeg2000Layout:
    """The head of a codestream and of its tiles.

    Attributes:
        data: Bytes of the file, with or without boxes.
    """

    data: bytes

    def _number(self, at: int, width: int) -> int:
        return int.from_bytes(self.data[at : at + width], "big")

    @functools.cached_property
    def segments(self) -> tuple[tuple[int, int, int], ...]:
        """Marker, start and end of each segment's body, of the head and of those of tiles."""
        return tuple(self._segments())

    def _segments(self) -> Iterator[tuple[int, int, int]]:
        at, tile = 0, 0
        if self.data[:1] != b"\xff":
            at = next((start for name, start, _ in boxes(self.data) if name == b"jp2c"), 0)
        at += 2
        for _ in range(MAX_PARTS):
            marker, length = self._number(at + 1, 1), self._number(at + 2, 2)
            if self.data[at : at + 1] != b"\xff" or marker == _END:
                return
            if marker == _TILE:
                tile = at
            if marker == _DATA:
                size = self._number(tile + 6, 4)
                if size < 14:
                    return
                at = max(at + 2, tile + size)
                continue
            yield marker, at + 4, at + 2 + length
            at += 2 + max(2, length)

    @functools.cached_property
    def _sizes(self) -> list[int]:
        """Width, height, offsets, size of tiles, their offsets, and the number of components."""
        at = next((start for marker, start, _ in self.segments if marker == _SIZE), len(self.data))
        return [self._number(at + 2 + 4 * n, 4) for n in range(8)] + [self._number(at + 34, 2)]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        right, lower, left, upper = self._sizes[:4]
        return max(0, right - left), max(0, lower - upper)

    @property
    def components(self) -> int:
        """Number of components."""
        return self._sizes[8]

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        right, lower, _, _, width, height, left, upper, _ = self._sizes
        return -(-max(0, right - left) // max(1, width)) * -(
            -max(0, lower - upper) // max(1, height)
        )

    @property
    def tile_pixels(self) -> int:
        """Pixels of the largest tile."""
        return min(self.size[0], self._sizes[4]) * min(self.size[1], self._sizes[5])

    @functools.cached_property
    def _codings(self) -> list[tuple[int, int, int, int]]:
        """Layers, levels, and exponents of the areas of blocks and precincts, of each coding."""
        found = []
        for marker, at, end in self.segments:
            if marker not in (_CODING, _CODING_OF_COMPONENT):
                continue
            flags, layers, start = self._number(at, 1), self._number(at + 2, 2), at + 5
            if marker == _CODING_OF_COMPONENT:
                flags, layers, start = self._number(at + 1, 1), 1, at + 2
            levels = self._number(start, 1)
            block = 4 + (self._number(start + 1, 1) & 15) + (self._number(start + 2, 1) & 15)
            sizes = self.data[start + 5 : min(end, start + 6 + levels)] if flags & 1 else b""
            precinct = min([30, *((size >> 4) + (size & 15) for size in sizes)])
            found.append((layers, levels, block, precinct))
        return found

    @property
    def levels(self) -> int:
        """Fewest levels of resolution below the full one."""
        return min((levels for _, levels, _, _ in self._codings), default=0)

    def excess(self) -> str:
        """Says what of the file costs far more than its pixels; empty if nothing does."""
        if len(self.segments) >= MAX_PARTS - 1:
            return f"it has more than {MAX_PARTS - 2:,} segments"
        if self.components > MAX_COMPONENTS:
            return f"it has {self.components:,} components, limit {MAX_COMPONENTS}"
        if self.tiles > MAX_TILES:
            return f"it has {self.tiles:,} tiles, limit {MAX_TILES:,}"
        area = self.size[0] * self.size[1] * self.components
        parts = self.tiles * self.components
        for layers, levels, block, precinct in self._codings:
            precincts = (area >> precinct) * 4 // 3 + parts * (levels + 1)
            blocks = (area >> min(block, precinct)) + precincts
            if blocks > MAX_CODE_BLOCKS:
                return f"it has {blocks:,} blocks and precincts, limit {MAX_CODE_BLOCKS:,}"
            most = max(layers, *(one[0] for one in self._codings))
            if most * precincts > MAX_PACKETS:
                return f"it has {most * precincts:,} packets, limit {MAX_PACKETS:,}"
        return ""


def jpeg2000_excess(data: bytes) -> str:
    """Says what of a JPEG 2000 costs far more than its pixels; empty if nothing does."""
    if data[:1] != b"\xff" and sum(1 for _ in boxes(data)) >= MAX_PARTS:
        return f"it has more than {MAX_PARTS - 1:,} boxes"
    return Jpeg2000Layout(data).excess()

"""Reads the directories of a TIFF block, such as EXIF, at a cost that the block's size bounds.

Only what is asked for is looked up: thousands of tags that point to one large value cost nothing
(TIFF 6.0, section 2; CIPA DC-008, Exif 3.0, section 4.6).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

BYTE, ASCII, SHORT, LONG, RATIONAL, SBYTE, UNDEFINED = 1, 2, 3, 4, 5, 6, 7
SSHORT, SLONG, SRATIONAL, FLOAT, DOUBLE, IFD, UTF8 = 8, 9, 10, 11, 12, 13, 129
"""Types of values."""

SIGNED = (SBYTE, SSHORT, SLONG, SRATIONAL, FLOAT, DOUBLE)
"""Types whose values may be negative."""

HEADS = {b"II*\0": "<", b"MM\0*": ">"}
"""First bytes of a block, and the byte order that they mean."""

EXIF_IFD, GPS_IFD = 0x8769, 0x8825
"""Tags that point to further directories."""

MAX_VALUE_BYTES = 4096
"""Most bytes of a value that is read."""

_TEXT = "s"
_CODES = {BYTE: "B", SHORT: "H", LONG: "I", SBYTE: "b", SSHORT: "h", SLONG: "i", IFD: "I"}
_CODES |= {RATIONAL: "II", SRATIONAL: "ii", FLOAT: "f", DOUBLE: "d"}
_CODES |= dict.fromkeys((ASCII, UNDEFINED, UTF8), _TEXT)


class TiffError(ValueError):
    """A TIFF block whose structure is broken."""


class Field(NamedTuple):
    """An entry of a directory.

    Attributes:
        tag: Number of the tag.
        kind: Type of the values.
        length: Number of values.
        raw: Four bytes of the entry: the value, or the offset of a longer one.
    """

    tag: int
    kind: int
    length: int
    raw: bytes


@dataclass(frozen=True)
class Tiff:
    """A TIFF block.

    Attributes:
        data: Bytes from the header on; offsets count from its first byte.
        order: Byte order as `struct` writes it, `<` or `>`.
    """

    data: bytes
    order: str

    @classmethod
    def parse(cls, data: bytes) -> Tiff:
        """Checks the header of a block.

        Raises:
            TiffError: The block does not begin as TIFF does.
        """
        order = HEADS.get(data[:4])
        if order is None:
            raise TiffError(f"the EXIF block begins with {data[:4]!r}, wanted II*\\0 or MM\\0*")
        return cls(data, order)

    @property
    def first(self) -> int:
        """Offset of the first directory.

        Raises:
            TiffError: It lies outside the block.
        """
        if len(self.data) < 8:
            raise TiffError(f"the EXIF block has {len(self.data)} bytes, wanted at least 8")
        return int(struct.unpack_from(self.order + "I", self.data, 4)[0])

    def directory(self, at: int) -> tuple[Iterator[Field], int]:
        """Reads the fields of a directory, and the offset of the next one.

        Args:
            at: Offset of the directory.

        Raises:
            TiffError: The directory does not lie within the block.
        """
        if not 8 <= at <= len(self.data) - 2:
            raise TiffError(f"the EXIF block of {len(self.data):,} bytes points to byte {at:,}")
        (count,) = struct.unpack_from(self.order + "H", self.data, at)
        end = at + 2 + 12 * count
        if end > len(self.data):
            raise TiffError(f"a directory of {count:,} tags does not fit into the EXIF block")
        table = memoryview(self.data)[at + 2 : end]
        fields = map(Field._make, struct.iter_unpack(self.order + "HHI4s", table))
        # Some programs leave the last offset out.
        cut = end + 4 > len(self.data)
        return fields, 0 if cut else struct.unpack_from(self.order + "I", self.data, end)[0]

    def find(self, at: int, tags: Collection[int]) -> dict[int, Field]:
        """Finds the wanted tags of a directory; of equal tags the first counts.

        Raises:
            TiffError: The directory does not lie within the block, or two equal tags say different
                things.
        """
        found: dict[int, Field] = {}
        for field in self.directory(at)[0]:
            if field.tag in tags and found.setdefault(field.tag, field) != field:
                raise TiffError(f"tag {field.tag:#x} stands twice in one directory")
        return found

    def content(self, field: Field, limit: int = MAX_VALUE_BYTES) -> bytes:
        """Returns the bytes of a field's values.

        Args:
            field: Entry of a directory.
            limit: Most bytes that are wanted.

        Raises:
            TiffError: The type is unknown, or the values are too long or outside the block.
        """
        size = struct.calcsize("=" + _CODES.get(field.kind, "")) * field.length
        if field.kind not in _CODES or size > limit:
            found = f"tag {field.tag:#x} holds {field.length:,} values of type {field.kind}"
            raise TiffError(f"{found}, wanted a known type and at most {limit:,} bytes")
        if size <= 4:
            return field.raw[:size]
        (at,) = struct.unpack(self.order + "I", field.raw)
        if at + size > len(self.data):
            raise TiffError(f"the value of tag {field.tag:#x} lies behind the EXIF block")
        return self.data[at : at + size]

    def is_cut(self, field: Field) -> bool:
        """Whether values of a field lie behind the block."""
        size = struct.calcsize("=" + _CODES.get(field.kind, "")) * field.length
        (at,) = struct.unpack(self.order + "I", field.raw)
        return size > 4 and at + size > len(self.data)

    def numbers(self, field: Field) -> list[float]:
        """Reads the numbers of a field; NaN for 0/0, infinity for other divisions by zero.

        Raises:
            TiffError: The field holds text, or is broken as `content` says.
        """
        content = self.content(field)
        if _CODES[field.kind] == _TEXT:
            raise TiffError(f"tag {field.tag:#x} holds type {field.kind}, wanted numbers")
        values = struct.unpack(self.order + _CODES[field.kind] * field.length, content)
        if field.kind in (RATIONAL, SRATIONAL):
            return [_ratio(*pair) for pair in zip(values[::2], values[1::2], strict=True)]
        return [float(value) for value in values]

    def text(self, field: Field) -> str:
        """Reads the text of a field, up to its first NUL.

        Raises:
            TiffError: The field is broken as `content` says.
        """
        return self.content(field).split(b"\0", 1)[0].decode("utf-8", "replace").strip()


def _ratio(numerator: int, denominator: int) -> float:
    if denominator == 0:
        return math.copysign(math.inf, numerator) if numerator else math.nan
    return numerator / denominator

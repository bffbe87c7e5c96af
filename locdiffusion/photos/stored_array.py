"""Reads the vectors of `.npy` members, and evaluates nothing.

NumPy takes the header of such a file for a literal of Python, which may be nested until the parser
gives up in one of six ways, and makes the array before it looks for its numbers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAGIC = b"\x93NUMPY"
LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
"""Size of the length of the header, by version of the format."""
MAX_HEADER_BYTES = 4096
"""NumPy itself pads a header of one shape and type to 64 or 128 bytes."""
DESCR = re.compile(rb"""['"]descr['"]\s*:\s*['"]([<>|=]?[a-zA-Z][0-9]{0,4})['"]""")
SHAPE = re.compile(rb"""['"]shape['"]\s*:\s*\(([0-9, ]{0,100})\)""")


class ArrayError(ValueError):
    """A file is no `.npy` with numbers; the message says why."""


class Header(NamedTuple):
    """What the header of a `.npy` says.

    Attributes:
        dtype: Type of the numbers.
        shape: Shape of the array.
        start: First byte of the numbers.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def read_header(data: bytes) -> Header:
    """Reads the header of a `.npy`.

    Raises:
        ArrayError: The header is none, or not as NumPy writes it for numbers.
    """
    size = LENGTH_BYTES.get(data[6], 0) if data.startswith(MAGIC) and len(data) > 12 else 0
    length = int.from_bytes(data[8 : 8 + size], "little")
    start = 8 + size + length
    if not size or length > MAX_HEADER_BYTES or start > len(data):
        raise ArrayError(f"no .npy, or one with an odd header; it begins with {data[:16]!r}")
    text = data[8 + size : start]
    descr, shape = DESCR.search(text), SHAPE.search(text)
    try:
        if descr is None or shape is None:
            raise ValueError("lacks type or shape")
        numbers = [int(number) for number in shape[1].replace(b" ", b"").split(b",") if number]
        return Header(np.dtype(descr[1].decode()), tuple(numbers), start)
    except (ValueError, TypeError) as error:
        raise ArrayError(f"the header {text[:80]!r} is not one of numbers ({error})") from None


def read_vector(data: bytes, length: int) -> NDArray[np.floating]:
    """Reads a vector of floats; the array is a view of the bytes.

    Args:
        data: Content of a `.npy`.
        length: Count of numbers that it must hold.

    Raises:
        ArrayError: It holds something else, or is cut.
    """
    header = read_header(data)
    if header.dtype.kind != "f" or header.shape != (length,):
        raise ArrayError(str(header))
    if len(data) - header.start < length * header.dtype.itemsize:
        raise ArrayError(f"{header}, of which {len(data) - header.start:,} bytes are there")
    return np.frombuffer(data, header.dtype, length, header.start)

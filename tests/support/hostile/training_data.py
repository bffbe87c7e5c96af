"""Members of training shards that raise past a handler, or take memory before it is there."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator

from support.archives import truth


def npy(
    header: str | bytes, numbers: bytes = b"", version: int = 1, length: int | None = None
) -> bytes:
    """A `.npy` of any header."""
    text = header.encode() if isinstance(header, str) else header
    size = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + numbers


def described(descr: str = "'<f2'", shape: str = "(12,)", numbers: int = 24) -> bytes:
    """A `.npy` of any type and shape, with so many bytes of numbers."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"
    return npy(header, bytes(numbers))


ARRAYS: dict[str, bytes] = {
    "a terabyte": described(shape=f"({2**40},)"),
    "a terabyte of matrices": described(shape="(12, 65536, 65536, 65536)"),
    "no end of dimensions": described(shape="(" + "1," * 30_000 + ")"),
    "a negative shape": described(shape="(-12,)"),
    "a shape of digits": described(shape="(" + "9" * 30_000 + ",)"),
    "large items": described(descr="'|V999999999'", shape="(1,)"),
    "objects": described(descr="'|O'"),
    "a nested type": described(descr="[" * 900 + "]" * 900),
    "parts that overlap": described(descr="{'names':['a'],'formats':['f2'],'offsets':[99]}"),
    "text": described(descr="'<U1000000000'"),
    "brackets": npy("(" * 20_000),
    "signs": npy("-" * 60_000 + "1"),
    "braces": npy("{" * 5_000 + "}" * 5_000),
    "powers": npy("9**9**9**9"),
    "no literal": npy("__import__('os').system('touch planted')"),
    "a NUL": npy("\0"),
    "an open text": npy("'" * 3),
    "an odd indent": npy("  x\n y"),
    "no UTF-8": npy(b"\xff\xfe" * 40, version=3),
    "a set": npy("{'descr', 'fortran_order', 'shape'}"),
    "keys that are lists": npy("{[]: 1}"),
    "a header of gigabytes": npy("{}", version=2, length=2**32 - 1),
    "a version to come": npy("{}", version=9),
    "a magic alone": b"\x93NUMPY",
    "half a length": b"\x93NUMPY\1\0\5",
}
"""By name: embeddings that must cost no more than their sample."""


def tar_header(name: str, size: int) -> bytes:
    """A header of ustar."""
    fields = f"{name:\0<100}0000644\0" + "0000000\0" * 2 + f"{size:011o}\0" + "0" * 11 + "\0"
    block = fields.encode() + b" " * 8 + b"0" + bytes(100) + b"ustar\x0000"
    block += bytes(512 - len(block))
    return block[:148] + f"{sum(block):06o}\0 ".encode() + block[156:]


def many_samples(count: int) -> bytes:
    """A tar.gz of samples that hold one embedding each, all the same."""

    def members() -> Iterator[bytes]:
        array, position = described(), truth()
        for number in range(count):
            for ending, data in (("json", position), ("npy", array)):
                yield tar_header(f"{number}.{ending}", len(data))
                yield data + bytes(-len(data) % 512)

    return gzip.compress(b"".join(members()) + bytes(1024), 9, mtime=0)

"""TIFF directories are read at a cost that their size bounds, and say what is broken."""

from __future__ import annotations

import contextlib
import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locdiffusion.photos.tiff import (
    ASCII,
    DOUBLE,
    RATIONAL,
    SHORT,
    SRATIONAL,
    UNDEFINED,
    Tiff,
    TiffError,
)
from support.tiff_blocks import block


@pytest.mark.parametrize("order", ["<", ">"])
def test_values_of_every_type(order: str) -> None:
    tiff = Tiff.parse(
        block(
            order,
            (1, ASCII, 6, b"North\0"),
            (2, RATIONAL, 3, struct.pack(order + "6I", 52, 1, 0, 0, 1, 0)),
            (3, SRATIONAL, 1, struct.pack(order + "2i", -1, 2)),
            (4, DOUBLE, 1, struct.pack(order + "d", 13.4)),
            (5, SHORT, 2, struct.pack(order + "2H", 6, 7)),
        )
    )
    found = tiff.find(tiff.first, range(9))
    assert tiff.text(found[1]) == "North"
    degrees, minutes, seconds = tiff.numbers(found[2])
    assert degrees == 52 and math.isnan(minutes) and seconds == math.inf
    assert [tiff.numbers(found[tag]) for tag in (3, 4, 5)] == [[-0.5], [13.4], [6, 7]]
    with pytest.raises(TiffError, match="wanted numbers"):
        tiff.numbers(found[1])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"JUNK....", "begins with b'JUNK'"),
        (b"II*\0", "4 bytes, wanted at least 8"),
        (b"II*\0\xff\0\0\0", "points to byte 255"),
        (b"II*\0\x02\0\0\0", "points to byte 2"),
        (b"II*\0\x08\0\0\0\xff\xff", "65,535 tags does not fit"),
        (block("<", (1, ASCII, 9_999_999, b"")), "9,999,999 values of type 2"),
        (block("<", (1, 99, 1, b"")), "type 99"),
        (block("<", (1, ASCII, 9, b"\xff\xff\0\0")), "lies behind the EXIF block"),
        (block("<", (1, SHORT, 1, b"a"), (1, SHORT, 1, b"b")), "stands twice"),
    ],
)
def test_a_broken_block_says_what_is_broken(data: bytes, why: str) -> None:
    with pytest.raises(TiffError, match=why):
        _read_all(data)


def _read_all(data: bytes) -> None:
    tiff = Tiff.parse(data)
    for field in tiff.find(tiff.first, range(9)).values():
        tiff.content(field)


def test_tags_that_nobody_asked_for_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    blob = struct.pack("<I", 70_000)
    fields = [(tag, UNDEFINED, 60_000, blob) for tag in range(1000, 6000)]
    data = block("<", *fields, (0x112, SHORT, 1, b"\6\0")) + bytes(65_000)
    read = []
    monkeypatch.setattr(Tiff, "content", lambda self, field: read.append(field.tag) or b"\6\0")
    tiff = Tiff.parse(data)
    assert tiff.numbers(tiff.find(tiff.first, {0x112})[0x112]) == [6]
    assert read == [0x112]


def test_the_last_offset_may_be_missing() -> None:
    tiff = Tiff.parse(block("<", (0x112, SHORT, 1, b"\6\0"), after=77))
    assert tiff.directory(8)[1] == 77
    assert Tiff.parse(tiff.data[:-4]).directory(8)[1] == 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    head=st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II*\0", b""]),
    fields=st.lists(
        st.tuples(
            st.integers(0, 9),
            st.integers(0, 14),
            st.integers(0, 2**32 - 1) | st.integers(0, 9),
            st.integers(0, 300),
        ),
        max_size=9,
    ),
    tail=st.binary(max_size=80),
)
def test_no_bytes_raise_anything_else(head: bytes, fields: list, tail: bytes) -> None:
    order = ">" if head[:1] == b"M" else "<"
    table = b"".join(struct.pack(order + "HHII", *field) for field in fields)
    data = head + struct.pack(order + "H", len(fields)) + table + tail
    try:
        tiff = Tiff.parse(data)
        fields = list(tiff.directory(tiff.first)[0])
    except TiffError:
        return
    for field in fields:
        for read in (tiff.text, tiff.numbers):
            with contextlib.suppress(TiffError):
                read(field)

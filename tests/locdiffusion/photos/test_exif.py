"""EXIF blocks in all forms in which programs write positions."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locdiffusion.photos.coordinates import NOTHING, Source
from locdiffusion.photos.exif import read_gps
from locdiffusion.photos.tiff import BYTE, DOUBLE, EXIF_IFD, FLOAT, LONG, SRATIONAL, UNDEFINED
from schemas.samples import Truth
from support.tiff_blocks import berlin, block, gps_block, rationals, text

NORTH, EAST = (1, *text(b"N\0")), (3, *text(b"E\0"))
LONGITUDE = (4, *rationals((13, 1), (15, 1), (0, 1)))
Value = tuple[int, int, bytes]


def doubles(*values: float, kind: int = DOUBLE) -> Value:
    code = "d" if kind == DOUBLE else "f"
    return kind, len(values), struct.pack(f"<{len(values)}{code}", *values)


def signed(*pairs: tuple[int, int]) -> Value:
    return SRATIONAL, len(pairs), b"".join(struct.pack("<ii", *pair) for pair in pairs)


READABLE = {
    "degrees, minutes, seconds": rationals((52, 1), (30, 1), (0, 1)),
    "degrees and decimal minutes": rationals((52, 1), (3000, 100), (0, 1)),
    "seconds 0/0": rationals((52, 1), (30, 1), (0, 0)),
    "two rationals": rationals((52, 1), (30, 1)),
    "one rational": rationals((525, 10)),
    "decimal degrees, rest zero": rationals((525, 10), (0, 1), (0, 1)),
    "decimal degrees, rest 0/0": rationals((525, 10), (0, 0), (0, 0)),
    "signed rationals": signed((52, 1), (30, 1), (0, 1)),
    "a double": doubles(52.5),
    "doubles": doubles(52, 30, 0),
    "a float": doubles(52.5, kind=FLOAT),
    "longs": (LONG, 3, struct.pack("<3I", 52, 30, 0)),
    "text": text(b"52.5\0"),
    "text in parts": text(b"52,30,0\0"),
    "text with degrees": text(b"52 deg 30' 0.00\" N\0"),
    "undefined text": (UNDEFINED, 4, b"52.5"),
}
UNREADABLE = {
    "minutes 0/0": rationals((52, 1), (0, 0), (5, 1)),
    "degrees 0/0": rationals((0, 0), (30, 1), (5, 1)),
    "divided by zero": rationals((52, 0), (30, 1), (0, 1)),
    "75 minutes": rationals((52, 1), (75, 1), (0, 1)),
    "out of range": rationals((152, 1), (30, 1), (0, 1)),
    "each part decimal": rationals((52519, 1000), (3114, 100), (84, 10)),
    "four rationals": rationals((52, 1), (30, 1), (0, 1), (0, 1)),
    "negative parts": signed((-52, 1), (30, 1), (0, 1)),
    "negative and north": signed((-525, 10)),
    "no numbers": text(b"somewhere\0"),
    "text with another hemisphere": text(b"52.5 S\0"),
    "outside the block": (5, 3, b"\xff\xff\0\0"),
    "unknown type": (99, 1, b"\x34\0\0\0"),
    "too many": (5, 99_999, b"\0\0\0\0"),
}
VOID = {
    "all 0/0": rationals((0, 0), (0, 0), (0, 0)),
    "no values": rationals(),
    "not a number": doubles(float("nan")),
    "empty text": text(b"\0"),
}


@pytest.mark.parametrize("name", READABLE)
def test_forms_that_are_read(name: str) -> None:
    found = read_gps(gps_block(NORTH, (2, *READABLE[name]), EAST, LONGITUDE))
    assert found.position == Truth(52.5, 13.25) and found.source is Source.EXIF


@pytest.mark.parametrize("name", UNREADABLE)
def test_forms_that_cannot_be_read_are_told(name: str) -> None:
    found = read_gps(gps_block(NORTH, (2, *UNREADABLE[name]), EAST, LONGITUDE))
    assert found.position is None and "cannot be read" in found.problem


@pytest.mark.parametrize("name", VOID)
def test_a_void_position_is_none(name: str) -> None:
    void = VOID[name]
    assert read_gps(gps_block(NORTH, (2, *void), EAST, (4, *void))) == NOTHING
    assert read_gps(gps_block((2, *void), (4, *void), (9, *text(b"V\0")))) == NOTHING
    assert read_gps(gps_block(NORTH, (2, *void), EAST, LONGITUDE)).problem, "half a position"


def test_zero_is_no_position_but_the_prime_meridian_is_one() -> None:
    zero = rationals((0, 1), (0, 1), (0, 1))
    assert read_gps(gps_block((2, *zero), (4, *zero))) == NOTHING
    latitude = (2, *rationals((52, 1), (30, 1), (0, 1)))
    for letter in ([EAST], []):
        assert read_gps(gps_block(NORTH, latitude, *letter, (4, *zero))).position == Truth(52.5, 0)


@pytest.mark.parametrize("letter", [b"N\0", b"North\0", b"n\0", b"N", b"north \0", b"N\0\0\0"])
def test_spellings_of_the_reference(letter: bytes) -> None:
    latitude = (2, *READABLE["one rational"])
    assert read_gps(gps_block((1, *text(letter)), latitude, EAST, LONGITUDE)).position


@pytest.mark.parametrize("letter", [None, b"\0\0", b" \0", b"X\0", b"E\0", b"None\0", b"\xff\xfe"])
def test_without_a_reference_the_sign_is_not_known(letter: bytes | None) -> None:
    latitude = (2, *READABLE["degrees, minutes, seconds"])
    given = [] if letter is None else [(1, *text(letter))]
    assert read_gps(gps_block(*given, latitude, EAST, LONGITUDE)).problem


def test_signed_numbers_need_no_reference() -> None:
    for value in (signed((-525, 10)), doubles(-52.5)):
        found = read_gps(gps_block((2, *value), (4, *doubles(13.25))))
        assert found.position == Truth(-52.5, 13.25)


@pytest.mark.parametrize("letter", [(BYTE, 2, b"S\0"), (UNDEFINED, 1, b"S"), text(b" S\0")])
def test_a_south_that_other_programs_overlook_is_not_believed(letter: Value) -> None:
    latitude = (2, *READABLE["one rational"])
    assert "overlook" in read_gps(gps_block((1, *letter), latitude, EAST, LONGITUDE)).problem


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("through", [None, EXIF_IFD])
def test_where_the_directory_is(order: str, through: int | None) -> None:
    angle = rationals((52, 1), (30, 1), (0, 1), order=order)
    fields = (NORTH, (2, *angle), EAST, (4, *angle))
    found = read_gps(gps_block(*fields, order=order, through=through))
    assert found.position == Truth(52.5, 52.5)


def test_blocks_without_gps_tags_and_broken_ones() -> None:
    assert read_gps(block("<", (0x10F, *text(b"Maker\0")))) == NOTHING
    assert read_gps(block("<", (0x10F, *text(b"Maker\0")), after=9_999)) == NOTHING
    assert read_gps(gps_block((29, *text(b"2020:01:02\0")), NORTH)) == NOTHING
    for broken in (b"", b"junk", b"II*\0\xff\xff\0\0", berlin()[:30], berlin()[:-20]):
        assert read_gps(broken).problem


def test_the_method_tells_an_estimate() -> None:
    assert read_gps(berlin(b"GPS")).source is Source.EXIF
    found = read_gps(berlin(b"LocDiffusion geoclip, estimated from the picture"))
    assert found.source is Source.ESTIMATE and found.known is None
    wide = "LocDiffusion x".encode("utf-16-le")
    fields = (NORTH, (2, *READABLE["one rational"]), EAST, LONGITUDE)
    method = (27, UNDEFINED, 8 + len(wide), b"UNICODE\0" + wide)
    assert read_gps(gps_block(*fields, method)).source is Source.ESTIMATE


@settings(max_examples=300, deadline=None, derandomize=True)
@given(at=st.integers(0, 200), noise=st.binary(min_size=1, max_size=12))
def test_damaged_blocks_never_raise(at: int, noise: bytes) -> None:
    data = berlin(b"GPS")
    read_gps(data[:at] + noise + data[at + len(noise) :])

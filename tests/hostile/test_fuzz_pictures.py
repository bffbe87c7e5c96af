"""Mutated heads of pictures and of EXIF end as a picture or as a PhotoError, in bounded memory."""

from __future__ import annotations

import resource
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locdiffusion.photos.coordinates import Reading
from locdiffusion.photos.exif import upright
from locdiffusion.photos.photo import open_image
from locdiffusion.photos.picture import PhotoError
from locdiffusion.photos.positions import own_position
from support.hostile.pictures import codestream, fields, items_exif, tiff
from support.picture_files import SAVES, heic, picture_file, scene
from support.tiff_blocks import berlin, jpeg, xmp_packet

EXAMPLES = 3_000
MAX_MIB = 1300

FILES = {kind: picture_file(kind) for kind in SAVES} | {
    "exif": jpeg(berlin(), xmp_packet("52,30.0N", "13,15.0E")),
    "png exif": picture_file("png", exif=berlin()),
    "webp exif": picture_file("webp", exif=berlin()),
    "avif exif": picture_file("avif", exif=berlin()),
    "avif items": items_exif(b"avif")[:4096],
    "animation": picture_file("webp", save_all=True, append_images=[scene(seed=1)]),
    "empty j2k": codestream(64),
    "bare tiff": tiff([*fields(64, 64), (273, 4, 1, 8), (279, 4, 1, 4096)], bytes(4096)),
}
if (HEIC := heic()) is not None:
    FILES["heic"] = HEIC

NUMBERS = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.sampled_from([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1]).flatmap(
        lambda number: st.sampled_from(
            [bytes([number & 0xFF])]
            + [struct.pack(order + "H", number & 0xFFFF) for order in "<>"]
            + [struct.pack(order + "I", number) for order in "<>"]
        )
    ),
)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.booleans(), NUMBERS), min_size=1, max_size=6)
"""Where, whether bytes are put in between instead of over others, and which."""


def mutated(data: bytes, edits: list[tuple[float, bool, bytes]], head: int = 600) -> bytes:
    """Changes bytes, most of them near the start."""
    for share, between, number in edits:
        at = int(share**2 * min(len(data), head))
        data = data[:at] + number + data[at + len(number) * (not between) :]
    return data


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(kind=st.sampled_from(sorted(FILES)), edits=EDITS, salvage=st.booleans())
def test_mutated_pictures(kind: str, edits: list[tuple[float, bool, bytes]], salvage: bool) -> None:
    data = mutated(FILES[kind], edits)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        image, own = open_image(data, salvage)
        assert upright(image).width > 0 and isinstance(own, Reading)
    except PhotoError as error:
        assert str(error)
    assert isinstance(own_position(data), Reading)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown >> 10 <= MAX_MIB, (kind, edits)


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(kind=st.sampled_from(["exif", "png exif", "webp exif", "avif exif"]), edits=EDITS)
def test_mutated_exif(kind: str, edits: list[tuple[float, bool, bytes]]) -> None:
    block = berlin()
    data = FILES[kind]
    at = data.index(block)
    changed = mutated(block, edits, len(block))[: len(block)].ljust(len(block), b"\0")
    whole = data[:at] + changed + data[at + len(block) :]
    image, own = open_image(whole)
    assert upright(image).width > 0 and isinstance(own, Reading)

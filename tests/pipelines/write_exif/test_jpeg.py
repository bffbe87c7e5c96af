"""What a JPEG holds beside its first picture: it stays whole, or the file is refused."""

import io
import struct

import pytest
from PIL import Image

from locdiffusion.photos.positions import own_position
from locdiffusion.photos.tiff import TiffError
from pipelines.write_exif.exif import Position, with_position
from pipelines.write_exif.fates import Fate, Rules
from pipelines.write_exif.jpeg import JpegError, UnsafeError
from support.archives import photo
from support.gps_photos import Form, exif_block, geotagged, gps_photo, packet

HERE = Position(-33.8568, 151.2153, 12.5, "LocDiffusion test-1, estimated", "within 12 km")
XMP = b"http://ns.adobe.com/xap/1.0/\0"


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def having(*segments: bytes, jpeg: bytes | None = None) -> bytes:
    """A JPEG with further segments behind its JFIF segment."""
    jpeg = jpeg or photo(3)
    return jpeg[:20] + b"".join(segments) + jpeg[20:]


def mpo(**save) -> bytes:
    """A file with three pictures, as Pillow writes it."""
    first, *others = (Image.new("RGB", (64, 48), (90 * i, 20, 70)) for i in range(3))
    buffer = io.BytesIO()
    first.save(buffer, "MPO", save_all=True, append_images=others, **save)
    return buffer.getvalue()


def pictures(data: bytes) -> list[bytes]:
    with Image.open(io.BytesIO(data)) as image:
        found = []
        for number in range(image.n_frames):
            image.seek(number)
            found.append(image.tobytes())
        return found


def exif_last(data: bytes) -> bytes:
    """The same multi-picture file with its EXIF behind the index, as some phones write it."""
    at = data.index(b"\xff\xe1")
    exif = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
    index = data.index(b"MPF\0") - 4
    end = index + 2 + int.from_bytes(data[index + 2 : index + 4], "big")
    moved = bytearray(data[:at] + data[at + len(exif) : end] + exif + data[end:])
    base = index - len(exif) + 8
    order = "<" if moved[base : base + 2] == b"II" else ">"
    (count,) = struct.unpack_from(order + "H", moved, base + 8)
    for entry in range(base + 10, base + 10 + 12 * count, 12):
        tag, _, size, place = struct.unpack_from(order + "HHII", moved, entry)
        for one in range(base + place, base + place + size, 16) if tag == 0xB002 else ():
            (offset,) = struct.unpack_from(order + "I", moved, one + 8)
            if offset:
                struct.pack_into(order + "I", moved, one + 8, offset + len(exif))
    return bytes(moved)


def index_of(data: bytes) -> list[tuple[int, int]]:
    """Sizes of the pictures of a file, and their places in it."""
    with Image.open(io.BytesIO(data)) as image:
        base = data.index(b"MPF\0") + 4
        places = [entry["DataOffset"] for entry in image.mpinfo[0xB002]]
        sizes = [entry["Size"] for entry in image.mpinfo[0xB002]]
    return [(size, place and base + place) for size, place in zip(sizes, places, strict=True)]


@pytest.mark.parametrize("order", ["first", "last", "none"])
def test_all_pictures_of_a_file_still_open(order):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    before = mpo() if order == "none" else mpo(exif=exif)
    before = exif_last(before) if order == "last" else before
    assert len(pictures(before)) == 3
    after = with_position(before, HERE)
    assert pictures(after) == pictures(before)
    growth = len(after) - len(before)
    old, new = index_of(before), index_of(after)
    assert [size for size, _ in new] == [old[0][0] + growth, *(size for size, _ in old[1:])]
    assert [place for _, place in new] == [0, *(place + growth for _, place in old[1:])]
    again = with_position(after, HERE)
    assert pictures(again) == pictures(before)


def test_a_broken_index_is_refused():
    before = bytearray(mpo())
    at = before.index(b"MPF\0") + 4
    for broken in (b"XX*\0", before[at : at + 4] + b"\xff" * 4):
        damaged = bytearray(before)
        damaged[at : at + len(broken)] = broken
        with pytest.raises(UnsafeError, match="MPF"):
            with_position(bytes(damaged), HERE)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("far", [False, True])
def test_a_maker_note_that_points_behind_the_pixels_is_refused(order, far):
    """Some cameras put a large preview behind the picture, and its place into the maker note."""
    code = order + "HHII"
    filling = segment(0xFE, bytes(60_000)) * 2 if far else b""
    block = exif_block(Form(order, place="none"))
    note = block.index(b"MAKER\0NOTEMAKER")
    base = having(segment(0xE1, b"Exif\0\0" + block), filling)
    preview = len(base) - 30
    entry = struct.pack(code, 0x2001, 4, 1, preview)
    block = block[:note] + entry + block[note + len(entry) :]
    before = having(segment(0xE1, b"Exif\0\0" + block), filling) + photo(5)
    with pytest.raises(UnsafeError, match="behind the pixels"):
        with_position(before, HERE)
    assert with_position(base, HERE)


def test_what_signs_or_measures_the_file_is_refused():
    container = (
        '<Container:Item Item:Mime="image/jpeg" Item:Semantic="Primary" Item:Length="{}"/>'
        '<Container:Item Item:Mime="video/mp4" Item:Semantic="MotionPhoto" Item:Length="1024"/>'
    )
    elements = (
        '<rdf:li><Container:Item rdf:parseType="Resource"><Item:Semantic>Primary</Item:Semantic>'
        "<Item:Length>{}</Item:Length></Container:Item></rdf:li><rdf:li><Container:Item>"
        "<Item:Semantic>GainMap</Item:Semantic><Item:Length>99</Item:Length></Container:Item>"
    )
    refused = {
        "C2PA": segment(0xEB, b"JP\0\1\0\0\0\1jumbjumdc2pa"),
        "Photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\x04\x22\0\0\0\0\0\0"),
        "length of the first picture": segment(0xE1, XMP + container.format("0400").encode()),
        "of the first": segment(0xE1, XMP + elements.format("400").encode()),
        "1 EXIF segments": segment(0xE1, b"\0\0Exif\0\0" + exif_block(Form())),
        "2 EXIF segments": segment(0xE1, b"Exif\0\0" + exif_block(Form())) * 2,
    }
    for why, extra in refused.items():
        with pytest.raises(UnsafeError, match=why):
            with_position(having(extra), HERE)
    afcp = photo(3) + b"AXS!\1\0" + bytes(30)
    with pytest.raises(UnsafeError, match="AFCP"):
        with_position(afcp + b"AXS!" + struct.pack(">II", len(photo(3)), 0), HERE)
    assert with_position(afcp + b"AXS!" + bytes(8), HERE)
    for items in (container, elements):
        motion = having(segment(0xE1, XMP + items.format("0").encode())) + bytes(1024)
        after = with_position(motion, HERE)
        assert after.endswith(motion[20:]) and len(after) > len(motion)


def test_a_tag_that_is_cut_off_does_not_become_ours():
    """A value behind the end of the block would be read from what is appended there."""
    block = exif_block(Form("<", place="none"))
    entry = block.index(struct.pack("<HHI", 0x010F, 2, 6)) + 8
    block = block[:entry] + struct.pack("<I", len(block) + 4) + block[entry + 4 :]
    with pytest.raises(UnsafeError, match="0x10f"):
        with_position(having(segment(0xE1, b"Exif\0\0" + block)), HERE)


def test_broken_files_are_told_apart():
    sound = photo(3)
    for broken in (b"", b"\xff\xd8", sound[:19], sound[:30], b"\xff\xd8\xff\xd9"):
        with pytest.raises(JpegError):
            with_position(broken, HERE)
    with pytest.raises(TiffError):
        with_position(having(segment(0xE1, b"Exif\0\0II+\0")), HERE)
    filled = having(b"\xff" * 7 + segment(0xFE, b"comment"), b"\xff\x01", b"??", b"\xff\0")
    assert with_position(filled, HERE).endswith(filled[20:])


def test_what_xmp_says_of_another_position_is_blanked():
    every = Rules(replace_own_position=True)
    for kind in ("attribute", "element", "prefix", "decimal", "half", "odd"):
        before = gps_photo(Form("<", "dms", "dms", xmp=kind))
        fate, _, after = geotagged(before, every)
        assert fate is Fate.WRITTEN
        assert own_position(after).position.latitude == pytest.approx(-33.8568)
        old, new = (
            one[one.index(b"<x:xmpmeta") : one.index(b"<?xpacket end")] for one in (before, after)
        )
        assert len(new) == len(old) and b"GPS" in old and b"GPS" not in new
    for encoding in ("utf-16-le", "utf-16-be"):
        other = packet(Form(xmp="attribute")).decode().encode(encoding)
        before = having(segment(0xE1, XMP + other))
        assert geotagged(before, Rules())[0] in (Fate.UNREADABLE_GPS, Fate.OWN_POSITION)
        assert geotagged(before, every)[0] is Fate.UNSAFE


@pytest.mark.parametrize("status", ["void", "active"])
def test_nothing_is_said_of_a_measurement_that_did_not_happen(status):
    _, _, after = geotagged(gps_photo(Form("<", "all-0/0", "all-0/0", status=status)), Rules())
    tags = Image.open(io.BytesIO(after)).getexif().get_ifd(0x8825)
    assert not {8, 9, 10, 11, 30} & set(tags)
    assert tags[29] == "2001:07:14" and tags[17] == 271.5 and tags[6] == 34.5

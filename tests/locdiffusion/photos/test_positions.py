"""What a photo's file and its document say of its position, and which of them counts."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin, features

from locdiffusion.photos.coordinates import NOTHING, Reading, Source
from locdiffusion.photos.exif import upright
from locdiffusion.photos.labelled_samples import read_samples
from locdiffusion.photos.photo import open_image
from locdiffusion.photos.positions import PhotoPositions, own_position
from locdiffusion.photos.sidecar import Sidecar, read_sidecar
from locdiffusion.photos.storage import DataError
from locdiffusion.photos.tiff import UNDEFINED, Tiff
from schemas.samples import Truth
from support.archives import truth, write_tar
from support.picture_files import heic, scene
from support.tiff_blocks import berlin, block, gps_block, jpeg, rationals, text, xmp_packet

BERLIN, PARIS = Truth(52.5, 13.25), Truth(48.5, 2.25)
IN_PARIS = xmp_packet("48,30.0N", "2,15.0E")
OURS = b"LocDiffusion geoclip, estimated from the picture"
NO_SIGN = gps_block((2, *rationals((33, 1), (30, 1))), (4, *rationals((151, 1), (0, 1))))


def saved(kind: str, **metadata: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 8), "red").save(stream, kind, **metadata)
    return stream.getvalue()


def raw_profile(data: bytes) -> str:
    lines = "\n".join(data.hex()[i : i + 72] for i in range(0, 2 * len(data), 72))
    return f"\nexif\n{len(data):8}\n{lines}\n"


def texts(**chunks: tuple[str, bool]) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for name, (value, packed) in chunks.items():
        keyword = name.replace("_", " ").replace("XMP", "XML:com.adobe.xmp")
        add = info.add_itxt if name == "XMP" else info.add_text
        add(keyword, value, zip=packed)
    return info


HERE = truth(52.5, 13.25)
XMP = xmp_packet("52,30.0N", "13,15.0E")
XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
EXIF = b"Exif\0\0" + berlin()


def carriers() -> dict[str, bytes]:
    plain = saved("GIF")
    found = {
        "JPEG": jpeg(berlin()),
        "JPEG, not the first segment": jpeg(IN_PARIS[:60], berlin()),
        "JPEG, in small letters": jpeg(berlin()).replace(b"Exif\0", b"exif\0"),
        "JPEG with XMP": jpeg(XMP),
        "JPEG with XMP by another name": jpeg(XMP).replace(b"http://ns", b"XMP\0://ns", 1),
        "PNG": saved("PNG", exif=EXIF),
        "PNG of ImageMagick": saved(
            "PNG", pnginfo=texts(Raw_profile_type_exif=(raw_profile(EXIF), True))
        ),
        "PNG with XMP": saved("PNG", pnginfo=texts(XMP=(XMP.decode(), False))),
        "PNG with packed XMP": saved("PNG", pnginfo=texts(XMP=(XMP.decode(), True))),
        "WebP": saved("WEBP", exif=EXIF),
        "WebP without prefix": saved("WEBP", exif=berlin()),
        "WebP with XMP": saved("WEBP", xmp=XMP),
        "TIFF with XMP": saved("TIFF", tiffinfo={700: XMP}),
        "GIF with XMP": plain[:-1]
        + b"\x21\xff\x0bXMP DataXMP"
        + XMP
        + bytes([1, *range(255, -1, -1), 0])
        + b";",
    }
    if features.check("jpg_2000"):
        boxes = {"JPEG 2000": b"JpgTiffExif->JP2" + berlin(), "JPEG 2000 with XMP": XMP_BOX + XMP}
        plain = saved("JPEG2000")
        found |= {
            name: plain + (len(box) + 8).to_bytes(4, "big") + b"uuid" + box
            for name, box in boxes.items()
        }
    if features.check("avif"):
        found |= {"AVIF": saved("AVIF", exif=EXIF), "AVIF with XMP": saved("AVIF", xmp=XMP)}
    return found


@pytest.mark.parametrize("name", carriers())
def test_wherever_the_block_is(name: str) -> None:
    data = carriers()[name]
    wanted = Reading(BERLIN, Source.XMP if "XMP" in name else Source.EXIF)
    assert own_position(data) == wanted
    assert open_image(data)[1] == wanted


def test_parts_of_a_long_packet_come_in_any_order() -> None:
    plain, half = jpeg(), len(XMP) // 2
    segments = []
    for offset, part in ((half, XMP[half:]), (0, XMP[:half])):
        where = bytes(32) + len(XMP).to_bytes(4, "big") + offset.to_bytes(4, "big")
        body = b"http://ns.adobe.com/xmp/extension/\0" + where + part
        segments.append(b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body)
    for ordered in (segments, segments[::-1]):
        data = plain[:2] + b"".join(ordered) + plain[2:]
        assert own_position(data) == Reading(BERLIN, Source.XMP)


def test_a_tiff_is_its_own_block() -> None:
    assert own_position(saved("TIFF", exif=EXIF)) == Reading(BERLIN, Source.EXIF)
    assert open_image(saved("TIFF", exif=EXIF))[1].position == BERLIN


@pytest.mark.skipif(heic() is None, reason="nothing here writes HEIC")
def test_blocks_of_a_heic() -> None:
    import pillow_heif

    for saved_with in ({"exif": EXIF}, {"exif": berlin()}, {"xmp": XMP}):
        file = io.BytesIO()
        pillow_heif.from_pillow(scene()).save(file, **saved_with)
        wanted = Reading(BERLIN, Source.XMP if "xmp" in saved_with else Source.EXIF)
        assert open_image(file.getvalue())[1] == own_position(file.getvalue()) == wanted


def test_exif_comes_first_unless_it_cannot_be_read() -> None:
    assert own_position(jpeg(berlin(), IN_PARIS)) == Reading(BERLIN, Source.EXIF)
    assert own_position(jpeg(block("<"), IN_PARIS)) == Reading(PARIS, Source.XMP)
    assert own_position(jpeg(NO_SIGN, IN_PARIS)) == Reading(PARIS, Source.XMP)
    assert own_position(jpeg(NO_SIGN)).problem
    assert own_position(jpeg()) == NOTHING


def test_two_blocks_must_agree() -> None:
    assert own_position(jpeg(berlin(), berlin())).position == BERLIN
    assert "differ" in own_position(jpeg(XMP, IN_PARIS)).problem
    assert own_position(jpeg(berlin(), NO_SIGN)).problem


def test_a_block_of_several_segments() -> None:
    long = block("<", (0x9999, 7, 40_000, bytes(40_000)))
    data = long[:4] + (len(long)).to_bytes(4, "little") + long[8:]
    at = len(data)
    gps = gps_block((1, *text(b"N\0")), (3, *text(b"E\0")))
    assert gps and at > 40_000
    whole = data + block("<", (0x10F, *text(b"Maker\0")), start=at)
    assert own_position(jpeg(whole[:30_000], whole[30_000:])) == NOTHING
    assert own_position(jpeg(whole[:30_000])).problem


def test_a_bomb_of_tags_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    blob = (8).to_bytes(4, "little")
    fields = [(tag, 7, 60_000, blob) for tag in range(0x9000, 0x9000 + 5_000)]
    data = jpeg(block("<", (0x112, 3, 1, b"\6\0"), *fields))
    read: list[int] = []
    content = Tiff.content

    def counted(self: Tiff, field: object, *limit: int) -> bytes:
        read.append(field.tag)  # type: ignore[attr-defined]
        return content(self, field, *limit)  # type: ignore[arg-type]

    monkeypatch.setattr(Tiff, "content", counted)
    monkeypatch.setattr(Image.Image, "getexif", lambda self: pytest.fail("Pillow reads all tags"))
    image, found = open_image(data)
    assert read == [0x112] and found == NOTHING and image.size[0] < image.size[1]


def test_orientation_of_xmp_counts_where_there_is_no_exif() -> None:
    image = Image.new("RGB", (4, 2))
    image.info["xmp"] = b'<x tiff:Orientation="6"/>'
    assert upright(image).size == (2, 4) and "xmp" not in upright(image).info


def test_a_compressed_text_has_a_limit() -> None:
    big = zlib.compress(b" " * 200_000_000, 9)
    body = b"XML:com.adobe.xmp\0\1\0\0\0" + big
    chunk = len(body).to_bytes(4, "big") + b"iTXt" + body
    chunk += zlib.crc32(chunk[4:]).to_bytes(4, "big")
    png = saved("PNG")
    assert own_position(png[:33] + chunk + png[33:]) == NOTHING


class TestEstimates:
    def test_are_no_position_of_the_photo(self) -> None:
        own = own_position(jpeg(berlin(OURS)))
        known = PhotoPositions(own)
        assert (known.exif, known.exif_source) == (None, Source.ESTIMATE)
        assert (known.truth, known.truth_source) == (None, None)

    def test_copied_into_xmp_they_stay_estimates(self) -> None:
        near = xmp_packet("52,30.001N", "13,15.001E")
        assert own_position(jpeg(berlin(OURS), near)).source is Source.ESTIMATE
        assert own_position(jpeg(berlin(OURS), IN_PARIS)) == Reading(PARIS, Source.XMP)

    def test_copied_without_their_hemispheres_they_stay_estimates(self) -> None:
        """As `exiftool '-xmp:all<gps:all'` copies tags, and programs that forget a Ref tag."""
        where = (2, *rationals((33, 1), (30, 1))), (4, *rationals((70, 1), (15, 1)))
        method = b"LocDiffusion t-1, estimated from the picture at -33.50000, -70.25000"
        told = 27, UNDEFINED, len(method), method
        ours = gps_block((1, *text(b"S\0")), where[0], (3, *text(b"W\0")), where[1], told)
        copied = xmp_packet("33,30.0N", "70,15.0E")
        assert own_position(jpeg(ours)) == Reading(Truth(-33.5, -70.25), Source.ESTIMATE)
        assert own_position(jpeg(ours, copied)).source is Source.ESTIMATE
        mirrored = PhotoPositions(own_position(jpeg(ours)), read_sidecar("a.xmp", copied))
        assert (mirrored.truth, mirrored.truth_source) == (None, Source.ESTIMATE)
        alone = own_position(
            jpeg(
                xmp_packet("33,30.0N", "70,15.0E", f"exif:GPSProcessingMethod='{method.decode()}'")
            )
        )
        assert alone == Reading(Truth(33.5, 70.25), Source.ESTIMATE)

    def test_copied_into_a_document_they_stay_estimates(self) -> None:
        own = own_position(jpeg(berlin(OURS)))
        near = Sidecar(Truth(52.5001, 13.2501), Source.TAKEOUT)
        known = PhotoPositions(own, near)
        assert (known.truth, known.truth_source) == (None, Source.ESTIMATE)
        corrected = PhotoPositions(own, Sidecar(PARIS, Source.TAKEOUT))
        assert (corrected.truth, corrected.truth_source) == (PARIS, Source.TAKEOUT)
        camera = PhotoPositions(own_position(jpeg(berlin())), near)
        assert (camera.truth, camera.exif) == (near.position, BERLIN)

    def test_a_document_may_say_itself_that_it_is_one(self) -> None:
        known = PhotoPositions(NOTHING, Sidecar(PARIS, Source.ESTIMATE))
        assert (known.truth, known.truth_source) == (None, Source.ESTIMATE)


def test_a_document_that_comes_late_is_nearer_and_counts_unless_it_knows_less() -> None:
    late = Sidecar(PARIS, Source.JSON)
    for sidecar, wanted in (
        (None, PARIS),
        (Sidecar(problem="no JSON"), PARIS),
        (Sidecar(BERLIN, Source.JSON), PARIS),
    ):
        assert PhotoPositions(NOTHING, sidecar).with_late(late).truth == wanted
    assert PhotoPositions().with_late(None) == PhotoPositions()
    known = PhotoPositions(NOTHING, late)
    assert known.with_late(Sidecar(problem="no JSON")) == known


def test_training_does_not_learn_from_estimates(tmp_path: Path) -> None:
    shard = str(write_tar(tmp_path / "s.tar", [("a.jpg", jpeg(berlin())), ("a.json", HERE)]))
    assert [truth for _, truth in read_samples(shard)] == [BERLIN]
    shard = str(write_tar(tmp_path / "t.tar", [("a.jpg", jpeg(berlin(OURS))), ("a.json", HERE)]))
    with pytest.raises(DataError, match="estimated by LocDiffusion"):
        list(read_samples(shard))

"""Every format and mode ends as pixels; what breaks off or is too large says so truly."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from locdiffusion.model.preprocessing import as_rgb
from locdiffusion.photos.exif import upright
from locdiffusion.photos.picture import PhotoError, decode_picture, load_picture
from schemas.geotags import Status
from support.archives import encode, huge_png
from support.picture_files import (
    SAVES,
    heic,
    jpeg_header,
    jpeg_with,
    picture_file,
    png_chunk,
    png_with,
    scene,
)

FILES = {kind: picture_file(kind) for kind in SAVES}
if (HEIC := heic()) is not None:
    FILES["heic"] = HEIC


def failure(data: bytes, salvage: bool = False) -> PhotoError:
    with pytest.raises(PhotoError) as error:
        decode_picture(data, salvage)
    return error.value


def error_of_pixels(found: Image.Image, wanted: Image.Image) -> float:
    """Mean difference of two pictures, of 255."""
    assert found.size == wanted.size
    return float(
        np.abs(np.asarray(as_rgb(found), float) - np.asarray(as_rgb(wanted), float)).mean()
    )


class TestFormats:
    @pytest.mark.parametrize("kind", FILES)
    def test_is_read_whatever_its_ending(self, kind: str, tmp_path) -> None:
        (tmp_path / "picture.jpg").write_bytes(FILES[kind])
        assert error_of_pixels(load_picture(tmp_path / "picture.jpg"), scene()) < 20

    @pytest.mark.parametrize(
        "mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "LAB", "F", "PA"]
    )
    @pytest.mark.parametrize("kind", ["tiff", "lzw tiff"])
    def test_modes_of_tiff_end_as_colours(self, kind: str, mode: str) -> None:
        grey = scene().convert("L")
        images = {
            "I;16": Image.fromarray(np.asarray(grey).astype(np.uint16) * 257),
            "F": Image.fromarray(np.asarray(grey).astype(np.float32) / 255),
            "PA": scene().convert("P").convert("PA"),
        }
        image = images.get(mode) or scene().convert(mode)
        assert image.mode == mode
        wanted = grey if mode in ("1", "L", "LA", "I;16", "F") else scene()
        limit = 128 if mode == "1" else 20
        assert error_of_pixels(decode_picture(picture_file(kind, image)), wanted) < limit

    def test_the_first_of_several_pictures_is_taken(self) -> None:
        others = [scene(seed=seed) for seed in (1, 2)]
        for kind in ("tiff", "gif", "png", "webp"):
            data = picture_file(kind, save_all=True, append_images=others)
            assert error_of_pixels(decode_picture(data), scene()) < 20, kind

    def test_group_4_and_colours_of_16_bits(self) -> None:
        page = picture_file("tiff", scene().convert("1"), compression="group4")
        assert decode_picture(page).mode == "1"
        assert decode_picture(encode(scene().convert("I;16"), "PNG")).size == scene().size

    def test_adobe_cmyk_is_not_inverted(self) -> None:
        picture = picture_file("jpeg", Image.new("RGB", (64, 64), (250, 20, 20)).convert("CMYK"))
        red = as_rgb(decode_picture(picture)).getpixel((9, 9))
        assert red[0] > 200 and red[1] < 60

    def test_a_raw_file_that_pillow_takes_for_a_tiff(self) -> None:
        data = picture_file("tiff", tiffinfo={50706: b"\1\4\0\0"})
        assert failure(data).status is Status.NO_READER and "RAW" in str(failure(data))

    def test_a_kind_of_jpeg_that_nothing_reads(self) -> None:
        assert failure(jpeg_header(96, 64, marker=0xC3)).status is Status.NO_READER
        error = failure(jpeg_header(96, 64, precision=12) + b"\xff\xd9")
        assert error.status is Status.NO_READER and "12-bit" in str(error)


class TestLargeJpegs:
    def test_the_limit_is_on_what_is_decoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("locdiffusion.photos.picture.REDUCED_SIDE", 60)
        monkeypatch.setattr("locdiffusion.photos.picture.MAX_IMAGE_PIXELS", 15_000)
        for kind in ("jpeg", "mpo", "progressive"):
            assert decode_picture(picture_file(kind, scene((500, 300)))).size == (125, 75), kind
            assert decode_picture(picture_file(kind, scene((500, 100)))).size == (250, 50), kind
            assert decode_picture(picture_file(kind, scene((9000, 1)))).size == (9000, 1), kind
        error = failure(picture_file("png", scene((500, 300))))
        assert error.status is Status.TOO_MANY_PIXELS and "baseline JPEG" in str(error)
        error = failure(picture_file("jpeg", scene((1500, 1000))))
        assert error.status is Status.TOO_MANY_PIXELS

    def test_half_scale_leaves_an_encoder_its_pixels(self) -> None:
        data = picture_file("jpeg", scene((2800, 2100)))
        reduced = decode_picture(data)
        assert reduced.size == (1400, 1050)
        whole = Image.open(io.BytesIO(data))
        small = [np.asarray(image.resize((512, 512)), float) for image in (reduced, whole)]
        assert np.abs(small[0] - small[1]).mean() < 1.0

    def test_a_phone_with_200_megapixels(self) -> None:
        assert decode_picture(jpeg_header(16320, 12240)).size == (2040, 1530)

    def test_scans_that_need_all_coefficients_are_bounded(self) -> None:
        error = failure(jpeg_header(26000, 24000, marker=0xC2))
        assert error.status is Status.TOO_LARGE and "progressive" in str(error)

    def test_more_than_libjpeg_decodes(self) -> None:
        error = failure(jpeg_header(65_535, 300))
        assert error.status is Status.TOO_MANY_PIXELS and "limit 65,500 a side" in str(error)

    def test_strips(self) -> None:
        for size in ((65500, 1), (1, 65500), (65500, 40)):
            assert decode_picture(picture_file("jpeg", scene(size))).size == size

    def test_a_webp_is_refused_before_it_is_opened(self) -> None:
        data = bytearray(picture_file("lossless webp"))
        data[21:25] = struct.pack("<I", 16382 | 16382 << 14)
        tracemalloc.start()
        assert failure(bytes(data)).status is Status.TOO_MANY_PIXELS
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()

    def test_a_gif_is_refused_for_a_frame_beyond_its_canvas(self) -> None:
        data = bytearray(FILES["gif"])
        at = data.index(b"\x2c\0\0\0\0\x60\0\x40\0")
        data[at + 5 : at + 9] = b"\xff" * 4
        assert failure(bytes(data)).status is Status.TOO_MANY_PIXELS

    def test_a_png_is_refused_before_it_is_decoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
        for size in ((30_000, 30_000), (12_000, 11_000)):
            assert "scale the photo down" in str(failure(huge_png(*size)))


TEXT = bytes(3 * 2**20)
XMP = b"<x:xmpmeta>" + b" " * 1_500_000 + b"</x:xmpmeta>"


class TestMetadata:
    @pytest.mark.parametrize(
        "chunk",
        [
            png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(TEXT)),
            png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(TEXT)),
            png_chunk(b"tEXt", b"Comment\0" + TEXT),
            png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(TEXT)),
            png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2**24))),
            png_chunk(b"zTXt", b"Raw profile type exif\0\0" + b"no zlib"),
            png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1"),
            png_chunk(b"tEXt", b"Comment\0x")[:-4] + b"oops",
            png_chunk(b"eXIf", b"II*\0")[:-4] + b"oops",
            png_chunk(b"gAMA", b""),
        ],
    )
    def test_of_a_png_costs_no_picture(self, chunk: bytes) -> None:
        assert error_of_pixels(decode_picture(png_with(chunk)), scene()) == 0

    def test_of_a_png_that_positions_need_is_kept(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        assert decode_picture(picture_file("png", exif=exif)).getexif()[0x0112] == 6
        for body in (b"\0\0\0\0" + XMP, b"\1\0\0\0" + zlib.compress(XMP)):
            chunk = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0" + body)
            found = decode_picture(png_with(chunk)).info
            assert "</x:xmpmeta>" in found["xmp"].decode()
        raw = zlib.compress(b"\nexif\n       8\n" + b"Exif\0\0II".hex().encode())
        chunk = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + raw)
        assert decode_picture(png_with(chunk)).info["exif"] == b"Exif\0\0II"

    def test_transparency_is_kept(self) -> None:
        image = Image.new("P", (8, 8), 1)
        image.putpalette([255, 0, 0, 0, 255, 0])
        data = encode(image, "PNG", transparency=1)
        assert as_rgb(decode_picture(data)).getpixel((3, 3)) == (127, 127, 127)

    def test_of_many_megabytes_in_a_jpeg(self) -> None:
        profile = [(0xE2, b"ICC_PROFILE\0\1\1" + bytes(65_000))] * 100
        texts = [(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000))] * 100
        data = jpeg_with(*profile, *texts, (0xFE, bytes(65_000)))
        assert error_of_pixels(decode_picture(data), scene()) < 20

    def test_a_long_comment_in_a_gif(self) -> None:
        data = picture_file("gif")
        head = 13 + 3 * 2 ** ((data[10] & 7) + 1)
        comment = b"\x21\xfe" + (b"\xff" + bytes(255)) * 60_000 + b"\0"
        image = decode_picture(data[:head] + comment + data[head:])
        assert image.tobytes() == decode_picture(data).tobytes()


class TestPicturesThatBreakOff:
    def test_a_jpeg_without_its_last_marker_is_whole(self) -> None:
        for kind in ("jpeg", "progressive"):
            whole = FILES[kind]
            for cut in (whole[:-2], whole[:-1], whole[:-2] + bytes(5000), whole + bytes(5000)):
                assert decode_picture(cut).tobytes() == decode_picture(whole).tobytes()

    def test_a_png_without_its_last_chunk_is_whole(self) -> None:
        assert error_of_pixels(decode_picture(FILES["png"][:-12]), scene()) == 0

    @pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "gif", "bmp", "webp", "heic"])
    def test_rows_that_are_there_are_salvaged(self, kind: str) -> None:
        image = scene((320, 400))
        if kind == "heic" and heic() is None:
            pytest.skip("nothing writes HEIC here")
        whole = heic(image) if kind == "heic" else picture_file(kind, image)
        assert whole is not None
        cut = whole[: len(whole) * 6 // 10]
        error = failure(cut)
        assert error.status is Status.INCOMPLETE_IMAGE
        assert "of its rows are missing" in str(error) and "--salvage" in str(error)
        found = decode_picture(cut, salvage=True)
        assert found.width == 320 and 100 < found.height < 320
        top = 400 - found.height if kind == "bmp" else 0
        part = decode_picture(whole).crop((0, top, 320, top + found.height))
        assert error_of_pixels(found, part) < 1

    def test_a_progressive_jpeg_is_salvaged_whole_and_coarse(self) -> None:
        whole = picture_file("progressive", scene((320, 400)))
        cut = whole[: len(whole) * 6 // 10]
        assert "without its fine detail" in str(failure(cut))
        assert 0 < error_of_pixels(decode_picture(cut, salvage=True), scene((320, 400))) < 20

    def test_salvage_keeps_what_the_picture_says_of_itself(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        for kind in ("jpeg", "tiff"):
            whole = picture_file(kind, scene((320, 400)), exif=exif)
            found = decode_picture(whole[: len(whole) * 6 // 10], salvage=True)
            assert upright(found).size == found.size[::-1], kind

    def test_nothing_is_salvaged_of_a_few_rows(self) -> None:
        error = failure(FILES["png"][:200], salvage=True)
        assert error.status is Status.INCOMPLETE_IMAGE and "--salvage" not in str(error)

    def test_a_tall_picture_is_compared_in_bands(self) -> None:
        whole = picture_file("bmp", scene((2, 3_000_000)))
        found = decode_picture(whole[: len(whole) // 2], salvage=True)
        assert found.size == (2, 1_499_996)

    def test_a_header_alone(self) -> None:
        for data in (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"II*\0\x08\0\0\0", FILES["png"][:8]):
            assert failure(data).status is Status.INCOMPLETE_IMAGE

    def test_zeros_instead_of_the_end(self) -> None:
        for kind in ("jpeg", "png", "webp"):
            whole = picture_file(kind, scene((640, 400)))
            half = len(whole) // 2
            error = failure(whole[:half] + bytes(len(whole) - half))
            assert error.status is Status.INCOMPLETE_IMAGE and "zeros follow" in str(error)

    def test_settings_of_pillow_stay_as_they_are(self) -> None:
        from PIL import ImageFile

        decode_picture(FILES["jpeg"][:-9], salvage=True)
        assert not ImageFile.LOAD_TRUNCATED_IMAGES

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(kind=st.sampled_from(sorted(FILES)), at=st.floats(0, 0.9999), salvage=st.booleans())
    def test_cut_anywhere(self, kind: str, at: float, salvage: bool) -> None:
        data = FILES[kind][: int(at * len(FILES[kind]))]
        try:
            assert decode_picture(data, salvage).width == 96
        except PhotoError as error:
            wanted = {"incomplete_image", "not_an_image" if data else "empty_file"}
            assert error.status.value in wanted, error
            assert ";" in str(error)

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(
        kind=st.sampled_from(sorted(FILES)),
        at=st.floats(0, 0.999),
        noise=st.binary(min_size=1, max_size=8),
        salvage=st.booleans(),
    )
    def test_damaged_anywhere(self, kind: str, at: float, noise: bytes, salvage: bool) -> None:
        start = int(at * len(FILES[kind]))
        data = FILES[kind][:start] + noise + FILES[kind][start + len(noise) :]
        try:
            decode_picture(data, salvage)
        except PhotoError as error:
            assert error.status.value in {status.value for status in Status}


class TestMessages:
    def test_a_broken_png_is_called_so(self) -> None:
        error = failure(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", bytes(13)) + bytes(50))
        assert error.status is Status.BROKEN_IMAGE and "PNG of" in str(error)

    def test_an_empty_file(self) -> None:
        error = failure(b"")
        assert error.status is Status.EMPTY_FILE
        assert str(error) == "the file has 0 bytes; copy the photo again from its source"

    def test_load_picture_names_the_file(self, tmp_path) -> None:
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(PhotoError, match=r"a\.png cannot be decoded: the file has 0 bytes"):
            load_picture(tmp_path / "a.png")

"""A photo becomes upright pixels and positions, or the reason why not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, TiffImagePlugin

from locdiffusion.photos.archive import Sample
from locdiffusion.photos.exif import exif_position, read_gps, upright
from locdiffusion.photos.photo import PhotoError, PhotoRecord, decode_photo, open_image
from schemas.geotags import ErrorRow, Status
from schemas.samples import Truth
from support.archives import bad_members, encode, huge_png, photo, truth
from support.fake_geotagger import FakeGeotagger


def decode(image: bytes, metadata: bytes | None = None) -> PhotoRecord | ErrorRow:
    return decode_photo(Sample("k", image, metadata), FakeGeotagger().preprocess)


@pytest.mark.parametrize(
    "name", ["half_jpeg", "text", "empty", "huge", "large", "broken_json", "far"]
)
def test_bad_photos(name: str) -> None:
    members, status = bad_members()[name]
    result = decode(members[0][1], members[1][1] if len(members) > 1 else None)
    assert isinstance(result, ErrorRow) and result.status.value == status and result.message


def test_a_huge_png_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    for size in ((30_000, 30_000), (12_000, 11_000)):
        with pytest.raises(PhotoError, match="scale the photo down"):
            open_image(huge_png(*size))


def test_other_formats_are_not_parsed() -> None:
    with pytest.raises(PhotoError, match="none of JPEG, PNG, WebP"):
        open_image(encode(Image.new("RGB", (4, 4)), "GIF"))


def test_a_preprocessing_that_fails_costs_one_photo() -> None:
    def fail(image: Image.Image) -> np.ndarray:
        raise ValueError("odd shape")

    result = decode_photo(Sample("k", photo(1)), fail)
    assert isinstance(result, ErrorRow) and result.status is Status.BROKEN_IMAGE


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP"]),
    at=st.floats(0, 0.999),
    noise=st.binary(min_size=1, max_size=8),
)
def test_damaged_photos_never_raise(kind: str, at: float, noise: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = photo(3, kind=kind, exif=exif)
    start = int(at * len(data))
    result = decode(data[:start] + noise + data[start + len(noise) :])
    assert isinstance(result, PhotoRecord | ErrorRow)


def test_a_huge_jpeg_is_decoded_at_reduced_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locdiffusion.photos.photo.REDUCE_ABOVE_PIXELS", 1000)
    monkeypatch.setattr("locdiffusion.photos.photo.REDUCED_SIDE", 60)
    image, _ = open_image(photo(1, (500, 300)))
    assert image.size == (125, 75)


def test_orientation_is_applied() -> None:
    stored = Image.new("RGB", (40, 20), "red")
    stored.paste("blue", (0, 0, 20, 20))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(stored, "PNG", exif=exif)
        wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        found = open_image(data)[0]
        assert found.tobytes() == wanted.tobytes()
        assert upright(found).tobytes() == wanted.tobytes(), "turned a second time"


def test_a_broken_exif_block_costs_the_photo_nothing() -> None:
    image = Image.new("RGB", (4, 2), "red")
    image.info["exif"] = b"Exif\0\0MM\0*\0\0"
    with pytest.raises(Exception, match=r".*"):
        ImageOps.exif_transpose(image)
    assert upright(image) is image and exif_position(image) is None


def gps_photo(latitude: tuple[float, ...], longitude: tuple[float, ...], letters: str) -> bytes:
    exif = Image.Exif()
    exif[0x8825] = {1: letters[0], 2: latitude, 3: letters[1], 4: longitude}
    return photo(1, exif=exif)


def test_exif_position() -> None:
    image = gps_photo((52.0, 31.0, 8.1), (13.0, 24.0, 1.0584), "NW")
    result = decode(image, truth(1, 2))
    assert isinstance(result, PhotoRecord) and result.exif is not None
    assert result.exif.latitude == pytest.approx(52.518917, abs=1e-6)
    assert result.exif.longitude == pytest.approx(-13.400294, abs=1e-6)
    assert result.truth == Truth(1, 2)


RATIONAL = TiffImagePlugin.IFDRational


@pytest.mark.parametrize(
    "gps",
    [
        {},
        {1: "N", 2: (1.0, 2.0, 3.0)},
        {1: "N", 2: (1.0, 2.0, 3.0), 3: "E", 4: (1.0, 2.0)},
        {1: "N", 2: (RATIONAL(1, 0), 2.0, 3.0), 3: "E", 4: (1.0, 2.0, 3.0)},
        {1: "N", 2: (RATIONAL(0, 0), RATIONAL(0, 0), RATIONAL(0, 0)), 3: "E", 4: (1.0, 2.0, 3.0)},
        {1: "X", 2: (1.0, 2.0, 3.0), 3: "E", 4: (1.0, 2.0, 3.0)},
        {1: "N", 2: (91.0, 2.0, 3.0), 3: "E", 4: (1.0, 2.0, 3.0)},
        {1: "N", 2: (-1.0, 2.0, 3.0), 3: "E", 4: (1.0, 2.0, 3.0)},
        {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)},
        {1: 5, 2: "text", 3: b"\xff", 4: None},
        {1: "N", 2: ("a", "b", "c"), 3: "E", 4: (1.0, 2.0, 3.0)},
    ],
)
def test_a_position_that_makes_no_sense_is_none(gps: dict) -> None:
    assert read_gps(gps) is None


def test_references_may_be_bytes() -> None:
    gps = {1: b"S\0", 2: (1.0, 30.0, 0.0), 3: b"W", 4: (2.0, 0.0, 36.0)}
    assert read_gps(gps) == Truth(-1.5, -2.01)

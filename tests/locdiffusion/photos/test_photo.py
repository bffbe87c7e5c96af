"""A photo becomes upright pixels and positions, or the reason why not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from locdiffusion.photos.archive import Sample
from locdiffusion.photos.exif import upright
from locdiffusion.photos.photo import PhotoRecord, decode_photo, open_image
from locdiffusion.photos.sidecar import read_sidecar
from schemas.geotags import ErrorRow, Status
from support.archives import bad_members, encode, photo
from support.fake_geotagger import FakeGeotagger


def decode(image: bytes, metadata: bytes | None = None) -> PhotoRecord | ErrorRow:
    sidecar = None if metadata is None else read_sidecar("k.json", metadata)
    return decode_photo(Sample("k", image, metadata, sidecar), FakeGeotagger().preprocess)


@pytest.mark.parametrize("name", ["half_jpeg", "text", "empty", "huge", "large"])
def test_bad_photos(name: str) -> None:
    members, status = bad_members()[name]
    result = decode(members[0][1])
    assert isinstance(result, ErrorRow) and result.status.value == status and result.message


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


def test_salvage_reaches_the_picture() -> None:
    data = photo(1, (300, 200))
    for salvage, kind in ((False, ErrorRow), (True, PhotoRecord)):
        sample = Sample("k", data[: len(data) * 3 // 4])
        assert isinstance(decode_photo(sample, FakeGeotagger().preprocess, True, salvage), kind)


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
    assert upright(image) is image

"""Photos as they lie in a shard: upright, small, encoded once, nothing of the camera in them."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from pipelines.build_shards.candidates import encoded_photos
from pipelines.build_shards.encoding import (
    EncodedPhoto,
    Encoding,
    EncodingError,
    encode,
    encode_isolated,
)
from pipelines.sources.download import FetchError, FetchSettings
from pipelines.sources.record import Drop, ImageRef, Record
from schemas.training import DropReason
from support.archives import encode as as_bytes
from support.archives import huge_png
from support.flickr import picture

HOW = Encoding(image_size=48, quality=90, min_size=16)


def opened(encoded: EncodedPhoto) -> Image.Image:
    image = Image.open(io.BytesIO(encoded.jpeg))
    assert image.format == "JPEG" and image.mode == "RGB"
    assert image.size == (encoded.width, encoded.height)
    return image


def gradient(size: tuple[int, int]) -> Image.Image:
    return Image.open(io.BytesIO(picture(3, size))).convert("RGB")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((96, 72), (64, 48)),
        ((72, 96), (48, 64)),
        ((48, 48), (48, 48)),
        ((47, 90), (47, 90)),  # never enlarged
        ((500, 333), (72, 48)),
        ((5000, 50), (4800, 48)),
    ],
)
def test_the_shorter_side_has_the_size_asked_for(before: tuple, after: tuple) -> None:
    encoded = encode(as_bytes(gradient(before), "PNG"), HOW)
    assert (encoded.width, encoded.height) == after
    opened(encoded)


def test_a_photo_is_encoded_once() -> None:
    image = gradient((96, 72))
    once = as_bytes(image.resize((64, 48), Image.Resampling.BICUBIC), "JPEG", quality=90)
    assert encode(as_bytes(image, "PNG"), HOW).jpeg == once


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = as_bytes(gradient((96, 72)), "JPEG", quality=95, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    size = (64, 48) if orientation < 5 else (48, 64)
    encoded = encode(data, HOW)
    assert (encoded.width, encoded.height) == size
    wanted = np.asarray(upright.resize(size, Image.Resampling.BICUBIC), np.int16)
    assert np.abs(np.asarray(opened(encoded), np.int16) - wanted).mean() < 4


def full_of_secrets(kind: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "SECRET artist"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    more = {"exif": exif, "icc_profile": b"SECRET profile", "xmp": b"<x>SECRET packet</x>"}
    if kind == "JPEG":
        more["comment"] = b"SECRET comment"
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("comment", "SECRET text")
        more = {**more, "pnginfo": text}
        del more["xmp"]
    data = as_bytes(gradient((40, 30)), kind, **more)
    assert b"SECRET" in data
    return data


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("image_size", [20, 100], ids=["scaled", "as it is"])
def test_nothing_is_left_of_what_the_camera_wrote(kind: str, image_size: int) -> None:
    encoded = encode(full_of_secrets(kind), replace(HOW, image_size=image_size))
    assert b"SECRET" not in encoded.jpeg and b"Exif" not in encoded.jpeg
    image = opened(encoded)
    assert not image.getexif() and set(image.info) <= {
        "jfif",
        "jfif_version",
        "jfif_unit",
        "jfif_density",
    }


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "I;16", "1"])
def test_other_modes_become_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = gradient((96, 72)).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    opened(encode(as_bytes(image, kind), HOW))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (as_bytes(gradient((200, 15)), "PNG"), DropReason.TOO_SMALL),
        (b"", DropReason.BROKEN_IMAGE),
        (b"<html>not found</html>", DropReason.BROKEN_IMAGE),
        (picture(1, (300, 200))[:2000], DropReason.BROKEN_IMAGE),
        (huge_png(30_000, 30_000), DropReason.TOO_LARGE),
        (huge_png(12_000, 11_000), DropReason.TOO_LARGE),
        (as_bytes(Image.new("RGB", (64, 64)), "PPM"), DropReason.BROKEN_IMAGE),
    ],
    ids=["small", "empty", "page", "cut", "bomb", "large", "ppm"],
)
def test_photos_that_are_dropped(data: bytes, reason: DropReason) -> None:
    with pytest.raises(EncodingError) as caught:
        encode(data, HOW)
    assert caught.value.reason is reason and str(caught.value)


def test_a_photo_just_large_enough_stays() -> None:
    assert encode(as_bytes(gradient((16, 99)), "PNG"), HOW).width == 16


def test_the_digest_is_that_of_the_source_and_encoding_repeats() -> None:
    data = picture(5, (96, 72))
    one, two = encode(data, HOW), encode(data, HOW)
    assert one == two and one.sha256 == hashlib.sha256(data).hexdigest()
    assert encode(data, replace(HOW, quality=30)).jpeg != one.jpeg


# Several at a time


def listed(count: int) -> list[Record]:
    return [
        Record(str(i), "5@N00", 1.0, 2.0, "mp16", ImageRef("url", str(i))) for i in range(count)
    ]


def test_photos_come_in_order_and_few_are_held() -> None:
    """However long single ones take; what is fetched ahead is bounded."""
    asked, lock, done = [], threading.Lock(), 0
    ahead = 0

    def read(ref: ImageRef, settings: FetchSettings) -> bytes:
        nonlocal ahead
        with lock:
            asked.append(int(ref.url))
            ahead = max(ahead, len(asked) - done)
        time.sleep(0.002 * (int(ref.url) % 5))
        return picture(int(ref.url))

    keys = []
    for record, photo in encoded_photos(listed(40), HOW, FetchSettings(connections=4), read):
        assert isinstance(photo, EncodedPhoto)
        assert photo.sha256 == hashlib.sha256(picture(int(record.key))).hexdigest()
        keys.append(record.key)
        done += 1
    assert keys == [str(i) for i in range(40)]
    assert ahead <= 2 * 4 + 4


def test_a_photo_that_fails_costs_itself_alone() -> None:
    def read(ref: ImageRef, settings: FetchSettings) -> bytes:
        if ref.url == "1":
            raise FetchError(DropReason.NO_IMAGE, "gone")
        if ref.url == "3":
            raise FetchError(DropReason.FETCH_FAILED, "<socket object at 0x7f00DEADbeef>: refused")
        return b"no picture" if ref.url == "2" else picture(9)

    results = list(encoded_photos(listed(5), HOW, FetchSettings(connections=2), read))
    drops = {record.key: result for record, result in results if isinstance(result, Drop)}
    assert {key: drop.reason.value for key, drop in drops.items()} == {
        "1": "no_image",
        "2": "broken_image",
        "3": "fetch_failed",
    }
    # An address in memory is another one in each run.
    assert drops["3"].detail == "<socket object>: refused"


def test_a_mistake_of_ours_is_not_taken_for_one_of_the_photo() -> None:
    def read(ref: ImageRef, settings: FetchSettings) -> bytes:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        list(encoded_photos(listed(5), HOW, FetchSettings(connections=2), read))


@pytest.mark.parametrize(
    "data",
    [
        as_bytes(gradient((500, 400)), "PNG"),
        as_bytes(gradient((30, 40)), "PNG"),
        as_bytes(gradient((90, 80)), "PNG")[:200],
        b"text",
        b"",
    ],
)
def test_a_child_process_encodes_the_same(data: bytes) -> None:
    found = []
    for function in (encode, encode_isolated):
        try:
            found.append(function(data, HOW))
        except EncodingError as error:
            found.append((error.reason, str(error)))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]\n\xff\xd8",
        b'{"reason": "fine", "detail": ""}\n',
        b'{"width": -1, "height": 1, "dhash": 0}\n\xff\xd8',
        b'{"width": 1, "height": 1, "dhash": 1e400}\n\xff\xd8',
        b'{"width": 1, "height": 1, "dhash": 0}\ntext',
    ],
)
def test_an_answer_of_a_child_is_not_believed(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.build_shards.encoding.call", lambda *_: answer)
    with pytest.raises(EncodingError, match="its decoder crashed"):
        encode_isolated(b"", HOW)

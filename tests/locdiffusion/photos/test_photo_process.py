"""Photos decoded in a child process are those decoded here; what a photo does there stays there."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from locdiffusion.isolation import Limits
from locdiffusion.model.preprocessing import EncoderSpec
from locdiffusion.photos import photo_process
from locdiffusion.photos.archive import Sample
from locdiffusion.photos.coordinates import Reading, Source
from locdiffusion.photos.photo import PhotoRecord, decode_photo, decoded
from locdiffusion.photos.photo_process import IsolatedDecoder, isolated
from locdiffusion.photos.picture import PhotoError
from schemas.geotags import ErrorRow, Status
from schemas.samples import Truth
from support import child_decoders, python_path
from support.fake_pixels import pixels
from support.gps_photos import forms, gps_photo
from support.picture_files import SAVES, heic, jpeg_header, picture_file, scene

SPEC = EncoderSpec("tiny", 4, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
HERE = np.zeros((8, 8, 3), np.uint8)

FILES: dict[str, bytes] = {
    **{kind: picture_file(kind) for kind in SAVES},
    "heic": heic() or b"",
    **{f"position in {name}": gps_photo(form) for name, form in list(forms().items())[::50]},
    "grey of 16 bits": picture_file("png", Image.new("I;16", (40, 30), 999)),
    "broken off": picture_file("png", scene((300, 200)))[:-2000],
    "no picture": b"<html>",
    "text that is no UTF-8": b"\xff\xfe" + bytes(range(128, 255)),
    "too large": jpeg_header(65_000, 65_501),
    "damaged": picture_file("webp")[:40] + bytes(500),
}


@pytest.mark.parametrize("salvage", [False, True])
@pytest.mark.parametrize("kind", FILES)
def test_gives_what_the_reference_gives(kind: str, salvage: bool) -> None:
    sample = Sample("k", FILES[kind])
    here = decode_photo(sample, SPEC.preprocess, True, salvage)
    there = decode_photo(sample, SPEC.preprocess, True, salvage, isolated)
    assert type(there) is type(here)
    if isinstance(here, ErrorRow):
        assert there == here
        return
    assert isinstance(there, PhotoRecord)
    np.testing.assert_array_equal(there.pixels, here.pixels)
    assert (there.known, there.thumbnail) == (here.known, here.thumbnail)
    assert there.thumbnail is not None


@pytest.mark.parametrize(
    ("does", "status", "told"),
    [
        ("burn", Status.TOO_SLOW, "more than 0.3 s of CPU time; scale the photo down"),
        ("eat", Status.TOO_LARGE, "scale the photo down"),
        ("eat C memory", Status.TOO_LARGE, "scale the photo down"),
        ("crash", Status.BROKEN_IMAGE, "its decoder crashed (it ended with signal 11); copy"),
        ("raise", Status.BROKEN_IMAGE, "cannot be preprocessed (ValueError: no use for it)"),
    ],
)
def test_a_photo_that_does_harm_is_an_error_and_the_next_is_decoded(
    does: str, status: Status, told: str
) -> None:
    decode = IsolatedDecoder(Limits(memory_bytes=100 * 2**20, cpu_s=0.3))
    harm, good = (
        picture_file("bmp", Image.new("RGB", size))
        for size in ((child_decoders.HARM[does], 1), (90, 60))
    )
    for _ in range(2):
        with pytest.raises(PhotoError) as raised:
            decode(harm, child_decoders.harmful)
        assert raised.value.status is status and told in str(raised.value)
        np.testing.assert_array_equal(
            decode(good, child_decoders.harmful).pixels, decoded(good, pixels).pixels
        )


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [8, 8, 4]},
        {"shape": [4, 16, 3]},
        {"shape": None},
        {"thumbnail": 10**9},
        {"thumbnail": -1},
        {"thumbnail": "1"},
        {"position": [91.0, 0.0]},
        {"position": [float("nan"), 0.0]},
        {"position": [1.0, 2.0, 3.0]},
        {"source": "elsewhere"},
        {"camera": "serial 1234"},
        {"time": ["2024-05-17T12:30:05", "elsewhere", None]},
        {"time": ["2024-05-17T12:30:05+02:00", "gps", 0]},
        {"time": ["0001-01-01T00:00:00", "gps", 0]},
        {"time": ["2024-05-17T12:30:05", "gps", 10**9]},
        {"time": []},
        {"status": "fine"},
        {"status": "shard_corrupt", "message": ""},
        {"status": "broken_image"},
        {"status": ["broken_image"]},
    ],
)
def test_an_answer_that_is_none_is_a_crash(change: dict) -> None:
    header = {"shape": [8, 8, 3], "thumbnail": None, "position": [1.0, 2.0], "source": "exif"}
    header |= {"problem": "", "camera": "0123456789ab"}
    header["time"] = ["2024-05-17T12:30:05.250000", "exif_original", 120]

    def answer(header: object) -> bytes:
        text = json.dumps(header).encode()
        return struct.pack("<I", len(text)) + text + HERE.tobytes()

    sound = photo_process.read_answer(answer(header), HERE)
    assert sound.own == Reading(Truth(1.0, 2.0), Source.EXIF)
    assert str(sound.capture.time) == "2024-05-17T12:30:05.250000+02:00"
    assert sound.capture.camera == "0123456789ab"
    for data in (answer(header | change), answer([header]), b"", b"\xff\xff\xff\xff{}"):
        with pytest.raises(PhotoError, match="its decoder crashed") as raised:
            photo_process.read_answer(data, HERE)
        assert raised.value.status is Status.BROKEN_IMAGE


def test_a_child_imports_no_torch_and_little_else() -> None:
    heavy = child_decoders.modules().intersection({"torch", "fsspec", "scipy", "apache_beam"})
    assert not heavy


def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = "from support.child_decoders import tell_and_wait; tell_and_wait()"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=python_path(), text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.kill()
    parent.wait()
    for _ in range(2000):
        if not _runs(child):
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    pytest.fail("an orphan stays")


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_memory_of_a_large_photo_is_given_back() -> None:
    decode = IsolatedDecoder()
    large = picture_file("png", Image.new("RGB", (9000, 9000)))
    small = picture_file("jpeg")
    before = child_decoders.resident(decode, small)
    assert decode(large, child_decoders.resident_pixels).pixels.shape == (1, 8, 3)
    assert child_decoders.resident(decode, small) < before + 100 * 2**20


def test_the_fields_of_a_message_are_bounded() -> None:
    with pytest.raises(PhotoError) as raised:
        isolated(picture_file("jpeg"), child_decoders.talkative)
    assert len(str(raised.value)) <= photo_process.MOST_TEXT

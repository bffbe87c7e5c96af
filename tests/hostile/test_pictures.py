"""Pictures that cost a careless decoder gigabytes or hours cost little here, and end as one row."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from locdiffusion.photos import picture
from locdiffusion.photos.decoding_cost import excess, needed_bytes
from locdiffusion.photos.exif import upright
from locdiffusion.photos.image_formats import AVIF, BMP, HEIF, JPEG, PNG, TIFF
from locdiffusion.photos.picture import MAX_DECODING_BYTES, PhotoError, decode_picture
from locdiffusion.photos.positions import own_position
from support import ROOT
from support.hostile.pictures import (
    PICTURES,
    fields,
    gif_extensions,
    iso_boxes,
    jp2_boxes,
    jpeg_run,
    jpeg_segments_without_end,
    jpeg_tiny_exif,
    png_empty_parts,
    tiff,
    webp_chunks,
)
from support.picture_files import SAVES, jpeg_header, jpeg_with, picture_file, scene
from support.tiff_blocks import berlin

MAX_MIB = 1300
"""Most memory of a photo, above that of the process at rest."""

MAX_CPU_SECONDS = 30

DECODED = "decoded"
OUTCOMES = {
    DECODED: """
        png_text_exif png_exif png_profile png_texts png_xmp_elements jpeg_joined_exif
        jpeg_tiny_exif jpeg_profile jpeg_run webp_exif webp_frames webp_chunks gif_frames tiff_tags
        tiff_packed_tags tiff_unknown_numbers tiff_chain j2k_large jp2_boxes avif_exif
        avif_exif_shared avif_sequence avif_film_exif avif_decoy heic_exif heic_exif_shared
    """,
    "too_slow": """
        png_empty_parts jpeg_scans jpeg_small_scans jpeg_sequential_scans jpeg_arithmetic
        jpeg_gigapixels jpeg_segments_without_end jpeg_tables gif_parts gif_extensions bmp_runs
        bmp_steps tiff_numbers tiff_shared_strips tiff_tile j2k_blocks j2k_precincts j2k_layers
        j2k_tiles j2k_components jp2_components j2k_markers avif_grid avif_boxes heic_grid
        heic_overlay heic_boxes
    """,
    "too_large": "webp_large",
}
"""How each file ends, by its stem; of others that depends on the version of a library."""

_CHILD = """
import json, resource, sys, time
from pathlib import Path
from PIL import Image
from locdiffusion.model.preprocessing import EncoderSpec
from locdiffusion.photos.archive import Sample
from locdiffusion.photos.photo import decode_photo
from support.archives import photo
from support.picture_files import SAVES, heic, picture_file

encoder = EncoderSpec("x", 8, 224, (0.5,) * 3, (0.5,) * 3)

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith(name))

for usual in [*map(picture_file, SAVES), heic() or photo(1)]:
    decode_photo(Sample("usual", usual), encoder.preprocess, thumbnail=True)
for name in Path(sys.argv[1]).iterdir():
    data = name.read_bytes()
    Path("/proc/self/clear_refs").write_text("5")
    before, start = status("VmRSS"), time.process_time()
    row = decode_photo(Sample(name.name, data), encoder.preprocess, thumbnail=True)
    cpu = time.process_time() - start
    end = getattr(row, "status", None)
    print(json.dumps({
        "name": name.name, "mib": status("VmHWM") - before, "cpu": cpu,
        "end": end.value if end else "decoded", "message": getattr(row, "message", ""),
    }), flush=True)
"""


class Cost(NamedTuple):
    """What a picture cost, and how it ended."""

    end: str
    mib: int
    cpu: float
    message: str


def costs(folder: Path, seconds: int) -> dict[str, Cost]:
    """Decodes the files of a folder in a child process, whose CPU time is limited."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_CPU, ({seconds},) * 2)\n"
    child = subprocess.run(
        [sys.executable, "-c", limit + _CHILD, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))},
    )
    rows: list[dict[str, Any]] = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, (rows[-1:], child.stderr)
    return {row.pop("name"): Cost(**row) for row in rows}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cost]:
    folder = tmp_path_factory.mktemp("pictures")
    for name, make in PICTURES.items():
        (folder / name).write_bytes(make())
    return costs(folder, seconds=300)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read as on Linux")
@pytest.mark.slow
class TestCosts:
    @pytest.mark.parametrize("name", PICTURES)
    def test_memory_and_work_are_bounded(self, found: dict[str, Cost], name: str) -> None:
        assert found[name].mib <= MAX_MIB and found[name].cpu <= MAX_CPU_SECONDS, found[name]

    @pytest.mark.parametrize("end", OUTCOMES)
    def test_ends_as_one_row_that_says_why(self, found: dict[str, Cost], end: str) -> None:
        stems = OUTCOMES[end].split()
        there = {name: cost for name, cost in found.items() if name.partition(".")[0] in stems}
        assert {name: cost for name, cost in there.items() if cost.end != end} == {}
        for cost in there.values():
            assert end == DECODED or ("; " in cost.message and len(cost.message) < 400)


def jpeg_frame(width: int, height: int, marker: int, scans: int) -> bytes:
    """A JPEG of three colours with the heads of its scans, but without their data."""
    data = jpeg_header(width, height, marker)
    start = data.index(b"\xff\xda")
    head = data[: start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")]
    return head + head[start:] * (scans - 1) + b"\xff\xd9"


class TestHonestPictures:
    """What cameras and programs write is far from every limit."""

    @pytest.mark.parametrize(
        ("size", "marker", "scans"),
        [((16_320, 12_240), 0xC0, 1), ((11_600, 8_700), 0xC2, 20), ((16_320, 12_240), 0xC2, 10)],
    )
    def test_jpegs_of_hundreds_of_megapixels(
        self, size: tuple[int, int], marker: int, scans: int
    ) -> None:
        data = jpeg_frame(*size, marker, scans)
        assert excess(JPEG, data) == ""
        assert needed_bytes(JPEG, size, data) < MAX_DECODING_BYTES

    def test_a_tiff_of_16_bits_and_a_hundred_megapixels(self) -> None:
        wide = [one for one in fields(12_000, 8_400) if one[0] not in (258, 277)]
        strips = [(273, 4, 1, 8), (278, 4, 1, 8_400), (279, 4, 1, 2**25)]
        data = tiff([*wide, (258, 3, 1, 16), (277, 3, 1, 3), *strips], bytes(2**20))
        assert excess(TIFF, data) == ""
        assert needed_bytes(TIFF, (12_000, 8_400), data) < MAX_DECODING_BYTES

    def test_a_hundred_megapixels_in_other_formats(self) -> None:
        for kind in (PNG, HEIF, AVIF, BMP):
            assert needed_bytes(kind, (12_000, 8_400), b"") < MAX_DECODING_BYTES, kind

    def test_a_geotiff_with_large_tables(self) -> None:
        image = scene((64, 48))
        points = tuple(float(n) for n in range(6 * 5_000))
        tags = {33922: points, 34735: tuple(range(2_000)), 42112: "<x/>" * 20_000}
        data = picture_file("lzw tiff", image, tiffinfo=tags)
        assert decode_picture(data).tobytes() == image.tobytes()

    @pytest.mark.parametrize("kind", SAVES)
    def test_metadata_changes_no_pixel(self, kind: str) -> None:
        image = scene((80, 64)).quantize() if kind == "gif" else scene((80, 64))
        more: dict[str, Any] = {"exif": berlin()}
        if kind in ("tiff", "lzw tiff"):
            more = {"tiffinfo": {270: "x" * 70_000, 700: b"<x/>"}, "big_tiff": kind == "tiff"}
        elif kind in ("gif", "bmp", "jp2", "j2k"):
            more = {"comment": b"x" * 2_000} if kind != "bmp" else {}
        data = picture_file(kind, image, **more)
        with Image.open(io.BytesIO(data)) as wanted:
            found = decode_picture(data)
            assert (found.mode, found.tobytes()) == (wanted.mode, wanted.tobytes())

    def test_metadata_of_a_wrong_length(self) -> None:
        data = jpeg_with((0xE1, b"Exif\0\0" + bytes(40)), (0xED, b"Photoshop 3.0\0" + bytes(50)))
        at = data.index(b"Photoshop") + 30
        data = data[:at] + b"between" + data[at:]
        assert decode_picture(data).tobytes() == decode_picture(jpeg_with()).tobytes()

    def test_a_strip_of_a_wrong_length(self) -> None:
        strip = [(273, 4, 1, 8), (278, 4, 1, 64), (279, 4, 1, 2**25)]
        assert decode_picture(tiff(fields(64, 64) + strip, bytes(4096))).size == (64, 64)

    def test_tiles_of_a_tiff(self) -> None:
        side, pixels = 32, bytes(range(256)) * 16
        tiles = [pixels[at : at + side * side] for at in range(0, len(pixels), side * side)]
        starts = [8 + 1024 * n for n in range(4)]
        body = b"".join(tiles) + struct.pack("<8I", *starts, *[1024] * 4)
        lists = [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 4, 4104), (325, 4, 4, 4120)]
        found = decode_picture(tiff(fields(64, 64) + lists, body))
        assert found.crop((0, 0, side, side)).tobytes() == tiles[0]
        assert found.crop((side, side, 64, 64)).tobytes() == tiles[3]

    def test_a_large_jpeg_2000_is_decoded_at_half_its_size(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("locdiffusion.photos.picture.REDUCE_ABOVE_BYTES", 1_000)
        for kind in ("jp2", "j2k"):
            assert decode_picture(picture_file(kind)).size == (48, 32)

    def test_a_turned_tiff_is_turned_once(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        image = scene((64, 48))
        for kind in ("tiff", "lzw tiff"):
            found = decode_picture(picture_file(kind, image, exif=exif))
            assert found.tobytes() == image.tobytes()
            assert upright(found).tobytes() == image.transpose(Image.Transpose.ROTATE_270).tobytes()


class TestWork:
    """Work grows with the bytes of a file, and not with their square."""

    @pytest.mark.parametrize(
        "make",
        [
            lambda n: jpeg_run(n),
            lambda n: jpeg_tiny_exif(n // 4),
            lambda n: jpeg_segments_without_end(n // 4),
            lambda n: png_empty_parts(n // 12),
            lambda n: webp_chunks(n // 8),
            lambda n: gif_extensions(n // 4),
            lambda n: iso_boxes(b"avif", n // 8),
            lambda n: jp2_boxes(n // 8),
        ],
    )
    def test_twice_the_bytes_are_at_most_twice_the_lines(
        self, make: Callable[[int], bytes]
    ) -> None:
        once, twice = (lines_run(make(n)) for n in (20_000, 40_000))
        assert twice <= 2.5 * once + 1000

    def test_what_was_decoded_is_let_go_of_before_it_is_decoded_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = []

        def opened(kind: str, data: bytes) -> Image.Image:
            image = real(kind, data)
            first.append(weakref.ref(image))
            return image

        real = picture._opened
        monkeypatch.setattr(picture, "_opened", opened)
        monkeypatch.setattr(picture, "_rescued", lambda *_: first.append(first[0]()))
        for name in ("png", "jpeg"):
            data = picture_file(name, scene((200, 100)))
            with pytest.raises(PhotoError, match="gives no picture"):
                decode_picture(data[: len(data) * 3 // 4])
            assert first.pop() is None and first.pop() is not None

    def test_what_is_refused_is_not_decoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
        for name in ("jpeg_scans.jpg", "jpeg_gigapixels.jpg", "bmp_steps.bmp", "tiff_tile.tif"):
            with pytest.raises(PhotoError, match="too long to decode"):
                decode_picture(PICTURES[name]())


def lines_run(data: bytes) -> int:
    """Counts the lines of Python and the calls that decoding takes."""
    count = 0

    def trace(*_: object) -> object:
        nonlocal count
        count += 1
        return trace

    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        with contextlib.suppress(PhotoError):
            decode_picture(data)
        own_position(data)
    finally:
        sys.settrace(None)
    return count

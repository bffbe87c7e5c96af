"""What a file is, is told by its content; what cannot be read says what would read it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from locdiffusion.photos import image_formats
from locdiffusion.photos.image_formats import (
    HEIF_REMEDY,
    PLUGINS,
    image_format,
    missing_readers,
    other_contents,
    readable_formats,
    unreadable_endings,
)
from locdiffusion.photos.picture import PhotoError, decode_picture
from schemas.geotags import Status
from schemas.samples import IMAGE_EXTENSIONS
from support.picture_files import SAVES, heic, picture_file


@pytest.mark.parametrize("kind", SAVES)
def test_a_format_is_known_by_its_content(kind: str) -> None:
    wanted = "JPEG" if kind == "mpo" else SAVES[kind][0]
    assert image_format(picture_file(kind)) == wanted


@pytest.mark.parametrize(
    ("brands", "wanted"),
    [
        (b"heic\0\0\0\0mif1", "HEIF"),
        (b"mif1\0\0\0\0mif1heic", "HEIF"),
        (b"mif1\0\0\0\0miafavif", "AVIF"),
        (b"avis\0\0\0\0msf1", "AVIF"),
        (b"msf1\0\0\0\0hevc", "HEIF"),
        (b"mp42\0\0\0\0isomavc1", None),
        (b"qt  \0\0\0\0qt  ", None),
    ],
)
def test_brands_of_iso_files(brands: bytes, wanted: str | None) -> None:
    assert image_format(bytes((0, 0, 0, 8 + len(brands))) + b"ftyp" + brands + bytes(99)) == wanted


FOREIGN = {
    "a RAW file of Canon (CR2)": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(99), Status.NO_READER),
    "a RAW file of Canon (CR3)": (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", Status.NO_READER),
    "a RAW file": (b"FUJIFILMCCD-RAW 0201" + bytes(99), Status.NO_READER),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), Status.NO_READER),
    "a drawing (SVG)": (b'<?xml version="1.0"?>\n<svg xmlns="...">', Status.NO_READER),
    "a picture of a kind": (b"P6\n# made by hand\n40 30\n255\n" + bytes(99), Status.NO_READER),
    "a web page": (b"\n<!DOCTYPE HTML><html>404 not found</html>", Status.NOT_AN_IMAGE),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1", Status.NOT_AN_IMAGE),
    "a PDF": (b"%PDF-1.7 and the rest of it", Status.NOT_AN_IMAGE),
    "a video": (b"\0\0\0\x20ftypqt  \0\0\0\0qt  \0\0\0\0", Status.NOT_AN_IMAGE),
    "notes of macOS": (b"\0\5\x16\7\0\2\0\0Mac OS X        ", Status.NOT_AN_IMAGE),
    "damaged: a JPEG begins at byte 1": (b"\n\xff\xd8\xff\xe0" + bytes(99), Status.NOT_AN_IMAGE),
    "nothing but zeros": (bytes(5000), Status.NOT_AN_IMAGE),
    "too short": (b"\xff", Status.NOT_AN_IMAGE),
    "text": (b"access denied, sign in first", Status.NOT_AN_IMAGE),
    "none of JPEG, PNG": (bytes(range(1, 30)), Status.NOT_AN_IMAGE),
}


@pytest.mark.parametrize("found", FOREIGN)
def test_other_files_are_called_what_they_are(found: str) -> None:
    data, status = FOREIGN[found]
    contents = other_contents(data)
    assert contents.status is status and contents.found.startswith(found)
    with pytest.raises(PhotoError) as error:
        decode_picture(data)
    assert error.value.status is status and contents.remedy in str(error.value)


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither pi-heif is installed, nor the parts of Pillow that may be missing."""

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(image_formats.importlib, "import_module", missing)
    monkeypatch.setattr(image_formats.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delattr(image_formats.Image.core, "jpeg2k_decoder")
    missing_readers.cache_clear()
    yield
    monkeypatch.undo()
    missing_readers.cache_clear()


@pytest.mark.usefixtures("without_packages")
def test_formats_without_a_reader_name_the_remedy() -> None:
    files = {kind: picture_file(kind) for kind in ("jpeg", "png", "tiff", "gif", "bmp")}
    assert all(image_format(data) in readable_formats() for data in files.values())
    assert set(missing_readers()) == {"HEIF", "AVIF", "WEBP", "JPEG2000"}
    assert unreadable_endings()["hif"] == unreadable_endings()["heic"] == HEIF_REMEDY
    assert set(unreadable_endings()) <= set(IMAGE_EXTENSIONS)
    for head in (b"\0\0\0\x18ftypheic", b"\0\0\0\x18ftypavif", b"RIFFaaaaWEBPVP8 "):
        with pytest.raises(PhotoError, match="pip install") as error:
            decode_picture(head + bytes(100))
        assert error.value.status is Status.NO_READER


def test_a_full_installation_reads_every_format() -> None:
    pytest.importorskip("pi_heif")
    assert readable_formats() == tuple(PLUGINS)
    data = heic()
    assert data is None or image_format(data) == "HEIF"

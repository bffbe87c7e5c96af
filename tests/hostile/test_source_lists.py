"""Lists of strangers cost time and memory by their size, and lead to no file outside a folder."""

from __future__ import annotations

import bz2
import os
import sys
import tracemalloc
from pathlib import Path

import pytest

from locdiffusion.photos.storage import DataError, ReadError
from pipelines.build_shards.options import parse
from pipelines.sources import lines, mp16, yfcc100m
from pipelines.sources.download import FetchError, FetchSettings
from pipelines.sources.images import read
from pipelines.sources.lines import MAX_LINE_BYTES, read_lines
from pipelines.sources.record import MAX_KEY_CHARACTERS, Drop, ImageRef, Record
from schemas.training import MAX_LINE_CHARACTERS, DropReason
from support.flickr import make_photos, places365_line, yfcc100m_line
from support.hostile.sources import SECRET

PHOTO = make_photos(1)[0]


_Decompressor = bz2.BZ2Decompressor


class Counting:
    """Counts the bytes that decompressors are given."""

    given = 0

    def __init__(self) -> None:
        self._stream = _Decompressor()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def decompress(self, data: bytes, most: int) -> bytes:
        Counting.given += len(data)
        return self._stream.decompress(data, most)


def work(path: Path, streams: int) -> int:
    path.write_bytes(bz2.compress(b"") * streams)
    Counting.given = 0
    assert list(read_lines(str(path))) == []
    return Counting.given


def test_many_short_streams_cost_by_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines.bz2, "BZ2Decompressor", Counting)
    once, twice = (work(tmp_path / "a.bz2", streams) for streams in (4_000, 8_000))
    assert twice <= 2.5 * once
    assert once < 300 * (tmp_path / "a.bz2").stat().st_size


@pytest.mark.parametrize("text", [b"\n", b"a" * 50, b"1,2\n"])
def test_a_list_that_unpacks_without_end_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    monkeypatch.setattr(lines, "_ANY_RATIO_BYTES", 2**16)
    path = tmp_path / "a.bz2"
    path.write_bytes(bz2.compress(text * (2**22 // len(text))))
    taken = 0
    with pytest.raises(ReadError, match="unpacks to more than"):
        for line in read_lines(str(path)):
            taken += len(line) + 1
    assert taken <= 2**16 + 2 * lines.CHUNK


def test_a_list_that_repeats_itself_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.bz2"
    path.write_bytes(bz2.compress(b"".join(b"%d,a,1.5,2.5\n" % i for i in range(50_000))))
    assert sum(1 for _ in read_lines(str(path))) == 50_000


def test_a_line_without_an_end_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.truncate(64 * 2**20)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast")
    tracemalloc.start()
    try:
        first, last = read_lines(str(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(first), last) == (MAX_LINE_BYTES, b"last") and peak < 32 * 2**20


LONG = "x" * (MAX_KEY_CHARACTERS + 1)
ROW = places365_line(PHOTO)
FIELDS = yfcc100m_line(PHOTO, 23, "http://h.example").split("\t")


def with_field(place: int, text: str) -> bytes:
    return "\t".join([*FIELDS[:place], text, *FIELDS[place + 1 :]]).encode()


@pytest.mark.parametrize(
    "row",
    [
        mp16.parse(ROW.replace(PHOTO.img_id, LONG).encode()),
        mp16.parse(ROW.replace(PHOTO.author, LONG).encode()),
        mp16.parse_url(f"{LONG},http://h.example/x.jpg".encode()),
        mp16.parse_url(b"1.jpg,http://h.example/" + b"x" * 10_000),
        yfcc100m.parse(with_field(1, LONG)),
        mp16.parse(b"," * MAX_LINE_BYTES),
        mp16.parse(b'"' * MAX_LINE_BYTES),
        mp16.parse(b'"' + b"\0," * 1000),
        mp16.parse(("9" * 10_000 + ROW).encode()),
    ],
    ids=range(9),
)
def test_fields_without_an_end_cost_their_row(row: object) -> None:
    assert isinstance(row, Drop) and row.reason is DropReason.MALFORMED_ROW
    assert len(row.detail) < 1000 and len(row.line) <= MAX_LINE_CHARACTERS
    assert len(row.key or "") <= MAX_KEY_CHARACTERS


def header_work(columns: int) -> int:
    """Number of times that columns are counted, each of which looks at all of them."""
    header = f"{mp16.HEADER}," + ",".join(f"c{i % 9}" for i in range(columns))
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += getattr(argument, "__name__", "") == "count"

    sys.setprofile(count)
    try:
        with pytest.raises(DataError) as caught:
            mp16.columns_of(header.encode())
    finally:
        sys.setprofile(None)
    assert len(str(caught.value)) < 500
    return calls


def test_a_header_of_many_columns_is_not_counted_column_by_column() -> None:
    assert header_work(2_000) == 0


def test_a_licence_may_be_a_book() -> None:
    record = yfcc100m.parse(with_field(16, "http://h.example/" + "l" * 10_000))
    assert isinstance(record, Record) and len(record.licence or "") == 500


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of images, beside a file that is nobody's business."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.jpg").write_text(SECRET)
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    (images / "deep" / "a.jpg").write_bytes(PHOTO.image)
    (images / "b.jpg").symlink_to("deep/a.jpg")
    (images / "file.jpg").symlink_to(outside / "secret.jpg")
    (images / "up").symlink_to("../outside")
    (images / "ring.jpg").symlink_to("ring.jpg")
    os.mkfifo(images / "pipe.jpg")
    return images


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_links_do_not_lead_out_of_the_folder_of_images(folder: Path, scheme: str) -> None:
    root = f"{scheme}{folder}"
    limits = FetchSettings(within=root)
    for name in ("deep/a.jpg", "b.jpg"):
        assert read(ImageRef("file", f"{root}/{name}"), limits) == PHOTO.image
    for name in ("file.jpg", "up/secret.jpg"):
        with pytest.raises(FetchError, match="--follow-links"):
            read(ImageRef("file", f"{root}/{name}"), limits)
        assert read(ImageRef("file", f"{root}/{name}")) == SECRET.encode()
    for kind in ("msgpack", "tar"):
        with pytest.raises(FetchError, match="--follow-links"):
            read(ImageRef(kind, f"{root}/file.jpg", 1, 2), limits)


def test_pipes_and_rings_of_links_are_not_waited_for(folder: Path) -> None:
    for name in ("pipe.jpg", "ring.jpg"):
        for within in ("", str(folder)):
            with pytest.raises(FetchError):
                read(ImageRef("file", f"{folder}/{name}"), FetchSettings(within=within))


def test_links_are_followed_where_that_is_asked_for() -> None:
    flags = ["--source=mp16", "--input", "a.csv", "--images", "/images", "--output", "out"]
    assert parse(flags).workers.fetch.within == "/images"
    assert parse([*flags, "--follow-links"]).workers.fetch.within == ""

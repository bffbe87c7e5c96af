"""Archives from strangers cost what their size allows, and lose nobody else's photos."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from locdiffusion.isolation import IsolatedFunction, Limits
from locdiffusion.photos import archive, blocks, sidecar, tar
from locdiffusion.photos import zip as zip_reader
from locdiffusion.photos.archive import Sample, ShardReader
from locdiffusion.photos.blocks import Allowance
from locdiffusion.photos.left_out import MOST_KINDS, LeftOut
from locdiffusion.photos.names import MAX_NAME_LENGTH, kind_of, shortened
from locdiffusion.photos.sidecar import read_sidecar
from locdiffusion.photos.xmp import read_xmp
from schemas.geotags import MAX_MESSAGE_LENGTH, ErrorRow, Stage, Status, error_table
from support.archives import photo
from support.hostile import archives as makers
from support.hostile.archives import ARCHIVES, DOCUMENTS

REAL = blocks.UNPACKED, blocks.PARSED
SMALL = Allowance(2**26, 200), Allowance(2**22, 100)
"""As much as is free in tests of zeros and empty files, so that none takes seconds."""

STOPPED = {"shard_corrupt": 1}

ENDS: dict[str, dict[str, int]] = {
    "pax_records.tar.gz": {},
    "pax_header_chain.tar.gz": STOPPED,
    "global_header_chain.tar.gz": STOPPED,
    "long_name_chain.tar.gz": STOPPED,
    "sparse_map_chain.tar.gz": STOPPED,
    "pax_numbers.tar": {"shard_corrupt": 1, "truncated": 1},
    "long_names.tar.gz": {"name_too_long": 60, "missing_image": 1},
    "long_names.zip": {"name_too_long": 60},
    "slow_names.tar": {},
    "one_name_many_times.tar.gz": {"duplicate_key": 4999},
    "documents_of_one_folder.tar.gz": {},
    "links.tar.gz": {"missing_image": 3000 - archive.MOST_LINKS_TO_ONE + 103},
    "zeros_skipped.tar.gz": STOPPED,
    "documents_of_zeros.tar.gz": STOPPED,
    "empty_folders.tar.gz": STOPPED,
    "xz_window.tar.xz": STOPPED,
    "same_bytes.zip": {"broken_image": 1000},
    "quoted_headers.zip": {"broken_image": 999},
    "extra_fields.zip": {},
    "far_offsets.zip": {"broken_image": 1},
    "unreadable_entries.zip": {"too_many_bytes": 1},
    "documents.tar.gz": {},
    "zeros_behind_the_end": STOPPED,
    "zip_of_zeros": {"too_many_bytes": 6},
}
"""Rows of errors of each archive by status."""

SIZES = {"one_name_many_times.tar.gz": 5_000, "zip_of_zeros": 10}
SIZES |= dict.fromkeys(("zeros_skipped.tar.gz", "zeros_behind_the_end"), 2**28)
"""Sizes of archives where they need not be as large as real ones."""


def read_with_little_free(request: bytes) -> bytes:
    """Reads an archive in a child process; returns the items as JSON: key, status, message."""
    path = request.decode()
    little = "zeros" in path or "empty" in path
    for module in (blocks, zip_reader):
        module.UNPACKED, module.PARSED = SMALL if little else REAL  # type: ignore[attr-defined]
    reader = ShardReader(path)
    items = [
        (item.key, "", len(item.image or b""))
        if isinstance(item, Sample)
        else (item.key, item.status, item.message)
        for item in reader
    ]
    return json.dumps([items, reader.left_out.to_dict(), reader.problems]).encode()


@pytest.fixture(scope="module")
def isolated() -> Iterator[IsolatedFunction]:
    function = IsolatedFunction(read_with_little_free, Limits(memory_bytes=256 * 2**20, cpu_s=15))
    yield function
    function.close()


def lines_run(function: Callable[[], object]) -> int:
    """How many lines of Python a call runs."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)
    return count


@pytest.mark.parametrize("name", [*ARCHIVES, "zeros_behind_the_end", "zip_of_zeros"])
def test_an_archive_costs_little_and_the_ordinary_photos_are_read(
    tmp_path: Path, isolated: IsolatedFunction, name: str
) -> None:
    make = ARCHIVES.get(name) or getattr(makers, name)
    path = tmp_path / name
    path.write_bytes(make(SIZES[name]) if name in SIZES else make())
    items, left_out, problems = json.loads(isolated(str(path).encode()))
    keys = [key for key, _, _ in items]
    assert len(set(keys)) == len(keys)
    read = {key for key, status, _ in items if not status}
    assert {"ordinary/1", "ordinary/2"} <= read
    assert all(len(key or "") <= MAX_NAME_LENGTH for key in keys)
    assert len(str(left_out)) < 20_000 and all(len(one) < 2_000 for one in problems)
    rows = [row for row in items if row[1]]
    assert all(len(message) <= MAX_MESSAGE_LENGTH for _, _, message in rows)
    if name in ENDS:
        assert Counter(status for _, status, _ in rows) == ENDS[name]


@pytest.mark.parametrize("make", [makers.one_name_many_times, makers.documents_of_one_folder])
def test_twice_as_many_members_are_twice_as_much_work(
    tmp_path: Path, make: Callable[[int], bytes]
) -> None:
    def lines(count: int) -> int:
        path = tmp_path / str(count)
        path.write_bytes(make(count))
        return lines_run(lambda: list(ShardReader(str(path))))

    lines(10)
    assert lines(400) <= 2.5 * lines(200)


def test_what_sound_archives_hold_is_within_the_limits() -> None:
    """A disk image of zeros, logs, and many small files beside photos."""
    mib = 2**20
    assert not blocks.UNPACKED.exceeded(5 * 2**29, 5 * mib)
    assert not blocks.UNPACKED.exceeded(100 * 2**30, 600 * mib)
    assert blocks.UNPACKED.exceeded(2**40, 2**30)
    assert not blocks.PARSED.exceeded(1_000_000 * 512, 1_000_000 * 20)
    assert blocks.PARSED.exceeded(10_000_000 * 512, 50_000)


def test_a_disk_image_of_zeros_costs_no_photo(tmp_path: Path) -> None:
    image = makers.header("disk.img", 2**27) + bytes(2**27)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(makers.gz(makers.framed(image)))
    assert [item.key for item in ShardReader(str(path))] == ["ordinary/1", "ordinary/2"]


def test_the_message_of_a_stop_says_what_was_found_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "UNPACKED", SMALL[0])
    path = tmp_path / "a.tar.gz"
    path.write_bytes(makers.zeros_skipped(2**28))
    *_, row = ShardReader(str(path))
    assert isinstance(row, ErrorRow) and row.status is Status.SHARD_CORRUPT
    assert "limit 200 to one beyond 67,108,864" in row.message
    assert blocks.IF_TRUSTED in row.message


@pytest.mark.parametrize("compression", ["bz2", "lzma", "zstandard"])
def test_every_compression_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    monkeypatch.setattr(blocks, "UNPACKED", Allowance(2**23, 200))
    compress = pytest.importorskip(compression).compress
    data = makers.ordinary(1) + makers.ordinary(2) + makers.header("a.img", 2**40) + bytes(2**25)
    path = tmp_path / "a.tar"
    path.write_bytes(compress(data))
    first, second, row = ShardReader(str(path))
    assert (first.key, second.key) == ("ordinary/1", "ordinary/2")
    assert isinstance(row, ErrorRow) and "unpack to" in row.message


def test_zeros_without_end_are_not_read_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(makers.ordinary(1) + makers.ordinary(2))
    with path.open("r+b") as file:
        file.truncate(2**40)  # which takes no place
    first, second, row = ShardReader(str(path))
    assert (first.key, second.key) == ("ordinary/1", "ordinary/2")
    assert isinstance(row, ErrorRow) and row.status is Status.SHARD_CORRUPT
    assert "more than 67,108,864 zero bytes follow" in row.message


def test_the_name_in_a_gzip_is_not_read_byte_by_byte() -> None:
    class Counting(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.reads += 1
            return super().read(size)

    packed = gzip.compress(bytes(10))
    file = Counting(packed[:3] + b"\x08" + packed[4:10] + b"n" * 2**20 + b"\0" + packed[10:])
    assert blocks.Blocks(file).read(10) == bytes(10)
    assert file.reads < 1000


def test_xz_streams_one_behind_the_other_are_one(tmp_path: Path) -> None:
    import lzma

    path = tmp_path / "a.tar.xz"
    parts = (makers.ordinary(1), makers.ordinary(2), makers.END)
    path.write_bytes(b"\0\0\0\0".join(map(lzma.compress, parts)) + bytes(8))
    assert [item.key for item in ShardReader(str(path))] == ["ordinary/1", "ordinary/2"]
    path.write_bytes(path.read_bytes()[:-60])
    assert next(reversed(list(ShardReader(str(path))))).status is Status.SHARD_TRUNCATED


def test_a_name_that_is_too_long_is_cut_and_stays_of_its_kind() -> None:
    names = [f"{'n' * 5000}{index}.jpg" for index in range(2)] + ["n" * 5000 + ".json"]
    cut = [shortened(name) for name in names]
    assert len(set(cut)) == 3 and max(map(len, cut)) < 200
    assert [kind_of(name) for name in cut] == [kind_of(name) for name in names]


def test_a_time_that_no_file_can_have_is_not_believed() -> None:
    data = makers.header("a.jpg", mtime=2**80) + makers.header("b.jpg", mtime=2**31) + makers.END
    members = list(tar.read_members(io.BytesIO(data), lambda name: 10))
    assert [member.changed_s for member in members] == [None, 2.0**31]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_understood_or_a_problem(name: str) -> None:
    found = read_sidecar(name, DOCUMENTS[name])
    assert found.position is None or name in ("digits.json", "fraction.json", "repeated.json")
    assert len(found.problem) < 1_000
    found.problem.encode("utf-8")


def test_lists_deeper_than_functions_may_go_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """From Python 3.12 on the parser goes ten times as deep as functions written in Python."""
    value: object = 1.0
    for _ in range(5_000):
        value = [value, 1.0]
    monkeypatch.setattr(sidecar.json, "loads", lambda *_, **__: {"latitude": value, "longitude": 1})
    assert "nested too deep" in read_sidecar("a.json", b"{}").problem


def test_a_packet_does_not_write_a_long_namespace_many_times() -> None:
    assert "namespace" in read_xmp(DOCUMENTS["namespace.xmp"]).problem


def test_kinds_of_files_that_are_left_out_are_bounded() -> None:
    left_out = LeftOut()
    for index in range(10_000):
        left_out.add(f"a.b{index % 1000}{'cdefghijkl'[index // 1000]}")
    assert len(left_out.counts) <= MOST_KINDS + 1 and left_out.total == 10_000
    assert len(LeftOut.joined([left_out, left_out]).counts) <= MOST_KINDS + 1


def test_a_directory_of_too_many_members_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_reader, "MAX_MEMBERS", 9)
    path = tmp_path / "a.zip"
    path.write_bytes(makers.zipped((f"{index}.jpg", b"") for index in range(8)))
    (row,) = ShardReader(str(path))
    assert isinstance(row, ErrorRow) and "10 members, limit 9" in row.message


def test_a_payload_that_looks_like_a_directory_is_a_payload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_reader, "MAX_MEMBERS", 9)
    entry = makers.entries(makers.zipped([]))[1][0]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive_file:
        archive_file.writestr("a.jpg", entry * 1000)
        archive_file.writestr("ordinary/1.jpg", photo(1))
    path = tmp_path / "a.zip"
    path.write_bytes(file.getvalue())
    first, second = ShardReader(str(path))
    assert isinstance(first, Sample) and first.image == entry * 1000
    assert second.key == "ordinary/1"


def test_messages_of_any_length_are_cut_in_the_table() -> None:
    row = ErrorRow("a", Stage.READ, Status.BROKEN_IMAGE, "m" * 10_000)
    assert len(error_table("s", [row])["message"][0].as_py()) == MAX_MESSAGE_LENGTH

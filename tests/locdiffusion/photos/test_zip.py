"""Zips are read as strictly as tars, by the same rules."""

from __future__ import annotations

import io
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from locdiffusion.photos import zip as zip_reader
from locdiffusion.photos.archive import Sample, ShardReader
from locdiffusion.photos.blocks import TarStatus
from locdiffusion.photos.labelled_samples import read_samples
from schemas.geotags import ErrorRow, Status
from schemas.samples import Truth
from support.archives import Members, photo, sound_members, truth, write_tar, zip_bytes

MEMBERS: Members = [
    ("d/2019.07.14.jpg", photo(1)),
    ("d/b.png", photo(2, kind="PNG")),
    ("d/b.json", truth(1)),
    ("d/._b.png", b"x"),
    ("d/b.mov", b"film"),
    ("d/2019.07.14.jpg.json", truth(2)),
]


def read(path: Path, data: bytes) -> tuple[list[Sample], list[ErrorRow], ShardReader]:
    path.write_bytes(data)
    reader = ShardReader(str(path))
    items = list(reader)
    samples = [item for item in items if isinstance(item, Sample)]
    return samples, [item for item in items if isinstance(item, ErrorRow)], reader


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.zip"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("members", [MEMBERS, sound_members(9)])
def test_the_same_files_give_the_same_photos_as_in_a_tar(
    path: Path, members: Members, method: int
) -> None:
    samples, errors, reader = read(path, zip_bytes(members, method))
    tar = ShardReader(str(write_tar(path.with_suffix(".tar"), members)))
    assert samples == list(tar) and errors == []
    assert (reader.status, reader.message) == (TarStatus.COMPLETE, "")
    assert reader.late == tar.late and reader.left_out == tar.left_out
    assert reader.problems == tar.problems == []


def test_training_reads_zips(path: Path) -> None:
    path.write_bytes(zip_bytes(MEMBERS))
    found = {sample.key: position for sample, position in read_samples(str(path))}
    assert found == {"d/2019.07.14": Truth(2.0, 20.0), "d/b": Truth(1.0, 20.0)}


def test_an_empty_zip_is_complete(path: Path) -> None:
    samples, errors, reader = read(path, zip_bytes([]))
    assert samples == [] and errors == [] and reader.status is TarStatus.COMPLETE


def test_names_are_utf_8_with_or_without_the_flag(path: Path) -> None:
    plain = zip_bytes([("xxxx.jpg", photo(1)), ("yyyy.jpg", photo(2))])
    data = plain.replace(b"xxxx.jpg", "ü漢"[:1].encode() + b"xx.jpg")
    data = data.replace(b"yyyy.jpg", b"\x81yyy.jpg")  # ü in code page 437
    samples, _, _ = read(path, data)
    assert [sample.key for sample in samples] == ["üxx", "üyyy"]
    samples, _, _ = read(path, zip_bytes([("漢字.jpg", photo(1))]))
    assert samples[0].key == "漢字"


def test_a_name_that_is_flagged_as_utf_8_and_is_not_costs_no_photo(path: Path) -> None:
    """As bsdtar stores a name in another encoding; `zipfile` alone reads nothing then."""
    data = zip_bytes([("ü.jpg", photo(1)), ("b.jpg", photo(2)), ("漢.jpg", photo(3))])
    samples, errors, reader = read(path, data.replace("ü".encode(), b"\xfc\xff"))
    assert errors == [] and reader.status is TarStatus.COMPLETE
    assert len({sample.key for sample in samples}) == 3
    assert [sample.key for sample in samples][1:] == ["b", "漢"]


@pytest.mark.parametrize(("system", "key"), [(0, "e/zzz"), (11, "e/zzz"), (3, "e\\zzz")])
def test_a_backslash_is_part_of_a_name_on_unix_only(path: Path, system: int, key: str) -> None:
    info = zipfile.ZipInfo("e\\zzz.jpg")
    info.create_system = system
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, photo(1))
    assert [sample.key for sample in ShardReader(str(path))] == [key]


def test_links_are_the_photos_that_they_point_to(path: Path) -> None:
    buffer = io.BytesIO(zip_bytes(MEMBERS))
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, kind, data in (
            ("e/link.jpg", stat.S_IFLNK, "../d/b.png"),
            ("e/lost.jpg", stat.S_IFLNK, "nowhere.jpg"),
            ("e/pipe.jpg", stat.S_IFIFO, ""),
        ):
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o777) << 16
            archive.writestr(info, data)
    samples, errors, _ = read(path, buffer.getvalue())
    assert [sample.key for sample in samples] == ["d/2019.07.14", "d/b", "e/link"]
    assert samples[2].image == samples[1].image
    assert {row.key: row.status for row in errors} == {
        "e/lost": Status.MISSING_IMAGE,
        "e/pipe": Status.MISSING_IMAGE,
    }


# Damage


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_byte_costs_one_photo_and_is_told(path: Path, method: int) -> None:
    data = bytearray(zip_bytes([("a.jpg", photo(1)), ("b.jpg", photo(2))], method))
    data[200] ^= 1
    samples, errors, reader = read(path, bytes(data))
    assert [sample.key for sample in samples] == ["b"] and reader.status is TarStatus.COMPLETE
    assert [(row.key, row.status) for row in errors] == [("a", Status.BROKEN_IMAGE)]
    assert "download the zip again" in errors[0].message


def test_a_zip_that_is_cut_is_truncated(path: Path) -> None:
    data = zip_bytes(MEMBERS)
    for size in range(4, len(data), 97):
        samples, errors, reader = read(path, data[:size])
        assert samples == [] and [row.status for row in errors] == [Status.SHARD_TRUNCATED]
        assert f"truncated at byte {size}: " in reader.message


def test_a_directory_that_lacks_a_member_is_damaged(path: Path) -> None:
    data = bytearray(zip_bytes([("a.jpg", photo(1)), ("b.jpg", photo(2))]))
    end = data.rindex(b"PK\x05\x06")
    first = data.index(b"PK\x01\x02")
    size = data.index(b"PK\x01\x02", first + 1) - first
    data[end + 12 : end + 20] = size.to_bytes(4, "little") + (first + size).to_bytes(4, "little")
    _, errors, reader = read(path, bytes(data))
    assert reader.status is TarStatus.CORRUPT and "has 1 members" in reader.message
    assert len(errors) == 2


def test_no_flipped_byte_crashes_or_loses_a_photo_in_silence(path: Path) -> None:
    data = zip_bytes(MEMBERS)
    whole, _, _ = read(path, data)
    directory = data.index(b"PK\x01\x02")
    places = [*range(4, directory, 61), *range(directory, len(data), 3)]
    for place in places:
        samples, errors, _ = read(
            path, data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]
        )
        images = {sample.image for sample in whole}
        assert all(sample.image in images for sample in samples)
        if place < directory:
            assert len(samples) + len(errors) == 2


def test_what_is_encrypted_or_strangely_compressed_is_told(path: Path) -> None:
    data = bytearray(zip_bytes(MEMBERS))
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(mark) + place] |= 1
    _, errors, _ = read(path, bytes(data))
    assert errors[0].status is Status.MISSING_IMAGE and "password" in errors[0].message
    samples, errors, _ = read(path, zip_bytes(MEMBERS, zipfile.ZIP_LZMA))
    assert samples == [] and "compressed by method 14" in errors[0].message


def test_sizes_have_limits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bomb of zeros is told and never unpacked, nor is a directory without end read."""
    data = zip_bytes([("bomb.jpg", bytes(2**26 + 1)), ("b.jpg", photo(1))])
    samples, errors, _ = read(path, data)
    assert [sample.key for sample in samples] == ["b"]
    assert [row.status for row in errors] == [Status.TOO_MANY_BYTES]
    lying = bytearray(data)
    at = lying.index(b"PK\x01\x02") + 24
    lying[at : at + 4] = (1000).to_bytes(4, "little")
    _, errors, _ = read(path, bytes(lying))
    assert [row.status for row in errors] == [Status.BROKEN_IMAGE]
    monkeypatch.setattr(zip_reader, "MAX_READ_BYTES", 50)
    _, errors, reader = read(path, data)
    assert [row.status for row in errors] == [Status.SHARD_CORRUPT]
    assert "more than 50 bytes" in reader.message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"7z\xbc\xaf\x27\x1c" + bytes(900), "7z is not read; unpack it"),
        (b"Rar!\x1a\x07\x01" + bytes(900), "RAR is not read; unpack it"),
        (b"\x28\xb5\x2f\xfd" + bytes(900), "pip install zstandard"),
    ],
)
def test_other_archives_are_named(
    path: Path, data: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    samples, errors, reader = read(path, data)
    assert samples == [] and [row.status.of_shard for row in errors] == [True]
    assert message in reader.message


def test_zstd_is_read_where_python_can(path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    data = write_tar(path, MEMBERS).read_bytes()
    packed = zstandard.compress(data[:3000]) + zstandard.compress(data[3000:])
    samples, errors, reader = read(path, packed)
    assert len(samples) == 2 and errors == [] and reader.message == ""
    for size in range(30, len(packed) - 1, 41):
        _, _, reader = read(path, packed[:size])
        assert reader.status is not TarStatus.COMPLETE

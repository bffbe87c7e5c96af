"""Tars and zips as phones, programs and exports make them, from the archive to the rows."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.archives import Members, photo, tar_bytes, truth, write_tar
from support.plain_run import geotagged
from support.user_files import (
    File,
    Form,
    Kind,
    number_of,
    photo_number,
    takeout_document,
    write_folder,
    write_tar_of,
    write_zip,
)


def photos(*names: str) -> list[File]:
    return [File(name, Kind.PHOTO, data=photo_number(n)) for n, name in enumerate(names)]


def pack(packing: str, root: Path, files: Sequence[File]) -> Path:
    """Packs files as a tar, a compressed tar, a zip or a folder."""
    if packing == "folder":
        return write_folder(root / "a", files)
    if packing == "zip":
        return write_zip(root / "a.zip", files)
    return write_tar_of(root / f"a.{packing}", files, "w:gz" if packing == "tgz" else "w")


DOTTED = (
    *(f"WhatsApp Image 2020-01-01 at 12.00.0{n}.jpeg" for n in range(1, 6)),
    *("2019.07.14.jpg", "PXL_x.PORTRAIT.jpg", "IMG_1.edited.jpg", "IMG_1.jpg", "v1.2/IMG.1.jpg"),
)


@pytest.mark.parametrize("packing", ["tar", "zip", "folder"])
def test_names_with_several_dots_are_several_photos(packing: str, tmp_path: Path) -> None:
    """Phones and messengers put times with dots into names; each photo keeps its own row."""
    files = photos(*DOTTED)
    source = pack(packing, tmp_path, files)
    outcome = geotagged(tmp_path / "out", source)
    assert outcome.status == 0 and not outcome.errors
    keys = [name if packing == "folder" else name.rpartition(".")[0] for name in DOTTED]
    seen = {row["key"]: number_of(row["latitude"], row["longitude"]) for row in outcome.predictions}
    assert seen == {key: number for number, key in enumerate(keys)}


def test_a_photo_whose_key_is_taken_goes_by_its_full_name(tmp_path: Path) -> None:
    """A camera that writes both formats: `IMG_1.HEIC` beside `IMG_1.JPG`."""
    source = write_tar_of(tmp_path / "a.tar", photos("IMG_1.HEIC", "IMG_1.JPG"))
    outcome = geotagged(tmp_path / "out", source)
    assert outcome.keys == ["IMG_1", "IMG_1.JPG"] and not outcome.errors


@pytest.mark.parametrize("blocks", [1, 2, 64, 2048])
@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_that_is_filled_up_to_any_record(blocks: int, packed: bool, tmp_path: Path) -> None:
    """`tar -b 64` fills the file up to a multiple of 64 blocks, and that is no damage."""
    data = tar_bytes([("a.jpg", photo(1)), ("b.jpg", photo(2))]).rstrip(b"\0")
    data += bytes(-len(data) % 512 + 1024)
    data += bytes(-len(data) % (512 * blocks))
    (tmp_path / "s.tar").write_bytes(gzip.compress(data) if packed else data)
    outcome = geotagged(tmp_path / "out", tmp_path / "s.tar")
    assert outcome.status == 0 and outcome.keys == ["a", "b"] and not outcome.errors
    assert outcome.summary["shards"] == {"complete": 1}


MACOS = (
    *("photos/._IMG_1.jpg", "photos/.DS_Store", "photos/Thumbs.db", "._photos", "a/b/c/._x.heic"),
    *("__MACOSX/photos/._IMG_1.jpg", ".Spotlight-V100/store.db"),
)


@pytest.mark.parametrize("packing", ["tar", "zip", "folder"])
def test_what_systems_leave_beside_photos_is_counted_and_no_photo(
    packing: str, tmp_path: Path
) -> None:
    """macOS packs a `._` file beside each photo; Windows and NAS leave caches."""
    files = photos("photos/IMG_1.jpg", "photos/IMG_2.jpg")
    files += [File(name, Kind.OTHER, data=b"Mac OS X") for name in MACOS]
    source = pack(packing, tmp_path, files)
    outcome = geotagged(tmp_path / "out", source)
    assert outcome.status == 0 and len(outcome.predictions) == 2 and not outcome.errors
    assert outcome.summary["left_out"]["total"] == len(MACOS)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_sparse_member_costs_itself_and_no_other(form: int, tmp_path: Path) -> None:
    """`tar --sparse` writes files with holes in a form of its own."""
    first, second, third = photos("a.jpg", "b.jpg", "c.jpg")
    sparse = File("b.jpg", Kind.PHOTO, Form.SPARSE, second.data)
    source = write_tar_of(tmp_path / "s.tar", [first, sparse, third], form=form)
    outcome = geotagged(tmp_path / "out", source)
    assert sorted(row["key"] for row in outcome.predictions) == ["a", "c"]
    assert outcome.statuses == {"b": "missing_image"}
    assert outcome.summary["shards"] == {"complete": 1} and outcome.status == 0


TAKEOUT = "Takeout/Google Photos/Photos from 2019/"


def takeout(first: str = "IMG_1.jpg.json") -> list[File]:
    files = photos(f"{TAKEOUT}IMG_1.jpg", f"{TAKEOUT}IMG_2.jpg", f"{TAKEOUT}IMG_1-edited.jpg")
    documents = [
        File(TAKEOUT + first, Kind.DOCUMENT, data=takeout_document(1, "IMG_1.jpg")),
        File(f"{TAKEOUT}IMG_2.jpg.json", Kind.DOCUMENT, data=takeout_document(2, "IMG_2.jpg")),
        File(f"{TAKEOUT}metadata.json", Kind.DOCUMENT, data=b'{"title": "Photos from 2019"}'),
    ]
    return files + documents


@pytest.mark.parametrize("packing", ["tar", "zip", "folder"])
@pytest.mark.parametrize("name", ["IMG_1.jpg.json", "IMG_1.jpg.supplemental-metadata.json"])
def test_a_google_takeout_tells_positions(packing: str, name: str, tmp_path: Path) -> None:
    """All photos come first and their documents behind them; the album has a document too."""
    files = takeout(name)
    source = pack("tgz" if packing == "tar" else packing, tmp_path, files)
    outcome = geotagged(tmp_path / "out", source)
    assert outcome.status == 0 and not outcome.errors
    ending = ".jpg" if packing == "folder" else ""
    assert outcome.truths == {
        f"{TAKEOUT}IMG_1{ending}": (10.01, 20.5),
        f"{TAKEOUT}IMG_2{ending}": (10.02, 20.5),
        f"{TAKEOUT}IMG_1-edited{ending}": (10.01, 20.5),
    }
    assert outcome.summary["left_out"]["total"] == 1  # metadata.json


@pytest.mark.parametrize("packing", ["tar", "zip", "folder"])
def test_the_nearest_document_counts_wherever_it_stands(packing: str, tmp_path: Path) -> None:
    """`a.json` stands beside both photos, and `a.jpg.json`, which is about one, behind them."""
    files = photos("a.jpg", "a.heic")
    for number, name in ((1, "a.json"), (2, "a.jpg.json")):
        files.append(File(name, Kind.DOCUMENT, data=takeout_document(number)))
    source = pack(packing, tmp_path, files)
    outcome = geotagged(tmp_path / "out", source)
    assert [outcome.truths[key][0] for key in outcome.keys] == (
        [10.02, 10.01] if packing != "folder" else [10.01, 10.02]
    )


def test_other_members_with_the_key_of_a_photo_make_no_row(tmp_path: Path) -> None:
    """Live photos: `a.jpg b.jpg a.mov b.mov`, in the order of a listing by kind."""
    members: Members = [("a.jpg", photo(1)), ("b.jpg", photo(2)), ("a.mov", b"x"), ("b.mov", b"y")]
    outcome = geotagged(tmp_path / "out", write_tar(tmp_path / "a.tar", members))
    assert outcome.keys == ["a", "b"] and not outcome.errors and outcome.status == 0
    assert outcome.summary["left_out"]["by_kind"] == {".mov": 2}


def test_members_of_which_none_is_a_photo_make_no_row(tmp_path: Path) -> None:
    members: Members = [("a.jpg", photo(1)), ("c.json", truth()), ("README", b"x"), ("d.txt", b"")]
    outcome = geotagged(tmp_path / "out", write_tar(tmp_path / "a.tar", members))
    assert outcome.keys == ["a"] and not outcome.errors
    assert outcome.summary["left_out"]["total"] == 3


def test_a_tar_that_ends_right_behind_its_last_member(tmp_path: Path) -> None:
    """Some programs write no end of the archive; what is there is whole, and this is said."""
    data = tar_bytes([("a.jpg", photo(1)), ("b.jpg", photo(2))]).rstrip(b"\0")
    (tmp_path / "s.tar").write_bytes(data + bytes(-len(data) % 512))
    outcome = geotagged(tmp_path / "out", tmp_path / "s.tar")
    assert sorted(row["key"] for row in outcome.predictions) == ["a", "b"]
    assert 512 < len(photo(2)) < 1024, "two blocks, of which the second is cut off"
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 512 * 512])
    outcome = geotagged(tmp_path / "cut", tmp_path / "cut.tar")
    assert outcome.statuses == {"b": "truncated", None: "shard_truncated"}
    assert outcome.status == 1


@pytest.mark.parametrize(("ending", "mode"), [(".tar.xz", "w:xz"), (".tar.bz2", "w:bz2")])
def test_compressed_tars(ending: str, mode: str, tmp_path: Path) -> None:
    source = tmp_path / f"a{ending}"
    source.write_bytes(tar_bytes([("a.jpg", photo(1))], mode))
    outcome = geotagged(tmp_path / "out", source)
    assert outcome.status == 0 and outcome.keys == ["a"] and not outcome.errors


def test_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/b.jpg", photo(1))
        archive.writestr("a/b.json", truth())
        archive.writestr("a/c.txt", b"")
    outcome = geotagged(tmp_path / "out", tmp_path / "a.zip")
    assert outcome.status == 0 and outcome.truths == {"a/b": (10.0, 20.0)} and not outcome.errors
    assert outcome.summary["left_out"]["by_kind"] == {".txt": 1}


def zstandard_frame(data: bytes) -> bytes:
    """One frame with one block that is not compressed, as of RFC 8878."""
    header = b"\x28\xb5\x2f\xfd\xa0" + len(data).to_bytes(4, "little")
    return header + (1 | len(data) << 3).to_bytes(3, "little") + data


def test_a_tar_in_zstandard_is_read_or_named(tmp_path: Path) -> None:
    """Where no reader of it is installed, the message says what the file is."""
    data = tar_bytes([("a.jpg", photo(1))])
    (tmp_path / "a.tar.zst").write_bytes(zstandard_frame(data))
    outcome = geotagged(tmp_path / "out", tmp_path / "a.tar.zst")
    if outcome.predictions:
        assert outcome.keys == ["a"] and not outcome.errors
    else:
        assert outcome.status == 1
        (row,) = outcome.errors
        assert "zst" in row["message"].lower() and "not a tar" not in row["message"]


def test_a_damaged_zip_is_named_and_loses_no_other(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", photos("a.jpg"))
    whole = write_zip(tmp_path / "b.zip", photos("b.jpg", "c.jpg")).read_bytes()
    (tmp_path / "b.zip").write_bytes(whole[: len(whole) // 2])
    outcome = geotagged(tmp_path / "out", tmp_path / "*.zip")
    assert outcome.status == 1 and "b.zip" in outcome.console
    assert [row["key"] for row in outcome.predictions][:1] == ["a"]

"""Where copies go, what they may replace, and what they keep of their originals."""

import errno
import json
import os
from pathlib import Path

import pytest

from locdiffusion.photos.storage import DataError
from pipelines.write_exif.copies import Copies, Original, PlaceTakenError

FIRST = Original("s.tar", "a", changed_ns=994_000_000_123_456_789, rights=0o440)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def written(copies: Copies, name: str, content: bytes = b"copy", key: str = "a") -> str:
    original = Original("s.tar", key)
    place = copies.place(name, original)
    copies.write(place, content, original)
    return place


@pytest.mark.parametrize(
    "name",
    [
        *("../y.jpg", "/etc/y.jpg", "a/../../../y.jpg", "..", "", "/", "a/./y.jpg", "\0/\0.jpg"),
        *(
            "~/y.jpg",
            "a::b/y.jpg",
            "gs://bucket/y.jpg",
            "-rf",
            "a\nb.jpg",
            "C:\\y.jpg",
            "{a,b}*?[c]",
        ),
        *("é" * 200 + ".jpg", "n" * 300 + "/y.jpg", "." + "x" * 400, "write_exif.json"),
    ],
)
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    copies = Copies(str(outside / "COPIES"))
    place = written(copies, name)
    copies.write_list({"photos": 1}, [])
    assert files_below(tmp_path) == {f"outside/COPIES/{place}", "outside/COPIES/write_exif.json"}
    assert (outside / "COPIES" / place).read_bytes() == b"copy"
    assert place != "write_exif.json"
    if len(name) < 200 and name.strip("./\0") not in ("", "write_exif.json"):
        assert Path(place).name == Path(name.replace("\0", "")).name


def test_names_that_lead_to_one_path_are_told_apart(tmp_path):
    copies = Copies(str(tmp_path))
    names = ["y.jpg", "../y.jpg", "/y.jpg", "./y.jpg", "a//b.jpg", "a/b.jpg"]
    places = [written(copies, name, name.encode(), key=name) for name in names]
    assert len(set(places)) == 6 and places[0] == "y.jpg"
    assert [(tmp_path / one).read_text() for one in places] == names
    again = Copies(str(tmp_path))
    assert [again.place(name, Original("s.tar", name)) for name in names[:1]] == ["y.jpg"]


def test_a_copy_has_the_time_and_the_rights_of_its_original(tmp_path):
    copies = Copies(str(tmp_path))
    copies.write("deep/a.jpg", b"copy", FIRST)
    status = (tmp_path / "deep" / "a.jpg").stat()
    assert status.st_mtime_ns == FIRST.changed_ns and status.st_mode & 0o777 == 0o440


def test_only_what_this_command_wrote_is_replaced(tmp_path):
    copies = Copies(str(tmp_path))
    for name in ("kept.jpg", "edited.jpg", "stale.jpg"):
        written(copies, name, b"old")
    copies.write_list({"photos": 3}, [{"copy": p, "sha256": s} for p, s in copies.written.items()])
    (tmp_path / "edited.jpg").write_bytes(b"with a caption")
    (tmp_path / "users.jpg").write_bytes(b"mine")
    (tmp_path / "same.jpg").write_bytes(b"new")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "file").write_bytes(b"mine")

    copies = Copies(str(tmp_path))
    written(copies, "kept.jpg", b"new")
    written(copies, "same.jpg", b"new")
    for name in ("edited.jpg", "users.jpg", "folder.jpg", "file/a.jpg"):
        with pytest.raises(PlaceTakenError, match="choose another --output"):
            written(copies, name, b"new")
    assert (tmp_path / "edited.jpg").read_bytes() == b"with a caption"
    assert (tmp_path / "users.jpg").read_bytes() == b"mine"
    assert (tmp_path / "kept.jpg").read_bytes() == b"new"
    copies.write_list({"photos": 2}, [{"key": "k", "copy": "kept.jpg", "sha256": "1"}])
    told = json.loads((tmp_path / "write_exif.json").read_text())
    assert {one["copy"]: one.get("fate") for one in told["fates"]} == {
        "kept.jpg": None,
        "stale.jpg": "copy of an earlier run",
    }


def test_links_are_not_followed(tmp_path):
    originals, folder = tmp_path / "originals", tmp_path / "copies"
    originals.mkdir()
    folder.mkdir()
    (originals / "a.jpg").write_bytes(b"original")
    (folder / "sub").symlink_to(originals)
    (folder / "b.jpg").symlink_to(originals / "a.jpg")
    (folder / "c.jpg").symlink_to(tmp_path / "nowhere")
    copies = Copies(str(folder))
    for name in ("sub/a.jpg", "sub/new.jpg", "b.jpg", "c.jpg"):
        with pytest.raises(PlaceTakenError, match="link"):
            written(copies, name)
    assert files_below(originals) == {"a.jpg"} and (originals / "a.jpg").read_bytes() == b"original"
    assert not (tmp_path / "nowhere").exists()
    linked = tmp_path / "linked"
    linked.symlink_to(folder)  # the folder itself may be reached through a link
    assert written(Copies(str(linked)), "new.jpg") == "new.jpg"


def test_a_foreign_list_and_a_full_disk(tmp_path, monkeypatch):
    (tmp_path / "write_exif.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="choose another --output"):
        Copies(str(tmp_path))
    (tmp_path / "write_exif.json").write_text('{"photos": 3, "written": 3}')  # of release 0.4.0
    copies = Copies(str(tmp_path))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        written(copies, "a.jpg")
    assert copies.written == {}


@pytest.mark.parametrize("name", ["out [a]", "a::b", "x{0..3}"])
def test_names_of_the_folder_mean_what_they_say(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    written(Copies(name), "a.jpg")
    assert files_below(tmp_path) == {f"{name}/a.jpg"}


def test_a_folder_at_a_url():
    copies = Copies("memory://copies")
    assert written(copies, "../deep/a.jpg") == "deep/a.jpg"
    copies.write_list(
        {"photos": 1}, [{"copy": one, "sha256": s} for one, s in copies.written.items()]
    )
    again = Copies("memory://copies")
    assert again.earlier == copies.written
    written(again, "deep/a.jpg", b"new")
    with pytest.raises(PlaceTakenError):
        written(Copies("memory://copies"), "deep/a.jpg", b"newer")

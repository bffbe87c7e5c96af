"""Folders of strangers: a run reads regular files inside the folder, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from locdiffusion.evaluate.lists import find_photos
from locdiffusion.photos import storage
from locdiffusion.photos.folder_reader import FolderReader
from locdiffusion.photos.labelled_samples import read_samples
from locdiffusion.photos.listing import list_shards
from locdiffusion.photos.storage import DataError, LinkError, open_inside
from support.hostile.folders import (
    LINKED,
    OUTSIDE,
    SECRET,
    SOUND,
    fill_outside,
    fill_with_links,
    fill_with_pipes,
)
from support.plain_run import Outcome, geotagged
from support.user_files import number_of, photo_number


def pictures(outcome: Outcome) -> dict[str, int]:
    """The number of the picture that was seen under each key."""
    return {row["key"]: number_of(row["latitude"], row["longitude"]) for row in outcome.predictions}


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    return fill_with_links(tmp_path / "in", fill_outside(tmp_path / "outside"))


def test_no_byte_from_outside_is_told(linked: Path, tmp_path: Path) -> None:
    outcome = geotagged(tmp_path / "out", linked, flags=("--thumbnails", "50"))
    assert pictures(outcome) == dict.fromkeys(
        ("sound.jpg", "sub/other.jpg", "inside.jpg", "around.jpg"), SOUND
    )
    errors = {row["key"]: row for row in outcome.errors}
    assert {*errors} == {*LINKED, "sub/next.jpg"}
    assert {row["status"] for row in errors.values()} == {"missing_image"}
    assert all("leads out of the folder" in row["message"] for row in errors.values())
    assert all("--follow-links" in row["message"] for row in errors.values())
    left = outcome.summary["left_out"]
    assert left["by_kind"] == {"links out of the folder": 3}
    assert left["named"] == [f"{linked}/{name}" for name in ("above", "door", "shards.tar")]
    assert "--follow-links" in outcome.console
    assert all(row["truth_latitude"] is None for row in outcome.predictions)
    for told in (SECRET[:40], photo_number(OUTSIDE)):
        assert told not in all_bytes(tmp_path / "out")
    assert SECRET[:20].decode() not in outcome.console + "".join(map(str, outcome.errors))


def test_links_are_followed_if_that_is_asked_for_and_said(linked: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert geotagged(output, linked).status == 0
    outcome = geotagged(output, linked, "--exclude", "above", flags=("--follow-links",))
    seen = pictures(outcome)
    assert seen["picture.jpg"] == seen["into.jpg"] == seen["door/picture.jpg"] == OUTSIDE
    assert "links out of the folder" in outcome.console and "followed" in outcome.console
    assert outcome.statuses["file.jpg"] == "not_an_image"


def test_a_single_photo_that_leads_out_is_named(linked: Path, tmp_path: Path) -> None:
    outcome = geotagged(tmp_path / "out", f"{linked}/*.jpg")
    assert {*outcome.statuses} == {*LINKED} and len(outcome.predictions) == 3


def test_pipes_and_devices_are_rows_of_errors(tmp_path: Path) -> None:
    folder = fill_with_pipes(tmp_path / "in")
    for number, flags in enumerate(((), ("--follow-links",))):
        outcome = geotagged(tmp_path / f"out{number}", folder, flags=flags)
        assert outcome.status == 0 and pictures(outcome) == {"sound.jpg": SOUND}
        assert {*outcome.statuses.values()} == {"missing_image"}
        assert len(outcome.statuses) == 5
        assert outcome.summary["left_out"]["total"] == 2


@pytest.mark.parametrize("planted", ["link", "folder", "pipe"])
def test_what_is_planted_after_the_listing_is_not_read(
    planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is changed at the worst moment: after it was looked at, before it is opened."""
    outside = fill_outside(tmp_path / "outside")
    photo = tmp_path / "in" / "sub" / "picture.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(photo_number(SOUND))
    (shard,) = list_shards([str(tmp_path / "in")])
    real = os.open

    def swapped(path: str, *args: object, **more: object) -> int:
        if path == {"folder": "sub"}.get(planted, photo.name):
            photo.unlink(missing_ok=True)
            if planted == "folder":
                photo.parent.rmdir()
                photo.parent.symlink_to(outside)
            elif planted == "link":
                photo.symlink_to(outside / photo.name)
            else:
                os.mkfifo(photo)
            monkeypatch.setattr(os, "open", real)
        return real(path, *args, **more)

    monkeypatch.setattr(storage.os, "open", swapped)
    (row,) = FolderReader(shard.photos)
    assert row.key == "sub/picture.jpg" and row.status.value == "missing_image"
    wanted = "wanted a file" if planted == "pipe" else "leads out of the folder"
    assert wanted in row.message


def test_a_folder_may_be_a_link_itself(tmp_path: Path) -> None:
    real = fill_outside(tmp_path / "real")
    (tmp_path / "link").symlink_to(real)
    with open_inside(str(tmp_path / "link"), "secret") as file:
        assert file.read() == SECRET
    with pytest.raises(LinkError, match="leads out of"):
        (tmp_path / "link" / "x").symlink_to(tmp_path)
        open_inside(str(tmp_path / "link"), "x/other")


def test_folders_on_a_url_of_this_machine_have_the_same_rules(linked: Path, tmp_path: Path) -> None:
    outcome = geotagged(tmp_path / "out", f"file://{linked}")
    assert {*outcome.statuses} == {*LINKED, "sub/next.jpg"}


def test_training_and_benchmarks_read_no_link_that_leads_out(linked: Path) -> None:
    with pytest.raises(DataError, match="leads out of the folder"):
        list(read_samples(f"{linked}/"))
    found = find_photos(["sound", "picture.jpg", "file", "inside"], linked)
    assert {*found} == {"sound", "inside"}


def test_folders_in_circles_are_searched_once(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(photo_number(SOUND))
    for name in ("b", "c", "d"):
        (folder / name).symlink_to(".")
    assert {*find_photos(["a"], folder)} == {"a"}
    assert len(list_shards([str(folder)])[0].photos) == 1

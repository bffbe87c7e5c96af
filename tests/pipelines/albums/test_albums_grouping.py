"""Which photos are an album."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipelines.albums.grouping import FOLDER_AND_CAMERA, AlbumBy, labels, path_in_common
from support.album_jobs import rows_of, run, summary_of, trip, write_table

FOLDERS = ["a/x", "a/x", "a/y", "", "a/x"]
CAMERAS = ["c1", "c2", "c1", "c1", None]


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("folder,camera", ["a/x (c1)", "a/x (c2)", "a/y (c1)", ". (c1)", "a/x"]),
        ("folder", ["a/x", "a/x", "a/y", ".", "a/x"]),
        ("top-folder", ["a", "a", "a", ".", "a"]),
        ("camera, top-folder", ["a (c1)", "a (c2)", "a (c1)", ". (c1)", "a"]),
        ("camera", ["camera c1", "camera c2", "camera c1", "camera c1", "a/x"]),
        ("none", ["all photos"] * 5),
    ],
)
def test_names(by: str, names: list[str]) -> None:
    made = AlbumBy.parse(by)
    assert made.names(FOLDERS, CAMERAS) == names
    assert AlbumBy.parse(str(made)) == made


@pytest.mark.parametrize(
    ("folders", "above", "tops"),
    [
        (["/h/ann/x/1", "/h/ann/y", "/h/ben"], "/h", ["/h/ann", "/h/ann", "/h/ben"]),
        (["/a/x", "/b/y"], "", ["/a", "/b"]),
        (["p/ann/1", "p", "p/ann/2"], "p", ["p/ann", "p", "p/ann"]),
        (["anna/1", "ann/1", ""], "", ["anna", "ann", "."]),
        (["./ann/1", "./ben"], ".", ["./ann", "./ben"]),
    ],
)
def test_top_folders_are_the_first_in_which_paths_differ(
    folders: list[str], above: str, tops: list[str]
) -> None:
    assert path_in_common(folders) == above
    assert AlbumBy.parse("top-folder").names(folders, [None] * len(folders), above) == tops


def test_a_person_has_one_album_of_a_camera_in_a_top_folder(tmp_path: Path) -> None:
    """As `exiftool -r /home/pictures` writes it: all paths begin alike."""
    rows = [
        {**row, "folder": f"/home/pictures/{who}/{year}"}
        for who in ("ann", "ben")
        for year in (2014, 2015)
        for row in trip(f"{who}{year}", 3)
    ]
    columns = ("key", "folder", "camera", "captured_at", "offset", "latitude", "longitude")
    table = write_table(tmp_path / "photos.csv", rows, columns)
    words = ("--table", table, "--album-by", "top-folder,camera", "--output", tmp_path / "out")
    assert run(*words) == 0
    albums = rows_of(tmp_path / "out")["album"].to_pylist()
    assert Counter(albums) == {"/home/pictures/ann (c1)": 6, "/home/pictures/ben (c1)": 6}


def test_places_have_their_last_name_or_the_whole_path() -> None:
    assert labels({"/a/DCIM", "/b/DCIM", "gs://b/Photos/"}) == {
        "/a/DCIM": "/a/DCIM",
        "/b/DCIM": "/b/DCIM",
        "gs://b/Photos/": "Photos",
    }


def test_a_partners_camera_is_another_album_unless_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, theirs = trip("t", 9), trip("t", 9, every=1)
    asked = [{**row, "camera": "c2", "key": f"two/{row['key']}"} for row in theirs]
    rows = [{**row, "folder": row["album"]} for row in [*mine, *asked]]
    columns = ("key", "folder", "camera", "captured_at", "offset", "latitude", "longitude")
    table = write_table(tmp_path / "photos.csv", rows, columns)
    for row in rows[9:]:
        row["latitude"] = row["longitude"] = ""
    write_table(table, rows, columns)
    assert run("--table", table, "--output", tmp_path / "apart") == 0
    assert summary_of(tmp_path / "apart")["standings"]["alone"] == 9
    assert set(rows_of(tmp_path / "apart")["album"].to_pylist()) == {"t (c1)", "t (c2)"}
    told = capsys.readouterr().out
    assert "--album-by folder lets" in told and "--album-by none those" in told
    words = ("--table", table, "--output", tmp_path / "together", "--album-by", "folder")
    assert run(*words) == 0
    assert summary_of(tmp_path / "together")["standings"]["placed"] == 12
    # A column `album` says which photos belong together.
    named = write_table(tmp_path / "named.csv", rows)
    assert run("--table", named, "--output", tmp_path / "named") == 0
    assert summary_of(tmp_path / "named")["configuration"]["album_by"] == "folder"
    assert str(FOLDER_AND_CAMERA) == "folder,camera"

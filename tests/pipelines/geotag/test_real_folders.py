"""Folders as people have them, from the files to the rows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.geotag.output import Output
from pipelines.geotag.pages import write_report_html
from pipelines.geotag.summary import run_digest
from support.archives import photo, truth
from support.plain_run import geotagged
from support.user_files import File, Kind, photo_number, write_folder, write_tar_of


def photos(*names: str) -> list[File]:
    return [File(name, Kind.PHOTO, data=photo_number(n)) for n, name in enumerate(names)]


def others(*names: str) -> list[File]:
    return [File(name, Kind.OTHER, data=b"something else") for name in names]


def test_an_archive_among_photos_is_named_and_left_out(tmp_path: Path) -> None:
    """A backup anywhere below a folder does not keep the folder from being read."""
    files = [*photos("a.jpg", "b/c.jpg"), *others("b/backup.tgz", "old.tar", "x.zip", "y.7z")]
    outcome = geotagged(tmp_path / "out", write_folder(tmp_path / "in", files))
    assert outcome.status == 0 and outcome.keys == ["a.jpg", "b/c.jpg"]
    left = outcome.summary["left_out"]
    assert left["by_kind"] == {".tgz": 1, ".tar": 1, ".zip": 1, ".7z": 1}
    assert {Path(name).name for name in left["named"]} == {"backup.tgz", "old.tar", "x.zip", "y.7z"}
    assert "b/backup.tgz" in outcome.console


def test_every_kind_that_is_left_out_is_told_pictures_first(tmp_path: Path) -> None:
    """Twelve kinds of files: all are told, with a total, where the run ends too."""
    kinds = [
        "aae",
        "ini",
        "pdf",
        "txt",
        "mov",
        "mp4",
        "thm",
        "lrf",
        "srt",
        "gpx",
        "docx",
        "CR3",
        "NEF",
    ]
    files = [*photos("a.jpg"), *others(*(f"{kind}.{kind}" for kind in kinds), "no_ending")]
    outcome = geotagged(tmp_path / "out", write_folder(tmp_path / "in", files))
    assert outcome.status == 0 and outcome.keys == ["a.jpg"]
    left = outcome.summary["left_out"]
    assert left["total"] == 14
    assert left["by_kind"] == {f".{kind.lower()}": 1 for kind in kinds} | {"without ending": 1}
    assert list(left["by_kind"])[:2] == [".cr3", ".nef"]
    assert all(f".{kind.lower()}" in outcome.console for kind in kinds)
    sample = run_digest(Output(str(tmp_path / "out"))).sample
    write_report_html(sample, outcome.summary, str(tmp_path / "report.html"))
    report = (tmp_path / "report.html").read_text("utf-8")
    assert all(f".{kind.lower()}" in report for kind in kinds)


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a.MPO", "a.hif", "a.JPG", "a.tif", "a.bmp"])
def test_endings_of_pictures_that_are_read(name: str, tmp_path: Path) -> None:
    outcome = geotagged(tmp_path / "out", write_folder(tmp_path / "in", photos(name)))
    assert outcome.status == 0 and outcome.keys == [name] and not outcome.errors


def test_a_link_to_a_folder_is_followed_once_and_loops_are_harmless(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "in", photos("a.jpg", "b/c.jpg"))
    write_folder(tmp_path / "elsewhere", photos("d.jpg"))
    os.symlink(tmp_path / "elsewhere", root / "linked")
    os.symlink(root, root / "b" / "loop")
    outcome = geotagged(tmp_path / "out", root, flags=("--follow-links",))
    assert outcome.status == 0 and outcome.keys == ["a.jpg", "b/c.jpg", "linked/d.jpg"]


def test_an_output_among_the_photos_is_no_input(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "in", photos("a.jpg", "b.jpg"))
    outcome = geotagged(root / "geotags", root)
    assert outcome.status == 0 and outcome.keys == ["a.jpg", "b.jpg"]
    (root / "geotags" / "map.png").write_bytes(photo(3, kind="PNG"))
    again = geotagged(root / "geotags", root)
    assert again.status == 0 and again.keys == ["a.jpg", "b.jpg"]
    other = geotagged(tmp_path / "out", root)
    assert other.keys == ["a.jpg", "b.jpg"]


JUNK = (
    *("@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "#recycle/old.jpg", ".thumbnails/a.jpg"),
    *(".stversions/a.jpg", "b/@eaDir/c.jpg", "$RECYCLE.BIN/x.jpg", "lost+found/y.jpg"),
)


def test_previews_and_bins_of_programs_are_no_photos(tmp_path: Path) -> None:
    """A NAS keeps previews as JPEGs beside the photos, a synchroniser what was deleted."""
    root = write_folder(tmp_path / "in", photos("a.jpg", "b/c.jpg", *JUNK))
    outcome = geotagged(tmp_path / "out", root)
    assert outcome.status == 0 and outcome.keys == ["a.jpg", "b/c.jpg"]
    assert outcome.summary["left_out"]["total"] == len(JUNK)
    kinds = {"@eaDir/": 2, "#recycle/": 1, "hidden": 2, "$RECYCLE.BIN/": 1, "lost+found/": 1}
    assert outcome.summary["left_out"]["by_kind"] == kinds


def test_more_can_be_excluded(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "in", photos("a.jpg", "scans/b.jpg", "c_preview.jpg"))
    flags = ("--exclude", "scans", "--exclude", "*_preview.jpg")
    outcome = geotagged(tmp_path / "out", root, flags=flags)
    assert outcome.status == 0 and outcome.keys == ["a.jpg"]
    assert outcome.summary["left_out"]["total"] == 2


FOREIGN = {
    "list": b'[{"SourceFile": "a.jpg", "FileSize": "1 MB"}]',
    "text": b"taken by my aunt",
    "text as latitude": b'{"latitude": "52.5"}',
    "null": b"null",
    "empty": b"",
    "number": b"7",
    "deep": b"[" * 5000,
    "out of this world": b'{"latitude": 123, "longitude": 4}',
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("packing", ["folder", "tar"])
def test_a_document_of_another_program_costs_no_prediction(
    data: bytes, packing: str, tmp_path: Path
) -> None:
    files = [*photos("a.jpg"), File("a.json", Kind.DOCUMENT, data=data)]
    source = write_folder(tmp_path / "in", files)
    if packing == "tar":
        source = write_tar_of(tmp_path / "in.tar", files)
    outcome = geotagged(tmp_path / "out", source)
    assert outcome.status == 0 and not outcome.errors
    assert list(outcome.truths.values()) == [None]


def test_zero_north_zero_east_is_no_position(tmp_path: Path) -> None:
    """Takeout's word for `unknown`; a longitude of 0 alone is Greenwich's."""
    files = [*photos("a.jpg", "b.jpg", "c.jpg")]
    for name, where in (("a", (0.0, 0.0)), ("b", (51.48, 0.0)), ("c", (0.0, 6.6))):
        files.append(File(f"{name}.json", Kind.DOCUMENT, data=truth(*where)))
    outcome = geotagged(tmp_path / "out", write_folder(tmp_path / "in", files))
    assert outcome.truths == {"a.jpg": None, "b.jpg": (51.48, 0.0), "c.jpg": (0.0, 6.6)}


ODD_NAMES = (
    *("a::b.jpg", "c:d.jpg", "x{0..3}.jpg", "[e].jpg", "f*.jpg", "g?.jpg", "h#1.jpg", "i%20.jpg"),
    *("~.jpg", "-j.jpg", "k\\l.jpg", "m\nn.jpg", " .jpg", "o p.jpg", "q::r/s.jpg", "t://u.jpg"),
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_looks_like_something_else_is_a_name(name: str, tmp_path: Path) -> None:
    """Colons are protocols to some programs, brackets patterns, braces ranges."""
    root = write_folder(tmp_path / "in", photos(name, "sound.jpg"))
    outcome = geotagged(tmp_path / "out", root)
    assert outcome.status == 0 and not outcome.errors
    key = name.replace("//", "/")
    assert outcome.keys == sorted([key, "sound.jpg"])
    alone = geotagged(tmp_path / "alone", root / name)
    assert alone.status == 0 and len(alone.keys) == 1 and not alone.errors, alone.console


@pytest.mark.parametrize("name", ["d [1]", "x{0..3}", "a::b", "c*", "q?", "e#f", "g%20h", "~"])
def test_folders_whose_names_look_like_patterns(name: str, tmp_path: Path) -> None:
    """What exists under its literal name is meant, as input and as output."""
    root = write_folder(tmp_path / name, photos("a.jpg"))
    output = tmp_path / f"out {name}"
    outcome = geotagged(output, root)
    assert outcome.status == 0 and outcome.keys == ["a.jpg"], outcome.console
    assert (output / "summary.json").is_file()
    again = geotagged(output, root)
    assert (
        again.status == 0
        and again.keys == ["a.jpg"]
        and "1 shard kept from before" in again.console
    )


def test_home_is_expanded_and_makes_no_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "in", photos("a.jpg"))
    outcome = geotagged(Path("~/out"), "~/in")
    assert outcome.status == 0 and (tmp_path / "out" / "summary.json").is_file()
    assert not (tmp_path / "~").exists()


def test_a_folder_that_was_renamed_leaves_no_rows_of_before(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "in", photos("a/1.jpg", "a/2.jpg", "3.jpg", "4.jpg"))
    assert len(geotagged(tmp_path / "out", root).keys) == 4
    (root / "a").rename(root / "b")
    outcome = geotagged(tmp_path / "out", root)
    assert outcome.status == 0 and outcome.keys == ["3.jpg", "4.jpg", "b/1.jpg", "b/2.jpg"]
    assert outcome.summary["photos"] == 4


def test_names_as_long_as_a_file_system_allows(tmp_path: Path) -> None:
    files = photos("n" * 251 + ".jpg", "f" * 255 + "/" + "é" * 125 + ".jpg")
    root = write_folder(tmp_path / ("r" * 250), files)
    outcome = geotagged(tmp_path / "out", root)
    assert outcome.status == 0 and len(outcome.predictions) == 2
    shard = write_tar_of(tmp_path / ("s" * 247 + ".tar"), files)
    outcome = geotagged(tmp_path / "out-tar", shard)
    assert outcome.status == 0 and len(outcome.predictions) == 2, outcome.console


def test_a_folder_that_may_not_be_read_is_named_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is geotagged; the exit status tells that this is not everything."""
    root = write_folder(tmp_path / "in", photos("a.jpg", "private/b.jpg", "c/d.jpg"))
    scandir = os.scandir

    def refused(path: str = ".") -> object:
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)
        outcome = geotagged(tmp_path / "out", root)
    assert outcome.status == 1 and "private" in outcome.console.partition("kept from before")[2]
    assert outcome.keys == ["a.jpg", "c/d.jpg"]
    assert outcome.summary["damaged"]
    again = geotagged(tmp_path / "out", root)
    assert again.status == 0 and again.keys == ["a.jpg", "c/d.jpg", "private/b.jpg"]
    assert not again.summary["damaged"]

"""What a second run does again: what has changed, what can be read now, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from PIL import Image

from pipelines.geotag import command as geotag
from pipelines.geotag import output as output_module
from pipelines.geotag import plain_loop
from pipelines.geotag.manifests import ManifestName
from support.archives import Members, photo, sound_members, tar_bytes, truth, write_tar, zip_bytes
from support.fake_geotagger import FakeLoader, PickyLoader

pytestmark = pytest.mark.usefixtures("no_pages", "plain_loop")


def run(*words: Path | str) -> int:
    return geotag.main([str(word) for word in words], load=FakeLoader())


def keys(output: Path) -> Counter:
    """How often each photo is among the predictions."""
    return Counter(pandas.read_parquet(output / "predictions").key)


def written(output: Path) -> dict[str, int]:
    """When each manifest was written."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "_manifest").iterdir()}


def done_again(output: Path, before: dict[str, int]) -> set[str]:
    """Stems of the shards that were written since."""
    now = written(output)
    changed = [name for name in now if now[name] != before.get(name)]
    return {ManifestName.parse(name).shard.rpartition("-")[0] for name in changed}


def replace_in_place(path: Path, data: bytes) -> None:
    """Writes another content of the same size."""
    assert len(data) == path.stat().st_size and data != path.read_bytes()
    path.write_bytes(data)
    later = path.stat().st_mtime_ns + 2_000_000_000  # a clock may be coarse
    os.utime(path, ns=(later, later))


# Changed


def one_truth(latitude: float) -> Members:
    return [("a.jpg", photo(1)), ("a.json", truth(latitude, 20.0))]


def test_a_tar_packed_anew_with_the_same_size_is_done_again(tmp_path: Path) -> None:
    for name in "xyz":
        write_tar(tmp_path / f"{name}.tar", one_truth(10.0))
    assert run(f"{tmp_path}/*.tar", "--output", tmp_path / "out") == 0
    before = written(tmp_path / "out")
    replace_in_place(tmp_path / "y.tar", tar_bytes(one_truth(11.0)))
    assert run(f"{tmp_path}/*.tar", "--output", tmp_path / "out") == 0
    assert done_again(tmp_path / "out", before) == {"y"}
    frame = pandas.read_parquet(tmp_path / "out/predictions")
    assert sorted(frame.truth_latitude) == [10.0, 10.0, 11.0]
    before = written(tmp_path / "out")
    assert run(f"{tmp_path}/*.tar", "--output", tmp_path / "out") == 0
    assert done_again(tmp_path / "out", before) == set(), "and not once more"


def gps(latitude: float) -> bytes:
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (latitude, 0.0, 0.0), 3: "E", 4: (20.0, 0.0, 0.0)}
    return photo(1, exif=exif)


CHANGES: dict[str, tuple[str, Callable[[float], bytes], str]] = {
    "a corrected GPS position": ("a.jpg", gps, "exif_latitude"),
    "a corrected document": ("b.json", lambda latitude: truth(latitude, 20.0), "truth_latitude"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_of_a_folder_that_changed_in_place_is_done_again(
    tmp_path: Path, change: str
) -> None:
    name, content, column = CHANGES[change]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").write_bytes(gps(10.0))
        (tmp_path / folder / "b.jpg").write_bytes(photo(2))
        (tmp_path / folder / "b.json").write_bytes(truth(10.0, 20.0))
    folders = (tmp_path / "one", tmp_path / "two", "--output", tmp_path / "out")
    assert run(*folders) == 0
    before = written(tmp_path / "out")
    replace_in_place(tmp_path / "two" / name, content(11.0))
    assert run(*folders) == 0
    assert done_again(tmp_path / "out", before) == {"two"}
    found = pandas.read_parquet(tmp_path / "out/predictions")[column].dropna()
    assert sorted(found) == pytest.approx([10.0, 11.0])


def test_a_photo_replaced_by_one_of_equal_size_is_done_again(tmp_path: Path) -> None:
    first = photo(1, kind="BMP")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.bmp").write_bytes(first)
    assert run(tmp_path / "in", "--output", tmp_path / "out") == 0
    (row,) = pandas.read_parquet(tmp_path / "out/predictions").latitude
    replace_in_place(tmp_path / "in/a.bmp", photo(2, kind="BMP"))
    assert run(tmp_path / "in", "--output", tmp_path / "out") == 0
    (again,) = pandas.read_parquet(tmp_path / "out/predictions").latitude
    assert row != again


def test_what_changes_while_it_is_read_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "s.tar", one_truth(10.0))
    decode = plain_loop.decode_photo

    def changing(*arguments: Any, **options: Any) -> object:
        replace_in_place(path, tar_bytes(one_truth(11.0)))
        return decode(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(plain_loop, "decode_photo", changing)
        assert run(path, "--output", tmp_path / "out") == 0
    assert run(path, "--output", tmp_path / "out") == 0
    assert list(pandas.read_parquet(tmp_path / "out/predictions").truth_latitude) == [11.0]


def test_a_document_that_changed_in_another_part_of_an_export(tmp_path: Path) -> None:
    parts = [tmp_path / f"takeout-20200101T000000Z-00{number}.zip" for number in (1, 2)]
    parts[0].write_bytes(zip_bytes([("T/a.jpg", photo(1))]))
    for latitude in (10.0, 11.0):
        parts[1].write_bytes(zip_bytes([("T/a.jpg.json", truth(latitude, 20.0))]))
        assert run(*parts, "--output", tmp_path / "out") == 0
        assert list(pandas.read_parquet(tmp_path / "out/predictions").truth_latitude) == [latitude]


# Gone


def test_rows_of_what_is_gone_are_gone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("old", "other"):
        (tmp_path / name).mkdir()
        for index in range(2):
            (tmp_path / name / f"{name}{index}.jpg").write_bytes(photo(index))
    write_tar(tmp_path / "s.tar", sound_members(3))
    output = tmp_path / "out"
    assert run(tmp_path / "old", tmp_path / "other", tmp_path / "s.tar", "--output", output) == 0
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "s.tar").unlink()
    capsys.readouterr()
    inputs = (tmp_path / "new", "--output", output)
    assert run(*inputs, "--summarise") == 1, "the folder that has another name has no result yet"
    told = capsys.readouterr().err
    assert "3 shards with 7 photos in --output, not in --input: " in told
    assert sum(keys(output).values()) == 7, "and nothing is removed"
    assert run(*inputs) == 0
    told = capsys.readouterr()
    assert "1 shard with 2 photos in --output, not in --input: " in told.err
    assert f"gone since the last run, its rows are removed: {tmp_path}/old (2 photos)" in told.err
    assert f"gone since the last run, its rows are removed: {tmp_path}/s.tar (3 photos)" in told.err
    wanted = {"old0.jpg": 1, "old1.jpg": 1, "other0.jpg": 1, "other1.jpg": 1}
    assert keys(output) == wanted, "what still exists is kept, named or not"
    assert told.out.splitlines()[-1] == "4 photos: 4 geotagged"


def test_what_lies_on_a_disk_that_is_not_mounted_is_not_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    disk, here, output = tmp_path / "disk", tmp_path / "here", tmp_path / "out"
    for index, folder in enumerate((disk / "photos", here)):
        folder.mkdir(parents=True)
        (folder / f"{index}.jpg").write_bytes(photo(index))
    write_tar(disk / "s.tar", sound_members(3))
    assert run(disk / "photos", disk / "s.tar", here, "--output", output) == 0
    before = keys(output)
    disk.rename(tmp_path / "elsewhere")
    for mount_point in (False, True):
        if mount_point:
            disk.mkdir()
        capsys.readouterr()
        assert run(here, "--output", output) == 0
        assert "removed" not in capsys.readouterr().err
        assert keys(output) == before


def test_a_wider_glob_counts_each_photo_once(tmp_path: Path) -> None:
    for folder in "ab":
        write_tar(tmp_path / folder / "00000.tar", sound_members(3))
    assert run(f"{tmp_path}/a/*.tar", "--output", tmp_path / "out") == 0
    assert run(f"{tmp_path}/*/*.tar", "--output", tmp_path / "out") == 0
    assert set(keys(tmp_path / "out").values()) == {2} and len(keys(tmp_path / "out")) == 3


def test_a_wider_folder_counts_each_photo_once(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("in/a/1.jpg", "in/a/2.jpg", "in/b/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photo(1))
    (tmp_path / "link").symlink_to(tmp_path / "in")
    output = tmp_path / "out"
    assert run(tmp_path / "in/a", "--output", output) == 0
    assert run(tmp_path / "in", "--output", output) == 0
    assert sorted(keys(output).elements()) == ["a/1.jpg", "a/2.jpg", "b/3.jpg"]
    assert run(tmp_path / "link", "--output", output) == 0
    assert sorted(keys(output).elements()) == ["a/1.jpg", "a/2.jpg", "b/3.jpg"]
    assert run(tmp_path / "in/a", "--output", output) == 2
    assert f"of {tmp_path}/in/a twice" in capsys.readouterr().err
    assert sum(keys(output).values()) == 3, "and nothing is removed"


def test_single_photos_elsewhere_cost_a_folder_no_row(tmp_path: Path) -> None:
    for name in ("in/a/1.jpg", "in/b/2.jpg", "in/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photo(1))
    output = tmp_path / "out"
    assert run(tmp_path / "in/a", "--output", output) == 0
    assert run(tmp_path / "in/b/2.jpg", tmp_path / "in/3.jpg", "--output", output) == 0
    assert sorted(keys(output).elements()) == ["1.jpg", "3.jpg", "b/2.jpg"]


# What can be read is part of the state


def test_photos_are_tried_again_once_they_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # JPEG XL is read by no package of ours: the status stays, but the shard is done again.
    write_tar(tmp_path / "jxl.tar", [("a.jpg", b"\xff\x0a" + bytes(99)), ("b.jpg", photo(1))])
    write_tar(tmp_path / "sound.tar", sound_members(2))
    words = (f"{tmp_path}/*.tar", "--output", tmp_path / "out")
    assert run(*words) == 0
    errors = pandas.read_parquet(tmp_path / "out/errors")
    assert list(errors.status) == ["no_reader"]
    before = written(tmp_path / "out")
    assert run(*words) == 0 and done_again(tmp_path / "out", before) == set()
    now = (*output_module.readable_formats(), "JXL")
    monkeypatch.setattr(output_module, "readable_formats", lambda: now)
    assert run(*words) == 0 and done_again(tmp_path / "out", before) == {"jxl"}
    before = written(tmp_path / "out")
    assert run(*words) == 0 and done_again(tmp_path / "out", before) == set()


def test_retry_failed_does_again_what_failed(tmp_path: Path) -> None:
    write_tar(tmp_path / "bad.tar", [("a.jpg", b"text"), ("b.jpg", photo(1))])
    write_tar(tmp_path / "sound.tar", sound_members(2))
    words = (f"{tmp_path}/*.tar", "--output", tmp_path / "out")
    assert run(*words) == 0
    before = written(tmp_path / "out")
    assert run(*words, "--retry-failed") == 0
    assert (
        done_again(tmp_path / "out", before) == {"bad"}
        and sum(keys(tmp_path / "out").values()) == 3
    )


def test_a_missing_reader_is_told_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.heic", "b.HEIC", "c.jpg"):
        (tmp_path / "in" / name).write_bytes(photo(1))
    monkeypatch.setattr(geotag, "unreadable_endings", lambda: {"heic": "pip install pi-heif"})
    assert run(tmp_path / "in", "--output", tmp_path / "out") == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("2 photos (.heic) cannot be read here; ")
    assert "`pip install pi-heif`" in told[0] and " shard -> " in told[1]


# Damage


def test_every_damaged_shard_is_named_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for index in range(12):
        (tmp_path / f"cut-{index:02d}.tar").write_bytes(tar_bytes(sound_members(3))[:2500])
    write_tar(tmp_path / "sound.tar", sound_members(2))
    words = (f"{tmp_path}/*.tar", "--output", tmp_path / "out")
    assert run(*words) == 1
    told = capsys.readouterr()
    assert told.err.splitlines()[-1].startswith("error: 12 shards damaged, see above: ")
    damaged = json.loads((tmp_path / "out/summary.json").read_text())["damaged"]
    assert len(damaged) == 12
    assert {one["status"] for one in damaged} == {"truncated"}
    named = [line for line in told.out.splitlines() if line.startswith(f"  {tmp_path}")]
    assert named == [f"  {one['source']}: {one['message']}" for one in damaged[:10]]
    assert "  and 2 more\n" in told.out
    assert run(*words, "--accept-damaged") == 0
    assert run(*words, "--summarise") == 1 and run(*words, "--summarise", "--accept-damaged") == 0


def test_an_end_that_is_unusual_is_told_and_does_not_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = tar_bytes([("a.jpg", photo(1))])
    end = 512 + -(-len(photo(1)) // 512) * 512
    (tmp_path / "s.tar").write_bytes(data[:end])
    assert run(tmp_path / "s.tar", "--output", tmp_path / "out") == 0
    told = capsys.readouterr().out
    assert f"\nnotes\n  {tmp_path}/s.tar: " in told and "damaged" not in told
    assert told.splitlines()[-1] == "1 photo: 1 geotagged"


def test_the_last_line_says_what_became_of_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    members = [*sound_members(4), ("x.jpg", b"text"), ("y.png", b""), ("z.png", b"")]
    others = [
        ("1.mov", b"m"),
        ("2.mov", b"m"),
        ("d/._1.jpg", b"m"),
        ("r.cr3", b"m"),
        ("t.txt", b"m"),
    ]
    write_tar(tmp_path / "s.tar", [*members, *others])
    assert run(tmp_path / "s.tar", "--output", tmp_path / "out") == 0
    wanted = (
        "7 photos: 4 geotagged, 3 not (2 empty, 1 without a picture in the file); "
        "5 files left out (1 .cr3, 2 .mov, 1 ._*, 1 of other kinds)"
    )
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == wanted
    assert "\nleft out              5   1 .cr3, 2 .mov, 1 ._*, 1 .txt\n" in told
    left_out = json.loads((tmp_path / "out/summary.json").read_text())["left_out"]
    assert left_out["total"] == 5 and sum(left_out["by_kind"].values()) == 5
    assert run("--output", tmp_path / "out", "--summarise") == 0
    assert capsys.readouterr().out.splitlines()[-1] == wanted


@pytest.mark.parametrize("unfamiliar", [0.0, 0.4, 1.1])
def test_photos_that_the_checkpoint_is_not_for_do_not_look_like_success(
    tmp_path: Path, capsys: pytest.CaptureFixture, unfamiliar: float
) -> None:
    path = write_tar(tmp_path / "s.tar", sound_members(20))
    words = [str(path), "--output", str(tmp_path / "out")]
    assert geotag.main(words, PickyLoader(unfamiliar)) == 0
    told = capsys.readouterr()
    assert "this checkpoint is for red photos; for blue ones use another" in told.err
    found = pandas.read_parquet(tmp_path / "out/predictions")["familiarity"]
    count = int((found < unfamiliar).sum())
    assert (count == 0, count == 20) == (unfamiliar == 0.0, unfamiliar == 1.1)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["unfamiliar"] == count and summary["predictions"] == 20
    line = f"20 photos: {20 - count} geotagged"
    lines = told.out.splitlines()
    wrong = (
        f"WRONG CHECKPOINT: {count} photos unlike those that the checkpoint is for (red photos): "
        "their answers say nearly nothing; for blue ones use another"
    )
    if count > 10:
        assert lines.pop() == wrong
    else:
        assert not any("WRONG" in line for line in lines)
    if count:
        line += f", {count} with an answer that says nearly nothing"
        [row] = (line for line in lines if line.startswith(f"unfamiliar   {count:>10}"))
        assert ("for blue ones use another" in row) == (count <= 10), "it is said once"
    assert lines[-1] == line


def test_an_archive_in_an_archive_is_named_with_its_place(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", [*sound_members(1), ("d/backup.tgz", b"x")])
    assert run(tmp_path / "s.tar", "--output", tmp_path / "out") == 0
    left_out = json.loads((tmp_path / "out/summary.json").read_text())["left_out"]
    assert left_out["named"] == [f"{tmp_path}/s.tar/d/backup.tgz"]


# Places


def test_an_output_that_is_the_folder_of_the_photos_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(photo(1))
    assert run(tmp_path / "in", "--output", f"{tmp_path}/in/../in") == 2
    assert "is the folder of the photos" in capsys.readouterr().err
    assert os.listdir(tmp_path / "in") == ["a.jpg"]


def test_an_output_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "s.tar", sound_members(1))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert run(path, "--output", "~/out") == 0
    assert (tmp_path / "home/out/run.json").exists() and not (tmp_path / "~").exists()
    shutil.rmtree(tmp_path / "home")
    (tmp_path / "~").mkdir()
    assert run(path, "--output", "~/out") == 0
    assert (tmp_path / "~/out/run.json").exists(), "a folder of this name is meant literally"


def test_a_map_in_a_directory_with_characters_of_globs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.geotag.output import Output
    from pipelines.geotag.pages import write_map_png
    from pipelines.geotag.summary import run_digest

    path = write_tar(tmp_path / "s.tar", sound_members(2))
    output = tmp_path / "out [a] {b} *"
    assert run(path, "--output", output) == 0
    write_map_png(run_digest(Output(str(output))).sample, f"{output}/map.png")
    assert (output / "map.png").stat().st_size > 1000


def test_names_of_255_bytes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / f"{'ä' * 125}x.tar", [(f"{'k' * 251}.jpg", photo(1))])
    assert len(os.fsencode(path.name)) == 255
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"{'k' * 251}.jpg").write_bytes(photo(1))
    assert run(path, tmp_path / "in", "--output", tmp_path / "out") == 0
    assert set(keys(tmp_path / "out")) == {"k" * 251, f"{'k' * 251}.jpg"}

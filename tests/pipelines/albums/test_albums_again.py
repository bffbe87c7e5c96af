"""A job that is typed again does what is left or has changed, and ends in the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.albums import output, photos
from support import python_path
from support.album_jobs import parts_of, rows_of, run, summary_of, trip, write_table


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "PHOTOS_OF_BUCKET", 10)


@pytest.fixture(name="rows")
def seven_trips() -> list[dict[str, Any]]:
    return [row for i in range(7) for row in trip(f"trip {i}", 9, seed=i)]


def test_a_job_that_was_killed_goes_on(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path / "photos.csv", rows)
    assert run("--table", table, "--output", tmp_path / "whole") == 0
    whole = parts_of(tmp_path / "whole")
    placed: list[int] = []
    rows_of_bucket = output.bucket_rows

    def killing(*arguments: Any) -> Any:
        placed.append(len(arguments[0]))
        if len(placed) == 3:
            raise MemoryError("killed")
        return rows_of_bucket(*arguments)

    monkeypatch.setattr(output, "bucket_rows", killing)
    words = ("--table", table, "--output", tmp_path / "out")
    assert run(*words) == 1
    written = parts_of(tmp_path / "out")
    assert 2 == sum(name.endswith(".parquet") for name in written) < len(whole) // 2
    assert run(*words) == 0
    assert parts_of(tmp_path / "out") == whole
    assert sum(placed) - placed[2] == 63, "what was finished is not placed again"
    placed.clear()
    assert run(*words) == 0
    assert not placed and parts_of(tmp_path / "out") == whole


def test_a_table_of_the_same_name_replaces_nothing(
    rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    first, second = (write_table(tmp_path / name / "photos.csv", rows[:9]) for name in "ab")
    assert run("--table", first, "--output", tmp_path / "out") == 0
    before = parts_of(tmp_path / "out")
    assert run("--table", second, "--output", tmp_path / "out") == 2
    assert "holds another" in capsys.readouterr().err
    assert parts_of(tmp_path / "out") == before


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_a_job_that_was_stopped_goes_on(
    rows: list[dict[str, Any]], tmp_path: Path, number: signal.Signals
) -> None:
    words = ["--table", str(write_table(tmp_path / "photos.csv", rows)), "--output"]
    process = subprocess.Popen(
        [sys.executable, "-m", "support.interrupted_albums", *words, str(tmp_path / "out")],
        env={**python_path(), "MARK": str(tmp_path / "mark")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (tmp_path / "mark").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, number)
    told = process.communicate()[1].splitlines()
    if number is signal.SIGINT:
        assert process.returncode == 130
        assert told[-1] == "stopped; type the same command again to go on from here"
    assert sum(name.endswith(".parquet") for name in parts_of(tmp_path / "out")) == 2
    assert run(*words, tmp_path / "out") == run(*words, tmp_path / "whole") == 0
    assert parts_of(tmp_path / "out") == parts_of(tmp_path / "whole")


def test_albums_that_have_changed_are_done_again(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path / "photos.csv", rows)
    words = ("--table", table, "--output", tmp_path / "out")
    assert run(*words) == 0
    placed: list[int] = []
    rows_of_bucket = output.bucket_rows
    monkeypatch.setattr(
        output, "bucket_rows", lambda *a: placed.append(len(a[0])) or rows_of_bucket(*a)
    )
    rows[0]["latitude"] = "48.5"
    write_table(table, rows)
    assert run(*words) == 0
    assert 0 < sum(placed) < 63
    write_table(table, rows[9:])
    assert run(*words) == 0
    assert len(rows_of(tmp_path / "out")) == summary_of(tmp_path / "out")["photos"] == 54
    (part,) = write_and_list(tmp_path, rows[:9])
    assert part.endswith("-of-00001.parquet"), "parts of before are gone"


def write_and_list(root: Path, rows: list[dict[str, Any]]) -> list[str]:
    table = write_table(root / "photos.csv", rows)
    assert run("--table", table, "--output", root / "out") == 0
    return [path.name for path in (root / "out/albums").glob("part-*.parquet")]


def test_other_settings_want_another_output(
    rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "photos.csv", rows)
    words = ("--table", table, "--output", tmp_path / "out")
    assert run(*words) == 0
    assert run(*words, "--album-by", "camera") == 2
    assert "album_by 'folder' there, 'camera' now" in capsys.readouterr().err
    assert run(*words, "--album-by", "camera", "--overwrite") == 0
    assert summary_of(tmp_path / "out")["albums"] == 1
    assert run(*words, "--summarise") == 0
    assert "63 photos of 1 album" in capsys.readouterr().out


def test_what_somebody_else_wrote_is_left_alone(
    rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "photos.csv", rows)
    (tmp_path / "out/albums").mkdir(parents=True)
    theirs = tmp_path / "out/albums/part-mine.parquet"
    theirs.write_text("mine")
    assert run("--table", table, "--output", tmp_path / "out") == 2
    assert "did not write it" in capsys.readouterr().err
    assert theirs.read_text() == "mine"

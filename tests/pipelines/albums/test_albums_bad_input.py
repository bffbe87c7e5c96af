"""Bad clocks, bad positions and bad tables: every photo is one row that says how it stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.albums.command import main
from support.album_jobs import rows_of, run, summary_of, trip, write_table


def test_bad_clocks_and_positions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = trip("t", 30)
    rows[1]["captured_at"] = ""
    rows[4]["captured_at"] = "1980-01-05 12:00:00"
    rows[7]["captured_at"] = rows[6]["captured_at"]
    rows[9] |= {"latitude": "0", "longitude": "0"}
    rows[15] |= {"latitude": "-33.9", "longitude": "151.2"}
    rows[18] |= {"latitude": "not known", "longitude": "11"}
    rows.reverse()
    rows.append({**rows[0], "key": "", "captured_at": "rubbish"})
    table = write_table(tmp_path / "photos.csv", rows)
    assert run("--table", table, "--output", tmp_path / "out") == 0
    found = rows_of(tmp_path / "out").to_pandas().set_index("key")
    assert len(found) == 31
    standing = found.standing
    assert standing["t/001.jpg"] == standing["t/004.jpg"] == standing[""] == "no_time"
    assert found.latitude[["t/001.jpg", ""]].isna().all()
    assert standing["t/009.jpg"] == standing["t/018.jpg"] == "placed"
    assert standing["t/015.jpg"] == "contradicts"
    assert found.latitude["t/015.jpg"] > 40.0, "it is where the others put it"
    assert found.truth_latitude["t/015.jpg"] == -33.9, "and its own position stays"
    (told,) = summary_of(tmp_path / "out")["contradictions"]
    assert (told["key"], told["album"]) == ("t/015.jpg", "t") and told["distance_km"] > 15_000
    printed = capsys.readouterr()
    assert "t/015.jpg of t: 1" in printed.out
    assert "1 position cannot be read, such as 'not known 11'" in printed.err
    assert "1 time cannot be read, such as 'rubbish'" in printed.err
    others = found[standing == "placed"]
    assert (np.abs(others.latitude - 48.0) < 1.0).all() and len(others) == 10


def test_photos_without_any_anchor_stand_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "latitude": "", "longitude": ""} for row in trip("t", 5)]
    table = write_table(tmp_path / "photos.csv", rows)
    assert run("--table", table, "--output", tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "no photo was placed" in printed.err
    assert "--album-by" not in printed.out, "there is no other camera that could help"
    found = rows_of(tmp_path / "out").to_pandas()
    assert set(found.standing) == {"alone"} and found.radius_90_km.isna().all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("key,captured_at,latitude,longitude\n", "has no row"),
        ("key,latitude,longitude\na,1,2\n", "captured_at"),
        ("captured_at,radius_90_km,latitude,longitude\n2015-01-01,5,1,2\n", "are answers"),
    ],
)
def test_tables_that_are_none(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos.csv").write_text(text)
    assert run("--table", tmp_path / "photos.csv", "--output", tmp_path / "out") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "wanted one output"),
        (["a", "b"], "2 outputs"),
        (["a", "--table", "b.csv"], "1 outputs and 1 tables"),
        (["--table", "a.csv", "b.csv"], "give --output DIR"),
        (["--table", "a.csv", "./a.csv", "--output", "out"], "names ./a.csv twice"),
        (["--summarise"], "wanted one output"),
        (["--summarise", "--output", "out"], "no job was started there"),
        (["--table", "a.csv", "--album-by", "owner"], "'owner' is none of folder, top-folder"),
        (["--table", "a.csv", "--album-by", "none,camera"], "groups no photos"),
        (["--table", "a.csv", "--parameters", "none.json"], "--parameters none.json cannot"),
        (["--table", "a.csv", "--anchors-only"], "--anchors-only is about what photos show"),
        (["--table", "a.csv", "--device", "cuda"], "--device is about what photos show"),
        (["--table", "a.csv", "--checkpoint", "overhead"], "--checkpoint is about what photos"),
        (["no-output"], "is no output of `locdiffusion geotag`"),
        (["--table", "a.csv", "--no-such-flag"], "no flag of this command"),
    ],
)
def test_mistakes_in_the_command(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "a.csv", trip("t", 3))
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_the_output_is_named_after_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "photos.csv", trip("t", 6))
    assert run("--table", "photos.csv") == 0
    assert len(rows_of(tmp_path / "photos-albums")) == 6
    assert run("--summarise", "--output", "photos-albums") == 0, "the output is all that it needs"


def test_check_and_fit_are_actions_of_the_same_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "photos.csv", trip("t", 40))
    assert main(["check", str(table)]) == 0
    assert "50 %" in capsys.readouterr().out
    assert main(["fit", str(table)]) == 2
    assert "--output FILE" in capsys.readouterr().err

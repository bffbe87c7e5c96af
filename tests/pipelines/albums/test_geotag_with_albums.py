"""`geotag --albums` geotags, and then places the photos of its output."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.geotag.command import main
from support.album_jobs import START, plainly, rows_of, summary_of
from support.archives import photo
from support.plain_run import geotagged


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "Photos"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.jpg").write_bytes(photo(i))
        document = {"captured_at": f"{(START + timedelta(hours=i)).isoformat()}+02:00"}
        if i % 3:
            document |= {"latitude": 47.0, "longitude": 11.0 + 0.01 * i}
        (folder / f"{i}.json").write_text(json.dumps(document))
    return folder


def test_both_jobs_one_behind_the_other(
    photos: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    flags = ("--checkpoint", str(tiny_checkpoint), "--albums")
    with plainly():
        outcome = geotagged(tmp_path / "out", photos, flags=flags, load=None)
    assert outcome.status == 0, outcome.console
    assert "6 photos of 1 album" in outcome.console
    found = rows_of(tmp_path / "out").to_pandas().set_index("key")
    assert found.standing.to_dict() == {
        f"{i}.jpg": "anchor" if i % 3 else "placed" for i in range(6)
    }
    assert summary_of(tmp_path / "out")["configuration"]["evidence"]
    assert len(outcome.predictions) == 6
    # Typed again, nothing is left to do.
    with plainly():
        again = geotagged(tmp_path / "out", photos, flags=flags, load=None)
    assert again.status == 0


def test_albums_that_cannot_be_made_lose_no_prediction(
    photos: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    (tmp_path / "out/albums").mkdir(parents=True)
    (tmp_path / "out/albums/mine.txt").write_text("mine")
    flags = ("--checkpoint", str(tiny_checkpoint), "--albums")
    with plainly():
        outcome = geotagged(tmp_path / "out", photos, flags=flags, load=None)
    assert outcome.status == 1 and len(outcome.predictions) == 6
    assert "all photos are geotagged, and not placed" in outcome.console
    assert (tmp_path / "out/albums/mine.txt").read_text() == "mine"


def test_albums_want_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(tmp_path), "--from-embeddings", "--albums", "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "--albums is about photos" in capsys.readouterr().err

"""The albums of what `geotag` wrote: anchors are known positions, predictions stay as they are."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from support.album_jobs import START, parts_of, rows_of, run, summary_of
from support.archives import photo, write_tar
from support.plain_run import geotagged

KNOWN = (0, 2, 3, 5, 6, 8)


def members(count: int, start: int = 0, folder: str = "Alps") -> list[tuple[str, bytes]]:
    """Photos an hour apart, of which some have a document with their position."""
    made = []
    for i in range(start, start + count):
        taken = (START + timedelta(hours=i)).isoformat() + "+02:00"
        document: dict[str, Any] = {"captured_at": taken}
        if i % 9 in KNOWN:
            document |= {"latitude": 47.0 + 0.01 * i, "longitude": 11.0}
        made.append((f"{folder}/{i:03d}.jpg", photo(i)))
        made.append((f"{folder}/{i:03d}.json", json.dumps(document).encode()))
    return made


def archive(root: Path) -> Path:
    """A folder with two folders of photos, one of which has no position."""
    for name, data in [*members(18), *members(3, 1, "Desk"), ("Desk/x.jpg", b"text")]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if not (name.startswith("Desk") and name.endswith(".json")):
            (root / name).write_bytes(data)
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("geotag")
    outcome = geotagged(root / "out", archive(root / "Photos"), flags=("--embeddings",))
    assert (outcome.status, len(outcome.predictions), len(outcome.errors)) == (0, 21, 1)
    return root / "out"


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


def alone(output: Path) -> Any:
    parts = sorted((output / "predictions").glob("*.parquet"))
    return pq.read_table(parts).sort_by("key").to_pandas().set_index("key")


def test_every_prediction_is_one_row(out: Path) -> None:
    before = parts_of(out)
    assert run(out) == 0
    after = parts_of(out)
    assert {name: after[name] for name in before} == before, "nothing of geotag has changed"
    found, predicted = rows_of(out).to_pandas().set_index("key"), alone(out)
    assert found.index.tolist() == predicted.index.tolist() and len(found) == 21
    assert (found.shard == predicted.shard).all() and (found.model_id == predicted.model_id).all()
    assert set(found.album) == {"Photos/Alps", "Photos/Desk"}
    for name in ("latitude", "longitude", "radius_50_km", "radius_90_km"):
        assert (found[f"alone_{name}"] == predicted[name]).all()
    assert summary_of(out)["standings"] == {
        "anchor": 12,
        "placed": 6,
        "contradicts": 0,
        "no_time": 3,
        "alone": 0,
    }
    anchors = found[found.standing == "anchor"]
    assert (anchors.latitude == anchors.truth_latitude).all()
    placed = found[found.standing == "placed"]
    assert placed.information_nats.isna().all() and (placed.country_code == "AT").any()
    assert [len(modes) for modes in placed.modes] == [1] * 6
    hours = (placed.captured_at - np.datetime64(START)).dt.total_seconds() / 3600.0
    assert np.abs(placed.latitude - (47.0 + 0.01 * hours)).max() < 0.03
    # A photo without a time keeps its prediction.
    desk = found[found.standing == "no_time"]
    for name in ("latitude", "radius_90_km", "information_nats", "country_code"):
        assert desk[name].equals(predicted.loc[desk.index, name]), name
    assert [len(modes) for modes in desk.modes] == [2] * 3
    assert desk.hours_before.isna().all() and desk.share_own.isna().all()


def test_archives_of_a_folder_are_one_place(tmp_path: Path) -> None:
    for number in range(2):
        content = [*members(9, 9 * number), (f"root{number}.jpg", photo(90 + number))]
        write_tar(tmp_path / f"export/part-{number}.tar", content)
    outcome = geotagged(tmp_path / "out", f"{tmp_path}/export/*.tar")
    assert outcome.status == 0
    assert run(tmp_path / "out", "--output", tmp_path / "albums") == 0
    found = rows_of(tmp_path / "albums").to_pandas()
    albums = found.groupby("album").key.count().to_dict()
    assert albums == {"export/Alps": 18, "export/part-0": 1, "export/part-1": 1}
    assert not (tmp_path / "out/albums").exists()


def test_new_photos_come_into_their_albums(tmp_path: Path) -> None:
    folder = archive(tmp_path / "Photos")
    assert geotagged(tmp_path / "out", folder).status == 0
    assert run(tmp_path / "out") == 0
    for name, data in members(3, 18):
        (folder / name).write_bytes(data)
    assert geotagged(tmp_path / "out", folder).status == 0
    assert run(tmp_path / "out") == 0
    assert len(rows_of(tmp_path / "out")) == summary_of(tmp_path / "out")["photos"] == 24


def broken_part(out: Path) -> None:
    next((out / "predictions").iterdir()).write_bytes(b"no parquet")


def other_version(out: Path) -> None:
    run_file = out / "run.json"
    run_file.write_text(
        run_file.read_text().replace('"schema_version": "5"', '"schema_version": "4"')
    )


@pytest.mark.parametrize(
    ("damage", "status", "said"),
    [
        (broken_part, 1, "cannot be read"),
        (other_version, 2, "schema version 4"),
        (lambda out: shutil.rmtree(out / "_manifest"), 2, "no photo with an answer"),
    ],
)
def test_outputs_that_are_damaged(
    damage: Any, status: int, said: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(out)
    assert run(out) == status
    assert said in capsys.readouterr().err

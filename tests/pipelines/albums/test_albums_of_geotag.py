"""The albums of what `geotag` wrote: anchors are known positions, predictions stay as they are."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose

from locdiffusion.albums.album import Album
from locdiffusion.albums.evidence import Evidence
from locdiffusion.albums.joint import place_jointly
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.geotagger import Geotagger
from pipelines.albums import evidence
from pipelines.albums.command import main
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
    assert run(out, "--anchors-only") == 0
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


def test_a_position_that_an_earlier_run_wrote_is_no_anchor(out: Path) -> None:
    assert (alone(out).truth_source == "estimate").sum() == 0
    for path in (out / "predictions").glob("*.parquet"):
        rows = pq.read_table(path)
        number = rows.schema.get_field_index("truth_source")
        ours = [
            "estimate" if key.endswith("002.jpg") else source
            for key, source in zip(
                *(rows[n].to_pylist() for n in ("key", "truth_source")), strict=True
            )
        ]
        changed = rows.set_column(number, rows.schema.field(number), pa.array([*ours], pa.string()))
        pq.write_table(changed, path)
    assert run(out, "--anchors-only") == 0
    found = rows_of(out).to_pandas().set_index("key")
    assert found.standing[found.index.str.endswith("Alps/002.jpg")].tolist() == ["placed"]
    assert (found.standing == "anchor").sum() == 11


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


def top_folders(output: Path, albums: Path) -> set[str]:
    words = ("--output", albums, "--album-by", "top-folder", "--anchors-only")
    assert run(output, *words) == 0
    return set(rows_of(albums)["album"].to_pylist())


def test_top_folders_lie_below_the_only_place_or_are_the_places(out: Path, tmp_path: Path) -> None:
    assert top_folders(out, tmp_path / "albums") == {"Photos/Alps", "Photos/Desk"}
    for name in ("ann", "ben"):
        for photo_name, data in members(2, folder=f"{name}/DCIM/100"):
            (tmp_path / photo_name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / photo_name).write_bytes(data)
    places = [tmp_path / name / "DCIM" for name in ("ann", "ben")]
    assert geotagged(tmp_path / "both", *places).status == 0
    assert top_folders(tmp_path / "both", tmp_path / "two") == {str(place) for place in places}


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
        run_file.read_text().replace('"schema_version": "6"', '"schema_version": "5"')
    )


@pytest.mark.parametrize(
    ("damage", "status", "said"),
    [
        (broken_part, 1, "cannot be read"),
        (other_version, 2, "schema version 5"),
        (lambda out: shutil.rmtree(out / "_manifest"), 2, "no photo with an answer"),
    ],
)
def test_outputs_that_are_damaged(
    damage: Any, status: int, said: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(out)
    assert run(out, "--anchors-only") == status
    assert said in capsys.readouterr().err


# ------------------------------------------------------------------------- what the photos show


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The output of a real model, with embeddings."""
    root = tmp_path_factory.mktemp("seen")
    flags = ("--checkpoint", str(tiny_checkpoint), "--embeddings")
    assert geotagged(root / "out", archive(root / "Photos"), flags=flags, load=None).status == 0
    return root / "out"


def test_the_job_joins_what_photos_show_as_the_plain_function(
    seen: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    words = ("--checkpoint", tiny_checkpoint, "--output", tmp_path / "out")
    assert run(seen, *words) == 0
    found = rows_of(tmp_path / "out").to_pandas().set_index("key")
    alps = found[found.album == "Photos/Alps"]
    kept = pq.read_table(sorted((seen / "embeddings").glob("*.parquet"))).to_pandas()
    kept = kept.set_index("key").loc[alps.index]
    geotagger = Geotagger.load(str(tiny_checkpoint), embeds=False)
    hours = (alps.captured_at - datetime(1970, 1, 1)).dt.total_seconds().to_numpy() / 3600.0 - 2.0
    known = alps.truth_latitude.to_numpy(), alps.truth_longitude.to_numpy()
    asked = np.flatnonzero(np.isnan(known[0]))
    values = np.stack(kept.embedding.to_numpy()[asked]).astype(np.float32)
    natural = geotagger.sample(values, alps.index[asked].tolist())
    shown = Evidence(asked, geotagger.likelihood(natural, values))
    answers = place_jointly(Album.of(hours, *known), shown, AlbumParameters.load())
    assert_allclose(alps.latitude, answers.latitude, atol=1e-6)
    assert_allclose(alps.radius_90_km, answers.radius_90_km, rtol=1e-3)
    assert (alps.share_own.to_numpy()[asked] > 0).all()
    assert summary_of(tmp_path / "out")["configuration"]["evidence"]


def test_a_long_album_gives_the_rows_of_one_that_is_held_whole(
    seen: Path, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (seen, "--checkpoint", tiny_checkpoint, "--output")
    assert run(*words, tmp_path / "whole") == 0
    monkeypatch.setattr(evidence, "HELD_AT_ONCE", 4)
    assert run(*words, tmp_path / "parts") == 0
    whole, parts = (rows_of(tmp_path / name).to_pandas() for name in ("whole", "parts"))
    for name in ("latitude", "longitude"):
        assert_allclose(parts[name], whole[name], atol=1e-5)
    assert_allclose(parts.radius_90_km, whole.radius_90_km, rtol=1e-3)


def test_beam_writes_the_bytes_of_the_plain_loop_with_evidence(
    seen: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    words = [str(seen), "--checkpoint", str(tiny_checkpoint), "--output"]
    assert run(*words, tmp_path / "plain") == 0
    assert main([*words, str(tmp_path / "beam")]) == 0
    assert parts_of(tmp_path / "plain/albums") == parts_of(tmp_path / "beam/albums")


def test_photos_without_anchors_are_joined_and_one_by_itself_stays_as_it_was(
    seen: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Of two albums of photos without positions, one has two photos and the other one."""
    photos = tmp_path / "Photos"
    for name, data in [*members(3, 1, "Two"), *members(2, 1, "One")]:
        if name not in ("Two/002.jpg", "Two/003.jpg"):
            (photos / name).parent.mkdir(parents=True, exist_ok=True)
            (photos / name).write_bytes(data)
    for name in ("One/002.jpg", "One/002.json", "Two/002.json", "Two/003.json"):
        (photos / name).unlink(missing_ok=True)
    (photos / "Two/004.jpg").write_bytes(photo(4))
    taken = (START + timedelta(hours=4)).isoformat()
    (photos / "Two/004.json").write_text(json.dumps({"captured_at": taken + "+02:00"}))
    flags = ("--checkpoint", str(tiny_checkpoint), "--embeddings")
    assert geotagged(tmp_path / "out", photos, flags=flags, load=None).status == 0
    assert run(tmp_path / "out", "--checkpoint", tiny_checkpoint) == 0
    found, predicted = rows_of(tmp_path / "out").to_pandas(), alone(tmp_path / "out")
    assert found.standing.tolist() == ["alone", "placed", "placed"]
    assert found.latitude[0] == predicted.latitude.iloc[0]
    assert (found.share_anchors[1:] < 0.01).all()


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--anchors-only"], 0, ""),
        ([], 2, "was made with the checkpoint tiny-"),
        (["--checkpoint", "overhead"], 2, "is another; give that one with --checkpoint DIR"),
    ],
)
def test_which_model_is_wanted(
    flags: list[str],
    status: int,
    said: str,
    seen: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(seen, *flags, "--output", tmp_path / "out") == status
    assert said in capsys.readouterr().err


def test_without_embeddings_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert geotagged(tmp_path / "out", archive(tmp_path / "Photos")).status == 0
    assert run(tmp_path / "out") == 0
    assert "keeps no embeddings" in capsys.readouterr().err
    assert not summary_of(tmp_path / "out")["configuration"]["evidence"]

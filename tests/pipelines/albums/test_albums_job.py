"""The albums job gives the rows of the plain functions, whoever does the work, in any parts."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
from numpy.testing import assert_allclose

from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.placing import place
from locdiffusion.albums.table import read_albums
from pipelines.albums import command, photos
from pipelines.albums.photos import bucket_count, bucket_of
from schemas import geoparquet
from schemas.albums import ALBUM_SCHEMA, Standing
from support.album_jobs import parts_of, rows_of, run, summary_of, trip, write_table

NUMBERS = ("latitude", "longitude", "radius_50_km", "radius_90_km", "hours_before", "hours_after")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [row for i in range(7) for row in trip(f"trip {i}", 12, seed=i)]
    return write_table(tmp_path / "photos.csv", rows)


def test_the_rows_are_those_of_the_plain_function(table: Path, tmp_path: Path) -> None:
    assert run("--table", table, "--output", tmp_path / "out") == 0
    found = rows_of(tmp_path / "out")
    assert found.schema.remove_metadata().equals(ALBUM_SCHEMA)
    geoparquet.validate(found.schema)
    by_key = {key: i for i, key in enumerate(found["key"].to_pylist())}
    assert len(by_key) == len(found) == 84, "each photo is one row"
    for name, (album, keys) in read_albums(str(table)).items():
        answers = place(album, AlbumParameters.load())
        rows = found.take([by_key[key] for key in keys])
        assert set(rows["album"].to_pylist()) == {name}
        assert rows["standing"].to_pylist() == [one.value for one in answers.standing]
        for column in NUMBERS:
            wanted = getattr(answers, column)
            wanted = np.where(np.isinf(wanted), np.nan, wanted)
            assert_allclose(rows[column].to_numpy(), wanted, atol=1e-9)
        probability = np.stack([rows[f"prob_{km}km"].to_numpy() for km in (1, 25, 200, 750, 2500)])
        assert_allclose(probability.T, answers.probability, atol=1e-6)
        shares = [rows[f"share_{who}"].to_numpy() for who in ("anchors", "neighbours", "own")]
        assert_allclose(np.stack(shares, 1), answers.shares, atol=1e-6)
    summary = summary_of(tmp_path / "out")
    assert (summary["photos"], summary["albums"]) == (84, 7)
    assert summary["standings"]["placed"] == 28


def test_geopandas_reads_the_folder(table: Path, tmp_path: Path) -> None:
    assert run("--table", table, "--output", tmp_path / "out") == 0
    frame = geopandas.read_parquet(tmp_path / "out/albums")
    assert len(frame) == 84 and frame.geometry.notna().all()
    assert set(frame.country_code.dropna()) == {"DE"}


def test_known_positions_never_move(table: Path, tmp_path: Path) -> None:
    assert run("--table", table, "--output", tmp_path / "out") == 0
    found = rows_of(tmp_path / "out").to_pandas()
    anchors = found[found.standing == Standing.ANCHOR.value]
    assert len(anchors) == 56
    assert (anchors.latitude == anchors.truth_latitude).all()
    assert (anchors.longitude == anchors.truth_longitude).all()
    assert found.truth_latitude.isna().sum() == 28


@pytest.mark.parametrize("runner", ["beam", "processes"])
def test_beam_writes_the_bytes_of_the_plain_loop(
    table: Path, tmp_path: Path, runner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runner == "processes":
        pytest.importorskip("apache_beam")
    monkeypatch.setattr(photos, "PHOTOS_OF_BUCKET", 12)
    assert run("--table", table, "--output", tmp_path / "plain") == 0
    flags = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    words = ["--table", str(table), "--output", str(tmp_path / "beam")]
    assert command.main([*words, *(flags if runner == "processes" else [])]) == 0
    assert parts_of(tmp_path / "plain") == parts_of(tmp_path / "beam")
    parts = sorted((tmp_path / "beam/albums").glob("part-*.parquet"))
    assert 1 < len(parts) <= 8 and parts[0].name.endswith("-of-00008.parquet")


def test_rows_do_not_depend_on_buckets_or_on_the_order_of_the_table(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("--table", table, "--output", tmp_path / "one") == 0
    lines = table.read_text().splitlines()
    shuffled = [lines[0], *np.random.default_rng(1).permutation(lines[1:]).tolist()]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/photos.csv").write_text("\n".join(shuffled))
    monkeypatch.setattr(photos, "PHOTOS_OF_BUCKET", 5)
    words = ("--table", tmp_path / "other/photos.csv", "--output", tmp_path / "two")
    assert run(*words) == 0
    one, two = (rows_of(tmp_path / name).replace_schema_metadata(None) for name in ("one", "two"))
    assert one.equals(two)


def test_buckets() -> None:
    assert [bucket_count(n) for n in (1, 4096, 4097, 8193, 1_000_000)] == [1, 1, 2, 4, 256]
    assert bucket_of("2019/Été", 8) == bucket_of("2019/Été", 8) < 8

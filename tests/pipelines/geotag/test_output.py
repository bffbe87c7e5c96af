"""The output directory: deterministic bytes, honest counts, nobody else's files touched."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest

from locdiffusion.photos.listing import Shard, list_shards, shard_id, shard_stem
from locdiffusion.photos.storage import DataError
from pipelines.geotag.batches import read_batches, run_stage
from pipelines.geotag.console import summary_table
from pipelines.geotag.digest import accuracy_row, error_counts
from pipelines.geotag.output import Output, OutputError, RunConfiguration, write_shard
from pipelines.geotag.shard_files import shard_group
from pipelines.geotag.summary import summarise
from schemas import geoparquet
from schemas.geotags import ERROR_SCHEMA, PREDICTION_SCHEMA, Stage
from support.archives import bad_members, sound_members, write_tar
from support.fake_geotagger import FakeGeotagger
from support.outputs import decoded, manifest_of, plain, tree

CONFIGURATION = RunConfiguration("fake-1", "f" * 64, 7, {"mode": "density", "crop": (1, 2)})


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    bad = [member for members, _ in bad_members().values() for member in members]
    return write_tar(tmp_path / "s-0.tar", [*sound_members(10), *bad])


# Batches


def test_one_bad_photo_costs_one_row_and_not_its_batch(tmp_path: Path) -> None:
    white = bad_members()["white"][0]
    path = write_tar(tmp_path / "s.tar", [*sound_members(9), *white, *sound_members(9, 10)])
    (batch,) = decoded(path, batch_size=64)
    assert len(batch) == 18
    (error,) = batch.errors
    assert (error.key, error.stage, error.status.value) == ("white", "embed", "inference_failed")
    assert "white photo" in error.message


def test_a_result_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    class Broken(FakeGeotagger):
        def decode(self, natural: np.ndarray, embeddings: np.ndarray, *wanted: Any) -> object:
            columns = super().decode(natural, embeddings, *wanted)
            columns.radius_50_km[0] = np.nan
            return columns

    path = write_tar(tmp_path / "s.tar", sound_members(3))
    (batch,) = read_batches(Shard("s", str(path)), FakeGeotagger().preprocess, 8)
    for stage in (Stage.EMBED, Stage.SAMPLE, Stage.DECODE):
        batch = run_stage(batch, stage, Broken())
    assert len(batch) == 2 and "finite" in batch.errors[0].message
    assert len(batch.payload.answers.modes) == 2 and len(batch.known) == 2


def test_a_model_that_loses_rows_is_noticed(tmp_path: Path) -> None:
    class Lossy(FakeGeotagger):
        def embed(self, pixels: np.ndarray) -> np.ndarray:
            return super().embed(pixels)[1:]

    path = write_tar(tmp_path / "s.tar", sound_members(3))
    (batch,) = read_batches(Shard("s", str(path)), FakeGeotagger().preprocess, 8)
    batch = run_stage(batch, Stage.EMBED, Lossy())
    assert len(batch) == 0 and len(batch.errors) == 3 and "0 rows" in batch.errors[0].message


# Files


def test_bytes_do_not_depend_on_batches_nor_on_the_directory(archive: Path, tmp_path: Path) -> None:
    trees = []
    for name, batch_size in (("a", 1), ("b", 7), ("c", 64)):
        batches = decoded(archive, batch_size)
        write_shard(Output(str(tmp_path / name)), CONFIGURATION, batches[::-1])
        trees.append(tree(tmp_path / name))
    assert trees[0] == trees[1] == trees[2]
    assert sorted(map(plain, trees[0])) == [
        "_manifest/s-0.json",
        "errors/part-s-0.parquet",
        "predictions/part-s-0.parquet",
    ]


def test_geopandas_reads_the_directory(archive: Path, tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    empty = write_tar(tmp_path / "empty.tar", [])
    write_shard(output, CONFIGURATION, decoded(empty, shard_id="a-empty"))
    frame = geopandas.read_parquet(tmp_path / "out/predictions")
    assert len(frame) == 0 and frame.crs == "OGC:CRS84"
    manifest = write_shard(output, CONFIGURATION, decoded(archive))
    frame = geopandas.read_parquet(tmp_path / "out/predictions")
    assert len(frame) == manifest["predictions"] > 10 and frame.crs == "OGC:CRS84"
    assert set(PREDICTION_SCHEMA.names) - {"bbox"} <= set(frame.columns)
    assert (frame.geometry.x == frame.longitude).all()
    assert (frame.geometry.y == frame.latitude).all()
    north = geopandas.read_parquet(tmp_path / "out/predictions", bbox=(-180, 0, 180, 90))
    assert set(north.key) == set(frame.key[frame.latitude >= 0]) and 0 < len(north) < len(frame)


def test_files_say_how_they_were_made(archive: Path, tmp_path: Path) -> None:
    write_shard(Output(str(tmp_path / "out")), CONFIGURATION, decoded(archive))
    for folder, wanted in (("predictions", PREDICTION_SCHEMA), ("errors", ERROR_SCHEMA)):
        schema = pq.read_schema(tmp_path / f"out/{folder}/part-s-0.parquet")
        assert schema.equals(wanted)
        assert schema.metadata[b"schema_version"] == b"6" and schema.metadata[b"seed"] == b"7"
        assert schema.metadata[b"checkpoint_hash"] == b"f" * 64
        assert json.loads(schema.metadata[b"config"]) == CONFIGURATION.to_dict()
        if folder == "predictions":
            geoparquet.validate(schema)


def test_other_file_systems(archive: Path) -> None:
    output = Output("memory://bucket/out")
    output.prepare(CONFIGURATION, [])
    write_shard(output, CONFIGURATION, decoded(archive))
    assert len(output.manifest_names()) == 1
    assert summarise(output)["mismatches"] == []
    output.prepare(CONFIGURATION, [], overwrite=True)
    assert output.manifest_names() == []


def test_lost_photos_are_never_written_down_as_done(archive: Path, tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    batches = decoded(archive)
    with pytest.raises(AssertionError, match="missing"):
        write_shard(output, CONFIGURATION, batches[1:])
    ending = batches[-1].ending
    assert ending is not None
    batches[-1] = replace(batches[-1], ending=replace(ending, photos=ending.photos + 1))
    with pytest.raises(AssertionError, match="photos came in"):
        write_shard(output, CONFIGURATION, batches)
    assert not (tmp_path / "out/_manifest").exists()


def test_a_write_that_fails_leaves_no_part(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: str, target: str) -> None:
        raise OSError("disk full")

    output = Output(str(tmp_path / "out"))
    output.prepare(CONFIGURATION, [])
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(os, "replace", fail)
        write_shard(output, CONFIGURATION, decoded(archive))
    output.prepare(CONFIGURATION, [])
    assert sorted(tree(tmp_path / "out")) == ["run.json"]


# Resuming


def test_finished_means_the_same_run_over_the_same_file(archive: Path, tmp_path: Path) -> None:
    output, shard = Output(str(tmp_path / "out")), Shard("s-0", str(archive))
    assert not output.kept(shard, CONFIGURATION)
    write_shard(output, CONFIGURATION, decoded(archive))
    assert output.kept(shard, CONFIGURATION)
    assert not output.kept(shard, replace(CONFIGURATION, seed=8))
    assert not output.kept(Shard("s-0", str(tmp_path / "other.tar")), CONFIGURATION)
    archive.write_bytes(archive.read_bytes() + bytes(512))
    assert not output.kept(shard, CONFIGURATION)
    write_shard(output, CONFIGURATION, decoded(archive))
    assert output.kept(shard, CONFIGURATION)
    (tmp_path / "out/errors/part-s-0.parquet").unlink()
    assert not output.kept(shard, CONFIGURATION)


def test_another_run_is_refused_until_overwritten(archive: Path, tmp_path: Path) -> None:
    root, shard = tmp_path / "out", Shard("s-0", str(archive))
    output = Output(str(root))
    output.prepare(CONFIGURATION, [shard])
    write_shard(output, CONFIGURATION, decoded(archive))
    output.prepare(CONFIGURATION, [shard])  # the same run: fine
    with pytest.raises(OutputError, match=r"seed 7 there, 8 now.*--overwrite"):
        output.prepare(replace(CONFIGURATION, seed=8), [shard])
    theirs = ("notes.txt", "predictions/mine.parquet", "_manifest/readme.md")
    for name in theirs:
        (root / name).write_text("keep")
    output.prepare(replace(CONFIGURATION, seed=8), [shard], overwrite=True)
    assert sorted(tree(root)) == sorted([*theirs, "run.json"])


def test_what_a_stopped_run_of_0_4_0_left_is_removed(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    output.prepare(CONFIGURATION, [])
    theirs = (".mine.tmp", ".notes.txt.12.tmp")
    ours = (".run.json.12.tmp", ".map.html.7.tmp", "_manifest/.x.json.12.tmp")
    for name in (*theirs, *ours, "predictions/.part-x.parquet.12.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    output.prepare(CONFIGURATION, [])
    assert sorted(tree(tmp_path)) == sorted([*theirs, "run.json"])


def test_what_a_stopped_run_left_is_removed(archive: Path, tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    output.prepare(CONFIGURATION, [])
    write_shard(output, CONFIGURATION, decoded(archive))
    for name in ("predictions/part-half.parquet", "errors/.locdiffusion-0123abcd.tmp"):
        (tmp_path / "out" / name).write_bytes(b"half")
    before = set(tree(tmp_path / "out"))
    assert "no manifest" in summarise(output)["mismatches"][0]
    output.prepare(CONFIGURATION, [])
    assert len(before - set(tree(tmp_path / "out"))) == 2 and len(output.manifest_names()) == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_somebody_else_are_refused(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "predictions").mkdir()
    with pytest.raises(OutputError, match="did not write it; choose another --output"):
        Output(str(tmp_path)).prepare(CONFIGURATION, [], overwrite)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"):
        Output(str(tmp_path / "file")).prepare(CONFIGURATION, [], overwrite)


def test_a_path_full_of_glob_characters(archive: Path, tmp_path: Path) -> None:
    output = Output(str(tmp_path / "a[1] {b} *"))
    output.prepare(CONFIGURATION, [])
    write_shard(output, CONFIGURATION, decoded(archive))
    assert len(output.manifest_names()) == 1 and summarise(output)["mismatches"] == []


# Summary


def test_every_count_is_checked_against_the_files(archive: Path, tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    manifest = write_shard(output, CONFIGURATION, decoded(archive))
    summary = summarise(output)
    for name in ("photos", "predictions", "photo_errors", "shard_errors", "errors_by_status"):
        assert summary[name] == manifest[name]
    assert summary["mismatches"] == []
    predictions, errors = (output.part(layer, "s-0") for layer in ("predictions", "errors"))
    assert pq.read_table(predictions).num_rows == summary["predictions"]
    assert pq.read_table(errors).num_rows == summary["photo_errors"]
    pq.write_table(pq.read_table(predictions)[1:], predictions)
    assert "rows, the manifest says" in summarise(output)["mismatches"][0]
    os.unlink(errors)
    assert "cannot be read" in summarise(output)["mismatches"][1]
    lying = {**manifest, "photos": 5}
    manifest_of(tmp_path / "out", "s-0").write_text(json.dumps(lying))
    assert "5 photos are not" in summarise(output)["mismatches"][0]
    assert "COUNT MISMATCH" in summary_table(summarise(output))


def test_accuracy_and_coverage() -> None:
    rows = np.array([[0.5, 1, 2], [100, 50, 200], [300, 400, 500], [9000, 10, 20]])
    row = accuracy_row(error_counts(rows))
    assert row == {
        "n": 4,
        "median_km": 200.0,
        "within": {"1": 0.25, "25": 0.25, "200": 0.5, "750": 0.75, "2500": 0.75},
        "coverage_50": 0.5,
        "coverage_90": 0.75,
    }


def test_groups_apart_and_together(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    for name in ("val-000", "val-001", "unseen-000"):
        path = write_tar(tmp_path / f"{name}.tar", sound_members(4))
        write_shard(output, CONFIGURATION, decoded(path, shard_id=name))
    accuracy = summarise(output)["accuracy"]
    assert {name: row["n"] for name, row in accuracy.items()} == {"unseen": 2, "val": 4, "all": 6}
    assert list(accuracy) == ["unseen", "val", "all"]
    table = summary_table(summarise(output))
    assert "unseen" in table and "<2500 km" in table
    assert [shard_group(name) for name in ("val-003-0123456789", "val_3", "007", "x")] == [
        "val",
        "val",
        "007",
        "x",
    ]


# Listing


def test_listing(tmp_path: Path) -> None:
    for name in ("000", "001", "002", "odd[1]"):
        write_tar(tmp_path / f"{name}.tar", [])
    write_tar(tmp_path / "sub/000.tar", [])
    both = list_shards([f"{tmp_path}/*.tar", f"{tmp_path}/{{000..001}}.tar"])
    assert [shard_stem(shard.id) for shard in both] == ["000", "001", "002", "odd_1_"]
    assert list_shards([f"{tmp_path}/odd[1].tar"]) == both[3:]
    twice = list_shards([f"{tmp_path}/000.tar", f"{tmp_path}/sub/000.tar"])
    assert twice[0] == both[0] and twice[1].id != both[0].id, "no id depends on its neighbours"
    assert [shard_stem(shard.id) for shard in twice] == ["000", "000"]
    with pytest.raises(DataError, match=r"no file matches.*003"):
        list_shards([f"{tmp_path}/{{002..003}}.tar"])
    assert {*list_shards([str(tmp_path)], lambda note: None)} == {*both, twice[1]}


def test_an_id_is_a_name_and_a_place(tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    urls = ["/a/x/0.tar", "/b/x/0.tar", "/c/0.tar.gz", "/c/0.tar", "/c/0.zip", "https://h/0.tgz"]
    assert len({shard_id(url.rpartition("/")[2], url) for url in urls}) == len(urls)
    for same in (
        (f"{folder}/a.tar", f"{tmp_path}/link/a.tar"),
        ("https://h/a.tar", "https://me:secret@h/a.tar?signature=x"),
    ):
        assert len({shard_id("a.tar", place) for place in same}) == 1
    long = shard_id("é" * 120 + ".tar.gz", "/x")
    assert shard_stem(long) == "é" * 50
    odd = shard_id("-a: [b]\n*?\udcff.tar.xz", "/x")
    assert shard_stem(odd) == "-a___b_____xff" and shard_stem("val-003") == "val-003"


def test_one_file_by_two_names_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    write_tar(tmp_path / "a.tar", [])
    (tmp_path / "b.tar").symlink_to("a.tar")
    assert len(list_shards([f"{tmp_path}/*.tar"], told.append)) == 1
    assert told == [f"{tmp_path}/b.tar is the same file as {tmp_path}/a.tar; it is read once"]
    (tmp_path / "c.tar").write_bytes(b"")
    monkeypatch.setattr("locdiffusion.photos.listing.shard_id", lambda name, source: "x-0")
    with pytest.raises(DataError, match=r"a\.tar and .*c\.tar both have the id x-0"):
        list_shards([f"{tmp_path}/*.tar"])

"""A run over kept embeddings gives the rows of the run over the photos, and reads no photo."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from locdiffusion.cli.parser import UsageError
from locdiffusion.model.preprocessing import EncoderSpec
from locdiffusion.photos.storage import DataError
from pipelines.geotag import command, plain_loop, shard_lists
from pipelines.geotag.embeddings import recorded_embeddings
from pipelines.geotag.options import parse
from support.archives import photo, sound_members, truth, write_tar
from support.fake_geotagger import FakeGeotagger, FakeLoader

pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Without Beam, which would be most of the time, but where a test asks for it."""
    if "beam" not in request.node.name:
        monkeypatch.setattr(command, "find_spec", lambda name: None)


def run(*words: Path | str, load: FakeLoader | None = None) -> int:
    given = [str(word) for word in words]
    return command.main([*given, "--batch-size=7"], load=load or FakeLoader())


def photos(root: Path, count: int = 100) -> Path:
    late = [("d/z.jpg", photo(7)), ("d/y.jpg", photo(8)), ("d/z.json", truth(1.0, 2.0))]
    write_tar(root / "in/a.tar", [*sound_members(count), ("x.jpg", b"text"), *late])
    write_tar(root / "in/b.tar", sound_members(count, 500))
    return root / "in"


def rows(output: Path, layer: str) -> pandas.DataFrame:
    return pandas.read_parquet(output / layer).sort_values("key").reset_index(drop=True)


def same(one: Path, other: Path, *layers: str) -> None:
    for layer in layers:
        pandas.testing.assert_frame_equal(rows(one, layer), rows(other, layer), check_exact=True)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    archive = photos(tmp_path)
    assert run(f"{archive}/*.tar", "--output", tmp_path / "one", "--embeddings") == 0
    return tmp_path / "one"


@pytest.mark.parametrize("runner", ["plain", "beam"])
def test_200_photos_give_the_same_rows_without_photos(
    first: Path, monkeypatch: pytest.MonkeyPatch, runner: str
) -> None:
    shutil.rmtree(first.parent / "in")
    monkeypatch.setattr(FakeGeotagger, "embed", lambda *_: pytest.fail("embedded"))
    second = first.parent / "two"
    assert run(first, "--from-embeddings", "--output", second) == 0
    assert len(rows(second, "predictions")) == 202
    same(first, second, "predictions", "errors")
    counts = ("photos", "predictions", "errors_by_status", "left_out", "accuracy", "mismatches")
    summaries = [json.loads((one / "summary.json").read_text()) for one in (first, second)]
    for name in counts:
        assert summaries[0][name] == summaries[1][name]
    before = {path: path.stat().st_mtime_ns for path in second.rglob("part-*")}
    assert run(first, "--from-embeddings", "--output", second) == 0
    assert {path: path.stat().st_mtime_ns for path in second.rglob("part-*")} == before


def test_lists_of_kept_embeddings_are_read_by_beam(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(first.parent / "in")
    monkeypatch.setattr(shard_lists, "NAMES_IN_GRAPH", 1)
    second = first.parent / "two"
    assert run(first, "--from-embeddings", "--output", second) == 0
    same(first, second, "predictions", "errors")


def test_a_folder_that_is_grouped_otherwise_is_not_there_twice(tmp_path: Path) -> None:
    one, two, folder = tmp_path / "one", tmp_path / "two", tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(photo(number))
        words = (folder, "--output", one, "--embeddings")
        assert run(*words) == run(one, "--from-embeddings", "--output", two) == 0
    same(one, two, "predictions", "errors")


def test_rows_stay_whose_photos_are_gone(first: Path, tmp_path: Path) -> None:
    assert run(first, "--from-embeddings", "--output", tmp_path / "two") == 0
    write_tar(tmp_path / "more/c.tar", sound_members(5, 900))
    assert run(tmp_path / "more/c.tar", "--output", tmp_path / "other", "--embeddings") == 0
    shutil.rmtree(tmp_path / "in")
    write_tar(tmp_path / "in/unlike.tar", sound_members(1, 990))  # so that a disk seems there
    words = (tmp_path / "other", "--from-embeddings", "--output", tmp_path / "two")
    assert run(*words) == 0
    assert len(rows(tmp_path / "two", "predictions")) == 207


def test_the_second_run_draws_what_the_first_did_not(first: Path, tmp_path: Path) -> None:
    words = (first, "--from-embeddings", "--output", tmp_path / "two", "--regions")
    assert run(*words, load=FakeLoader(seed=3)) == 0
    archive = (f"{tmp_path}/in/*.tar", "--output", tmp_path / "whole", "--regions")
    assert run(*archive, "--embeddings", load=FakeLoader(seed=3)) == 0
    same(tmp_path / "two", tmp_path / "whole", "predictions", "regions", "errors")


def test_a_photo_that_failed_behind_its_embedding_gets_another_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = photos(tmp_path, 5)
    sample = FakeGeotagger.sample

    def breaks(self: FakeGeotagger, embeddings: np.ndarray, keys: list[str]) -> np.ndarray:
        if "d/z" in keys:
            raise RuntimeError("no")
        return sample(self, embeddings, keys)

    with monkeypatch.context() as patch:
        patch.setattr(FakeGeotagger, "sample", breaks)
        assert run(f"{archive}/*.tar", "--output", tmp_path / "one", "--embeddings") == 0
    assert set(rows(tmp_path / "one", "errors").key) == {"d/z", "x"}
    assert run(tmp_path / "one", "--from-embeddings", "--output", tmp_path / "two") == 0
    found = rows(tmp_path / "two", "predictions").set_index("key")
    assert list(rows(tmp_path / "two", "errors").key) == ["x"]
    assert found.truth_latitude["d/z"] == 1.0, "its document stood apart"
    flags = ("--output", tmp_path / "one", "--embeddings", "--retry-failed")
    assert run(f"{archive}/*.tar", *flags) == 0
    assert run(f"{archive}/*.tar", "--output", tmp_path / "whole", "--embeddings") == 0
    parts = [sorted((tmp_path / one / "embeddings").iterdir()) for one in ("one", "whole")]
    assert [p.read_bytes() for p in parts[0]] == [p.read_bytes() for p in parts[1]]


def test_the_layer_has_half_precision_and_names_its_encoder(first: Path) -> None:
    (part, _) = sorted((first / "embeddings").iterdir())
    table = pq.read_table(part)
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 3)
    assert json.loads(table.schema.metadata[b"config"])["embeddings"] is True
    assert table["key"].to_pylist() == sorted(table["key"].to_pylist())


@pytest.mark.parametrize(
    "harm",
    [
        lambda table: table.slice(1),
        lambda table: pa.concat_tables([table.slice(1), table.slice(1, 1)]),
        lambda table: table.set_column(3, "exif_latitude", pa.array([91.0] * len(table))),
        lambda table: table.drop_columns(["embedding"]),
        lambda table: table.replace_schema_metadata({"config": json.dumps({"bf16": True})}),
    ],
    ids=["a row less", "a key twice", "no place", "no embedding", "another encoder"],
)
def test_files_of_strangers_are_unreadable_shards(first: Path, tmp_path: Path, harm) -> None:  # type: ignore[no-untyped-def]
    (part, _) = sorted((first / "embeddings").iterdir())
    table = pq.read_table(part)
    table = table.set_column(4, "exif_longitude", pa.array([0.0] * len(table)))
    pq.write_table(harm(table), part)
    assert run(first, "--from-embeddings", "--output", tmp_path / "two") == 1
    errors = pandas.read_parquet(tmp_path / "two/errors")
    assert list(errors.status) == ["shard_unreadable"]
    assert len(pandas.read_parquet(tmp_path / "two/predictions")) == 100


@pytest.mark.parametrize("flag", ["--thumbnails=3", "--salvage", "--embeddings"])
def test_flags_about_photos_are_refused(flag: str) -> None:
    with pytest.raises(Exception, match="is about photos"):
        parse(["out", "--from-embeddings", "--output", "two", flag])


def test_refusals(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(first, "--output", tmp_path / "two") == 2
    assert "add --from-embeddings" in capsys.readouterr().err
    assert run(first, "--from-embeddings", "--output", first) == 2
    run_json = json.loads((first / "run.json").read_text())
    (first / "run.json").write_text(json.dumps({**run_json, "encoder": {"name": "other"}}))
    assert run(first, "--from-embeddings", "--output", tmp_path / "two") == 2
    assert "holds embeddings of the encoder {'name': 'other'}" in capsys.readouterr().err
    (first / "run.json").write_text("{}")
    assert run(first, "--from-embeddings", "--output", tmp_path / "two") == 2
    assert "wanted one of" in capsys.readouterr().err


def test_shards_that_beam_reads_from_a_list_are_embedded_still(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(first.parent / "in")
    monkeypatch.setattr(shard_lists, "NAMES_IN_GRAPH", 0)
    assert run(first, "--from-embeddings", "--output", first.parent / "two") == 0
    same(first, first.parent / "two", "predictions", "errors")


def test_a_processor_goes_on_from_embeddings_in_bfloat16(first: Path, tmp_path: Path) -> None:
    config = json.loads((first / "run.json").read_text())
    (first / "run.json").write_text(json.dumps({**config, "bf16": True}))
    words = [str(first), "--from-embeddings", "--output", str(tmp_path / "two")]
    for _ in range(2):
        job = command.build(parse(words), FakeLoader())
        assert job.options.loader.bf16 is False and job.configuration.settings["bf16"]


def test_a_processor_is_told_that_a_run_was_begun_in_bfloat16(first: Path) -> None:
    config = json.loads((first / "run.json").read_text())
    (first / "run.json").write_text(json.dumps({**config, "bf16": True}))
    words = [f"{first.parent}/in/*.tar", "--embeddings", "--output", str(first)]
    with pytest.raises(UsageError, match="was begun in bfloat16"):
        command.build(parse(words), FakeLoader())


def test_photos_keep_the_priors_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, decode = photos(tmp_path, 20), plain_loop.decode_photo

    def with_prior(sample, *arguments, **named):  # type: ignore[no-untyped-def]
        prior = f"{len(sample.key)},2,3km" if sample.key.endswith(("1", "3")) else None
        return decode(replace(sample, prior=prior), *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(plain_loop, "decode_photo", with_prior)
        assert run(f"{archive}/*.tar", "--output", tmp_path / "one", "--embeddings") == 0
    assert run(f"{archive}/*.tar", "--output", tmp_path / "without", "--embeddings") == 0
    assert run(tmp_path / "one", "--from-embeddings", "--output", tmp_path / "two") == 0
    same(tmp_path / "one", tmp_path / "two", "predictions", "errors")
    radii = [rows(tmp_path / one, "predictions").radius_90_km for one in ("one", "without")]
    assert (radii[0] != radii[1]).sum() == 8


def test_embeddings_of_a_run_that_has_not_ended_are_told(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = (first, "--from-embeddings", "--output", tmp_path / "two")
    assert run(*words) == 0
    assert "has not ended" not in capsys.readouterr().err
    write_tar(tmp_path / "in/c.tar", sound_members(3, 900))
    with monkeypatch.context() as patch:
        patch.setattr(plain_loop, "write_shard", lambda *_: 1 / 0)
        assert run(f"{tmp_path}/in/*.tar", "--output", first, "--embeddings") == 1
    assert run(*words) == 0
    assert "has not ended, and 2 shards of it can be geotagged" in capsys.readouterr().err


@pytest.mark.parametrize("prior", ["/etc/passwd", "country:XX"])
def test_a_prior_of_a_stranger_opens_no_file(first: Path, tmp_path: Path, prior: str) -> None:
    (part, _) = sorted((first / "embeddings").iterdir())
    table = pq.read_table(part).drop_columns(["prior"])
    pq.write_table(table.append_column("prior", pa.array([prior] * len(table))), part)
    assert run(first, "--from-embeddings", "--output", tmp_path / "two") == 1
    assert list(pandas.read_parquet(tmp_path / "two/errors").status) == ["shard_unreadable"]


CLIP = EncoderSpec(
    "open_clip:ViT-B-32/openai", 4, 224, (0.5,) * 3, (0.2,) * 3, activation="quick_gelu"
)
QUICK, FILE = "open_clip:ViT-B-32-quickgelu/openai", "open_clip:ViT-B-32/b/other.pt"


def print_of(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, "<f2").tobytes()).decode()


@pytest.mark.parametrize(
    ("changed", "prints", "same_encoder"),
    [
        ({}, ("", ""), True),
        ({"name": QUICK}, ("", ""), True),
        ({"name": QUICK, "activation": None}, ("", ""), True),
        ({"activation": "gelu"}, ("", ""), False),
        ({"mean": (0.4,) * 3}, ("", ""), False),
        ({"name": FILE}, ("", ""), False),
        ({"name": FILE}, (print_of(1, 0, 0, 0), ""), False),
        ({"name": FILE}, (print_of(1, 0, 0, 0), print_of(1, 0.001, 0, 0)), True),
        ({"name": FILE}, (print_of(1, 0, 0, 0), print_of(0, 1, 0, 0)), False),
        ({}, (print_of(1, 0, 0, 0), print_of(0, 1, 0, 0)), False),
        ({}, (print_of(1, 0, 0, 0), print_of(1, 0)), False),
        ({}, (print_of(1, 0, 0, 0), "no base64"), False),
        ({"name": "open_clip:ViT-B-16/openai"}, (print_of(1, 0, 0, 0),) * 2, False),
    ],
)
def test_embeddings_are_taken_by_checkpoints_of_the_same_encoder(
    first: Path, changed: dict[str, object], prints: tuple[str, str], same_encoder: bool
) -> None:
    config = json.loads((first / "run.json").read_text())
    config |= {"encoder": {**asdict(CLIP), **changed}, "fingerprint": prints[0]}
    (first / "run.json").write_text(json.dumps(config))
    settings = {"encoder": asdict(CLIP)}
    if same_encoder:
        assert recorded_embeddings(str(first), settings, prints[1])["from_embeddings"]
        return
    with pytest.raises(DataError, match="holds embeddings of the encoder"):
        recorded_embeddings(str(first), settings, prints[1])

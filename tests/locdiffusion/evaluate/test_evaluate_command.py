"""`python -m locdiffusion.evaluate` on the tiny world, and on predictions already written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from locdiffusion import checkpoint, geotagger
from locdiffusion.evaluate import command as evaluate
from locdiffusion.evaluate.bootstrap import Bootstrap
from locdiffusion.evaluate.metrics import error_summary
from locdiffusion.evaluate.record import Evaluation
from locdiffusion.evaluate.scores import score
from locdiffusion.evaluate.sources import stored
from locdiffusion.inference import predict
from locdiffusion.photos.embedding_cache import load_photos
from locdiffusion.sphere.geodesy import great_circle_km
from schemas.geotags import PROBABILITY_COLUMNS, THRESHOLDS_KM, UNFAMILIAR, prediction_table
from support.outputs import made_up_identities
from support.tiny import TinyEncoder, replace_encoders, write_checkpoint, write_coloured_shard

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[TinyEncoder]:
    """Every encoder that is loaded, instead of the real one."""
    return replace_encoders(monkeypatch, geotagger)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_coloured_shard(folder / "train" / "train-000.tar", 40, seed=1)
    write_coloured_shard(folder / "val" / "val-000.tar", 30, seed=3)
    write_coloured_shard(folder / "val" / "val-001.tar", 20, seed=4)
    write_coloured_shard(folder / "unseen" / "unseen-000.tar", 8, seed=5)
    write_checkpoint(folder / "checkpoint", TinyEncoder().spec)
    return folder


def command(data: Path, output: Path, *more: str) -> list[str]:
    return [
        *("--checkpoint", str(data / "checkpoint"), "--output", str(output)),
        *("--test", f"val={data / 'val' / '*.tar'}", f"unseen={data / 'unseen' / '*.tar'}"),
        *("--embeddings", str(data / "embeddings"), "--resamples", "50", *more),
    ]


def write_predictions(directory: Path, shard: str, count: int, **changed: Any) -> Path:
    """A part file as the pipeline writes it; the last row has no truth."""
    rng = np.random.default_rng(count)
    truth = rng.uniform(-80, 80, count)
    unknown = np.full(count, np.nan)
    keys = [f"{shard}-{i}" for i in range(count)]
    columns = {
        "key": keys,
        **made_up_identities(shard, keys),
        "latitude": truth + rng.normal(size=count),
        "longitude": truth,
        "radius_50_km": np.full(count, 80.0),
        "radius_90_km": np.full(count, 190.0),
        "information_nats": np.full(count, 5.0),
        "land_probability": np.full(count, 0.5),
        **{
            name: [share] * count
            for name, share in zip(PROBABILITY_COLUMNS, (0.0, 0.1, 0.9, 1.0, 1.0), strict=True)
        },
        "modes": [[SimpleNamespace(latitude=0.0, longitude=0.0, probability=1.0, radius_km=9.0)]]
        * count,
        "exif_latitude": unknown,
        "exif_longitude": unknown,
        "truth_latitude": np.where(np.arange(count) < count - 1, truth, np.nan),
        "truth_longitude": np.where(np.arange(count) < count - 1, truth, np.nan),
        **changed,
    }
    table = prediction_table(shard, "model-0", columns)
    metadata = {**table.schema.metadata, b"checkpoint_hash": b"ab12"}
    path = directory / "predictions" / f"part-{shard}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


class TestShards:
    def test_end_to_end(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "scores"
        assert evaluate.main(command(data, output, "--train", str(data / "train" / "*.tar"))) == 0
        assert {path.name for path in output.iterdir()} == {
            *("scores.json", "scores.md", "errors.png", "coverage.png"),
            *(f"by-distance-{km}km.png" for km in (25, 200, 750)),
            *("reliability-val.png", "reliability-unseen.png"),
        }
        said = capsys.readouterr()
        page = (output / "scores.md").read_text()
        assert page in said.out and f"scores: {output / 'scores.json'}" in said.out
        assert "answering val" in said.err and "reading training positions" in said.err
        for part in ("## Accuracy", "## Calibration", "nats/km²", "## Reliability", "ECE", "Brier"):
            assert part in page
        assert "## val: by distance to the nearest training photo" in page

    def test_the_record_says_what_was_scored(self, data: Path, tmp_path: Path) -> None:
        assert evaluate.main(command(data, tmp_path, "--seed", "7")) == 0
        found = Evaluation.read(tmp_path / "scores.json")
        model = checkpoint.load(str(data / "checkpoint"))
        assert (found.model, found.model_sha256) == (model.model_id, model.sha256)
        assert found.bootstrap == Bootstrap(resamples=50, seed=7) and found.training is None
        assert [(split.name, split.scores.n) for split in found.splits] == [
            ("val", 50),
            ("unseen", 8),
        ]
        shards = [str(data / "val" / f"val-00{i}.tar") for i in range(2)]
        photos = load_photos(shards, TinyEncoder(), data / "embeddings")
        assert found.splits[0].data_sha256 == photos.fingerprint
        by_hand = score(predict(model, photos), photos.latitude, photos.longitude, found.bootstrap)
        np.testing.assert_allclose(
            [e.value for e in found.splits[0].scores.within], [e.value for e in by_hand.within]
        )
        ours, theirs = found.splits[0].scores, by_hand
        assert ours.nats_per_km2 is not None and theirs.nats_per_km2 is not None
        assert ours.nats_per_km2.value == pytest.approx(theirs.nats_per_km2.value, rel=1e-5)

    def test_again_gives_the_same_bytes_and_embeds_nothing(
        self, data: Path, tmp_path: Path, encoders: list[TinyEncoder]
    ) -> None:
        assert evaluate.main(command(data, tmp_path / "a")) == 0
        encoders.clear()
        assert evaluate.main(command(data, tmp_path / "b")) == 0
        assert sum(encoder.embedded for encoder in encoders) == 0
        for name in ("scores.json", "scores.md", "errors.png"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


class TestPredictions:
    def test_of_a_directory_and_of_a_glob(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        part = write_predictions(tmp_path / "out", "val-000", 41)
        write_predictions(tmp_path / "out", "seen-000", 31)
        pattern = f"val={tmp_path / 'out' / 'predictions' / 'part-val-*.parquet'}"
        arguments = ["--predictions", str(tmp_path / "out"), pattern, "--resamples", "50"]
        assert evaluate.main([*arguments, "--output", str(tmp_path / "scores")]) == 0
        found = Evaluation.read(tmp_path / "scores" / "scores.json")
        assert (found.model, found.model_sha256) == ("model-0", "ab12")
        assert [(s.name, s.scores.n, s.without_truth) for s in found.splits] == [
            ("out", 70, 2),
            ("val", 40, 1),
        ]
        table = pq.read_table(part).to_pandas().dropna(subset="truth_latitude")
        distance = great_circle_km(
            table.latitude, table.longitude, table.truth_latitude, table.truth_longitude
        )
        scores = found.splits[1].scores
        assert scores.median_km.value == error_summary(distance)["median_km"]
        assert scores.nats_per_km2 is None and len(scores.reliability) == len(THRESHOLDS_KM)
        said = capsys.readouterr().out
        assert "no density at the truth" in said and "not stated" in said
        assert "Photos of val without known position, left out: 1." in said

    def test_photos_unlike_those_of_training_are_told_apart(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Every second photo is unfamiliar and 5 degrees off; one has no familiarity."""
        strange = np.arange(41) % 2 == 1
        familiarity = np.where(strange, UNFAMILIAR / 2, UNFAMILIAR)
        familiarity[0] = np.nan
        place = np.linspace(-60, 60, 41)
        write_predictions(
            tmp_path / "out",
            "val-000",
            41,
            familiarity=familiarity,
            latitude=place + 5.0 * strange,
            longitude=place,
            truth_latitude=place,
            truth_longitude=place,
        )
        arguments = ["--predictions", str(tmp_path / "out"), "--resamples", "50"]
        assert evaluate.main([*arguments, "--output", str(tmp_path / "scores")]) == 0
        split = Evaluation.read(tmp_path / "scores" / "scores.json").splits[0]
        assert (split.scores.n, split.unfamiliar) == (41, 20)
        assert split.familiar is not None and split.familiar.n == 21
        assert split.familiar.mean_km.value < 1e-6 < split.scores.mean_km.value
        said = capsys.readouterr().out
        assert "| out, familiar photos" in said
        assert "Photos of out that are unlike those that the model is for: 20 of 41." in said

    def test_positions_of_exif_count_where_no_truth_is_known(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        place, nowhere = np.linspace(-60, 60, 40), np.full(40, np.nan)
        few = np.where(np.arange(40) < 10, place, np.nan)
        exif = {"exif_latitude": place, "exif_longitude": place, "exif_source": ["exif"] * 40}
        for name, truth in (("only", nowhere), ("both", few)):
            truths = {"truth_latitude": truth, "truth_longitude": truth}
            write_predictions(tmp_path / name, name, 40, **exif, **truths)
        ours = ["estimate" if i % 4 == 0 else "exif" for i in range(40)]
        mine = np.where(np.arange(40) % 4, place, np.nan)
        again = {"exif_latitude": mine, "exif_longitude": mine, "exif_source": ours}
        write_predictions(
            tmp_path / "again",
            "again",
            40,
            truth_latitude=nowhere,
            truth_longitude=nowhere,
            **again,
        )
        names = [str(tmp_path / name) for name in ("only", "both", "again")]
        arguments = ["--predictions", *names, "--resamples", "50"]
        assert evaluate.main([*arguments, "--output", str(tmp_path / "scores")]) == 0
        found = Evaluation.read(tmp_path / "scores" / "scores.json")
        assert [(s.name, s.scores.n, s.by_kind, s.estimates) for s in found.splits] == [
            ("only", 40, {"exif": 40}, 0),
            ("both", 40, {"truth": 10, "exif": 30}, 0),
            ("again", 30, {"exif": 30}, 10),
        ]
        said = capsys.readouterr().out
        assert "Positions of only from EXIF: 40." in said
        assert "both from documents beside the photos: 10, EXIF: 30." in said
        assert "left out: 10, of which 10 have one that an earlier run wrote." in said

    def test_files_of_before_the_exif_columns(self, tmp_path: Path) -> None:
        part = write_predictions(tmp_path, "a", 4)
        table = pq.read_table(part)
        later = [n for n in table.column_names if n.startswith("exif") or n.endswith("source")]
        pq.write_table(table.drop_columns(later), part)
        assert stored([str(tmp_path)]).by_kind == {"truth": 3}

    def test_distances_to_training_photos(self, data: Path, tmp_path: Path) -> None:
        write_predictions(tmp_path / "out", "val-000", 61)
        arguments = ["--predictions", str(tmp_path / "out"), "--resamples", "50"]
        arguments += ["--train", str(data / "train" / "*.tar"), "--edges", "0", "500", "1500"]
        assert evaluate.main([*arguments, "--output", str(tmp_path)]) == 0
        found = Evaluation.read(tmp_path / "scores.json")
        assert found.training is not None and found.training.photos == 40
        strata = found.splits[0].strata
        assert sum(s.scores.n for s in strata) == 60
        assert {s.low_km for s in strata} <= {0.0, 500.0, 1500.0}


class TestRefusals:
    def refused(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
        assert evaluate.main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr().err
        assert said.splitlines()[-1].startswith("error: ") and "Traceback" not in said
        return said

    def test_what_to_score_is_not_clear(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "Given: nothing; want one of --test" in self.refused(capsys, "--output", tmp_path)
        said = self.refused(capsys, *command(data, tmp_path, "--predictions", str(tmp_path)))
        assert "Given: --test, --predictions; want one of" in said
        both = ("--predictions", tmp_path, "--checkpoint", "x", "--output", tmp_path)
        assert "leave out --checkpoint" in self.refused(capsys, *both)

    @pytest.mark.parametrize("test", ["DATA/*.tar", "=DATA/*.tar", "val="])
    def test_a_test_without_a_name(
        self, test: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = self.refused(capsys, "--test", test, "--output", tmp_path)
        assert f"--test got {test!r}; want NAME=GLOB" in said

    def test_a_name_that_is_no_file_name(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = self.refused(capsys, "--test", "a/b=*.tar", "--output", tmp_path)
        assert "named 'a/b'; want letters" in said

    def test_no_shard_no_checkpoint_no_predictions(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = self.refused(capsys, "--test", "val=none/*.tar", "--output", tmp_path)
        assert "no file matches" in said
        said = self.refused(capsys, *command(data, tmp_path, "--checkpoint", "nothing"))
        assert "No checkpoint at 'nothing'" in said
        said = self.refused(capsys, "--predictions", tmp_path, "--output", tmp_path)
        assert "No predictions at" in said and "`locdiffusion geotag`" in said
        said = self.refused(capsys, "--predictions", "a=none-*.parquet", "--output", tmp_path)
        assert "No predictions at" in said and "no file matches" in said

    def test_settings_are_refused_before_the_long_work(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = self.refused(capsys, *command(data, tmp_path / "s", "--edges", "5", "10"))
        assert "rise from 0" in said and not (tmp_path / "s").exists()
        said = self.refused(capsys, *command(data, tmp_path / "s", "--resamples", "1"))
        assert "resamples is 1" in said

    def test_an_output_that_is_a_file(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("")
        said = self.refused(capsys, *command(data, tmp_path / "file"))
        assert "--output" in said and "is a file" in said

    def test_predictions_that_cannot_be_scored(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        unknown = np.full(4, np.nan)
        write_predictions(tmp_path, "a", 4, truth_latitude=unknown, truth_longitude=unknown)
        said = self.refused(capsys, "--predictions", f"a={tmp_path}", "--output", tmp_path)
        assert "None of the 4 rows" in said and "<key>.json" in said
        other = tmp_path / "other.parquet"
        pq.write_table(pa.table({"latitude": [1.0]}), other)
        said = self.refused(capsys, "--predictions", f"a={other}", "--output", tmp_path)
        assert "other.parquet lacks the columns" in said
        other.write_bytes(b"nothing")
        said = self.refused(capsys, "--predictions", f"a={other}", "--output", tmp_path)
        assert "other.parquet cannot be read" in said

    def test_a_file_named_twice_is_scored_once(self, tmp_path: Path) -> None:
        """Braces are understood, and a folder and a glob of its files are the same files."""
        write_predictions(tmp_path, "a", 4)
        write_predictions(tmp_path, "b", 4)
        braces = f"{tmp_path}/predictions/part-{{a,b}}.parquet"
        assert len(stored([str(tmp_path), braces]).predictions) == 6


def test_help_explains_itself_without_loading_torch() -> None:
    code = (
        "import sys, locdiffusion.evaluate.command as e\n"
        "try: e.main(['--help'])\nexcept SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'numpy', 'pyarrow', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for part in (
        "NAME=GLOB",
        "--predictions",
        "examples:",
        "scores.json",
        "by-distance-<km>km.png",
    ):
        assert part in done.stdout

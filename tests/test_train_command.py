"""`python -m locdiffusion.train` from shards to a checkpoint that geotags, stopped or not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TinyEncoder, coloured_photo, replace_encoders, write_coloured_shard

from locdiffusion import checkpoint, geotagger, train, training
from locdiffusion.geotagger import Geotagger
from locdiffusion.model import image_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

FLAGS = ["--encoder", "tiny", "--max-degree", "7", "--batch-size", "16", "--evaluate-every", "4"]
REAL_LOAD = image_encoder.load_image_encoder


@pytest.fixture(autouse=True)
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[TinyEncoder]:
    """Every encoder that is loaded, instead of the real one."""
    return replace_encoders(monkeypatch, image_encoder, geotagger)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_coloured_shard(folder / "train" / "train-000.tar", 40, seed=1)
    write_coloured_shard(folder / "train" / "train-001.tar", 24, seed=2)
    write_coloured_shard(folder / "val" / "val-000.tar", 24, seed=3)
    write_coloured_shard(folder / "unseen" / "unseen-000.tar", 8, seed=4)
    (folder / "train" / "dataset.json").write_text('{"made": "of colours"}')
    return folder


def command(data: Path, output: Path, *more: str, steps: int = 10) -> list[str]:
    return [
        *("--train", str(data / "train" / "train-{000..001}.tar")),
        *("--val", str(data / "val" / "*.tar")),
        *("--output", str(output), "--embeddings", str(data / "embeddings")),
        *("--steps", str(steps), *FLAGS, *more),
    ]


@pytest.fixture(scope="module")
def run(one_thread: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    output = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_encoder, "load_image_encoder", lambda name, device: TinyEncoder(name))
        assert train.main(command(data, output)) == 0
    return output


class TestEndToEnd:
    def test_says_what_it_does(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        unseen = f"unseen={data / 'unseen' / '*.tar'}"
        assert train.main(command(data, tmp_path, "--test", unseen)) == 0
        said = capsys.readouterr().out
        assert "64 training photos; validation: 24 val" in said
        assert "step 4/10" in said and "step 10/10" in said and "steps/s" in said
        assert "temperature" in said and "within 1/25/200/750/2500 km" in said
        assert f"checkpoint: {tmp_path / 'checkpoint'}" in said
        rows = [line.split()[:2] for line in said.splitlines()]
        assert ["val", "24"] in rows and ["unseen", "8"] in rows

    def test_the_checkpoint_tells_how_it_came_to_be(self, data: Path, run: Path) -> None:
        config = checkpoint.read_config(str(run / "checkpoint"))
        assert config.model.max_degree == 7 and config.encoder == TinyEncoder().spec
        record = config.record
        assert record["recipe"]["steps"] == 10 and record["recipe"]["seed"] == 0
        assert record["data"]["train"]["photos"] == 64
        assert record["data"]["train"]["source"] == [{"made": "of colours"}]
        assert [figures["step"] for figures in record["history"]] == [4, 8, 10]
        metrics = record["metrics"]["val"]
        assert metrics["n"] == 24 and 0 <= metrics["coverage_50"] <= metrics["coverage_90"] <= 1
        json.dumps(record, allow_nan=False)

    def test_the_checkpoint_geotags(self, run: Path) -> None:
        tagger = Geotagger.load(str(run / "checkpoint"))
        answer = tagger.geotag([coloured_photo(50.0, 10.0), coloured_photo(-30.0, 140.0)])
        assert len(answer) == 2 and np.all(np.isfinite(answer.radius_90_km))
        assert answer.latitude[0] != answer.latitude[1]

    def test_it_holds_the_average_and_not_the_last_weights(self, run: Path) -> None:
        from safetensors.torch import load_file

        state = load_file(run / training.STATE)
        weights = load_file(run / "checkpoint" / checkpoint.WEIGHTS)
        own = {n: w for n, w in weights.items() if f"average.{n}" in state}
        assert len(own) == sum(name.startswith("average.") for name in state)
        assert all(torch.equal(state[f"average.{name}"].half(), w) for name, w in own.items())
        assert any(not torch.equal(state[f"network.{name}"].half(), w) for name, w in own.items())

    def test_the_same_command_again_gives_the_same_bytes(
        self, data: Path, run: Path, tmp_path: Path, encoders: list[TinyEncoder]
    ) -> None:
        before = checkpoint.load(str(run / "checkpoint")).sha256
        assert train.main(command(data, run)) == 0
        assert train.main(command(data, tmp_path)) == 0
        assert checkpoint.load(str(run / "checkpoint")).sha256 == before
        assert checkpoint.load(str(tmp_path / "checkpoint")).sha256 == before
        assert sum(encoder.embedded for encoder in encoders) == 0  # the cache served both


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_saves_says_how_to_go_on_and_ends_the_same(
        self,
        number: signal.Signals,
        data: Path,
        run: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
        original = training.Trainer._train_step

        def interrupted(trainer: Any, step: int) -> float:
            if step == 5:
                os.kill(os.getpid(), number)
            return original(trainer, step)

        with monkeypatch.context() as patch:
            patch.setattr(training.Trainer, "_train_step", interrupted)
            assert train.main(command(data, tmp_path)) == 130
        assert "after step 6 of 10; the same command resumes" in capsys.readouterr().err
        assert not (tmp_path / "checkpoint").exists()
        assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
        assert train.main(command(data, tmp_path)) == 0
        assert "resuming at step 6" in capsys.readouterr().out
        ours, theirs = (checkpoint.load(str(p / "checkpoint")) for p in (tmp_path, run))
        assert ours.sha256 == theirs.sha256


class TestRefusals:
    def refused(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
        assert train.main(arguments) == 2
        said = capsys.readouterr().err
        assert said.splitlines()[-1].startswith("error: ") and "Traceback" not in said
        return said

    def test_another_recipe_in_the_same_directory_unless_told(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert train.main(command(data, tmp_path, steps=1)) == 0
        before = (tmp_path / "checkpoint" / checkpoint.CONFIG).read_bytes()
        said = self.refused(command(data, tmp_path, "--seed", "1", steps=1), capsys)
        assert "another config" in said and "--overwrite" in said
        assert (tmp_path / "checkpoint" / checkpoint.CONFIG).read_bytes() == before
        again = command(data, tmp_path, "--seed", "1", "--overwrite", steps=1)
        assert train.main(again) == 0
        recipe = checkpoint.read_config(str(tmp_path / "checkpoint")).record["recipe"]
        assert recipe["seed"] == 1

    @pytest.mark.parametrize("flag", ["--train", "--val"])
    def test_no_shard(
        self, flag: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = command(data, tmp_path, flag, str(tmp_path / "*.tar"))
        said = self.refused(arguments, capsys)
        assert "No shard matches" in said and "quote the pattern" in said

    def test_a_test_without_a_name(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = self.refused(command(data, tmp_path, "--test", "DATA/*.tar"), capsys)
        assert "'DATA/*.tar'; want NAME=GLOB" in said

    def test_a_bad_photo_is_named(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bad = tmp_path / "bad.tar"
        bad.write_bytes(b"nothing")
        said = self.refused(command(data, tmp_path, "--train", str(bad)), capsys)
        assert str(bad) in said and "write it again" in said

    def test_a_recipe_that_makes_no_sense(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "dropout is 1.5" in self.refused(command(data, tmp_path, "--dropout", "1.5"), capsys)

    def test_a_loss_that_is_no_number(
        self,
        data: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(training, "shdd_kl", lambda natural, *_: natural.sum(-1) * torch.nan)
        assert "lower learning_rate" in self.refused(command(data, tmp_path), capsys)

    def test_an_encoder_that_is_unknown(
        self,
        data: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(image_encoder, "load_image_encoder", REAL_LOAD)
        said = self.refused(command(data, tmp_path, "--encoder", "resnet18"), capsys)
        assert "'resnet18' is unknown" in said and "efficientnet_lite0" in said


def test_help_explains_itself_without_loading_torch() -> None:
    code = (
        "import sys, locdiffusion.train as t\n"
        "try: t.main(['--help'])\nexcept SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'numpy', 'pyarrow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for part in ("--train GLOB", "NAME=GLOB", "examples:", "locdiffusion.overhead", "resumed"):
        assert part in done.stdout


def test_every_flag_in_the_examples_exists() -> None:
    with pytest.raises(SystemExit):
        train.parse(["--train", "a"])
    options = train.parse(["--train", "a", "b", "--val", "c", "--output", "d", "--steps", "23"])
    assert options.train == ["a", "b"] and options.steps == 23
    words = [w for w in train.EPILOG.split() if w.startswith("--")]
    known = {"--split", "--count"}  # of locdiffusion.overhead
    for word in set(words) - known:
        assert hasattr(options, word.removeprefix("--").replace("-", "_")), word

"""`python -m locdiffusion.train` from shards to a checkpoint that geotags, stopped or not."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from locdiffusion import checkpoint, geotagger, recipes
from locdiffusion.calibrate import fitting
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.geotagger import Geotagger
from locdiffusion.model import image_encoder
from locdiffusion.model.image_encoder import ImageEncoder
from locdiffusion.model.preprocessing import Activation
from locdiffusion.model.weights import EncoderWeightsError
from locdiffusion.sphere.geodesy import latitude_longitude
from locdiffusion.train import command as train
from locdiffusion.train import finish, trainer, training_state
from support.archives import truth, write_tar
from support.tiny import (
    TinyEncoder,
    coloured_photo,
    random_points,
    replace_encoders,
    write_coloured_shard,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = ("model.max_degree=7", "batch_size=16", "evaluate_every=4")
FLAGS = ["--encoder", "tiny", *(word for setting in SETTINGS for word in ("--set", setting))]
REAL_SPEC = image_encoder.encoder_spec


@pytest.fixture(scope="module", autouse=True)
def short_fits() -> Iterator[None]:
    """The temperatures are fitted in few steps; tests of the fit itself take all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "FIT_STEPS", (0, 5, 10))
        yield


@pytest.fixture(autouse=True)
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[TinyEncoder]:
    """Every encoder that is loaded, instead of the real one."""
    monkeypatch.setattr(image_encoder, "encoder_spec", lambda name: TinyEncoder(name).spec)
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
        *("--set", f"steps={steps}", *FLAGS, *more),
    ]


@pytest.fixture(scope="module")
def run(
    one_thread: None, short_fits: None, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An undisturbed run."""
    output = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_encoder, "load_image_encoder", lambda name, device: TinyEncoder(name))
        patch.setattr(image_encoder, "encoder_spec", lambda name: TinyEncoder(name).spec)
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
        one, other = tagger.geotag([coloured_photo(50.0, 10.0), coloured_photo(-30.0, 140.0)])
        assert np.isfinite([one.radius_90_km, other.radius_90_km]).all()
        assert one.latitude != other.latitude

    def test_it_holds_the_average_and_not_the_last_weights(self, run: Path) -> None:
        from safetensors.torch import load_file

        state = load_file(run / training_state.STATE)
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


def test_the_form_of_the_paper_trains_and_samples(data: Path, tmp_path: Path) -> None:
    flags = (
        "--recipe",
        "paper",
        "--set",
        "model.widths=[16, 8]",
        "--set",
        "model.condition_dim=16",
    )
    assert train.main(command(data, tmp_path, *flags)) == 0
    config = checkpoint.read_config(str(tmp_path / "checkpoint"))
    assert (config.name, config.model.trunk_blocks) == ("paper", 0)
    settings = config.record["recipe"]
    assert settings["smoothing"]["km"] == settings["smoothing"]["broad_share"] == 0.0
    tagger = Geotagger.load(str(tmp_path / "checkpoint"), mode="sampling", samples=3, steps=2)
    photos = [coloured_photo(50.0, 10.0), coloured_photo(-30.0, 140.0)]
    one, other = tagger.geotag(photos)
    assert np.isfinite([one.radius_90_km, other.radius_90_km]).all()
    assert one.latitude != other.latitude


class TestStreamed:
    FLAGS = ("--set", "stream.lanes=4", "--set", "stream.buffer=32")

    def test_ends_in_a_checkpoint_that_geotags(
        self,
        data: Path,
        tmp_path: Path,
        encoders: list[TinyEncoder],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert train.main(command(data, tmp_path, *self.FLAGS)) == 0
        assert "64 training photos; validation: 24 val" in capsys.readouterr().out
        config = checkpoint.read_config(str(tmp_path / "checkpoint"))
        assert config.record["recipe"]["stream"] == {"lanes": 4, "buffer": 32}
        assert config.record["data"]["train"]["photos"] == 64
        [answer] = Geotagger.load(str(tmp_path / "checkpoint")).geotag([coloured_photo(50.0, 10.0)])
        assert np.isfinite(answer.radius_90_km)

    def test_another_way_of_reading_is_another_run(
        self, data: Path, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert train.main(command(data, run, *self.FLAGS)) == 2
        assert "another config" in capsys.readouterr().err

    def test_lanes_that_do_not_divide_the_batch(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert train.main(command(data, tmp_path, "--set", "stream.lanes=3")) == 2
        assert "3 lanes, which do not divide 16 photos" in capsys.readouterr().err


class TestLargeConfiguration:
    """`mp16_vit_l_14` from stored embeddings to geotags, with small layers and few steps."""

    @pytest.fixture(scope="class")
    def archive(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Shards as `pipelines.build_shards --embed` writes them, and the configuration."""
        folder = tmp_path_factory.mktemp("mp16")
        for i in range(3):
            write_embedded_shard(folder / "train" / f"train-{i}.tar", 30, seed=i)
        write_embedded_shard(folder / "val" / "val-0.tar", 12, seed=9)
        (folder / "run.json").write_text('{"encoder": "open_clip:ViT-L-14/openai"}')
        tiny = recipes.read("mp16_vit_l_14")
        tiny["model"] |= {"widths": [16, 8], "condition_dim": 16}
        (folder / "tiny.json").write_text(json.dumps(tiny))
        return folder

    def command(self, archive: Path, output: Path) -> list[str]:
        return [
            *("--recipe", str(archive / "tiny.json"), "--set", "bf16=false"),
            *("--set", "steps=3", "--set", "batch_size=16"),
            *("--train", str(archive / "train" / "*.tar"), "--val", str(archive / "val" / "*.tar")),
            *("--output", str(output), "--log-every", "1"),
        ]

    def test_trains_without_pixels_or_weights_and_geotags(
        self,
        archive: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The pictures of the shards are none, and nobody looks; only a fingerprint is missing."""

        def missing(name: str, device: str) -> TinyEncoder:
            raise EncoderWeightsError(f"no weights of {name}")

        monkeypatch.setattr(image_encoder, "encoder_spec", REAL_SPEC)
        monkeypatch.setattr(image_encoder, "load_image_encoder", missing)
        assert train.main(self.command(archive, tmp_path)) == 0
        assert "gets no fingerprint of its encoder: no weights of" in capsys.readouterr().out
        config = checkpoint.read_config(str(tmp_path / "checkpoint"))
        assert (config.name, config.model.max_degree) == ("mp16_vit_l_14", 47)
        assert config.encoder == REAL_SPEC("open_clip:ViT-L-14/openai")
        assert config.encoder.activation is Activation.QUICK_GELU and config.fingerprint == ""
        assert config.record["activation_told_by"] == "its tag"
        assert config.record["recipe"]["partition"]["rows"] == 120
        assert list((tmp_path / "tensorboard").glob("events.*"))
        monkeypatch.setattr(geotagger, "load_image_encoder", random_clip)
        tagger = Geotagger.load(str(tmp_path / "checkpoint"))
        answers = tagger.geotag([coloured_photo(50.0, 10.0), coloured_photo(-30.0, 140.0)])
        assert len(answers) == 2 and all(np.isfinite(a.radius_90_km) for a in answers)

    @pytest.mark.ci
    @pytest.mark.slow
    def test_on_two_processes_by_torchrun(self, archive: Path, tmp_path: Path) -> None:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        arguments = ["-m", "locdiffusion.train", *self.command(archive, tmp_path)]
        done = subprocess.run(
            [sys.executable, *torchrun, *arguments], capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("90 training photos") == 1
        assert done.stdout.count("checkpoint: ") == 1
        record = checkpoint.read_config(str(tmp_path / "checkpoint")).record
        assert record["environment"].endswith("2 processes")

    @pytest.mark.slow
    def test_killed_and_resumed(self, archive: Path, tmp_path: Path) -> None:
        """The command itself, by SIGKILL: the checkpoint's bytes are those of undisturbed runs."""
        code = (
            "import os, signal, sys\n"
            "from locdiffusion.train import command, trainer\n"
            "step = trainer.Trainer._train_step\n"
            "def killed(self, number):\n"
            "    if number == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return step(self, number)\n"
            "if sys.argv[1] == 'kill': trainer.Trainer._train_step = killed\n"
            "sys.exit(command.main(sys.argv[2:]))"
        )
        often = ["--save-every-minutes", "1e-9"]
        outcomes = {}
        for name, kinds in (("disturbed", ["kill", "live"]), ("undisturbed", ["live"])):
            arguments = [*self.command(archive, tmp_path / name), *often]
            arguments += ["--embeddings", str(tmp_path / "embeddings")]
            for kind in kinds:
                done = subprocess.run([sys.executable, "-c", code, kind, *arguments])
                assert done.returncode == (0 if kind == "live" else -signal.SIGKILL)
            outcomes[name] = checkpoint.load(str(tmp_path / name / "checkpoint")).sha256
        assert outcomes["disturbed"] == outcomes["undisturbed"]


def write_embedded_shard(path: Path, count: int, seed: int) -> None:
    """Photos with embeddings 768 wide; in place of pictures, bytes that are none."""
    random = np.random.default_rng(seed)
    members = []
    for i, (lat, lon) in enumerate(
        zip(*latitude_longitude(random_points(count, seed)), strict=True)
    ):
        buffer = io.BytesIO()
        np.save(buffer, random.normal(size=768).astype(np.float16))
        key = f"{seed}{i:04d}"
        members += [(f"{key}.jpg", b"no picture"), (f"{key}.json", truth(float(lat), float(lon)))]
        members.append((f"{key}.npy", buffer.getvalue()))
    write_tar(path, members)


def random_clip(name: str, device: str, *_: object) -> ImageEncoder:
    """ViT-L/14 with other layers: its own spec, so that a checkpoint takes it for the real one."""
    spec = REAL_SPEC(name)
    layers = [torch.nn.AvgPool2d(56), torch.nn.Flatten(), torch.nn.Linear(48, spec.embedding_dim)]
    return ImageEncoder(spec, torch.nn.Sequential(*layers), device)


def test_validation_photos_can_be_fewer(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(finish, "finish", lambda trainer, data, *_: kept.append(data))
    for most in ("10", "24", "99"):
        output = tmp_path / most
        assert train.main(command(data, output, "--val-photos", most, steps=1)) == 0
    every, some = kept[1].validation["val"], kept[0].validation["val"]
    assert [len(found.validation["val"]) for found in kept] == [10, 24, 24]
    assert some.keys == [every.keys[i] for i in (0, 2, 4, 7, 9, 12, 14, 16, 19, 21)]
    assert "validation: 10 val" in capsys.readouterr().out


def test_validation_photos_of_other_regions_and_looks_are_parts_of_the_calibration(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[list[int]] = []

    def fit(denoiser: Any, photos: list[Any], decoder: Decoder) -> Decoder:
        parts.append([len(part) for part in photos])
        return decoder

    monkeypatch.setattr(finish.fitting, "fit", fit)
    more = ("--val-regions", str(data / "unseen" / "*.tar"))
    more += ("--val-looks", *(str(data / name / "*000.tar") for name in ("train", "val")))
    assert train.main(command(data, tmp_path, *more, steps=1)) == 0
    assert parts == [[24, 8, 64]]
    record = checkpoint.load(tmp_path / "checkpoint").config.record
    assert set(record["metrics"]) == {"val", "val_regions", "val_looks"}
    assert record["data"]["val_looks"]["photos"] == 64


class TestScalars:
    @pytest.fixture(autouse=True)
    def without_checkpoint(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ends runs where their training ends."""
        monkeypatch.setattr(finish, "finish", lambda trainer, *_: trainer.directory)

    def test_are_written_and_begin_anew_with_the_run(
        self, data: Path, run: Path, tmp_path: Path
    ) -> None:
        assert list((run / "tensorboard").glob("events.*"))
        folder = tmp_path / "tensorboard"
        folder.mkdir()
        (folder / "events.of.before").touch()
        assert train.main(command(data, tmp_path, "--overwrite", steps=1)) == 0
        assert [path.suffix for path in folder.iterdir()] != [".before"]
        assert len(list(folder.iterdir())) == 1

    def test_are_left_out_when_told(self, data: Path, tmp_path: Path) -> None:
        assert train.main(command(data, tmp_path, "--log-every", "0", steps=1)) == 0
        assert not (tmp_path / "tensorboard").exists()

    def test_the_run_goes_on_without_the_package(
        self,
        data: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        assert train.main(command(data, tmp_path, steps=1)) == 0
        assert "pip install 'locdiffusion[train]'" in capsys.readouterr().out


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
        original = trainer.Trainer._train_step

        def interrupted(trainer: Any, step: int) -> float:
            if step == 5:
                os.kill(os.getpid(), number)
            return original(trainer, step)

        with monkeypatch.context() as patch:
            patch.setattr(trainer.Trainer, "_train_step", interrupted)
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
        assert "no file matches" in said and "quotes around globs" in said

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
        assert str(bad) in said and "unreadable at byte 0" in said

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
        monkeypatch.setattr(trainer, "shdd_kl", lambda natural, *_: natural.sum(-1) * torch.nan)
        assert "lower learning_rate" in self.refused(command(data, tmp_path), capsys)

    def test_an_encoder_that_is_unknown(
        self,
        data: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(image_encoder, "encoder_spec", REAL_SPEC)
        said = self.refused(command(data, tmp_path, "--encoder", "resnet18"), capsys)
        assert "'resnet18' is unknown" in said and "efficientnet_lite0" in said


def test_help_explains_itself_without_loading_torch() -> None:
    code = (
        "import sys, locdiffusion.train.command as t\n"
        "try: t.main(['--help'])\nexcept SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'numpy', 'pyarrow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for part in (
        "--train GLOB",
        "NAME=GLOB",
        "examples:",
        "locdiffusion overhead",
        "to resume",
        "smoothing.km=50",
        "  sample",
        "  mp16_vit_l_14",
    ):
        assert part in done.stdout


class TestAppearanceMap:
    """A checkpoint gets a map of its training photos; all else of it stays."""

    SETTINGS = ("cell_km=1000", "kriging.length_km=3000", "kriging.tile_km=2000")

    @pytest.fixture(scope="class")
    def mapped(self, run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        output = tmp_path_factory.mktemp("mapped")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(image_encoder, "encoder_spec", lambda name: TinyEncoder(name).spec)
            assert train.main(self.command(run, data, output)) == 0
        return output / "checkpoint"

    def command(self, run: Path, data: Path, output: Path, *more: str) -> list[str]:
        settings = [w for one in self.SETTINGS for w in ("--set", f"appearance.{one}")]
        photos = ["--train", f"{data}/train/*.tar", "--val", f"{data}/val/*.tar"]
        kept = ["--embeddings", str(data / "embeddings"), "--output", str(output)]
        return ["--add-map-to", str(run / "checkpoint"), *photos, *kept, *settings, *more]

    def test_network_temperatures_and_familiarity_stay(self, run: Path, mapped: Path) -> None:
        before, after = (checkpoint.load(str(path)) for path in (run / "checkpoint", mapped))
        assert before.appearance is None and after.appearance is not None
        wanted, found = (one.denoiser.state_dict() for one in (before, after))
        assert wanted.keys() == found.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
        assert after.config.decode == before.config.decode

    def test_the_record_and_the_card_tell_of_it(self, run: Path, mapped: Path) -> None:
        record = checkpoint.read_config(str(mapped)).record
        told = record["appearance"]
        assert (told["photos"], told["augmented_photos"]) == (64, 0)
        assert told["settings"]["cell_km"] == 1000.0 and told["fitted_on"]["val"]["photos"] == 24
        assert set(record["metrics"]) == {"val"}, "the others were measured without the map"
        said = f"appearance map: {told['cells']:,} cells of 1000 km from 64 photos"
        assert said in (mapped / "MODEL_CARD.md").read_text()

    def test_photos_are_answered_with_it(self, mapped: Path) -> None:
        tagger = Geotagger(checkpoint.load(str(mapped)), TinyEncoder())
        embeddings = np.random.default_rng(0).normal(size=(9, 12)).astype(np.float32)
        natural = tagger.sample(embeddings, [str(i) for i in range(9)])
        alone, fused = tagger.decode(natural), tagger.decode(natural, embeddings)
        assert not np.array_equal(alone.radius_50_km, fused.radius_50_km)
        assert fused.familiarity is not None and alone.familiarity is None

    def test_a_checkpoint_is_not_written_over(
        self, run: Path, data: Path, mapped: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert train.main(self.command(run, data, mapped.parent)) == 2
        assert "is a checkpoint already; give another --output" in capsys.readouterr().err

    def test_a_training_makes_one_if_its_recipe_says_so(self, data: Path, tmp_path: Path) -> None:
        settings = [w for one in self.SETTINGS for w in ("--set", f"appearance.{one}")]
        assert train.main([*command(data, tmp_path, steps=1), *settings]) == 0
        loaded = checkpoint.load(str(tmp_path / "checkpoint"))
        assert loaded.appearance is not None
        assert loaded.config.record["appearance"]["photos"] == 64

"""Recipes of training, and the flags and settings that change them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from locdiffusion import checkpoint
from locdiffusion.cli.parser import UsageError
from locdiffusion.config import from_dict, settings_of, to_dict
from locdiffusion.model import image_encoder
from locdiffusion.train import command as train
from locdiffusion.train import recipe_flags
from locdiffusion.train import run as training_run
from locdiffusion.train.recipe import TrainConfig
from locdiffusion.train.recipe_flags import chosen_recipe
from locdiffusion.train.streaming import StreamConfig
from support.tiny import TinyEncoder

VALUES = {
    "--name": "mine",
    "--answer-base": "land",
    **dict.fromkeys(("--max-degree", "--batch-size", "--steps", "--evaluate-every"), "9"),
    **dict.fromkeys(("--seed", "--lanes", "--shuffle-buffer"), "9"),
}
"""Of flags that take anything but a number between 0 and 1."""
REAL_SPEC = image_encoder.encoder_spec


@pytest.fixture(autouse=True)
def tiny_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny encoder's specification, whatever encoder is named."""
    monkeypatch.setattr(image_encoder, "encoder_spec", lambda name: TinyEncoder(name).spec)


class TestConfigurations:
    def chosen(self, *flags: str) -> TrainConfig:
        return chosen_recipe(train.parse(["--train", "a", "--val", "b", "--output", "c", *flags]))

    def recipe(self, *flags: str) -> TrainConfig:
        chosen = self.chosen(*flags, "--set", "bf16=false")
        return training_run.completed(chosen, torch.device("cpu"))[0]

    def test_without_one_the_defaults_are_those_of_the_class(self) -> None:
        config = self.recipe("--encoder", "tiny")
        expected = replace(TrainConfig(), encoder="tiny")
        expected = replace(expected, model=replace(expected.model, embedding_dim=12))
        assert config == expected

    @pytest.mark.parametrize("recipe", [(), ("--recipe", "sample")])
    def test_every_setting_is_listed_with_its_value_and_meaning(
        self, recipe: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as end:
            train.parse([*recipe, "--list-settings"])
        assert end.value.code == 0
        said = " ".join(capsys.readouterr().out.split())
        for setting in settings_of(self.chosen(*recipe)):
            meaning = " ".join(setting.meaning.split()[:3]).rstrip(".")
            assert meaning and f"{setting.name}={setting.default} {meaning}" in said

    @pytest.mark.parametrize(("flag", "setting"), recipe_flags.EARLIER_FLAGS.items())
    def test_flags_of_earlier_versions_are_understood(self, flag: str, setting: str) -> None:
        value = VALUES.get(flag, "0.5")
        assert self.chosen(flag, value) == self.chosen("--set", f"{setting}={value}")
        assert self.chosen(flag, value) != self.chosen()

    def test_the_last_of_flags_and_settings_counts(self) -> None:
        assert self.chosen("--steps", "5", "--set", "steps=6").steps == 6
        assert self.chosen("--set", "steps=6", "--steps", "5").steps == 5
        for flags in (["--stream", "--lanes", "4"], ["--lanes", "4", "--stream"]):
            assert self.chosen(*flags).stream == StreamConfig(lanes=4)
        assert self.chosen("--config", "sample") == self.chosen("--recipe", "sample")
        assert self.chosen("--bf16").bf16 and not self.chosen("--bf16", "--no-bf16").bf16

    def test_the_earlier_stream_keeps_what_the_recipe_says(self) -> None:
        large = self.chosen("--recipe", "mp16_vit_l_14")
        assert self.chosen("--recipe", "mp16_vit_l_14", "--stream") == large
        assert large.stream != StreamConfig()
        assert self.chosen("--stream").stream == StreamConfig()

    def test_the_list_knows_flags_that_follow_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            train.parse(["--list-settings", "--recipe", "sample", "--set", "smoothing.km=61"])
        assert "smoothing.km=61" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("assignment", "said"),
        [
            ("stps=3", r"Unknown setting stps \(did you mean steps\?\); known are .*'seed'"),
            ("km=3", r"did you mean smoothing\.km\?"),
            ("steps=many", "steps is 'many'; want int"),
            ("steps", "'steps' sets nothing; want NAME=VALUE"),
            ("smoothing.km=-1", "want 0 to 5000"),
        ],
    )
    def test_settings_that_make_no_sense(
        self, assignment: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--train", "a", "--val", "b", "--output", str(tmp_path / "run")]
        assert train.main([*arguments, "--set", assignment]) == 2
        assert re.search(said, capsys.readouterr().err)
        assert not (tmp_path / "run").exists()

    def test_sample_is_the_recipe_of_the_shipped_checkpoint(self) -> None:
        config = checkpoint.read_config(None)
        # Calibration added what it is for, after the training.
        shipped = config.record["recipe"] | {"purpose": config.purpose, "unlike": config.unlike}
        shipped["model"]["embedding_dim"] = 12  # of the tiny encoder, which stands for the real one
        wanted = self.recipe("--recipe", "sample")
        assert replace(wanted, appearance=None) == from_dict(TrainConfig, shipped)
        # So was the appearance map.
        told = config.record.get("appearance", {"settings": to_dict(wanted.appearance)})
        assert told["settings"] == to_dict(wanted.appearance)

    def test_mp16_is_as_large_as_its_name_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(image_encoder, "encoder_spec", REAL_SPEC)
        config = self.recipe("--recipe", "mp16_vit_l_14")
        assert config.encoder == "open_clip:ViT-L-14/openai"
        assert (config.model.max_degree, config.model.embedding_dim) == (47, 768)
        assert config.stream is not None and config.warmup == 2000
        for world in (1, 2, 4, 8):
            assert config.stream.lanes % world == 0 == config.batch_size % config.stream.lanes
        assert self.chosen("--recipe", "mp16_vit_l_14").bf16

    def test_settings_go_over_it(self) -> None:
        settings = ("model.max_degree=9", "steps=50", "base_measure.answers=land", "stream=none")
        flags = [word for setting in settings for word in ("--set", setting)]
        config = self.recipe("--recipe", "mp16_vit_l_14", *flags, "--set", "model.dropout=0")
        assert (config.model.max_degree, config.steps, config.stream) == (9, 50, None)
        assert config.base_measure.answers.value == "land" and config.model.dropout == 0.0
        assert config.warmup == 6  # a short run does not warm up for all its length
        assert config.model.widths == (1024, 512, 256) and config.ema_decay == 0.9995

    def test_settings_of_a_stream_make_one(self) -> None:
        assert self.chosen("--set", "stream=default").stream == StreamConfig()
        assert self.chosen("--set", "stream.lanes=2").stream == StreamConfig(lanes=2)
        large = self.chosen("--recipe", "mp16_vit_l_14", "--set", "stream.buffer=9")
        assert large.stream == StreamConfig(lanes=8, buffer=9)

    def test_of_ones_own(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.json"
        file.write_text(json.dumps({"steps": 7, "model": {"widths": [8, 4]}, "about": "mine"}))
        config = self.recipe("--recipe", str(file), "--set", "seed=3")
        assert (config.steps, config.model.widths, config.seed) == (7, (8, 4), 3)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                None,
                r"'.*mine\.json'; want one of "
                r"\['geoclip_distilled', 'mp16_vit_l_14', 'paper', 'sample'\]",
            ),
            ("{", "is not JSON"),
            ("[1]", "holds no object"),
            ('{"step": 7}', r"Unknown setting step \(did you mean steps.*TrainConfig has"),
            ('{"steps": "many"}', "steps is 'many'; want int"),
            ('{"model": 3}', "model is 3; want an object"),
            ('{"stream": 3}', "stream is 3; want an object"),
            ('{"model": {"widths": "wide"}}', r"model\.widths is 'wide'; want a list"),
        ],
    )
    def test_that_cannot_be_read(
        self, text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if text is not None:
            (tmp_path / "mine.json").write_text(text)
        arguments = ["--train", "a", "--val", "b", "--output", str(tmp_path / "run")]
        assert train.main([*arguments, "--recipe", str(tmp_path / "mine.json")]) == 2
        assert re.search(said, capsys.readouterr().err)
        assert not (tmp_path / "run").exists()

    def test_bf16_without_a_gpu_is_refused_before_anything_is_done(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--train", "a", "--val", "b", "--output", str(tmp_path / "run")]
        assert train.main([*arguments, "--recipe", "mp16_vit_l_14"]) == 2
        assert "give --device cuda, or --set bf16=false" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        "flags", [("--save-every-minutes", "0"), ("--log-every", "-1"), ("--val-photos", "0")]
    )
    def test_numbers_that_make_no_sense(
        self, flags: tuple[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--train", "a", "--val", "b", "--output", "c", *flags]
        assert train.main(arguments) == 2
        assert re.search(f"{flags[0]}.*{flags[1]}, wanted", capsys.readouterr().err)


def test_what_is_required() -> None:
    with pytest.raises(UsageError, match="required: --val, --output"):
        train.parse(["--train", "a"])
    options = train.parse(["--train", "a", "b", "--val", "c", "--output", "d", "--set", "seed=2"])
    assert options.train == ["a", "b"] and options.set == ["seed=2"]

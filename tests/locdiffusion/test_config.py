"""Configurations enter and leave files unchanged, and a wrong file says where it is wrong."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import locdiffusion
from experiments.distillation.teacher import TeacherConfig
from locdiffusion.appearance.gaussian_process import KrigingConfig
from locdiffusion.appearance.training_photos import AppearanceConfig
from locdiffusion.checkpoint import CheckpointConfig
from locdiffusion.config import ConfigError, from_dict, settings_of, to_dict, with_settings
from locdiffusion.decoding.decoder import DecodeConfig
from locdiffusion.density.base_measure import BaseConfig, BaseKind
from locdiffusion.density.log_partition import PartitionConfig
from locdiffusion.diffusion.schedules import NoiseConfig
from locdiffusion.gallery.place_mixture import MixtureConfig
from locdiffusion.model.cs_unet import CSUNetConfig
from locdiffusion.model.preprocessing import EncoderSpec, Framing, Interpolation
from locdiffusion.overhead.augmentation import Augmentation
from locdiffusion.overhead.dataset import OverheadConfig
from locdiffusion.overhead.mosaics import MosaicSource
from locdiffusion.overhead.patches import PatchGeometry
from locdiffusion.overhead.splits import CentreRule, Split
from locdiffusion.temperature import TemperatureConfig
from locdiffusion.train.label_smoothing import SmoothingConfig
from locdiffusion.train.recipe import TrainConfig
from locdiffusion.train.streaming import StreamConfig

ENCODER = EncoderSpec(
    "open_clip:A/b.pt", 7, 32, (0.1, 0.2, 0.3), (1.0, 0.5, 0.25), Interpolation.BILINEAR
)
MODEL = CSUNetConfig(max_degree=5, embedding_dim=7, widths=(8, 4), dropout=0.25)
MIXTURE = MixtureConfig(30.0, -1.0, 0.1, (1.0, 0.5, 0.0, -1.0), (0.0,) * 4, -1.0, (0.2, 0.1, -0.5))
CHECKPOINT = CheckpointConfig(
    "a",
    MODEL,
    NoiseConfig(log_spread=0.7),
    DecodeConfig(modes=2),
    ENCODER,
    TemperatureConfig(gallery=99),
    {"seed": [1, {"b": 2}]},
    gallery=MIXTURE,
)
CONFIGS = [
    AppearanceConfig(80.0, KrigingConfig(length_km=200.0)),
    KrigingConfig(noise=0.2),
    TeacherConfig(10, 0.25),
    MIXTURE,
    ENCODER,
    MODEL,
    CHECKPOINT,
    NoiseConfig(sigma_min=1.5, pure_fraction=0.25),
    DecodeConfig(radius_km=123.4, shifts=3),
    PartitionConfig(rows=10, cap_km=500.0),
    TemperatureConfig(gallery=20, hidden=3),
    BaseConfig(answers=BaseKind.LAND, smoothing_km=200.0),
    SmoothingConfig(75.0, 400.0, 0.3, 0.1),
    StreamConfig(lanes=2, buffer=9),
    TrainConfig("b", model=MODEL, noise=NoiseConfig(sigma_max=30.0), learning_rate=1e-5, seed=3),
    TrainConfig("c", bf16=True, stream=StreamConfig(lanes=4)),
    OverheadConfig(
        Split.UNSEEN,
        9,
        mosaics=(MosaicSource("july"), MosaicSource("may", "may.jpg", 0.5)),
        augmentation=Augmentation(0.5),
        geometry=PatchGeometry(64, 2.5),
        rule=CentreRule(60.0),
    ),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_round_trip_through_json(config: Any) -> None:
    assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config


def test_no_configuration_is_forgotten_above() -> None:
    """Catches a new `*Config` whose field types `from_dict` cannot read."""
    package = Path(locdiffusion.__file__).parent
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in package.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    names = {node.name for node in nodes if node.name.endswith("Config")}
    assert names <= {type(config).__name__ for config in CONFIGS}


@pytest.mark.parametrize(
    "kind", [NoiseConfig, DecodeConfig, PartitionConfig, BaseConfig, CSUNetConfig, TrainConfig]
)
def test_fields_left_out_take_their_defaults(kind: Any) -> None:
    assert from_dict(kind, {}) == kind()


def test_only_json_types_leave() -> None:
    def check(value: Any) -> None:
        assert type(value) in (dict, list, str, int, float, bool, type(None))
        for item in value.values() if isinstance(value, dict) else ():
            check(item)
        for item in value if isinstance(value, list) else ():
            check(item)

    for config in CONFIGS:
        check(to_dict(config))


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Types that no configuration of the project has yet."""

    pair: tuple[str, int]
    many: list[float] = dataclasses.field(default_factory=list)
    framing: Framing = Framing.SQUASH


def changed(place: str, value: Any) -> dict[str, Any]:
    """The checkpoint's JSON with one value changed."""
    document = json.loads(json.dumps(to_dict(CHECKPOINT)))
    *parents, last = place.split(".")
    part = document
    for parent in parents:
        part = part[parent]
    part[last] = value
    return document  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("colour", 3, ["Unknown setting colour", "CheckpointConfig", "newer version"]),
        ("model.widhts", [3], ["Unknown setting model.widhts", "'widths'"]),
        ("name", 3, ["name is 3", "want str"]),
        ("model", [1], ["model is [1]", "an object"]),
        ("model.max_degree", 5.0, ["model.max_degree is 5.0", "want int"]),
        ("model.max_degree", True, ["model.max_degree is True", "want int"]),
        ("model.max_degree", None, ["model.max_degree is None"]),
        ("model.widths", 8, ["model.widths is 8", "a list"]),
        ("model.widths", [8, "4"], ["model.widths[1] is '4'", "want int"]),
        ("model.dropout", 2, ["model: dropout is 2.0", "[0, 1)"]),
        ("noise.sigma_min", "2", ["noise.sigma_min is '2'", "a number"]),
        ("noise.sigma_min", 99, ["noise: sigma_min = 99"]),
        ("decode.radius_km", float("nan"), ["decode: radius_km is nan"]),
        ("temperature.neighbours", 0, ["temperature: ", "neighbours = 0"]),
        ("encoder.mean", [0.5, 0.5], ["encoder.mean is [0.5, 0.5]", "a list of 3"]),
        ("encoder.mean", [0.5, 0.5, 127.0], ["encoder: ", "mean", "255"]),
        ("encoder.framing", "crop", ["encoder.framing is 'crop'", "squash"]),
        ("record", 5, ["record is 5", "an object"]),
    ],
)
def test_a_wrong_value_names_its_place(place: str, value: Any, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(CheckpointConfig, changed(place, value))
    assert all(part in str(caught.value) for part in said), caught.value


@pytest.mark.parametrize(
    ("place", "said"), [("name", "Setting name"), ("encoder.mean", "Setting encoder.mean")]
)
def test_a_missing_value_names_its_place(place: str, said: str) -> None:
    document = changed(place, 0)
    *parents, last = place.split(".")
    del (document[parents[0]] if parents else document)[last]
    with pytest.raises(ConfigError, match=f"{said} is missing"):
        from_dict(CheckpointConfig, document)


@pytest.mark.parametrize("document", [[], [{}], "text", None, 3])
def test_json_that_is_no_object(document: Any) -> None:
    with pytest.raises(ConfigError, match=r"CheckpointConfig is .*; want an object"):
        from_dict(CheckpointConfig, document)


def test_a_long_value_does_not_flood_the_message() -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(CheckpointConfig, changed("name", ["x" * 1000] * 1000))
    assert len(str(caught.value)) < 200


def test_whole_numbers_are_numbers_and_none_is_kept() -> None:
    assert type(from_dict(NoiseConfig, {"sigma_min": 1}).sigma_min) is float
    assert from_dict(MosaicSource, {"name": "july", "path": None}).path is None


def test_lists_and_tuples_of_different_types() -> None:
    values = {"pair": ["a", 1], "many": [1], "framing": "longest"}
    assert from_dict(Mixed, values) == Mixed(("a", 1), [1.0], Framing.LONGEST)
    with pytest.raises(ConfigError, match=r"pair\[1\] is 'b'; want int"):
        from_dict(Mixed, {"pair": ["a", "b"]})


class TestSettings:
    @pytest.mark.parametrize(
        ("assignment", "changed"),
        [
            ("seed=3", {"seed": 3}),
            ("learning_rate=.5", {"learning_rate": 0.5}),
            ("name=2024", {"name": "2024"}),
            ("bf16=yes", {"bf16": True}),
            ("model.widths=16, 8", {"model": {"widths": [16, 8]}}),
            ("base_measure.answers=land", {"base_measure": {"answers": "land"}}),
            ("smoothing.last_broad_share=0", {"smoothing": {"last_broad_share": 0.0}}),
            ("smoothing.last_broad_share=none", {}),
            ("stream=default", {"stream": {}}),
            ("stream.lanes=4", {"stream": {"lanes": 4}}),
        ],
    )
    def test_a_text_is_read_by_the_type_of_its_field(
        self, assignment: str, changed: dict[str, Any]
    ) -> None:
        assert with_settings(TrainConfig(), [assignment]) == from_dict(TrainConfig, changed)

    def test_settings_that_fit_only_together_may_come_in_any_order(self) -> None:
        found = with_settings(NoiseConfig(), ["sigma_min=70", "sigma_max=100"])
        assert (found.sigma_min, found.sigma_max) == (70.0, 100.0)

    @pytest.mark.parametrize(
        ("assignment", "said"),
        [
            ("smoothing.kn=3", r"smoothing\.kn \(did you mean .*smoothing\.km.*known are \['name'"),
            ("model.widths.x=3", r"Unknown setting model\.widths\.x"),
            ("model.no.such.x=3", r"Unknown setting model\.no\.such\.x"),
            ("model=3", "model is '3'; want an object"),
            ("bf16=maybe", "bf16 is 'maybe'; want bool"),
            ("model.widths=a", r"model\.widths\[0\] is 'a'; want int"),
            ("base_measure.answers=sea", r"want one of \['positions', 'land', 'uniform'\]"),
        ],
    )
    def test_a_mistake_names_the_setting(self, assignment: str, said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            with_settings(TrainConfig(), [assignment])

    def test_what_is_listed_can_be_set(self) -> None:
        appearance = AppearanceConfig(80.0, KrigingConfig(length_km=200.0))
        config = TrainConfig(
            model=MODEL, stream=StreamConfig(lanes=4), bf16=True, appearance=appearance
        )
        listed = [f"{setting.name}={setting.default}" for setting in settings_of(config)]
        assert with_settings(TrainConfig(), listed) == config


def test_files_with_earlier_names_of_settings_are_read() -> None:
    earlier = {"base": {"answers": "land", "towards_land": 0.25}}
    now = BaseConfig(answers=BaseKind.LAND, land_exponent=0.25)
    assert from_dict(TrainConfig, earlier).base_measure == now
    assert with_settings(TrainConfig(), ["base.towards_land=0.5"]).base_measure.land_exponent == 0.5

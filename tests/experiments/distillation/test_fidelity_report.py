"""The page that holds a distilled checkpoint against its teacher."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.distillation import fidelity, report, rivals
from experiments.distillation.gallery_fit import START
from experiments.distillation.heads import HeadCost
from locdiffusion import checkpoint
from locdiffusion.config import to_dict
from locdiffusion.decoding.decoder import DecodeConfig
from locdiffusion.density.base_measure import uniform_measure
from locdiffusion.diffusion.schedules import NoiseConfig
from locdiffusion.model.cs_unet import CSUNet, CSUNetConfig
from locdiffusion.model.preprocessing import EncoderSpec
from locdiffusion.sphere.geodesy import great_circle_km
from locdiffusion.temperature import CalibratedDenoiser, TemperatureModel
from support.tiny import TEMPERATURE
from support.tiny_teacher import WIDTH, tiny_queries, tiny_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

FASTER = (3.0, 2.5, 3.5), 0.5, (6.0, 5.0, 7.0), 0.8, (3.75, 3.5, 4.0)
COST = HeadCost(8, 3.0, 1.0, *FASTER, 205_000_000, 40_000_000, {"cores": 2})


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """An untrained student of the tiny teacher, held against it."""
    teacher = tiny_teacher()
    model = CSUNetConfig(7, WIDTH, 16, (16, 8))
    queries = tiny_queries(teacher, 60, draws=0).as_photos()
    temperatures = TemperatureModel.of_training(
        queries.embeddings, queries.vectors, 7, uniform_measure(), TEMPERATURE
    )
    spec = EncoderSpec("geoclip", WIDTH, 224, (0.5,) * 3, (0.5,) * 3)
    config = checkpoint.CheckpointConfig(
        *("tiny", model, NoiseConfig(), DecodeConfig(500.0), spec, temperatures.config),
        gallery=START,
    )
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("student")
    checkpoint.save(directory, config, CalibratedDenoiser(CSUNet(model), temperatures))
    student = fidelity.Student(checkpoint.load(str(directory)), teacher)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "photos_at", _photos_at)
        tests = fidelity.splits(teacher, {"cities": teacher.positions[:40]}, 30, 0)
        said: list[str] = []
        found = fidelity.measure(student, teacher, tests, queries, 10, said.append)
    return teacher, tests, found, said


def _photos_at(teacher, setting, places, seed):
    """The tiny teacher embeds no new places: the nearest of its own are taken."""
    km = great_circle_km(
        places[:, None, 0], places[:, None, 1], teacher.positions[:, 0], teacher.positions[:, 1]
    )
    photos = tiny_queries(teacher, len(places), draws=0, seed=seed).as_photos()
    embeddings = teacher.embeddings[torch.from_numpy(km.argmin(1))].numpy()
    return type(photos)(photos.keys, embeddings, places[:, 0].copy(), places[:, 1].copy())


def test_every_method_is_scored_on_every_split(measured):
    teacher, tests, found, said = measured
    assert list(found.scores) == ["cities", "cities, other noise", "cities, third noise", "far"]
    for split in tests:
        scores = found.scores[split.name]
        assert set(scores) == set(report.METHODS)
        assert scores[fidelity.ARGMAX].n == 30
        assert scores[fidelity.SAMPLING].n == 10
        errors = rivals.errors_km(
            rivals.best_places(teacher, split.photos.embeddings), split.photos
        )
        assert scores[fidelity.ARGMAX].median_km.value == pytest.approx(np.median(errors))
        ours, nothing = found.kl_nats[split.name]
        assert ours > 0 and nothing > 0
    assert any("far: 30 queries" in line for line in said)
    assert found.scores["cities"][fidelity.ARGMAX].within[0].value > 0.9, "its own places"


def test_the_page_says_what_was_measured(measured, tmp_path: Path):
    _, tests, found, _ = measured
    page = report.render("tiny-0123", tests, found, [COST])
    assert page.startswith("# `tiny-0123` beside GeoCLIP")
    assert "used a photo" in page
    for name in (
        *report.METHODS,
        "far",
        "3.00 (2.50-3.50)",
        "6.00 (5.00-7.00)",
        "3.75 (3.50-4.00)",
    ):
        assert name in page
    points = 100 * (
        found.scores["far"][fidelity.DENSITY].within[4].value
        - found.scores["far"][fidelity.ARGMAX].within[4].value
    )
    assert f"/ {points:+.1f}\n" in page
    report.draw(found, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    kept = json.loads(json.dumps(to_dict({"cost": COST, "fidelity": found})))
    assert kept["fidelity"]["scores"]["far"][fidelity.TOGETHER]["n"] == 30


def test_lists_need_latitude_and_longitude(tmp_path: Path):
    (tmp_path / "good.csv").write_text("IMG_ID,AUTHOR,LAT,LON\na,b,1.5,-2\nc,d,3,4\n")
    assert fidelity.read_places(tmp_path / "good.csv").tolist() == [[1.5, -2.0], [3.0, 4.0]]
    (tmp_path / "bad.csv").write_text("id,lat\na,1\n")
    with pytest.raises(ValueError, match="want LAT and LON"):
        fidelity.read_places(tmp_path / "bad.csv")


def test_a_missing_list_is_one_line(capsys, tmp_path: Path, monkeypatch):
    def fails(options):
        raise FileNotFoundError("no such list")

    monkeypatch.setattr(report, "run", fails)
    assert report.main(["--output", str(tmp_path)]) == 2
    assert "error: no such list" in capsys.readouterr().err

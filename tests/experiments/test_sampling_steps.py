"""The study of steps: settings, levels out of range, results that resume, the figure."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.sampling_figure import draw
from experiments.sampling_steps import (
    FIGURE,
    RESULTS,
    Setting,
    Study,
    ambiguous,
    drawn,
    in_trained_range,
    main,
    run_study,
)
from locdiffusion import checkpoint
from locdiffusion.diffusion.schedules import NoiseConfig, decision_sigma
from locdiffusion.inference import natural_parameters
from locdiffusion.model.image_encoder import EncoderSpec
from support import tiny

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = EncoderSpec("tiny", tiny.EMBEDDING_DIM, tiny.SIDE, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return checkpoint.load(str(tiny.write_checkpoint(tmp_path_factory.mktemp("checkpoint"), SPEC)))


@pytest.fixture
def study(loaded):
    return Study(loaded, tiny.learnable_photos(5, 0), samples=3, seed=1)


def test_settings_have_names_and_levels():
    noise = NoiseConfig()
    recentred, standard = Setting("ddim", "recentred", 4), Setting("dpm_solver", "standard", 4)
    assert (recentred.name, standard.name) == ("ddim-recentred-4", "dpm_solver-standard-4")
    assert len(recentred.sigmas(noise, 1024)) == len(standard.sigmas(noise, 1024)) == 5
    assert (recentred.sigmas(noise, 1024)[0], recentred.sigmas(noise, 1024)[-1]) == pytest.approx(
        (60.0, decision_sigma(1024))
    )
    assert (standard.sigmas(noise, 1024)[0], standard.sigmas(noise, 1024)[-1]) == pytest.approx(
        (157.4, 0.01), rel=1e-3
    )


@pytest.mark.parametrize("names", [("euler", "standard"), ("ddim", "cosine")])
def test_unknown_names_are_errors(names):
    with pytest.raises(ValueError, match="is unknown; want one of"):
        Setting(*names, 4)


def test_levels_out_of_the_trained_range_follow_bayes_rule():
    """A denoiser that is exact for a prior of the family, η + x/σ², stays exact at every σ."""
    prior = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    asked = []

    def exact(x, sigma, condition):
        asked.append(sigma)
        return condition + x / sigma[:, None] ** 2

    everywhere = in_trained_range(exact, NoiseConfig(sigma_min=2.0, sigma_max=60.0))
    sigma = torch.tensor([0.1, 2.0, 30.0, 157.0])
    x = sigma[:, None] * torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(everywhere(x, sigma, prior), exact(x, sigma, prior))
    assert asked[0].tolist() == [2.0, 2.0, 30.0, float("inf")]


def test_the_network_is_called_as_often_as_the_results_say(study, monkeypatch):
    rows = []
    inner = study._denoiser

    def counted(temperature):
        denoise = inner(temperature)
        return lambda x, sigma, c: rows.append(len(x)) or denoise(x, sigma, c)

    monkeypatch.setattr(study, "_denoiser", counted)
    entry = study.run(Setting("dpm_solver", "recentred", 4))
    assert sum(rows) == entry["calls_per_photo"] * len(study.photos) == 5 * 3 * 5


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver", "ancestral"])
@pytest.mark.parametrize("placing", ["recentred", "sharp", "standard"])
def test_an_entry_holds_what_was_measured(study, sampler, placing):
    entry = study.run(Setting(sampler, placing, 2))
    assert entry["n"] == entry["single"]["n"] == 5
    for share in (*entry["within"].values(), entry["coverage_50"], entry["coverage_90"]):
        assert 0.0 <= share <= 1.0
    assert np.isfinite(entry["nats_per_km2"])
    assert entry["median_km"] > 0
    assert json.loads(json.dumps(entry)) == entry


def test_guidance_is_a_temperature_of_the_image(study):
    """The mixture of many guided samples is no sharper at the end: the last call has none."""
    plain, guided = (study.run(Setting("ddim", "recentred", 1, w)) for w in (1.0, 3.0))
    assert plain["nats_per_km2"] != guided["nats_per_km2"]
    assert Setting("ddim", "recentred", 1, 3.0).name == "ddim-recentred-1-guided-3"
    with pytest.raises(ValueError, match="guidance is 0"):
        Setting("ddim", "recentred", 1, 0.0)


def test_gains_are_differences_to_density_mode(study):
    density, entry = study.density_mode(), study.run(Setting("ddim", "recentred", 2))
    gained = density["nats_per_km2"] - entry["nats_per_km2"]
    assert entry["gain"]["nats"]["mean"] == pytest.approx(gained, abs=1e-5)
    points = entry["within"]["25"] - density["within"]["25"]
    assert entry["gain"]["within_25"]["mean"] == pytest.approx(points, abs=1e-9)
    assert entry["gain"]["nats"]["standard_error"] > 0


def test_sharp_levels_end_below_the_deciding_one():
    noise = NoiseConfig()
    sharp, recentred = (Setting("ddim", p, 4).sigmas(noise, 1024) for p in ("sharp", "recentred"))
    assert sharp[0] == pytest.approx(noise.sigma_max) == recentred[0]
    assert sharp[-1] == pytest.approx(noise.sigma_min) and sharp[-1] < recentred[-1]


def test_ambiguous_photos_know_least(loaded):
    photos = tiny.learnable_photos(12, 3)
    natural = natural_parameters(loaded.denoiser, photos.embeddings)
    information = loaded.decoder()(natural[:, None]).information_nats
    chosen = ambiguous(loaded, photos, 4)
    rows = [photos.keys.index(key) for key in chosen.keys]
    assert rows == sorted(rows) and set(rows) == set(np.argsort(information)[:4])


def test_photos_of_another_kind_are_not_ambiguous(loaded):
    photos = tiny.learnable_photos(12, 3)
    photos.embeddings[:5] *= 40.0
    checkpoint = replace(loaded, denoiser=copy.deepcopy(loaded.denoiser))
    temperatures = checkpoint.denoiser.temperatures
    known = torch.from_numpy(photos.embeddings[5:])
    temperatures.familiarity.fit([temperatures.dissimilarity(known)])
    chosen = ambiguous(checkpoint, photos, 12)
    assert len(chosen) > 0 and set(photos.keys[:5]).isdisjoint(chosen.keys)


def test_the_same_seed_gives_the_same_numbers(loaded, study):
    again = Study(loaded, study.photos, samples=3, seed=1)
    other = Study(loaded, study.photos, samples=3, seed=2)
    numbers = [
        s.run(Setting("ancestral", "recentred", 2))["nats_per_km2"] for s in (study, again, other)
    ]
    assert numbers[0] == numbers[1] != numbers[2]


def test_a_stopped_study_goes_on_where_it_was(study, tmp_path, monkeypatch):
    settings = [Setting("ddim", "recentred", n) for n in (1, 2)]
    said = []
    first = run_study(study, settings[:1], tmp_path, said.append)
    ran = []
    inner = study.run
    monkeypatch.setattr(study, "run", lambda setting: ran.append(setting) or inner(setting))
    second = run_study(study, settings, tmp_path, said.append)
    assert ran == settings[1:]
    assert second["settings"][settings[0].name] == first["settings"][settings[0].name]
    assert second["density"] == first["density"]
    assert json.loads((tmp_path / RESULTS).read_text()) == second
    assert len(said) == 5
    assert "200 km" in said[0]


def test_results_of_other_photos_are_not_mixed_in(loaded, study, tmp_path):
    run_study(study, [], tmp_path, lambda line: None)
    other = Study(loaded, tiny.learnable_photos(4, 9), samples=3, seed=1)
    with pytest.raises(ValueError, match="Give another --output"):
        run_study(other, [], tmp_path)


def test_nothing_to_study_is_an_error(loaded):
    with pytest.raises(ValueError, match="0 samples of 5 photos"):
        Study(loaded, tiny.learnable_photos(5, 0), samples=0)


def test_photos_are_drawn_once_each():
    photos = tiny.learnable_photos(20, 3)
    some = drawn(photos, 7, seed=0)
    assert len(set(some.keys)) == 7
    assert some.keys == [k for k in photos.keys if k in set(some.keys)]
    row = photos.keys.index(some.keys[2])
    np.testing.assert_array_equal(some.embeddings[2], photos.embeddings[row])
    np.testing.assert_array_equal(some.vectors[2], photos.vectors[row])
    assert len(drawn(photos, 100, seed=0)) == 20


def test_the_command(tmp_path, monkeypatch, capsys):
    directory = tiny.write_checkpoint(tmp_path / "checkpoint", SPEC)
    shard = tiny.write_coloured_shard(tmp_path / "val-0.tar", 6, seed=0)
    monkeypatch.setattr(
        "locdiffusion.model.image_encoder.load_image_encoder", lambda name: tiny.TinyEncoder()
    )
    arguments = ["--checkpoint", str(directory), "--photos", str(shard), "--embeddings"]
    arguments += [str(tmp_path / "cache"), "--output", str(tmp_path / "out"), "--samples", "2"]
    arguments += ["--steps", "1", "--limit", "4", "--ambiguous", "2"]
    arguments += ["--placings", "recentred", "sharp", "--guidance", "1", "2"]
    assert main(arguments) == 0
    assert (tmp_path / "out" / FIGURE).stat().st_size > 10_000
    found = json.loads((tmp_path / "out" / RESULTS).read_text())
    assert len(found["settings"]) == 8 and found["study"]["photos"] == 2
    assert "density" in capsys.readouterr().out
    assert main([*arguments, "--seed", "1"]) == 1
    assert "Give another --output" in capsys.readouterr().err


def test_the_figure_is_drawn_from_results_alone(tmp_path, study):
    results = run_study(study, [Setting("ddim", "standard", 2)], tmp_path, lambda line: None)
    draw(results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

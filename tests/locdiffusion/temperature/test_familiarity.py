"""Photos unlike those of training: how they are told, and how little is then said about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from locdiffusion import checkpoint
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.density.base_measure import land_measure, uniform_measure
from locdiffusion.geotagger import Geotagger
from locdiffusion.settings import GeotaggerSettings
from locdiffusion.temperature import FEATURES, CalibratedDenoiser, Familiarity
from support.tiny import (
    TEMPERATURE,
    TinyEncoder,
    checkpoint_config,
    learnable_photos,
    random_denoiser,
)

pytestmark = pytest.mark.usefixtures("one_thread")

HELD_OUT = learnable_photos(400, seed=21).embeddings
FAMILIAR = learnable_photos(40, seed=22).embeddings
STRANGE = 30.0 * np.random.default_rng(3).normal(size=(20, HELD_OUT.shape[1])).astype(np.float32)
LAND_90_KM = 5_000.0
"""No ball of this radius holds 90 % of the land."""


def fitted() -> CalibratedDenoiser:
    denoiser = random_denoiser()
    model = denoiser.temperatures
    model.familiarity.fit([model.dissimilarity(torch.from_numpy(HELD_OUT))])
    return denoiser


def geotagger(denoiser: CalibratedDenoiser, mode: str = "density") -> Geotagger:
    encoder = TinyEncoder()
    config = replace(checkpoint_config(encoder.spec), purpose="colours", unlike="use another")
    settings = GeotaggerSettings(mode=mode, samples=16, steps=3)
    return Geotagger(Checkpoint(config, denoiser, land_measure(), "0" * 64), encoder, settings)


def test_familiarity_is_the_share_of_those_less_alike() -> None:
    generator = np.random.default_rng(0)
    held_out = torch.from_numpy(generator.normal(size=5_000))
    familiarity = Familiarity()
    assert not familiarity.known
    familiarity.fit([held_out])
    asked = torch.linspace(-4.0, 4.0, 200, dtype=torch.float64)
    wanted = (held_out[None] > asked[:, None]).double().mean(1)
    assert familiarity.known
    np.testing.assert_allclose(familiarity(asked), wanted, atol=1.5e-3)
    np.testing.assert_array_equal(familiarity(torch.tensor([-99.0, 99.0])), [1.0, 0.0])


def test_parts_count_alike_however_many_photos_they_have() -> None:
    familiarity = Familiarity()
    familiarity.fit([torch.linspace(0.0, 1.0, 3_000), torch.linspace(2.0, 3.0, 50)])
    assert float(familiarity(torch.tensor([1.5]))) == pytest.approx(0.5, abs=2e-3)


def test_dissimilarity_is_the_feature() -> None:
    denoiser = fitted()
    condition = torch.from_numpy(FAMILIAR)
    features = denoiser.temperatures.features(condition, denoiser.network.from_image(condition))
    column = features[:, FEATURES.index("dissimilarity")]
    torch.testing.assert_close(denoiser.temperatures.dissimilarity(condition), column)


def test_densities_of_familiar_photos_stay_as_they_were() -> None:
    denoiser, condition = fitted(), torch.from_numpy(FAMILIAR)
    familiar = denoiser.familiarity(condition) >= TEMPERATURE.unfamiliar
    assert familiar.float().mean() > 0.9
    before = random_denoiser().from_image(condition)[familiar]
    assert torch.equal(denoiser.from_image(condition)[familiar], before)


@pytest.mark.parametrize("one_temperature", [False, True])
def test_the_weight_falls_with_the_familiarity(one_temperature: bool) -> None:
    denoiser, plain = fitted(), random_denoiser()
    for one in (denoiser, plain):
        one.temperatures.out.weight.mul_(0.0 if one_temperature else 1.0)
    steps = torch.linspace(0.0, 1.0, 200)[:, None]
    condition = torch.lerp(torch.from_numpy(FAMILIAR[:1]), torch.from_numpy(STRANGE[:1]), steps)
    weight = plain.temperature(condition) / denoiser.temperature(condition)
    share = denoiser.familiarity(condition) / TEMPERATURE.unfamiliar
    torch.testing.assert_close(weight, (share**8).clamp(1e-3, 1.0), rtol=5e-3, atol=0.0)
    assert weight.max() == 1.0 and weight.min() < 2e-3


@pytest.mark.parametrize("unfamiliar", [0.0, 1e-60])
def test_without_a_threshold_every_weight_is_one(unfamiliar: float) -> None:
    familiarity = Familiarity()
    familiarity.fit([torch.linspace(0.0, 1.0, 100)])
    found = familiarity.log_weight(torch.tensor([-1.0, 0.5, 2.0]), unfamiliar)
    assert torch.equal(found, torch.zeros(3))


@pytest.mark.parametrize("mode", ["density", "sampling"])
def test_of_a_strange_photo_nearly_nothing_is_said(mode: str) -> None:
    keys = [str(row) for row in range(len(STRANGE))]
    before, after = geotagger(random_denoiser(), mode), geotagger(fitted(), mode)
    sure = before.decode(before.sample(STRANGE, keys), STRANGE)
    assert sure.familiarity is None and np.median(sure.radius_90_km) < LAND_90_KM
    natural = after.sample(STRANGE, keys)
    answers = after.decode(natural, STRANGE)
    assert (answers.familiarity == 0.0).all() and answers.finite_rows().all()
    assert np.mean(answers.radius_90_km > LAND_90_KM) >= 0.95
    assert (answers.information_nats < sure.information_nats).mean() > 0.95
    [(half, most)] = after.regions(natural[:1])
    if mode == "density":
        assert half.area_km2 > 3e7 and most.area_km2 > 1e8, "of the land's 149 million km²"


def test_a_checkpoint_keeps_it_and_one_of_before_has_none(tmp_path: Path) -> None:
    spec = TinyEncoder().spec
    config = replace(checkpoint_config(spec), purpose="colours", unlike="use another")
    for name, denoiser in (("new", fitted()), ("old", random_denoiser())):
        checkpoint.save(tmp_path / name, config, denoiser, uniform_measure())
    new, old = (checkpoint.load(str(tmp_path / name)) for name in ("new", "old"))
    condition = torch.from_numpy(FAMILIAR)
    assert torch.equal(new.denoiser.familiarity(condition), fitted().familiarity(condition))
    assert torch.equal(new.denoiser.temperature(condition), fitted().temperature(condition))
    assert new.told == {"purpose": "colours", "unlike": "use another", "unfamiliar": 0.02}
    assert not old.denoiser.temperatures.familiarity.known and "unfamiliar" not in old.told


DAMAGED = [torch.zeros(2, 2), torch.zeros(1), torch.tensor([0.0, torch.nan])]
DAMAGED += [torch.tensor([0.0, 2.0, 1.0])]


@pytest.mark.parametrize("quantiles", DAMAGED)
def test_damaged_quantiles_are_refused(tmp_path: Path, quantiles: torch.Tensor) -> None:
    denoiser = fitted()
    denoiser.temperatures.familiarity.quantiles = quantiles
    checkpoint.save(tmp_path, checkpoint_config(TinyEncoder().spec), denoiser, uniform_measure())
    with pytest.raises(checkpoint.CheckpointError, match=r"familiarity\.quantiles"):
        checkpoint.load(str(tmp_path))


def test_a_text_that_would_fill_the_console_is_refused() -> None:
    with pytest.raises(checkpoint.CheckpointError, match="purpose of the checkpoint"):
        replace(checkpoint_config(TinyEncoder().spec), purpose="x" * 301)

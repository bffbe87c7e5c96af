"""The shared trunk and training loop, and the regressions on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import vonmises_fisher

from experiments.baselines.evidence import fit_settings
from experiments.baselines.flow_matching import FlowNetwork
from experiments.baselines.harmonic_regression import HarmonicRegression
from experiments.baselines.kernel_mixture import KernelMixture
from experiments.baselines.network import Budget, Trunk, outputs, parameter_count, train
from experiments.baselines.regression import (
    DirectRegression,
    MixtureDensity,
    components_of,
    mixture_log_density,
)
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import latitude_longitude
from locdiffusion.train.recipe import TrainConfig
from support import tiny

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = Budget(steps=200, batch_size=64, parameters=8000, dropout=0.0, learning_rate=3e-3)


def squared(network, embeddings, truth, generator):
    return (network(embeddings) - truth.float()).square().mean()


def trained(budget: Budget) -> Trunk:
    def build() -> Trunk:
        return Trunk(tiny.EMBEDDING_DIM, 3, budget.parameters, budget.dropout)

    return train(build, squared, tiny.learnable_photos(300, 0), budget, "test")


@pytest.mark.parametrize("width", [3, 40, 1024, 5000])
def test_networks_have_as_many_parameters_as_allowed_whatever_they_say(width):
    assert_allclose(parameter_count(Trunk(1280, width, 4_700_000, 0.1)), 4_700_000, rtol=0.02)


def test_the_flow_network_too():
    assert_allclose(parameter_count(FlowNetwork(1280, 4_700_000, 0.1)), 4_700_000, rtol=0.02)


def test_the_budget_is_our_models_recipe():
    budget, recipe = Budget(), TrainConfig()
    for name in ("warmup", "weight_decay", "ema_decay", "gradient_clip"):
        assert getattr(budget, name) == getattr(recipe, name)
    assert budget.dropout == recipe.model.dropout


def test_a_seed_gives_one_network_and_another_seed_another():
    budget = Budget(4, 32, 1e-3, 0, 2000)
    weights = [trained(b).last.weight for b in (budget, budget, Budget(4, 32, 1e-3, 1, 2000))]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_learns():
    network = trained(SMALL)
    val = tiny.learnable_photos(200, 1)
    error = (outputs(network, val).numpy() - val.vectors).std()
    assert error < 0.5 * val.vectors.std()


def test_a_loss_that_is_not_finite_stops_with_a_remedy():
    def broken(network, embeddings, truth, generator):
        return network(embeddings).sum() * torch.nan

    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        train(lambda: Trunk(12, 3, 500, 0.0), broken, tiny.learnable_photos(9, 0), SMALL, "broken")


@pytest.mark.parametrize("change", [{"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}])
def test_budgets_of_nothing_are_refused(change):
    with pytest.raises(ValueError, match="at least 1"):
        Budget(**change)


def test_regressions_concentration_is_that_of_the_data(rng):
    """Embeddings say the direction exactly; the truth is drawn around it with κ = 60."""

    def noisy(count: int, seed: int) -> EmbeddedPhotos:
        directions = tiny.random_points(count, seed)
        draws = [vonmises_fisher(d, 60.0).rvs(1, random_state=rng)[0] for d in directions]
        place = latitude_longitude(np.stack(draws))
        return EmbeddedPhotos([""] * count, directions.astype(np.float32), *place)

    rival, val = DirectRegression(), noisy(500, 1)
    budget = Budget(300, 128, 5e-3, parameters=4000, dropout=0.0, ema_decay=0.98)
    rival.fit(noisy(3000, 0), val, budget)
    settings, _ = fit_settings(rival.evidence(val), val.vectors)
    assert 45.0 < settings.concentration < 66.0


def test_the_mixture_networks_loss_is_the_kernel_mixtures_density():
    output = torch.randn(6, 5 * 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, log_kappa, logits = components_of(output)
    truth = tiny.random_points(6, 0)
    found = mixture_log_density(mean, log_kappa, logits, torch.from_numpy(truth))
    mixture = KernelMixture(
        mean.numpy(), torch.softmax(logits, 1).numpy(), log_kappa.exp().numpy(), 0.0
    )
    assert_allclose(found.numpy(), mixture.log_density(truth[:, None])[:, 0], rtol=1e-9)


def test_the_mixture_network_finds_two_places_that_look_alike(rng):
    """The mean of two places is neither; a mixture must say both."""
    places = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])[np.arange(400) % 2]
    noise = rng.normal(size=(400, 2)).astype(np.float32)
    photos = EmbeddedPhotos([""] * 400, noise, *latitude_longitude(places))
    rival = MixtureDensity(4)
    rival.fit(photos, photos, Budget(150, 64, 1e-2, parameters=2000, ema_decay=0.9))
    evidence = rival.evidence(photos)
    assert evidence.points.shape == (400, 4, 3)
    settings, nats = fit_settings(evidence, photos.vectors)
    assert nats < -4.0
    answers = evidence.mixture(settings).answers(200.0)
    assert np.max(answers @ places[:2].T, axis=1).min() > 0.98


def test_the_exact_code_puts_the_harmonic_density_around_its_point(monkeypatch):
    """With E[code] = code(x₀) the clipped density peaks at x₀, within a node's spacing."""
    from experiments.baselines import harmonic_regression
    from locdiffusion.density.shdd import encode_vectors

    rival, truth = HarmonicRegression(15, keep=50), tiny.random_points(5, 0)
    code = torch.from_numpy(encode_vectors(truth, 15)).float()
    monkeypatch.setattr(harmonic_regression, "outputs", lambda network, photos: code)
    rival.network = None
    evidence = rival.evidence(tiny.learnable_photos(5, 0))
    weights = np.exp(evidence.logits)
    assert evidence.points.shape == (5, 50, 3)
    mean = np.einsum("nk,nkd->nd", weights, evidence.points)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    assert np.all(np.sum(mean * truth, 1) > np.cos(0.05))

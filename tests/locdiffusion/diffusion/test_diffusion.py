"""Schedules, samplers and the mean denoiser, held against problems with exact answers."""

import itertools
import math

import numpy as np
import pytest
import torch

from experiments.standard_diffusion import mean_denoiser
from locdiffusion.density import shdd
from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.density.transforms import ProductTransform
from locdiffusion.diffusion.focused import FocusedMean, focused_mean_denoiser
from locdiffusion.diffusion.samplers import ancestral, ddim, dpm_solver
from locdiffusion.diffusion.schedules import (
    NoiseConfig,
    decision_sigma,
    geometric_sigmas,
    recentred_sigmas,
    training_sigmas,
)
from locdiffusion.sphere.geodesy import unit_vectors
from locdiffusion.sphere.grids import fibonacci_grid, gauss_legendre_grid

pytestmark = pytest.mark.usefixtures("one_thread")

L = 5
D = (L + 1) ** 2
NOISE = NoiseConfig(sigma_min=0.05, sigma_max=400.0)


# Schedules.


@pytest.mark.parametrize(("max_degree", "sigma"), [(31, 8.6), (47, 12.2)])
def test_the_location_is_decided_at_the_level_of_the_paper_notes(max_degree, sigma):
    assert decision_sigma((max_degree + 1) ** 2) == pytest.approx(sigma, abs=0.05)


def test_the_decision_level_is_where_argmax_decoding_of_a_noisy_code_breaks():
    """At half of σ* the peak of ⟨x_σ, code⟩ stays at the truth in 60 of 60 draws, at twice σ* it
    is lost in most."""
    rng = np.random.default_rng(0)
    nodes = fibonacci_grid(4_000)
    codes = shdd.encode_vectors(nodes, 15)
    truth = rng.integers(0, len(nodes), 60)
    noise = rng.normal(size=(60, 256))

    def found(sigma):
        best = np.argmax((codes[truth] + sigma * noise) @ codes.T, axis=1)
        return np.mean(np.sum(nodes[best] * nodes[truth], -1) > np.cos(2.0 / 16))

    assert found(decision_sigma(256) / 2) == 1.0
    assert found(decision_sigma(256) * 2) < 0.5


def test_training_levels_are_log_normal_around_the_decision():
    """20,000 draws; the errors allowed are 4 standard errors."""
    config = NoiseConfig(sigma_min=1e-3, sigma_max=1e4, log_spread=0.8, pure_fraction=0.3)
    sigma = training_sigmas(20_000, 1024, config, torch.Generator().manual_seed(0))
    pure = torch.isinf(sigma)
    assert float(pure.float().mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 20_000))
    log_sigma = sigma[~pure].log()
    n = len(log_sigma)
    centre = math.log(decision_sigma(1024))
    assert float(log_sigma.mean()) == pytest.approx(centre, abs=4 * 0.8 / math.sqrt(n))
    assert float(log_sigma.std()) == pytest.approx(0.8, abs=4 * 0.8 / math.sqrt(2 * n))


def test_training_levels_stay_in_range_and_repeat():
    config = NoiseConfig(sigma_min=5.0, sigma_max=10.0, log_spread=2.0, pure_fraction=0.5)
    first, second = (
        training_sigmas(500, 576, config, torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert torch.equal(first, second)
    finite = first[~torch.isinf(first)]
    assert float(finite.min()) == 5.0
    assert float(finite.max()) == 10.0


def test_recentred_levels_end_where_the_place_is_decided():
    sigmas = recentred_sigmas(5, 1024, NoiseConfig(sigma_min=2.0, sigma_max=60.0))
    assert len(sigmas) == 6 and (sigmas[0], sigmas[-1]) == pytest.approx((60.0, 8.6), rel=1e-2)
    coarse = recentred_sigmas(3, 64, NoiseConfig(sigma_min=5.0, sigma_max=60.0))
    assert coarse[-1] == pytest.approx(5.0), "never below what training saw"


def test_geometric_levels():
    sigmas = geometric_sigmas(4, NoiseConfig(sigma_min=2.0, sigma_max=32.0))
    np.testing.assert_allclose(sigmas, [32.0, 16.0, 8.0, 4.0, 2.0])
    with pytest.raises(ValueError, match="steps is 0"):
        geometric_sigmas(0, NOISE)


@pytest.mark.parametrize(
    "settings",
    [{"sigma_min": 0.0}, {"sigma_min": 70.0}, {"log_spread": 0.0}, {"pure_fraction": 1.5}],
)
def test_impossible_noise_is_an_error(settings):
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        NoiseConfig(**settings)


def test_a_decision_needs_two_dimensions():
    with pytest.raises(ValueError, match="dimension is 1"):
        decision_sigma(1)


# Samplers, driven by the exact posterior mean of a finite set of points.

PLACES = torch.from_numpy(shdd.encode([52.0, -34.0, 3.0], [13.0, 151.0, -75.0], L))
SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def exact(x, sigma):
    """E[x₀ | x_σ] for x₀ drawn from PLACES with SHARES: Bayes by hand."""
    distance2 = torch.cdist(x, PLACES) ** 2
    posterior = torch.softmax(SHARES.log() - distance2 / (2 * sigma[:, None] ** 2), dim=1)
    return posterior @ PLACES


def start(count, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, D, generator=generator, dtype=torch.float64)
    return SHARES @ PLACES + NOISE.sigma_max * noise


def seeded_noise(count, seed):
    def noise(step):
        generator = torch.Generator().manual_seed(1000 * seed + step)
        return torch.randn(count, D, generator=generator, dtype=torch.float64)

    return noise


def check_frequencies(x, sigma_end):
    """Each sample lies at a place, and each place was found as often as it should be.

    The error allowed is 4 standard errors of a share of n samples, plus 0.01 for the steps.
    """
    distance = torch.cdist(x, PLACES)
    nearest = distance.argmin(1)
    assert float(distance.amin(1).max()) < 2 * sigma_end * math.sqrt(D)
    for place, share in enumerate(SHARES.tolist()):
        found = float((nearest == place).double().mean())
        assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / len(x)) + 0.01


def test_ddim_finds_every_place_as_often_as_it_should():
    sigmas = geometric_sigmas(60, NOISE)
    check_frequencies(ddim(exact, start(3000, 1), sigmas), NOISE.sigma_min)


def test_the_second_order_sampler_finds_every_place_as_often_as_it_should():
    sigmas = geometric_sigmas(60, NOISE)
    check_frequencies(dpm_solver(exact, start(3000, 4), sigmas), NOISE.sigma_min)


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (dpm_solver, 2)])
def test_orders_of_convergence(sampler, order):
    """Halving the steps in log σ divides the error by 2 to the order, here within 10 %.

    The path runs through the levels where a place is decided, σ = 60 to 2, from 100 starts.
    """
    noise = NoiseConfig(sigma_min=2.0, sigma_max=60.0)
    x = start(100, 8) * (noise.sigma_max / NOISE.sigma_max)
    limit = dpm_solver(exact, x, geometric_sigmas(1500, noise))
    error = [
        float((sampler(exact, x, geometric_sigmas(steps, noise)) - limit).square().mean().sqrt())
        for steps in (25, 50, 100)
    ]
    np.testing.assert_allclose(np.divide(error[:-1], error[1:]), 2.0**order, rtol=0.1)


def test_the_second_order_sampler_is_nearer_with_fewer_calls():
    """16 calls of it beat 32 of DDIM on the same path."""
    noise = NoiseConfig(sigma_min=2.0, sigma_max=60.0)
    x = start(200, 9) * (noise.sigma_max / NOISE.sigma_max)
    limit = dpm_solver(exact, x, geometric_sigmas(1000, noise))
    error = [
        float((sampler(exact, x, geometric_sigmas(steps, noise)) - limit).norm())
        for sampler, steps in ((dpm_solver, 16), (ddim, 32))
    ]
    assert error[0] < error[1]


def test_one_step_of_the_second_order_sampler_is_ddim():
    x = start(4, 3)
    torch.testing.assert_close(dpm_solver(exact, x, [9.0, 4.0]), ddim(exact, x, [9.0, 4.0]))


def test_ancestral_sampling_finds_every_place_as_often_as_it_should():
    sigmas = geometric_sigmas(60, NOISE)
    x = ancestral(exact, start(3000, 2), sigmas, seeded_noise(3000, 3))
    check_frequencies(x, NOISE.sigma_min)


def test_ancestral_sampling_keeps_the_noise_it_should():
    """With one place known for certain, x at the end is that place plus noise of σ_end.

    3,000 × 36 numbers: their standard deviation is known to 0.2 %.
    """
    sigmas = [8.0, 5.0, 3.0]
    x = PLACES[:1] + 8.0 * torch.randn(
        3000, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    x = ancestral(lambda x, sigma: PLACES[:1].expand(len(x), -1), x, sigmas, seeded_noise(3000, 1))
    assert float((x - PLACES[:1]).std()) == pytest.approx(3.0, rel=0.01)
    assert float((x - PLACES[:1]).mean()) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("sampler", [ddim, dpm_solver])
def test_deterministic_samplers_shrink_towards_a_certain_answer(sampler):
    """If x̂₀ never changes, x - x̂₀ shrinks by σ_end/σ_start exactly, however many steps."""
    x = start(4, 5)
    for sigmas in ([400.0, 1.0], geometric_sigmas(7, NoiseConfig(sigma_min=1.0, sigma_max=400.0))):
        end = sampler(lambda x, sigma: PLACES[:1].expand(len(x), -1), x, sigmas)
        torch.testing.assert_close(end - PLACES[:1], (x - PLACES[:1]) / 400.0)


def test_samplers_treat_each_row_alone():
    sigmas = geometric_sigmas(12, NOISE)
    x = start(8, 6)
    for sampler in (ddim, dpm_solver):
        torch.testing.assert_close(sampler(exact, x, sigmas)[3:5], sampler(exact, x[3:5], sigmas))
    noise = seeded_noise(8, 7)
    together = ancestral(exact, x, sigmas, noise)
    alone = ancestral(exact, x[3:5], sigmas, lambda step: noise(step)[3:5])
    torch.testing.assert_close(together[3:5], alone)


@pytest.mark.parametrize("sampler", [ddim, dpm_solver])
def test_the_denoiser_sees_every_level_but_the_last(sampler):
    seen = []

    def denoise(x, sigma):
        assert sigma.shape == (2,)
        seen.append(float(sigma[0]))
        return x

    sampler(denoise, start(2, 0), [9.0, 4.0, 1.0])
    assert seen == [9.0, 4.0]


@pytest.mark.parametrize("sampler", [ddim, dpm_solver])
@pytest.mark.parametrize("sigmas", [[], [1.0, 0.0], [1.0, 2.0], [2.0, 2.0], [1.0, -1.0]])
def test_levels_that_do_not_fall_are_errors(sigmas, sampler):
    with pytest.raises(ValueError, match="strictly decreasing"):
        sampler(exact, start(1, 0), sigmas)


# The mean denoiser.


def test_mean_parameters_are_those_of_brute_force(rng):
    grid = gauss_legendre_grid(12, 24)
    eta = rng.normal(size=(6, D)) * np.array([0.01, 0.1, 0.3, 0.3, 1.0, 3.0])[:, None]
    log_base = rng.normal(size=grid.shape)
    transform = ProductTransform(grid, L)
    x, sigma = torch.zeros(6, D), torch.ones(6)
    for base in (None, log_base):
        denoise = mean_denoiser(
            lambda x, sigma, condition: condition,
            torch.from_numpy(eta.astype(np.float32)),
            transform,
            None if base is None else torch.from_numpy(base.astype(np.float32)),
        )
        field = shdd.field(eta, grid.vectors) + (0 if base is None else base.ravel())
        weight = grid.weights * np.exp(field - field.max(1, keepdims=True))
        wanted = weight @ shdd.encode_vectors(grid.vectors, L) / weight.sum(1, keepdims=True)
        np.testing.assert_allclose(denoise(x, sigma), wanted, atol=1e-4)


def test_mean_parameters_lie_in_the_convex_hull_of_codes(rng):
    """Its 00 coefficient is 1, no direction in which it reaches beyond every code, norm ≤ √d."""
    eta = torch.from_numpy((5 * rng.normal(size=(20, D))).astype(np.float32))
    transform = ProductTransform(gauss_legendre_grid(24, 48), L)
    mean = mean_denoiser(lambda x, sigma, c: c, eta, transform)(torch.zeros(20, D), torch.ones(20))
    np.testing.assert_allclose(mean[:, 0], 1.0, atol=1e-5)
    assert float(mean.norm(dim=1).max()) <= math.sqrt(D) * (1 + 1e-5)
    codes = shdd.encode_vectors(fibonacci_grid(5_000), L)
    directions = rng.normal(size=(50, D))
    assert np.all(directions @ mean.numpy().T <= (directions @ codes.T).max(1)[:, None] + 0.05)


def test_a_certain_density_has_the_code_of_its_place_as_mean():
    transform = ProductTransform(gauss_legendre_grid(48, 96), L)
    place = torch.from_numpy(shdd.encode([52.0], [13.0], L).astype(np.float32))
    mean = mean_denoiser(lambda x, sigma, c: 3.0 * c, place, transform)
    np.testing.assert_allclose(mean(place, torch.ones(1)), place, atol=0.4)


def test_samples_of_the_whole_chain_are_draws_from_the_density():
    """p(x₀) ∝ exp⟨η, code⟩ with two peaks of unequal mass; its exact denoiser is η + x/σ².

    600 draws by DDIM: the share around the smaller peak is right to 4 standard errors.
    """
    eta = shdd.encode([40.0, -30.0], [-75.0, 100.0], L) * np.array([[4.0], [3.4]]) / D
    prior = torch.from_numpy(eta.sum(0).astype(np.float32))
    grid = gauss_legendre_grid(32, 64)
    sigmas = geometric_sigmas(40, NoiseConfig(sigma_min=0.6, sigma_max=60.0))
    generator = torch.Generator().manual_seed(11)
    x = 60.0 * torch.randn(600, D, generator=generator)
    denoise = mean_denoiser(
        lambda x, sigma, condition: condition + x / sigma[:, None] ** 2,
        prior.expand(600, D),
        ProductTransform(grid, L),
    )
    samples = denoise(ddim(denoise, x, sigmas), torch.full((600,), 0.6)).double().numpy()
    south = unit_vectors(-30.0, 100.0)
    nodes = fibonacci_grid(20_000)
    p = np.exp(shdd.field(eta.sum(0), nodes))
    wanted = p[nodes @ south > 0.5].sum() / p.sum()
    places = samples[:, [3, 1, 2]] / np.linalg.norm(samples[:, 1:4], axis=1, keepdims=True)
    found = np.mean(places @ south > 0.5)
    assert 0.15 < wanted < 0.45
    assert abs(found - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / 600)


def test_every_pair_of_neighbouring_levels_has_the_same_ratio():
    sigmas = geometric_sigmas(16, NOISE)
    ratios = [b / a for a, b in itertools.pairwise(sigmas)]
    np.testing.assert_allclose(ratios, ratios[0])


# The focused mean.


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 4.0])
def test_the_focused_mean_is_that_of_a_dense_grid_however_narrow(rng, strength):
    """From the uniform density to one half as wide as an exact code, on a dense grid."""
    places = rng.normal(size=(12, 3))
    places[0], places[1] = [0, 0, 1], [0, 0, -1]
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    eta = strength * shdd.encode_vectors(places, L) + 0.1 * rng.normal(size=(12, D))
    grid = gauss_legendre_grid(160, 320)
    field = shdd.field(eta, grid.vectors)
    weight = grid.weights * np.exp(field - field.max(1, keepdims=True))
    wanted = weight @ shdd.encode_vectors(grid.vectors, L) / weight.sum(1, keepdims=True)
    found = FocusedMean(L)(torch.from_numpy(eta.astype(np.float32)))
    np.testing.assert_allclose(found, wanted, atol=0.015)


def test_the_focused_mean_weighs_with_the_base_measure(rng):
    raster = 1.0 + 0.8 * np.sin(np.linspace(0, 9, 240))[:, None] * np.ones((240, 480))
    base = BaseMeasure(raster)
    eta = 0.3 * rng.normal(size=(8, D))
    grid = gauss_legendre_grid(120, 240)
    field = shdd.field(eta, grid.vectors) + base(torch.from_numpy(grid.vectors)).double().numpy()
    weight = grid.weights * np.exp(field - field.max(1, keepdims=True))
    wanted = weight @ shdd.encode_vectors(grid.vectors, L) / weight.sum(1, keepdims=True)
    found = FocusedMean(L, base)(torch.from_numpy(eta.astype(np.float32)))
    np.testing.assert_allclose(found, wanted, atol=0.05)


def test_the_focused_denoiser_hands_on_what_the_sampler_gives():
    condition = torch.ones(3, 2)
    mean = FocusedMean(L)

    def natural(x, sigma, given):
        assert given is condition
        return x / sigma[:, None] ** 2

    x, sigma = torch.randn(3, D), torch.tensor([1.0, 2.0, 3.0])
    found = focused_mean_denoiser(natural, condition, mean)(x, sigma)
    torch.testing.assert_close(found, mean(x / sigma[:, None] ** 2))

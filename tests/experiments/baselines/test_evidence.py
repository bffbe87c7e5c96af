"""Settings of rivals recovered from data whose settings are known."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose
from scipy.stats import vonmises_fisher

from experiments.baselines.evidence import Evidence, Settings, fit_radius, fit_settings
from experiments.baselines.kernel_mixture import KernelMixture
from support import tiny


def around(points: np.ndarray, kappa: float, rng: np.random.Generator) -> np.ndarray:
    """A draw around each point, by SciPy's sampler."""
    draws = [vonmises_fisher(point, kappa).rvs(1, random_state=rng)[0] for point in points]
    return np.stack(draws)


def test_concentration_and_uniform_share_are_recovered(rng):
    points = tiny.random_points(1500, 1)
    truth = around(points, 800.0, rng)
    lost = rng.random(1500) < 0.1
    truth[lost] = tiny.random_points(1500, 2)[lost]
    settings, nats = fit_settings(Evidence.alike(points[:, None]), truth)
    assert_allclose(settings.concentration, 800.0, rtol=0.12)
    assert_allclose(settings.uniform_share, 0.1, atol=0.03)
    mixture = Evidence.alike(points[:, None]).mixture(settings)
    assert_allclose(nats, -mixture.log_density(truth[:, None]).mean(), rtol=1e-9)


def test_the_factor_multiplies_the_rivals_own_concentrations(rng):
    points = tiny.random_points(1000, 1)
    kappa = np.repeat([200.0, 20_000.0], 500)
    truth = np.concatenate([around(points[:500], 200.0, rng), around(points[500:], 2e4, rng)])
    claimed = Evidence(points[:, None], np.zeros((1000, 1)), 5.0 * kappa[:, None])
    settings, _ = fit_settings(claimed, truth)
    assert_allclose(settings.concentration, 0.2, rtol=0.15)


def test_the_temperature_of_overconfident_logits_is_recovered(rng):
    n, k = 2000, 5
    points = tiny.random_points(n * k, 1).reshape(n, k, 3)
    logits = rng.normal(size=(n, k))
    chosen = np.argmax(logits + rng.gumbel(size=(n, k)), 1)
    truth = around(points[np.arange(n), chosen], 2000.0, rng)
    settings, _ = fit_settings(Evidence.alike(points, 4.0 * logits), truth)
    assert_allclose(settings.temperature, 4.0, rtol=0.15)


def test_minus_infinity_is_no_weight():
    points = tiny.random_points(4, 0)[None]
    logits = np.array([[0.0, -np.inf, 0.0, -np.inf]])
    mixture = Evidence.alike(points, logits).mixture(Settings(temperature=0.5))
    assert_allclose(mixture.weights, [[0.5, 0.0, 0.5, 0.0]])


def test_the_heaviest_kernels_are_kept_in_order():
    evidence = Evidence.alike(tiny.random_points(3, 0)[None], np.array([[0.1, 0.7, 0.2]]))
    kept = evidence.heaviest(2)
    assert_allclose(kept.logits, [[0.7, 0.2]])
    assert_allclose(kept.points, evidence.points[:, [1, 2]])


def test_equal_radii_give_the_smallest():
    points = tiny.random_points(20, 0)
    mixture = KernelMixture(points[:, None], np.ones((20, 1)), np.full((20, 1), 1e5), 0.01)
    assert fit_radius(mixture, points) == 25.0

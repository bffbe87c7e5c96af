"""Von Mises-Fisher densities against SciPy, quadrature and identities."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import vonmises_fisher

from locdiffusion.albums.von_mises_fisher import (
    chord_squared,
    displaced,
    log_density,
    log_product_weight,
    product,
)
from locdiffusion.sphere.geodesy import unit_vectors
from locdiffusion.sphere.grids import fibonacci_grid, polar_grid
from support import SEED

NORTH = np.array([0.0, 0.0, 1.0])


@pytest.mark.parametrize("kappa", [0.0, 1e-3, 1.0, 40.0, 1e4, 3e11])
def test_the_density_integrates_to_one(kappa):
    edges = np.append(0.0, np.geomspace(1e-8, np.pi, 60))
    grid = polar_grid(edges, 8, 1)
    # The chord from the angle: z itself has lost it.
    theta = np.arctan2(np.hypot(grid.vectors[:, 0], grid.vectors[:, 1]), grid.vectors[:, 2])
    density = np.exp(log_density(4.0 * np.sin(theta / 2.0) ** 2, kappa))
    tolerance = 1e-8 if kappa < 1e6 else 0.05
    assert_allclose((density * grid.weights).sum(), 1.0, rtol=tolerance)


@pytest.mark.parametrize("kappa", [0.3, 5.0, 300.0])
def test_scipy_computes_the_same(kappa):
    centre, points = unit_vectors(31.0, 12.0), fibonacci_grid(50)
    ours = log_density(chord_squared(points, centre), kappa)
    assert_allclose(ours, vonmises_fisher(centre, kappa).logpdf(points), atol=1e-9)


@pytest.mark.parametrize("kappas", [(0.0, 3.0), (2.0, 2.0), (50.0, 4e4), (3e11, 1e9)])
def test_a_product_is_its_weight_times_one_density(kappas):
    j, k = np.array(kappas)
    a, b = unit_vectors([10.0, 10.0001], [20.0, 20.0001])
    kappa, centre = product(j, a, k, b)
    points = np.stack([a, b, centre, unit_vectors(10.0, 20.00005)])
    separate = log_density(chord_squared(points, a), j) + log_density(chord_squared(points, b), k)
    weight = log_product_weight(j, k, chord_squared(a, b))
    together = weight + log_density(chord_squared(points, centre), kappa)
    assert_allclose(together, separate, rtol=1e-6, atol=1e-4)


def test_opposite_centres_of_one_width_have_a_product():
    weight = log_product_weight(2.0, 2.0, 4.0)
    kappa, centre = product(np.array(2.0), NORTH, np.array(2.0), -NORTH)
    assert np.isfinite(weight)
    assert kappa == 0.0
    assert_allclose(np.linalg.norm(centre), 1.0)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 30.0, 1e9])
@pytest.mark.parametrize("latitude", [90.0, -90.0, 12.0])
def test_displaced_points_have_the_mean_of_the_density(kappa, latitude):
    rng = np.random.default_rng(SEED)
    centre = unit_vectors(latitude, 180.0)
    share = rng.random((2, 20_000))
    points = displaced(np.broadcast_to(centre, (20_000, 3)), np.full(20_000, kappa), *share)
    resultant = 1.0 / np.tanh(kappa) - 1.0 / kappa if kappa else 0.0
    assert_allclose(np.linalg.norm(points, axis=1), 1.0)
    # Three times the standard error of a mean of 20,000 numbers below 1.
    assert_allclose(points.mean(0), resultant * centre, atol=3.0 / np.sqrt(20_000))
    drop = 0.5 * chord_squared(points, centre)
    if kappa > 1.0:
        assert_allclose(drop.mean() * kappa, 1.0, rtol=0.04)

"""Each grid does what it is for: exact, unbiased, fine at a point, even."""

import numpy as np
import pytest

from locdiffusion.sphere.grids import fibonacci_grid, gauss_legendre_grid, polar_grid, shifted_grid
from locdiffusion.sphere.harmonics import degrees_and_orders, real_harmonics


def test_gauss_legendre_weights_cover_the_sphere():
    grid = gauss_legendre_grid(13, 7)
    assert grid.shape == (13, 7)
    assert grid.vectors.shape == (91, 3)
    np.testing.assert_allclose(np.linalg.norm(grid.vectors, axis=-1), 1.0)
    assert grid.weights.sum() == pytest.approx(4 * np.pi)
    assert np.all(np.diff(grid.cos_theta) < 0), "rows go from north to south"


def test_gauss_legendre_is_exact_below_its_limit_and_only_there():
    grid = gauss_legendre_grid(6, 10)
    degree, order = degrees_and_orders(13)
    integral = grid.weights @ real_harmonics(grid.vectors, 13)
    exact = (degree < 12) & (np.abs(order) < 10)
    wanted = np.where(degree == 0, np.sqrt(4 * np.pi), 0.0)
    np.testing.assert_allclose(integral[exact], wanted[exact], atol=1e-13)
    assert np.abs(integral[(degree == 12) & (order == 0)]) > 0.1


def test_shifted_grid_is_unbiased_for_a_peak_narrower_than_its_spacing(rng):
    """A Gaussian of 2° on a grid of 22.5°: any one grid is far off, the mean over shifts is right.

    The integral is estimated from 4,000 random shifts; the error allowed is 4 standard errors.
    """
    peak = np.array([0.6, 0.48, 0.64])

    def integral(offset, turn):
        grid = shifted_grid(8, 16, offset)
        cos, sin = np.cos(turn), np.sin(turn)
        v = grid.vectors @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        return grid.weights @ np.exp((v @ peak - 1.0) / np.radians(2.0) ** 2)

    estimates = np.array([integral(rng.uniform(1e-9, 1), rng.uniform(0, 7)) for _ in range(4000)])
    kappa = 1 / np.radians(2.0) ** 2
    exact = 2 * np.pi * (1 - np.exp(-2 * kappa)) / kappa
    error = estimates.std() / np.sqrt(len(estimates))
    assert estimates.std() > 2 * exact, "the grid is meant to be too coarse"
    assert abs(estimates.mean() - exact) < 4 * error


def test_mean_weight_of_the_shifted_grid_is_the_sphere():
    sums = [shifted_grid(5, 3, (i + 0.5) / 1000).weights.sum() for i in range(1000)]
    assert np.mean(sums) == pytest.approx(4 * np.pi, rel=1e-6)


@pytest.mark.parametrize("azimuths", [1, 8])
def test_polar_grid_integrates_caps_exactly(azimuths):
    edges = [0.0, 0.01, 0.1, 0.5, 2.0, np.pi]
    grid = polar_grid(edges, 6, azimuths)
    panels = grid.weights.reshape(len(edges) - 1, -1).sum(1)
    np.testing.assert_allclose(np.cumsum(panels), 2 * np.pi * (1 - np.cos(edges[1:])), rtol=1e-9)
    height = (grid.weights * grid.vectors[:, 2]).reshape(len(edges) - 1, -1).sum(1)
    np.testing.assert_allclose(np.cumsum(height), np.pi * np.sin(edges[1:]) ** 2, atol=1e-9)
    theta = np.arccos(grid.cos_theta).reshape(len(edges) - 1, -1)
    assert np.all((theta > np.array(edges[:-1])[:, None]) & (theta < np.array(edges[1:])[:, None]))


def test_fibonacci_areas_are_even(rng):
    """The number of nodes in each of 300 random caps is that of its area, to 12 nodes.

    Random points would miss by √(np(1 - p)): 50 nodes as a rule, 150 at worst.
    """
    nodes = fibonacci_grid(10_000)
    np.testing.assert_allclose(np.linalg.norm(nodes, axis=-1), 1.0)
    centre = rng.normal(size=(300, 3))
    centre /= np.linalg.norm(centre, axis=-1, keepdims=True)
    cos_radius = rng.uniform(-0.9, 0.99, 300)
    inside = (nodes @ centre.T > cos_radius).sum(0)
    assert np.abs(inside - 10_000 * (1 - cos_radius) / 2).max() < 12


def test_fibonacci_sums_are_nearly_exact_for_smooth_functions():
    degree, _ = degrees_and_orders(10)
    means = real_harmonics(fibonacci_grid(5_000), 10).mean(0) * 4 * np.pi
    assert fibonacci_grid(5_000)[:, 2].mean() == pytest.approx(0.0, abs=1e-13)
    np.testing.assert_allclose(means, np.where(degree == 0, np.sqrt(4 * np.pi), 0.0), atol=3e-3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gauss_legendre_grid(0, 4), "0 × 4"),
        (lambda: shifted_grid(4, 4, 1.0), "offset is 1.0"),
        (lambda: polar_grid([0.0, 0.5, 0.5], 4, 4), "increase"),
        (lambda: polar_grid([0.0, 4.0], 4, 4), "within"),
        (lambda: polar_grid([0.1], 4, 4), "two or more"),
        (lambda: fibonacci_grid(0), "at least one"),
    ],
)
def test_impossible_grids_are_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()

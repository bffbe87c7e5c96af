"""Real harmonics, held against identities and SciPy, neither of which knows our recursion."""

import numpy as np
import pytest
from scipy.special import eval_legendre, sph_harm_y

from locdiffusion.sphere.geodesy import unit_vectors
from locdiffusion.sphere.grids import gauss_legendre_grid
from locdiffusion.sphere.harmonics import (
    associated_legendre,
    axis_swap,
    coefficient_count,
    degrees_and_orders,
    real_harmonics,
    trigonometric,
)


def random_points(rng, count):
    v = rng.normal(size=(count, 3))
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def test_flat_index_is_l_squared_plus_l_plus_m():
    degree, order = degrees_and_orders(5)
    wanted = [(l, m) for l in range(6) for m in range(-l, l + 1)]  # noqa: E741
    assert list(zip(degree.tolist(), order.tolist(), strict=True)) == wanted
    assert coefficient_count(5) == len(wanted)


@pytest.mark.parametrize(("degree", "against"), [(23, 576), (63, 60)])
def test_orthonormal_under_quadrature(rng, degree, against):
    """Catches a wrong norm, a wrong index, and any two harmonics that are confused.

    At L = 63 each of the 4096 is held against 60 drawn at random.
    """
    grid = gauss_legendre_grid(degree + 1, 2 * degree + 2)
    count = coefficient_count(degree)
    chosen = rng.choice(count, against, replace=False)
    gram = np.zeros((count, against))
    for part in np.array_split(np.arange(grid.shape[0] * grid.shape[1]), 8):
        y = real_harmonics(grid.vectors[part], degree)
        gram += y.T @ (grid.weights[part, None] * y[:, chosen])
    np.testing.assert_allclose(gram, np.eye(count)[:, chosen], atol=1e-12)


def test_addition_theorem(rng):
    """Σ_m Y_lm(x) Y_lm(y) = (2l + 1)/4π P_l(x·y) for each degree alone."""
    x, y = random_points(rng, 40), random_points(rng, 40)
    degree, _ = degrees_and_orders(63)
    products = real_harmonics(x, 63) * real_harmonics(y, 63)
    cos = np.sum(x * y, -1)
    for l in (0, 1, 2, 7, 31, 63):  # noqa: E741
        wanted = (2 * l + 1) / (4 * np.pi) * eval_legendre(l, cos)
        np.testing.assert_allclose(products[:, degree == l].sum(-1), wanted, atol=1e-12)


def test_parity(rng):
    """Y_lm(-x) = (-1)^l Y_lm(x)."""
    x = random_points(rng, 30)
    degree, _ = degrees_and_orders(40)
    np.testing.assert_allclose(
        real_harmonics(-x, 40), (-1.0) ** degree * real_harmonics(x, 40), atol=1e-12
    )


def test_values_are_those_of_scipy(rng):
    """SciPy's complex Y_l^m carries the Condon-Shortley phase (-1)^m, ours does not."""
    x = random_points(rng, 50)
    theta, phi = np.arccos(x[:, 2]), np.arctan2(x[:, 1], x[:, 0])
    ours = real_harmonics(x, 20)
    for index, (l, m) in enumerate(zip(*degrees_and_orders(20), strict=True)):  # noqa: E741
        complex_y = (-1.0) ** m * sph_harm_y(l, abs(m), theta, phi)
        if m == 0:
            wanted = complex_y.real
        else:
            wanted = np.sqrt(2.0) * (complex_y.real if m > 0 else complex_y.imag)
        np.testing.assert_allclose(ours[:, index], wanted, atol=1e-12, err_msg=f"l={l}, m={m}")


def test_lowest_degrees_are_the_coordinates(rng):
    x, y, z = random_points(rng, 20).T
    ours = real_harmonics(np.stack([x, y, z], -1), 2)
    unit = np.sqrt(3.0 / (4.0 * np.pi))
    np.testing.assert_allclose(ours[:, 0], np.sqrt(1.0 / (4.0 * np.pi)))
    np.testing.assert_allclose(ours[:, 1:4], unit * np.stack([y, z, x], -1), atol=1e-15)
    np.testing.assert_allclose(ours[:, 4], np.sqrt(15.0 / (4.0 * np.pi)) * x * y, atol=1e-15)


@pytest.mark.parametrize("degree", [63, 127, 200])
def test_nothing_overflows_and_the_norm_holds_up_to_the_poles(degree):
    """|Y(x)|² = (L + 1)²/4π at every point; unnormalised recursions end in inf or NaN here."""
    colatitude = np.array([0.0, 1e-300, 1e-15, 1e-8, 1e-4, 0.01, 0.5, np.pi / 2])
    latitude = np.concatenate([90.0 - np.degrees(colatitude), -(90.0 - np.degrees(colatitude))])
    y = real_harmonics(unit_vectors(latitude, 77.0), degree)
    assert np.all(np.isfinite(y))
    wanted = (degree + 1) ** 2 / (4.0 * np.pi)
    np.testing.assert_allclose(np.sum(y * y, -1), wanted, rtol=1e-11)


def test_next_to_a_pole_the_first_orders_keep_their_relative_accuracy():
    """Y_1,1 ∝ x however small x is; 1 - z² would have lost it."""
    tiny = np.array([1e-12, 0.0, 1.0])
    assert real_harmonics(tiny, 1)[3] == pytest.approx(
        np.sqrt(3 / (4 * np.pi)) * 1e-12, rel=1e-12, abs=0
    )


def test_legendre_norm_and_range():
    x, w = np.polynomial.legendre.leggauss(32)
    p = associated_legendre(x, 20)
    for m in range(21):
        gram = p[:, m:, m].T @ (w[:, None] * p[:, m:, m])
        np.testing.assert_allclose(gram, np.eye(21 - m) / (2 * np.pi), atol=1e-13)
    assert np.all(p[:, np.triu_indices(21, 1)[0], np.triu_indices(21, 1)[1]] == 0.0)
    with pytest.raises(ValueError, match=r"1\.5.*\[-1, 1\]"):
        associated_legendre([0.0, 1.5], 3)


def test_trigonometric_factors_are_orthogonal():
    phi = 2.0 * np.pi * np.arange(32) / 32
    waves = trigonometric(phi, 15)
    np.testing.assert_allclose(waves.T @ waves / 32, np.eye(31), atol=1e-13)
    np.testing.assert_allclose(waves[:, 15 + 3], np.sqrt(2) * np.cos(3 * phi))
    np.testing.assert_allclose(waves[:, 15 - 3], np.sqrt(2) * np.sin(3 * phi), atol=1e-15)


@pytest.mark.parametrize("degree", [1, 8, 31])
def test_axis_swap_exchanges_y_and_z(rng, degree):
    swap = axis_swap(degree)
    x = random_points(rng, 20)
    y, swapped = real_harmonics(x, degree), real_harmonics(x[:, [0, 2, 1]], degree)
    for l in range(degree + 1):  # noqa: E741
        flat, padded = slice(l * l, (l + 1) ** 2), slice(degree - l, degree + l + 1)
        block = swap[l, padded, padded]
        np.testing.assert_allclose(y[:, flat] @ block, swapped[:, flat], atol=1e-12)
        np.testing.assert_allclose(block @ block, np.eye(2 * l + 1), atol=1e-12)
        np.testing.assert_allclose(block @ block.T, np.eye(2 * l + 1), atol=1e-12)
    outside = np.abs(np.arange(-degree, degree + 1)) > np.arange(degree + 1)[:, None]
    assert np.all(swap[outside] == 0.0)


def test_a_negative_degree_is_an_error():
    with pytest.raises(ValueError, match="-1"):
        coefficient_count(-1)

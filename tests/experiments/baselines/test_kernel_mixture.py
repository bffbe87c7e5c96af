"""The rivals' posterior against SciPy, against quadrature, and on truths drawn from itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import vonmises_fisher

from experiments.baselines.kernel_mixture import KernelMixture
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2
from locdiffusion.evaluate.metrics import coverage
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between, unit_vectors
from locdiffusion.sphere.grids import fibonacci_grid
from support import tiny


def single(points: np.ndarray, kappa: float, share: float = 0.0) -> KernelMixture:
    """One kernel per photo."""
    n = len(points)
    return KernelMixture(points[:, None], np.ones((n, 1)), np.full((n, 1), kappa), share)


def several(photos: int, kernels: int, rng: np.random.Generator) -> KernelMixture:
    """Kernels of all widths at random places."""
    points = tiny.random_points(photos * kernels, 3).reshape(photos, kernels, 3)
    kappa = 10.0 ** rng.uniform(0.0, 4.0, (photos, kernels))
    return KernelMixture(points, rng.exponential(size=(photos, kernels)), kappa, 0.05)


def drawn(mixture: KernelMixture, rng: np.random.Generator) -> np.ndarray:
    """One truth per photo, by SciPy's sampler."""
    truth = tiny.random_points(len(mixture), 8)
    for i in np.flatnonzero(rng.random(len(mixture)) >= mixture.uniform_share):
        k = rng.choice(mixture.weights.shape[1], p=mixture.weights[i])
        kernel = vonmises_fisher(mixture.points[i, k], mixture.kappa[i, k])
        truth[i] = kernel.rvs(1, random_state=rng)[0]
    return truth


@given(st.floats(-2.0, 4.0), st.integers(0, 1000))
def test_a_kernel_is_scipys_von_mises_fisher(log_kappa, seed):
    centre, point = tiny.random_points(2, seed)
    reference = vonmises_fisher(centre, 10.0**log_kappa).logpdf(point) + np.log(4.0 * np.pi)
    found = single(centre[None], 10.0**log_kappa).log_density(point[None, None])
    assert_allclose(found[0, 0], reference, rtol=1e-9, atol=1e-8)


def test_a_kernel_six_kilometres_wide_keeps_its_digits():
    kappa, angle = 1e6, np.array([0.0, 1e-4, 1e-3, 3e-3])
    places = unit_vectors(np.degrees(angle), 20.0)
    found = single(unit_vectors([0.0], [20.0]), kappa).log_density(places[None])[0]
    assert_allclose(found, np.log(2.0 * kappa) - 2.0 * kappa * np.sin(angle / 2.0) ** 2, rtol=1e-9)


def test_float32_points_are_brought_to_unit_length():
    """Otherwise a float32 length of 1 + 1e-7 is worth 0.1 nats at κ = 1e6."""
    centre = unit_vectors([50.0], [10.0]).astype(np.float32)
    found = single(centre, 1e6).log_density(np.asarray(centre, float)[None] * (1.0 + 0.0))
    assert abs(found[0, 0] - np.log(2e6)) < 0.2


def test_a_mixture_integrates_to_one(rng):
    mixture = several(4, 5, rng)
    mixture = KernelMixture(mixture.points, mixture.weights, np.minimum(mixture.kappa, 300.0), 0.1)
    grid = np.tile(fibonacci_grid(20_000), (4, 1, 1))
    assert_allclose(np.exp(mixture.log_density(grid)).mean(1), 1.0, rtol=1e-4)


def test_kernels_of_no_weight_and_no_uniform_share_are_well_behaved():
    points = np.tile(unit_vectors([10.0, -80.0], [0.0, 180.0]), (1, 1, 1))
    mixture = KernelMixture(points, np.array([[1.0, 0.0]]), np.full((1, 2), 1e6), 0.0)
    assert mixture.log_density(points)[0, 1] < -1e6
    assert_allclose(mixture.answers(100.0), points[:, 0], atol=1e-12)
    assert mixture.predictions(points[:, 0], 100.0).radius_90_km[0] < 20.0


@pytest.mark.parametrize("radius_km", [25.0, 200.0, 750.0])
def test_the_answer_of_one_kernel_is_its_centre(radius_km):
    points = np.concatenate([tiny.random_points(5, 1), [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]])
    assert_allclose(single(points, 1e4, 0.1).answers(radius_km), points, atol=1e-9)


def test_a_small_window_finds_the_peak_and_a_large_one_the_crowd():
    crowd = unit_vectors(40.0 + np.array([0.0, 2.0, -2.0, 0.0, 0.0]), [0.0, 0.0, 0.0, 2.6, -2.6])
    points = np.concatenate([crowd, unit_vectors([-30.0], [140.0])])[None]
    mixture = KernelMixture(points, np.array([[0.14] * 5 + [0.3]]), np.full((1, 6), 1e5), 0.0)
    assert_allclose(mixture.answers(50.0), points[:, 5], atol=1e-6)
    assert_allclose(mixture.answers(750.0), unit_vectors([40.0], [0.0]), atol=2e-3)


def test_no_place_holds_more_in_its_window_than_the_answer(rng):
    """Against brute force: the window's mass around the heaviest nodes of a dense grid."""
    mixture, radius_km = several(6, 8, rng), 400.0
    nodes = fibonacci_grid(40_000)
    mass = np.exp(mixture.log_density(np.tile(nodes, (6, 1, 1)))) / len(nodes)
    window = 6.0 * (EARTH_RADIUS_KM / radius_km) ** 2
    for row, answer in zip(mass, mixture.answers(radius_km), strict=True):
        tried = np.concatenate([[answer], nodes[np.argsort(-row)[:60]]])
        held = [row @ np.exp(-window * (1.0 - nodes @ place)) for place in tried]
        assert held[0] >= 0.98 * max(held[1:])


def test_radii_of_one_kernel_have_a_closed_form():
    """P(gap > g) = exp(-κg), but for e^{-2κ}."""
    kappa = 2000.0
    truth = tiny.random_points(3, 2)
    found = single(truth, kappa).predictions(truth, 100.0)
    for share, radius in ((0.5, found.radius_50_km), (0.9, found.radius_90_km)):
        gap = -np.log(1.0 - share) / kappa
        assert_allclose(radius, EARTH_RADIUS_KM * np.arccos(1.0 - gap), rtol=0.01)
    chord = 2.0 * np.sin(200.0 / EARTH_RADIUS_KM / 2.0)
    assert_allclose(found.probability[:, 2], 1.0 - np.exp(-kappa * chord**2 / 2.0), atol=0.01)
    assert_allclose(found.log_density_km2, np.log(2.0 * kappa) - LOG_SPHERE_AREA_KM2, atol=1e-9)


def test_the_uniform_share_spreads_over_the_whole_sphere():
    found = single(tiny.random_points(1, 5), 1e6, 0.4).predictions(tiny.random_points(1, 6), 100.0)
    assert_allclose(found.probability[0, 2], 0.6, atol=0.01)
    # 0.9 = 0.6 + 0.4 · 3/4: three quarters of the sphere lie within 120°.
    assert_allclose(found.radius_90_km, EARTH_RADIUS_KM * np.radians(120.0), rtol=0.03)


def test_radii_cover_truths_drawn_from_the_mixture(rng):
    mixture = several(600, 4, rng)
    truth = drawn(mixture, rng)
    places = mixture.answers(200.0)
    distance = EARTH_RADIUS_KM * angle_between(places, truth)
    found = mixture.predictions(truth, 200.0)
    for share, radius in ((0.5, found.radius_50_km), (0.9, found.radius_90_km)):
        error = 3.0 * (share * (1.0 - share) / len(truth)) ** 0.5 + 0.005
        assert abs(coverage(distance, radius) - share) < error
    within = np.mean(distance[:, None] <= [1, 25, 200, 750, 2500], axis=0)
    assert_allclose(found.probability.mean(0), within, atol=3.0 * 0.5 / len(truth) ** 0.5)


def test_overconfident_radii_do_not_cover(rng):
    mixture = several(300, 1, rng)
    truth = drawn(mixture, rng)
    bold = KernelMixture(mixture.points, mixture.weights, 9.0 * mixture.kappa, 0.0)
    distance = EARTH_RADIUS_KM * angle_between(bold.answers(200.0), truth)
    assert coverage(distance, bold.predictions(truth, 200.0).radius_50_km) < 0.2


def test_a_photos_answer_does_not_depend_on_its_batch(rng):
    mixture, truth = several(150, 6, rng), tiny.random_points(150, 4)
    together, alone = mixture.predictions(truth, 100.0), mixture.rows(slice(100, 101))
    by_itself = alone.predictions(truth[100:101], 100.0)
    for name, column in vars(by_itself).items():
        assert_allclose(getattr(together, name)[100:101], column, rtol=1e-9, err_msg=name)


def test_no_photos_give_no_rows():
    none = KernelMixture(np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros((0, 3)), 0.1)
    assert len(none.predictions(np.zeros((0, 3)), 100.0)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": np.ones((2, 2))}, "want"),
        ({"weights": np.zeros((1, 2))}, "positive for some kernel"),
        ({"weights": np.array([[2.0, -1.0]])}, "not negative"),
        ({"kappa": np.array([[1.0, np.nan]])}, "diverge"),
        ({"uniform_share": 1.0}, "uniform_share"),
    ],
)
def test_what_is_no_mixture_is_refused(change, message):
    values = {
        "points": tiny.random_points(2, 0)[None],
        "weights": np.ones((1, 2)),
        "kappa": np.ones((1, 2)),
        "uniform_share": 0.1,
    }
    with pytest.raises(ValueError, match=message):
        KernelMixture(**{**values, **change})

"""log Z is right for densities from flat to sharp, and cannot be gamed."""

import math

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, logsumexp

from locdiffusion import shdd
from locdiffusion.density import (
    LOG_SPHERE_AREA_KM2,
    GeotagColumns,
    LogPartition,
    Mode,
    PartitionConfig,
)
from locdiffusion.diffusion.losses import shdd_kl
from locdiffusion.spectral import ProductTransform
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, unit_vectors
from locdiffusion.sphere.grids import fibonacci_grid, shifted_grid


pytestmark = pytest.mark.usefixtures("one_thread")


def random_points(rng, count):
    v = rng.normal(size=(count, 3))
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def zonal_log_z(kappa: float, max_degree: int) -> float:
    """log ½ ∫ exp(κ Σ (2l + 1) P_l(t)) dt over t = cos γ: log Z of η = κ·code(x₀), any x₀."""
    x, w = np.polynomial.legendre.leggauss(64)
    edges = np.concatenate([[0.0], np.geomspace(1e-4, np.pi, 200)])
    half = np.diff(edges)[:, None] / 2
    gamma = edges[:-1, None] + half * (x + 1)
    degree = np.arange(max_degree + 1)
    codes = eval_legendre(degree, np.cos(gamma)[..., None]) @ (2.0 * degree + 1)
    return float(logsumexp(kappa * codes, b=half * w * np.sin(gamma) / 2))


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(a, np.float32)) for a in arrays]


@pytest.mark.parametrize("max_degree", [7, 23, 47])
def test_log_z_of_zonal_densities_is_the_one_dimensional_integral(rng, max_degree):
    """η = κ·code(x₀), from almost flat to the exact code (κ = 1, up to 2304 nats at its peak).

    A broad density crosses the rim of the rings, where a node of the grid is wholly in or out:
    single draws may miss by 0.01 nats there.
    """
    d = (max_degree + 1) ** 2
    kappa = np.concatenate([np.array([0.01, 1, 4, 8, 12, 20, 40]) / d, [1.0]])
    truth = np.concatenate([random_points(rng, 6), [[0, 0, 1.0], [0, 0, -1.0]]])
    natural = kappa[:, None] * shdd.encode_vectors(truth, max_degree)
    got = LogPartition(max_degree)(*tensors(natural, truth)).numpy()
    wanted = [zonal_log_z(k, max_degree) for k in kappa]
    np.testing.assert_allclose(got, wanted, rtol=4e-6, atol=0.01)


def test_the_answer_does_not_depend_on_where_the_truth_lies(rng):
    """A broad density: wherever the rings are put, log Z is the same."""
    natural = np.tile(0.03 * shdd.encode_vectors([0.0, 0.6, 0.8], 11), (50, 1))
    got = LogPartition(11)(*tensors(natural, random_points(rng, 50))).numpy()
    np.testing.assert_allclose(got, zonal_log_z(0.03, 11), atol=3e-3)


def multimodal(rng, max_degree, peaks, height):
    d = (max_degree + 1) ** 2
    centres = random_points(rng, peaks)
    natural = height / d * shdd.encode_vectors(centres, max_degree).sum(0)
    return natural + 0.3 * height / d * rng.normal(size=d), centres[0]


def test_multimodal_log_z_against_a_fine_grid(rng):
    """Mean over 60 draws of the shifts; the error allowed is 4 standard errors plus 1e-3."""
    partition = LogPartition(15)
    fine = shdd.encode_vectors(fibonacci_grid(60_000), 15)
    generator = torch.Generator().manual_seed(3)
    for peaks, height in ((2, 6.0), (3, 9.0), (6, 12.0)):
        natural, truth = multimodal(rng, 15, peaks, height)
        wanted = logsumexp(fine @ natural) - np.log(len(fine))
        draws = [
            partition(*tensors(natural[None], truth[None]), generator).item() for _ in range(60)
        ]
        z = np.exp(np.array(draws) - wanted)
        assert abs(z.mean() - 1) < 4 * z.std() / np.sqrt(len(z)) + 1e-3


def test_z_is_unbiased_even_where_the_grid_is_far_too_coarse(rng):
    """A second peak of 90 km on a grid of 2000 km: single draws are wild, their mean is right.

    1,500 draws; the error allowed is 4 standard errors, which must itself be below 15 %.
    """
    config = PartitionConfig(rows=10, offsets=64, cap_km=300.0)
    partition = LogPartition(31, config)
    peak, truth = unit_vectors([41.0, -20.0], [103.0, 20.0])
    natural = np.tile(20 / 1024 * shdd.encode_vectors(peak, 31), (1500, 1))
    generator = torch.Generator().manual_seed(1)
    parts = [
        partition(*tensors(part, np.tile(truth, (len(part), 1))), generator).double().numpy()
        for part in np.array_split(natural, 150)
    ]
    z = np.exp(np.concatenate(parts) - zonal_log_z(20 / 1024, 31))
    error = z.std() / np.sqrt(len(z))
    assert z.std() > 1, "the grid is meant to be too coarse"
    assert error < 0.15
    assert abs(z.mean() - 1) < 4 * error


@pytest.mark.parametrize("max_degree", [23, 31, 47])
def test_log_z_cannot_be_gamed(max_degree):
    """A spike on the truth, between the nodes of a fixed grid, looks free of charge to that grid.

    Trained on the fixed grid a network would be paid nats for it; here it pays the full price.
    """
    fixed = shifted_grid(48, 96, 0.5)
    truth = unit_vectors(0.0, 180.0 / 96)
    spacing = np.arccos((fixed.vectors @ truth).max())
    assert spacing > np.radians(2.5), "the truth lies between the nodes"
    natural = shdd.encode_vectors(truth, max_degree)[None]
    wanted = zonal_log_z(1.0, max_degree)
    field = ProductTransform(fixed, max_degree).synthesis(*tensors(natural))
    fooled = float((field + torch.from_numpy(fixed.row_weight).log()[:, None]).logsumexp((1, 2)))
    assert fooled - math.log(4 * math.pi) < wanted - 1.0
    got = LogPartition(max_degree)(*tensors(natural, truth[None])).item()
    assert got == pytest.approx(wanted, rel=4e-6, abs=0.01)


def test_gradient_of_the_loss_is_the_mean_code_minus_the_true_code(rng):
    """∇_η KL = E_p[code] - code(x₀), with E_p from an independent grid."""
    natural, truth = multimodal(rng, 11, 2, 6.0)
    eta, x0 = tensors(natural[None], truth[None])
    code = torch.from_numpy(shdd.encode_vectors(truth, 11)[None].astype(np.float32))
    eta.requires_grad_()
    loss = shdd_kl(eta, code, x0, LogPartition(11), torch.Generator().manual_seed(0))
    loss.sum().backward()
    fine = shdd.encode_vectors(fibonacci_grid(40_000), 11)
    p = np.exp(fine @ natural - logsumexp(fine @ natural))
    np.testing.assert_allclose(eta.grad[0], p @ fine - code[0].numpy(), atol=2e-2)


def test_loss_is_minus_the_log_density(rng):
    """0 for the uniform answer; -log p of the truth otherwise."""
    truth = random_points(rng, 3)
    code = shdd.encode_vectors(truth, 9)
    partition = LogPartition(9)
    x0, y = tensors(truth, code)
    np.testing.assert_allclose(shdd_kl(torch.zeros(3, 100), y, x0, partition), 0.0, atol=1e-3)
    eta = 0.08 * y
    wanted = zonal_log_z(0.08, 9) - 0.08 * 100
    np.testing.assert_allclose(shdd_kl(eta, y, x0, partition), wanted, atol=0.01)


def test_same_generator_same_value(rng):
    natural, truth = multimodal(rng, 7, 3, 5.0)
    partition = LogPartition(7)
    values = [
        partition(*tensors(natural[None], truth[None]), torch.Generator().manual_seed(s)).item()
        for s in (5, 5, 6)
    ]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    "settings",
    [{"rows": 0}, {"azimuths": -1}, {"cap_km": 0.0}, {"cap_km": 25_000.0}],
)
def test_impossible_quadratures_are_errors(settings):
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        PartitionConfig(**settings)


def test_log_density_per_square_kilometre():
    assert math.exp(LOG_SPHERE_AREA_KM2) == pytest.approx(4 * math.pi * EARTH_RADIUS_KM**2)
    assert math.exp(LOG_SPHERE_AREA_KM2) == pytest.approx(510.06e6, rel=1e-4)


def test_columns_know_their_length():
    row = np.zeros(1)
    mode = Mode(0.0, 0.0, 1.0, 100.0)
    columns = GeotagColumns(row, row, row, row, np.zeros((1, 5)), row, [(mode,)])
    assert len(columns) == 1

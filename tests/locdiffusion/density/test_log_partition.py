"""log Z is right for densities from flat to sharp, and cannot be gamed."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, logsumexp

from locdiffusion.decoding.answers import GeotagColumns, Mode
from locdiffusion.density import shdd
from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2, LogPartition, PartitionConfig
from locdiffusion.density.transforms import ProductTransform
from locdiffusion.diffusion.losses import shdd_kl
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


@functools.lru_cache
def log_partition(max_degree: int) -> LogPartition:
    return LogPartition(max_degree)


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(a, np.float32)) for a in arrays]


@pytest.mark.parametrize(("max_degree", "single"), [(7, 0.15), (23, 3e-3), (47, 3e-3)])
def test_log_z_of_zonal_densities_is_the_one_dimensional_integral(rng, max_degree, single):
    """η = κ·code(x₀), from almost flat to the exact code (κ = 1, up to 2304 nats at its peak).

    Each κ at 20 places, both poles among them. The error of a single draw is small, but not at
    L = 7, whose broad peaks cross the rim of the rings, where a node of the grid (at a pole: a
    whole row) is in or out. The mean is right to 4 standard errors.
    """
    d = (max_degree + 1) ** 2
    truth = np.concatenate([random_points(rng, 18), [[0, 0, 1.0], [0, 0, -1.0]]])
    code = shdd.encode_vectors(truth, max_degree)
    generator = torch.Generator().manual_seed(0)
    for kappa in [*(np.array([0.01, 1, 4, 8, 12, 20, 40]) / d), 1.0]:
        wanted = zonal_log_z(kappa, max_degree)
        got = log_partition(max_degree)(*tensors(kappa * code, truth), generator).double().numpy()
        rounding = 4e-6 * abs(wanted) + 2e-4
        assert np.abs(got - wanted).max() < single + rounding
        assert abs(got.mean() - wanted) < 4 * got.std() / np.sqrt(len(got)) + rounding


def test_the_answer_does_not_depend_on_where_the_truth_lies(rng):
    """A broad density: wherever the rings are put, log Z is the same."""
    natural = np.tile(0.03 * shdd.encode_vectors([0.0, 0.6, 0.8], 11), (50, 1))
    generator = torch.Generator().manual_seed(0)
    got = log_partition(11)(*tensors(natural, random_points(rng, 50)), generator).numpy()
    np.testing.assert_allclose(got, zonal_log_z(0.03, 11), atol=0.01)


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
    generator = torch.Generator().manual_seed(0)
    got = log_partition(max_degree)(*tensors(natural, truth[None]), generator).item()
    assert got == pytest.approx(wanted, rel=4e-6, abs=0.01)


def test_gradient_of_the_loss_is_the_mean_code_minus_the_true_code(rng):
    """∇_η KL = E_p[code] - code(x₀), with E_p from an independent grid."""
    natural, truth = multimodal(rng, 11, 2, 6.0)
    eta, x0 = tensors(natural[None], truth[None])
    code = torch.from_numpy(shdd.encode_vectors(truth, 11)[None].astype(np.float32))
    eta.requires_grad_()
    loss = shdd_kl(eta, code, x0, log_partition(11), torch.Generator().manual_seed(0))
    loss.sum().backward()
    fine = shdd.encode_vectors(fibonacci_grid(40_000), 11)
    p = np.exp(fine @ natural - logsumexp(fine @ natural))
    np.testing.assert_allclose(eta.grad[0], p @ fine - code[0].numpy(), atol=2e-2)


def test_loss_is_minus_the_log_density(rng):
    """0 for the uniform answer; -log p of the truth otherwise."""
    truth = random_points(rng, 3)
    code = shdd.encode_vectors(truth, 9)
    x0, y = tensors(truth, code)
    generator = torch.Generator().manual_seed(0)
    uniform = shdd_kl(torch.zeros(3, 100), y, x0, log_partition(9), generator)
    np.testing.assert_allclose(uniform, 0.0, atol=2e-3)
    wanted = zonal_log_z(0.08, 9) - 0.08 * 100
    loss = shdd_kl(0.08 * y, y, x0, log_partition(9), generator)
    np.testing.assert_allclose(loss, wanted, atol=0.04)


def test_a_base_measure_of_the_family_adds_to_the_natural_parameters(rng):
    """q₀ = exp⟨b, code⟩/Z_b with b ∝ (0, 0, 1) of degree 1, on its raster: log Z over q₀ is
    log Z(η + b) - log Z(b)."""
    b = np.zeros(100)
    b[2] = 0.6
    z = 1.0 - 2.0 * (np.arange(240) + 0.5) / 240
    base = BaseMeasure(np.tile(np.exp(0.6 * np.sqrt(3.0) * z)[:, None], (1, 480)))
    truth = random_points(rng, 100)
    natural = 0.05 * shdd.encode_vectors(truth, 9)
    over = LogPartition(9, base_measure=base)(
        *tensors(natural, truth), torch.Generator().manual_seed(0)
    )
    plain = log_partition(9)(*tensors(natural + b, truth), torch.Generator().manual_seed(0))
    log_z_b = math.log(math.sinh(0.6 * math.sqrt(3.0)) / (0.6 * math.sqrt(3.0)))
    np.testing.assert_allclose(over, plain - log_z_b, atol=5e-3)


def test_same_generator_same_value(rng):
    natural, truth = multimodal(rng, 7, 3, 5.0)
    partition = LogPartition(7)
    values = [
        partition(*tensors(natural[None], truth[None]), torch.Generator().manual_seed(s)).item()
        for s in (5, 5, 6)
    ]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    "settings", [{"rows": 0}, {"azimuths": -1}, {"cap_km": 0.0}, {"cap_km": 25_000.0}]
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
    columns = GeotagColumns(row, row, row, row, np.zeros((1, 5)), row, row, [(mode,)])
    assert len(columns) == 1

"""The fast transforms give what direct summation gives, forwards, backwards and rotated."""

import numpy as np
import pytest
import torch

from locdiffusion.density import shdd
from locdiffusion.density.transforms import (
    PoleRotation,
    ProductTransform,
    RingTransform,
    pad,
    pole_frame,
    turn_about_axis,
    unpad,
)
from locdiffusion.sphere.geodesy import unit_vectors
from locdiffusion.sphere.grids import gauss_legendre_grid, polar_grid, shifted_grid

L = 12
D = (L + 1) ** 2
POLES = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])


pytestmark = pytest.mark.usefixtures("one_thread")


def coefficients(rng, count):
    return torch.from_numpy(rng.normal(size=(count, D)).astype(np.float32))


def points(rng, count):
    """Random points and, last, both poles and two points next to them."""
    v = rng.normal(size=(count, 3))
    v /= np.linalg.norm(v, axis=-1, keepdims=True)
    near = unit_vectors([89.9999, -89.9], [-179.0, 33.0])
    return np.concatenate([v, POLES, near])


def test_padding_places_order_m_at_column_l_plus_m(rng):
    c = coefficients(rng, 3)
    padded = pad(c, L)
    assert padded.shape == (3, L + 1, 2 * L + 1)
    for l, m in [(0, 0), (1, -1), (5, 3), (12, -12)]:  # noqa: E741
        assert torch.equal(padded[:, l, L + m], c[:, l * l + l + m])
    assert (padded != 0).sum() == c.numel()
    assert torch.equal(unpad(padded, L), c)


GRIDS = {
    "gauss": gauss_legendre_grid(14, 27),
    "shifted": shifted_grid(9, 16, 0.3),
    "rings": polar_grid([0.0, 1e-4, 0.3, 3.0], 3, 10),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_synthesis_is_the_direct_sum(rng, grid):
    c = coefficients(rng, 4)
    field = ProductTransform(grid, L).synthesis(c)
    assert field.shape == (4, *grid.shape)
    wanted = shdd.field(c.numpy(), grid.vectors).reshape(field.shape)
    np.testing.assert_allclose(field.numpy(), wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_analysis_is_the_adjoint_and_the_direct_sum(rng, grid):
    transform = ProductTransform(grid, L)
    c = coefficients(rng, 3)
    mass = torch.from_numpy(rng.uniform(size=(3, *grid.shape)).astype(np.float32))
    back = transform.analysis(mass)
    left = (transform.synthesis(c) * mass).flatten(1).sum(1)
    np.testing.assert_allclose(left, (c * back).sum(1), rtol=1e-4, atol=1e-2)
    wanted = mass.flatten(1).double().numpy() @ shdd.encode_vectors(grid.vectors, L)
    np.testing.assert_allclose(back, wanted, atol=1e-5 * np.abs(wanted).max())


def test_analysis_undoes_synthesis_on_an_exact_grid(rng):
    c = coefficients(rng, 2)
    transform = ProductTransform(gauss_legendre_grid(L + 1, 2 * L + 1), L)
    mass = transform.synthesis(c) * transform.row_weight[:, None] / (4 * np.pi)
    np.testing.assert_allclose(transform.analysis(mass), c, atol=1e-5)


def test_pole_frame_is_a_rotation_to_south_east_up(rng):
    v = points(rng, 10)
    frame = pole_frame(torch.from_numpy(v)).numpy()
    np.testing.assert_allclose(
        frame.transpose(0, 2, 1) @ frame, np.tile(np.eye(3), (14, 1, 1)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(frame), 1.0)
    np.testing.assert_allclose(frame[:, :, 2], v)
    assert np.all(frame[:10, 2, 0] < 0), "the first column points south"
    np.testing.assert_allclose(frame[:, 2, 1], 0.0)


def test_rotation_moves_the_point_to_the_pole(rng):
    """F'(u) = F(R u) at random u, for random points, both poles and next to them."""
    v = points(rng, 10)
    c = coefficients(rng, len(v))
    rotated = PoleRotation(L)(c, torch.from_numpy(v.astype(np.float32))).numpy()
    frame = pole_frame(torch.from_numpy(v)).numpy()
    u = points(rng, 30)
    for i in range(len(v)):
        wanted = shdd.field(c[i].numpy(), u @ frame[i].T)
        np.testing.assert_allclose(shdd.field(rotated[i], u), wanted, atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(rotated, axis=-1), c.norm(dim=-1), rtol=1e-5)


@pytest.mark.parametrize("radius", [0.01, 0.2, 3.0])
def test_rings_around_a_point_are_the_field_there(rng, radius):
    """Orders that the rings do not see are left out; the field does not feel it."""
    v = points(rng, 6)
    c = coefficients(rng, len(v))
    vectors, rotation = torch.from_numpy(v.astype(np.float32)), PoleRotation(L)
    rings = RingTransform(polar_grid([0.0, radius / 3, radius], 3, 16), L)
    assert (rings.legendre.shape[0] < 2 * L + 1) == (radius < 1.0)
    field = rings(rotation.tilted(rotation.by_degree(c), vectors)).flatten(1)
    nodes = rings.around(vectors).numpy()
    for i in range(len(v)):
        wanted = shdd.field(c[i].numpy(), nodes[i])
        np.testing.assert_allclose(field[i], wanted, atol=2e-3)


def test_a_code_rotated_to_the_pole_is_the_code_of_the_pole(rng):
    v = points(rng, 6)
    codes = torch.from_numpy(shdd.encode_vectors(v, 31).astype(np.float32))
    rotated = PoleRotation(31)(codes, torch.from_numpy(v.astype(np.float32)))
    wanted = np.tile(shdd.encode_vectors(POLES[0], 31), (len(v), 1))
    np.testing.assert_allclose(rotated, wanted, atol=2e-4)


@pytest.mark.parametrize("degree", [1, 2, L])
def test_jet_is_value_slope_and_curvature(rng, degree):
    """Against central differences of the float64 field, 1e-4 rad apart."""
    v = points(rng, 6)
    c = rng.normal(size=(len(v), (degree + 1) ** 2))
    rotation = PoleRotation(degree)
    coefficients, place = (torch.from_numpy(a.astype(np.float32)) for a in (c, v))
    jet = rotation.jet(rotation.by_degree(coefficients), place).numpy()
    frame = pole_frame(torch.from_numpy(v)).numpy()
    h = 1e-4
    steps = h * np.array(
        [[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, -1], [1, -1], [-1, 1]]
    )
    angle = np.hypot(*steps.T)
    local = np.concatenate([steps * np.sinc(angle / np.pi)[:, None], np.cos(angle)[:, None]], 1)
    for i in range(len(v)):
        f = shdd.field(c[i], local @ frame[i].T)
        south, east = (f[1] - f[2]) / (2 * h), (f[3] - f[4]) / (2 * h)
        ss, ee = (f[1] + f[2] - 2 * f[0]) / h**2, (f[3] + f[4] - 2 * f[0]) / h**2
        se = (f[5] + f[6] - f[7] - f[8]) / (4 * h * h)
        np.testing.assert_allclose(jet[i], [f[0], south, east, ss, se, ee], rtol=1e-3, atol=0.02)


def test_turning_about_the_axis(rng):
    c = coefficients(rng, 5)
    angle = torch.from_numpy(rng.uniform(-7, 7, 5).astype(np.float32))
    turned = turn_about_axis(c, angle, L).numpy()
    latitude, longitude = np.degrees(np.arcsin(rng.uniform(-1, 1, 20))), rng.uniform(-180, 180, 20)
    for i in range(5):
        there = unit_vectors(latitude, longitude + np.degrees(float(angle[i])))
        wanted = shdd.field(c[i].numpy(), there)
        got = shdd.field(turned[i], unit_vectors(latitude, longitude))
        np.testing.assert_allclose(got, wanted, atol=2e-3)


def test_gradients_are_those_of_finite_differences(rng):
    grid = ProductTransform(gauss_legendre_grid(5, 8), 3).double()
    rotation = PoleRotation(3).double()
    v = torch.from_numpy(points(rng, 1)[:2])
    c = torch.from_numpy(rng.normal(size=(2, 16))).requires_grad_()

    def chain(c):
        return grid.analysis(grid.synthesis(turn_about_axis(rotation(c, v), v[:, 0], 3)) ** 2)

    assert torch.autograd.gradcheck(chain, c)


def test_gradients_flow_after_a_first_use_in_inference_mode(rng):
    """A table that is cached as an inference tensor would break the training that follows."""
    with torch.inference_mode():
        pad(torch.zeros(1, 121), 10)
    c = torch.ones(1, 121, requires_grad=True)
    unpad(pad(c, 10) ** 2, 10).sum().backward()
    assert torch.equal(c.grad, torch.full((1, 121), 2.0))


def test_no_factor_is_so_small_that_products_are_subnormal(rng):
    """A processor multiplies subnormal numbers a hundred times slower; the sums do not feel it."""
    grid = polar_grid([0.0, 1e-4, 0.3, 3.0], 3, 10)
    transform = ProductTransform(grid, 47)  # P̄_47,47 next to a pole is below 1e-100
    table = transform.legendre
    assert not ((table != 0) & (table.abs() < 1e-20)).any()
    mass = torch.rand(2, *grid.shape)
    with_dust = mass.clone()
    with_dust[:, 1] = 1e-39
    mass[:, 1] = 0.0
    assert torch.equal(transform.analysis(with_dust), transform.analysis(mass))

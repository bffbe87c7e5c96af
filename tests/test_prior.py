"""Base measures: lookups hit the right place, and every integral takes them into account."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from locdiffusion import shdd
from locdiffusion.decoding import DecodeConfig, Decoder
from locdiffusion.density import LogPartition
from locdiffusion.diffusion.denoiser import mean_denoiser
from locdiffusion.prior import (
    COLUMNS,
    ROWS,
    BaseConfig,
    BaseKind,
    BaseMeasure,
    land_measure,
    positions_measure,
    uniform_measure,
)
from locdiffusion.spectral import ProductTransform
from locdiffusion.sphere.geodesy import (
    EARTH_RADIUS_KM,
    angle_between,
    great_circle_km,
    unit_vectors,
)
from locdiffusion.sphere.grids import fibonacci_grid, gauss_legendre_grid

pytestmark = pytest.mark.usefixtures("one_thread")
L = 11


def log_at(base, latitude, longitude):
    return base(torch.from_numpy(unit_vectors(latitude, longitude)).float()).numpy()


def test_land_is_where_land_is():
    places = {(48.85, 2.35): 1, (-15.8, -47.9): 1, (64.9, -18.6): 1, (-85.0, 100.0): 1}
    places |= {(0.0, -150.0): 0, (30.0, -45.0): 0, (85.0, 10.0): 0, (-60.0, 179.9): 0}
    for (latitude, longitude), is_land in places.items():
        assert (log_at(land_measure(), latitude, longitude) > 0) == is_land, (latitude, longitude)


@pytest.mark.parametrize("base", [uniform_measure(), land_measure(), land_measure(0.5)])
def test_the_mean_over_the_sphere_is_one(base):
    mean = base(torch.from_numpy(fibonacci_grid(200_000)).float()).double().exp().mean()
    assert float(mean) == pytest.approx(1.0, abs=5e-3)


def test_lookup_at_poles_and_antimeridian():
    weight = np.arange(1.0, ROWS * COLUMNS + 1).reshape(ROWS, COLUMNS)
    base = BaseMeasure(weight)
    top, bottom = base.log_weight[0], base.log_weight[-1]
    assert log_at(base, 90.0, 0.0) == pytest.approx(float(top[COLUMNS // 2]))
    assert log_at(base, -90.0, 0.0) == pytest.approx(float(bottom[COLUMNS // 2]))
    middle = base.log_weight[ROWS // 2]
    assert log_at(base, -0.01, -179.99) == pytest.approx(float(middle[0]))
    assert log_at(base, -0.01, 179.99) == pytest.approx(float(middle[-1]))


def test_positions_are_smoothed_to_the_stated_width():
    base = positions_measure(unit_vectors([10.0], [20.0]), 300.0, 0.001)
    nodes = fibonacci_grid(100_000)
    weight = base(torch.from_numpy(nodes).float()).double().exp().numpy() - 0.001
    chord2 = np.sum((nodes - unit_vectors(10.0, 20.0)) ** 2, -1)
    nodes, weight, chord2 = (a[chord2 < 0.1] for a in (nodes, weight, chord2))
    # A plane Gaussian of standard deviation s has mean squared distance 2 s².
    width = np.sqrt(np.sum(weight * chord2) / np.sum(weight) / 2.0) * EARTH_RADIUS_KM
    assert width == pytest.approx(300.0, rel=0.05)


def test_errors_teach():
    with pytest.raises(ValueError, match="uniform measure"):
        BaseMeasure(np.zeros((4, 8)))
    with pytest.raises(ValueError, match="50 km"):
        BaseConfig(smoothing_km=10.0)
    with pytest.raises(ValueError, match="uniform_share"):
        land_measure(0.0)


def test_each_kind_is_built():
    vectors = unit_vectors([0.0, 10.0], [0.0, 10.0])
    built = {kind: BaseConfig().build(kind, vectors) for kind in BaseKind}
    assert torch.all(built[BaseKind.UNIFORM].log_weight == 0)
    assert log_at(built[BaseKind.POSITIONS], 10.0, 10.0) > log_at(built[BaseKind.LAND], 10.0, 10.0)


@pytest.fixture(scope="module")
def coast():
    """A density on the coast of Portugal with a rival in Brazil; half of each is sea."""
    natural = 8.0 / (L + 1) ** 2 * shdd.encode([38.7, -12.9], [-9.3, -38.4], L).sum(0)
    nodes = fibonacci_grid(400_000)
    base = land_measure()
    log_base = base(torch.from_numpy(nodes).float()).double().numpy()
    log_p = shdd.field(natural, nodes) + log_base
    return natural, nodes, base, log_p - (logsumexp(log_p) - np.log(len(nodes)))


def test_log_z_includes_it(coast):
    natural, nodes, base, log_p = coast
    truth = unit_vectors(38.7, -9.0)
    wanted = (shdd.field(natural, nodes[:1]) + log_at_nodes(base, nodes[:1]) - log_p[:1])[0]
    partition = LogPartition(L, base=base)
    generator = torch.Generator().manual_seed(0)
    eta, x0 = torch.from_numpy(natural[None]).float(), torch.from_numpy(truth[None]).float()
    found = [float(partition(eta, x0, generator)) for _ in range(16)]
    error = np.std(found) / np.sqrt(len(found))
    # Coastlines cross the nodes: each value is off by some per mille, their mean by less.
    assert np.mean(found) == pytest.approx(wanted, abs=4 * error + 2e-3)


def log_at_nodes(base, nodes):
    return base(torch.from_numpy(nodes).float()).double().numpy()


@pytest.mark.parametrize("radius_km", [200.0, 750.0])
def test_the_decoder_includes_it(coast, radius_km):
    natural, nodes, base, log_p = coast
    decoder = Decoder(L, DecodeConfig(radius_km=radius_km), base)
    eta = torch.from_numpy(natural[None, None]).float()
    columns = decoder(eta)
    mass = np.exp(log_p) / len(nodes)
    answer = unit_vectors(columns.latitude[0], columns.longitude[0])
    distance_km = EARTH_RADIUS_KM * angle_between(nodes, answer)
    for share, radius in ((0.5, columns.radius_50_km[0]), (0.9, columns.radius_90_km[0])):
        assert mass[distance_km <= radius].sum() == pytest.approx(share, abs=0.01)
    for km, stated in zip((25, 200, 750, 2500), columns.probability[0, 1:], strict=True):
        assert mass[distance_km <= km].sum() == pytest.approx(stated, abs=0.01)
    # Far from the answer q₀ is averaged over the grid's cells; that loses some information.
    assert columns.information_nats[0] == pytest.approx(np.sum(mass * log_p), abs=0.1)
    chord2 = 4.0 * np.sin(radius_km / EARTH_RADIUS_KM / 2.0) ** 2

    def score(point):
        return mass @ np.clip(1.0 - np.sum((nodes - point) ** 2, -1) / chord2, 0.0, None)

    ours = score(answer)
    for trial in nodes[np.argsort(-log_p)[::4000][:40]]:
        assert score(trial) <= ours * 1.01
    probe = nodes[::100_001]
    stated = decoder.log_probability(eta.expand(len(probe), -1, -1), probe)
    np.testing.assert_allclose(stated, log_p[::100_001], atol=0.03)


def test_swapping_it_moves_the_answer_ashore(coast):
    base = coast[2]
    natural = 8.0 / (L + 1) ** 2 * shdd.encode(38.7, -9.3, L)
    eta = torch.from_numpy(natural[None, None]).float()
    at_sea = Decoder(L, DecodeConfig(radius_km=100.0))(eta)
    ashore = Decoder(L, DecodeConfig(radius_km=100.0), base)(eta)
    assert great_circle_km(38.7, -9.3, at_sea.latitude[0], at_sea.longitude[0]) < 150
    assert ashore.longitude[0] > at_sea.longitude[0]
    assert ashore.radius_50_km[0] < at_sea.radius_50_km[0]


def test_the_sampler_mean_includes_it(coast):
    natural, nodes, base, log_p = coast
    grid = gauss_legendre_grid(120, 240)
    log_base = base.on_grid(grid).view(grid.shape)
    denoise = mean_denoiser(
        lambda x, sigma, condition: torch.from_numpy(natural[None]).float(),
        torch.zeros(1, 1),
        ProductTransform(grid, L),
        log_base,
    )
    mean = denoise(torch.zeros(1, len(natural)), torch.ones(1))[0].numpy()
    mass = np.exp(log_p) / len(nodes)
    parts = zip(np.split(mass, 20), np.split(nodes, 20), strict=True)
    wanted = sum(part @ shdd.encode_vectors(where, L) for part, where in parts)
    np.testing.assert_allclose(mean, wanted, atol=0.02)

"""The fast decoder gives the answers of the dense one, of closed forms, and of plain reason."""

import math

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre

from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.decoding.mode_seeking import ScoreKernel
from locdiffusion.decoding.peaks import highest_nodes, panel_edges, safe_newton, walked
from locdiffusion.decoding.point_only import Locator
from locdiffusion.density import shdd
from locdiffusion.density.base_measure import BaseMeasure, land_measure
from locdiffusion.density.transforms import PoleRotation
from locdiffusion.sphere.geodesy import (
    EARTH_RADIUS_KM,
    destination,
    great_circle_km,
    latitude_longitude,
    unit_vectors,
)
from locdiffusion.sphere.grids import LatLonGrid, gauss_legendre_grid
from schemas.geotags import THRESHOLDS_KM
from support.dense_decoder import climb, score, tangents
from support.densities import HARD, RADII_KM, D, L, decode, decoder, noise, peak, scattered

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", HARD)
def test_answers_are_those_of_the_dense_decoder(dense, name):
    """The point within 1 km (or as good), radii within 2 %, probabilities within 0.01."""
    natural, radius_km = np.stack(HARD[name]), RADII_KM.get(name, 200.0)
    wanted = dense.decode(natural, radius_km)
    got = decode(natural[None], radius_km=radius_km)
    answer = unit_vectors(got.latitude, got.longitude)[0]
    ours = score(dense.log_density(natural), answer, radius_km)
    assert ours > wanted.score * (1 - 1e-5)
    off_km = great_circle_km(*wanted.latitude_longitude, got.latitude[0], got.longitude[0])
    assert off_km < 1.0 or ours > wanted.score * (1 + 1e-6)
    assert got.radius_50_km[0] == pytest.approx(wanted.radius_50_km, rel=0.02)
    assert got.radius_90_km[0] == pytest.approx(wanted.radius_90_km, rel=0.02)
    np.testing.assert_allclose(got.probability[0], wanted.probability, atol=0.01)
    assert got.information_nats[0] == pytest.approx(wanted.information_nats, abs=0.02)


def test_tempered_densities(dense):
    natural = np.stack(HARD["two peaks far apart"])
    wanted = dense.decode(natural, 200.0, temperature=2.5)
    got = decode(natural[None] / 2.5, radius_km=200.0)
    assert great_circle_km(*wanted.latitude_longitude, got.latitude[0], got.longitude[0]) < 1.0
    assert got.radius_50_km[0] == pytest.approx(wanted.radius_50_km, rel=0.02)


class ZonalDensity:
    """p ∝ exp(κ Σ (2l + 1) P_l(cos γ)): everything about it is a one-dimensional integral."""

    def __init__(self, height: float, max_degree: int) -> None:
        x, w = np.polynomial.legendre.leggauss(16)
        edges = np.concatenate([[0.0], np.geomspace(1e-6, np.pi, 400)])
        half = np.diff(edges)[:, None] / 2
        gamma = edges[:-1, None] + half * (x + 1)
        degree = np.arange(max_degree + 1)
        code = eval_legendre(degree, np.cos(gamma)[..., None]) @ (2.0 * degree + 1)
        field = height / (max_degree + 1) ** 2 * code
        mass = half * w * np.sin(gamma) / 2 * np.exp(field - field.max())
        log_p = field - field.max() - np.log(mass.sum())
        mass /= mass.sum()
        self.information_nats = float(np.sum(mass * log_p))
        self.radius_km = EARTH_RADIUS_KM * edges
        self.cumulative = np.concatenate([[0.0], np.cumsum(mass.sum(1))])

    def within(self, radius_km):
        return np.interp(radius_km, self.radius_km, self.cumulative)

    def quantile_km(self, probability):
        return np.interp(probability, self.cumulative, self.radius_km)


@pytest.mark.parametrize("max_degree", [7, 31, 47])
@pytest.mark.parametrize("height", [0.5, 6.0, 12.0, 20.0, 100.0])
def test_zonal_densities_have_closed_forms(max_degree, height):
    """From hardly any knowledge to a certainty of 25 km, poles included."""
    latitude = np.array([52.5, 90.0, -89.99, 0.0])
    longitude = np.array([13.4, 0.0, 120.0, -180.0])
    got = decode(peak(latitude, longitude, height, max_degree), max_degree, radius_km=150.0)
    wanted = ZonalDensity(height, max_degree)
    assert great_circle_km(latitude, longitude, got.latitude, got.longitude).max() < 0.2
    np.testing.assert_allclose(got.radius_50_km, wanted.quantile_km(0.5), rtol=0.01)
    np.testing.assert_allclose(got.radius_90_km, wanted.quantile_km(0.9), rtol=0.01)
    within = wanted.within(THRESHOLDS_KM)
    np.testing.assert_allclose(got.probability, np.tile(within, (4, 1)), atol=2e-3)
    np.testing.assert_allclose(got.information_nats, wanted.information_nats, atol=0.01)
    for modes in got.modes:
        assert modes[0].probability == pytest.approx(float(wanted.within(150.0)), abs=2e-3)


def test_the_uniform_density_knows_nothing():
    got = decode(np.zeros((2, 1, D)))
    quarter = math.pi * EARTH_RADIUS_KM / 2
    np.testing.assert_allclose(got.radius_50_km, quarter, rtol=1e-3)
    np.testing.assert_allclose(got.radius_50_km, 10_007.5, rtol=1e-3)
    np.testing.assert_allclose(got.radius_90_km, EARTH_RADIUS_KM * math.acos(-0.8), rtol=1e-3)
    share = np.sin(np.array(THRESHOLDS_KM) / EARTH_RADIUS_KM / 2) ** 2
    np.testing.assert_allclose(got.probability, np.tile(share, (2, 1)), rtol=1e-3)
    np.testing.assert_allclose(got.information_nats, 0.0, atol=1e-4)
    assert [len(modes) for modes in got.modes] == [1, 1]


def test_a_rotated_density_has_the_rotated_answer(rng):
    """Peaks turned by random rotations, so that they come to lie over poles and antimeridian."""
    start = unit_vectors([10.0, -35.0, 25.0], [5.0, -60.0, 30.0])
    heights = np.array([9.0, 6.0, 8.5])
    turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(30)]
    turns[0] = np.eye(3)
    turned = np.stack([start @ turn.T for turn in turns])
    natural = np.einsum("k,nkd->nd", heights / D, shdd.encode_vectors(turned, L))
    got = decode(natural, radius_km=400.0)
    answer = unit_vectors(got.latitude, got.longitude)
    wanted = np.stack([turn @ answer[0] for turn in turns])
    latitude, longitude = latitude_longitude(wanted)
    assert great_circle_km(latitude, longitude, got.latitude, got.longitude).max() < 0.5
    np.testing.assert_allclose(got.radius_50_km, got.radius_50_km[0], rtol=0.01)
    np.testing.assert_allclose(got.probability, got.probability[[0]].repeat(30, 0), atol=2e-3)
    np.testing.assert_allclose(got.information_nats, got.information_nats[0], atol=0.01)


def test_the_answer_of_a_photo_does_not_depend_on_its_batch(rng):
    natural = scattered(rng, 24)
    together = decode(natural)
    parts = [decode(part) for part in (natural[:1], *np.array_split(natural[1:], 5))]
    for name in ("latitude", "longitude", "probability", "information_nats"):
        apart = np.concatenate([getattr(p, name) for p in parts])
        np.testing.assert_allclose(apart, getattr(together, name), atol=1e-5, err_msg=name)
    for name in ("radius_50_km", "radius_90_km"):
        apart = np.concatenate([getattr(p, name) for p in parts])
        np.testing.assert_allclose(apart, getattr(together, name), rtol=1e-5, err_msg=name)
    modes = [m for p in parts for m in p.modes]
    assert [len(m) for m in modes] == [len(m) for m in together.modes]


def test_radii_and_probabilities_grow(rng):
    got = decode(scattered(rng, 40))
    assert np.all(got.radius_50_km <= got.radius_90_km)
    assert np.all(np.diff(got.probability, axis=1) >= 0)
    assert np.all((got.probability >= 0) & (got.probability <= 1))
    assert np.all(got.information_nats >= 0)
    # What lies within radius_50 is half: consistent with the probability of the thresholds.
    for radius, within in zip(got.radius_50_km, got.probability, strict=True):
        assert np.all((within < 0.5 + 1e-4) | (np.array(THRESHOLDS_KM) > radius - 1))


@pytest.mark.parametrize("radius_km", [100.0, 1000.0])
def test_modes_are_disjoint_sorted_and_begin_with_the_answer(rng, radius_km):
    got = decode(scattered(rng, 30), radius_km=radius_km, modes=4, candidates=8)
    assert max(len(modes) for modes in got.modes) > 1
    for i, modes in enumerate(got.modes):
        assert 1 <= len(modes) <= 4
        assert modes[0].latitude == pytest.approx(got.latitude[i], abs=1e-4)
        assert great_circle_km(
            modes[0].latitude, modes[0].longitude, got.latitude[i], got.longitude[i]
        ) == pytest.approx(0.0, abs=0.01)
        probabilities = [m.probability for m in modes]
        assert probabilities[1:] == sorted(probabilities[1:], reverse=True)
        assert all(p >= 0.01 for p in probabilities[1:])
        assert sum(probabilities) <= 1.0 + 1e-3
        assert all(m.radius_km == radius_km for m in modes)
        for j, m in enumerate(modes):
            for other in modes[:j]:
                apart = great_circle_km(m.latitude, m.longitude, other.latitude, other.longitude)
                assert apart > 2 * radius_km * 0.999


def test_two_equal_peaks_are_two_modes_with_half_of_the_mass_each():
    got = decode([peak(40.0, -75.0, 20.0, 31) + peak(-35.0, 150.0, 20.0, 31)], 31, radius_km=400.0)
    first, second = got.modes[0]
    assert first.probability == pytest.approx(0.5, abs=0.01)
    assert second.probability == pytest.approx(0.5, abs=0.01)
    places = sorted([(first.latitude, first.longitude), (second.latitude, second.longitude)])
    np.testing.assert_allclose(places, [(-35.0, 150.0), (40.0, -75.0)], atol=0.05)


def test_three_places_are_three_modes():
    """Candidates next to the same peak must not take the place of another peak."""
    places = [(40.0, -75.0), (-35.0, 150.0), (10.0, 30.0)]
    got = decode(
        [sum(peak(*p, 20.0 - 0.7 * i, 31) for i, p in enumerate(places))], 31, radius_km=300.0
    )
    found = [(m.latitude, m.longitude) for m in got.modes[0]]
    np.testing.assert_allclose(found, places, atol=0.05)


def test_the_radius_decides_between_a_sharp_peak_and_a_broad_region():
    """ρ = 50 km takes the highest peak; ρ = 1500 km the region that holds more."""
    sharp, broad = (60.0, -150.0), (-5.0, 25.0)
    natural = peak(*sharp, 8.0)
    for bearing in range(0, 360, 60):
        natural = natural + peak(*destination(*broad, bearing, 1500.0), 4.5)
    # With one candidate, the highest peak, only the coarse map of the score can find the region.
    near = decode([natural], radius_km=50.0)
    wide = decode([natural], radius_km=1500.0, candidates=1)
    assert great_circle_km(near.latitude, near.longitude, *sharp)[0] < 200
    assert great_circle_km(wide.latitude, wide.longitude, *broad)[0] < 300


def test_equal_samples_are_one_and_their_order_does_not_matter(rng):
    natural = scattered(rng, 6)
    one, many = decode(natural), decode(natural.repeat(4, axis=1))
    assert great_circle_km(one.latitude, one.longitude, many.latitude, many.longitude).max() < 0.1
    np.testing.assert_allclose(many.radius_50_km, one.radius_50_km, rtol=1e-4)
    mixed = np.concatenate([natural, scattered(rng, 6), scattered(rng, 6)], 1)
    forth, back = decode(mixed), decode(mixed[:, ::-1].copy())
    assert great_circle_km(forth.latitude, forth.longitude, back.latitude, back.longitude).max() < 1
    np.testing.assert_allclose(forth.radius_90_km, back.radius_90_km, rtol=1e-3)


def test_samples_count_equally_however_sharp_they_are():
    """Three samples out of four say Lima; the fourth is far more certain of Oslo."""
    natural = [peak(-12.0, -77.0, 8.0)] * 3 + [peak(59.9, 10.8, 40.0)]
    got = decode(np.stack(natural)[None], radius_km=1500.0)
    assert great_circle_km(got.latitude, got.longitude, -12.0, -77.0)[0] < 5
    oslo = got.modes[0][1]
    assert great_circle_km(oslo.latitude, oslo.longitude, 59.9, 10.8) < 5
    assert oslo.probability == pytest.approx(0.25, abs=0.005)


def test_log_density_is_normalised_and_is_that_of_single_points(rng, dense):
    natural = scattered(rng, 3).repeat(2, axis=1)
    natural[:, 1] *= 0.5
    log_p = decoder().tables.log_density(torch.from_numpy(natural.astype(np.float32)))
    rows, columns = log_p.shape[1:]
    grid = gauss_legendre_grid(rows, columns)
    total = (log_p.double().exp().numpy().reshape(3, -1) * grid.weights).sum(1) / (4 * np.pi)
    np.testing.assert_allclose(total, 1.0, atol=1e-3)
    where = [7, 1000, 3000]
    points = decoder().tables.log_probability(
        torch.from_numpy(natural.astype(np.float32)), grid.vectors[where]
    )
    direct = [dense.log_density(natural[i])(grid.vectors[[where[i]]])[0] for i in range(3)]
    np.testing.assert_allclose(points, direct, atol=2e-3)
    np.testing.assert_allclose(points, log_p.flatten(1)[range(3), where], atol=1e-3)


def test_a_base_measure_of_the_family_adds_to_the_natural_parameters(rng):
    """q₀ ∝ exp⟨b, code⟩ with b of degree 1, on its raster of 80 km: p_η over q₀ is p_(η + b)."""
    b = np.zeros(D)
    b[1:4] = [0.5, -0.8, 0.3]
    raster = LatLonGrid(
        1.0 - 2.0 * (np.arange(240) + 0.5) / 240,
        2.0 * np.pi * ((np.arange(480) + 0.5) / 480 - 0.5),
        np.ones(240),
    )
    base = BaseMeasure(np.exp(shdd.field(b, raster.vectors)).reshape(240, 480))
    natural = torch.from_numpy(scattered(rng, 8).astype(np.float32))
    over = Decoder(L, DecodeConfig(radius_km=300.0), base)
    got, wanted = over(natural), decode(natural.numpy() + b, radius_km=300.0)
    assert great_circle_km(got.latitude, got.longitude, wanted.latitude, wanted.longitude).max() < 5
    np.testing.assert_allclose(got.radius_50_km, wanted.radius_50_km, rtol=0.02)
    np.testing.assert_allclose(got.probability, wanted.probability, atol=5e-3)
    np.testing.assert_allclose(got.information_nats, wanted.information_nats, atol=0.01)
    points = unit_vectors(wanted.latitude, wanted.longitude)
    shifted = natural + torch.from_numpy(b).float()
    plain = decoder(radius_km=300.0).tables.log_probability(shifted, points)
    np.testing.assert_allclose(over.tables.log_probability(natural, points), plain, atol=0.05)


def test_no_photos_are_no_answers():
    got = decode(np.zeros((0, 1, D)))
    assert len(got) == 0
    assert got.probability.shape == (0, len(THRESHOLDS_KM))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_an_error(value):
    natural = np.zeros((2, 1, D))
    natural[1, 0, 5] = value
    with pytest.raises(ValueError, match="not finite"):
        decode(natural)


@pytest.mark.parametrize("shape", [(2, D), (2, 1, D + 1)])
def test_another_shape_is_an_error(shape):
    with pytest.raises(ValueError, match=rf"{shape[-1]}.*{D}.*L = {L}"):
        decoder()(torch.zeros(shape))


@pytest.mark.parametrize(
    "settings", [{"radius_km": 0.5}, {"radius_km": 6000.0}, {"modes": 0}, {"shifts": 0}]
)
def test_impossible_settings_are_errors(settings):
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        DecodeConfig(**settings)


# The parts of the climb.


def test_highest_nodes_look_across_the_poles():
    """A narrow crest along the meridian 0° - 180°, rising over the pole to 60°N beyond it:
    the last node before the pole exceeds all neighbours on its own side, and is no maximum."""
    grid = gauss_legendre_grid(12, 24)
    crest = grid.vectors @ unit_vectors(60.0, 180.0) - 9.0 * grid.vectors[:, 1] ** 2
    for rows in (crest, crest.reshape(12, 24)[::-1].ravel().copy()):
        field = torch.from_numpy(rows).view(1, 12, 24)
        value, index = highest_nodes(field, 3)
        assert torch.isfinite(value).sum() == 1
        assert int(index[0, 0]) == int(field.flatten().argmax())


def test_highest_nodes_come_in_order(rng):
    field = torch.from_numpy(rng.normal(size=(4, 10, 20)))
    value, index = highest_nodes(field, 5)
    assert torch.equal(value, field.flatten(1).gather(1, index))
    assert torch.equal(value, value.sort(1, descending=True).values)
    assert torch.equal(value[:, 0], field.flatten(1).amax(1))


def test_safe_newton_is_newton_at_a_maximum_and_climbs_elsewhere(rng):
    hessian = torch.tensor([[-2.0, 0.5, -1.0], [3.0, 0.2, -1.0], [0.0, 0.0, 0.0]])
    gradient = torch.tensor([[0.01, -0.02], [0.3, 0.1], [0.1, 0.0]])
    step, curvature = safe_newton(gradient, hessian, torch.full((3,), 1e-3), reach=0.2)
    matrix = np.array([[-2.0, 0.5], [0.5, -1.0]])
    np.testing.assert_allclose(step[0], -np.linalg.solve(matrix, [0.01, -0.02]), rtol=1e-5)
    assert curvature[0] == pytest.approx(np.sqrt(np.linalg.det(-matrix)))
    assert torch.all((step * gradient).sum(-1) > 0)
    assert torch.all(step.norm(dim=-1) <= 0.2 * 1.0001)


def test_walking_ends_at_the_distance_and_direction_of_the_step(rng):
    latitude, longitude = np.array([0.0, 60.0, -90.0]), np.array([0.0, 179.0, 0.0])
    start = torch.from_numpy(unit_vectors(latitude, longitude))
    step = torch.tensor([[0.1, 0.0], [0.0, 0.2], [0.3, 0.4]], dtype=torch.float64)
    reached = latitude_longitude(walked(start, step).numpy())
    bearing = [180.0, 90.0]
    wanted = destination(latitude[:2], longitude[:2], bearing, [637.10088, 2 * 637.10088])
    assert great_circle_km(*wanted, *(a[:2] for a in reached)).max() < 1e-6
    assert great_circle_km(-90.0, 0.0, *(a[2] for a in reached)) == pytest.approx(3185.5044)
    assert torch.equal(walked(start, 0 * step), start)


def test_panels_double_up_to_the_widest():
    edges = panel_edges(1.0, 0.01, 0.2)
    assert edges[0] == 0.0
    assert edges[-1] == pytest.approx(1.0)
    widths = np.diff(edges)
    assert np.all(widths <= 0.2 * 1.0001)
    assert np.all(widths[1:] <= 2.0001 * widths[:-1])
    assert len(panel_edges(0.005, 0.01, 0.2)) == 2


@pytest.mark.parametrize("radius_km", [60.0, 300.0, 2500.0])
def test_score_slope_and_curvature_are_those_of_the_dense_score(dense, radius_km):
    """The kernel's Newton step against one from differences of the dense score, off the maximum."""
    natural = (peak(20.0, 30.0, 8.0) + noise(5, 2.0))[None]
    density = dense.log_density(natural)
    top = climb(density, unit_vectors(20.0, 30.0), radius_km)
    point = unit_vectors(*destination(*latitude_longitude(top), 110.0, radius_km / 6))
    east, north = tangents(point)
    h = radius_km / 12 / EARTH_RADIUS_KM

    def at(south_step, east_step):
        v = point - south_step * north + east_step * east
        return score(density, v / np.linalg.norm(v), radius_km)

    gradient = np.array([at(h, 0) - at(-h, 0), at(0, h) - at(0, -h)]) / (2 * h)
    curved = [at(h, 0) + at(-h, 0), at(0, h) + at(0, -h)]
    ss, ee = ((c - 2 * at(0, 0)) / h**2 for c in curved)
    se = (at(h, h) + at(-h, -h) - at(h, -h) - at(-h, h)) / (4 * h * h)
    wanted = -np.linalg.solve([[ss, se], [se, ee]], gradient)

    kernel, rotation = ScoreKernel(radius_km / EARTH_RADIUS_KM, L, 0.05), PoleRotation(L)
    eta, centre = (torch.from_numpy(a.astype(np.float32)) for a in (natural, point[None]))
    field = kernel.rings(rotation.tilted(rotation.by_degree(eta), centre)).flatten(1)
    log_z = float(shdd.field(natural[0], point[None])[0] - density(point[None])[0])
    found = kernel((field - log_z).exp())
    assert float(found.score) == pytest.approx(at(0, 0), rel=1e-4)
    np.testing.assert_allclose(found.step[0], wanted, atol=0.06 * np.linalg.norm(wanted))


def columns_of(got):
    assert got.familiarity is None, "a decoder sees no embeddings"
    others = ("modes", "familiarity", "areas", "prior_mass")
    numbers = {n: value for n, value in vars(got).items() if n not in others}
    return [value.tobytes() for value in numbers.values()], got.modes


@pytest.mark.parametrize("base", [None, land_measure()], ids=["uniform", "land"])
def test_another_radius_on_shared_tables_answers_to_the_bit_as_on_its_own(base):
    natural = torch.from_numpy(np.stack([peak(20.0, 30.0, 8.0), peak(-5.0, 100.0, 40.0)])).float()
    first = Decoder(L, DecodeConfig(radius_km=100.0), base)
    before = columns_of(first(natural[:, None]))
    for radius_km in (25.0, 750.0, 3000.0):
        config = DecodeConfig(radius_km=radius_km, modes=2)
        shared, own = first.with_config(config), Decoder(L, config, base)
        assert shared.tables is first.tables
        assert columns_of(shared(natural[:, None])) == columns_of(own(natural[:, None]))
        places = zip(*(Locator(d)(natural[:, None]) for d in (shared, own)), strict=True)
        assert all(np.array_equal(*pair) for pair in places)
    assert columns_of(first(natural[:, None])) == before


def test_a_decoder_of_another_configuration_is_on_the_device_of_the_tables():
    moved = Decoder(7).to("meta").with_config(DecodeConfig(radius_km=200.0))
    assert {table.device.type for table in moved.buffers()} == {"meta"}

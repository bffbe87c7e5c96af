"""The fused density: normalised, level with the network where the map says nothing, and sharper."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from locdiffusion.appearance.model import AppearanceModel
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.decoding.fused_decoder import FusedDecoder
from locdiffusion.density.base_measure import load_base_measure, uniform_measure
from locdiffusion.sphere.geodesy import (
    EARTH_RADIUS_KM,
    great_circle_km,
    latitude_longitude,
    unit_vectors,
)
from support import appearance_world as world

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def fused():
    return world.fused()


def errors_km(found, part):
    return great_circle_km(found.latitude, found.longitude, *latitude_longitude(part.truth))


def test_all_masses_sum_to_one(fused):
    part = world.photos(10, 2)
    nodes, _ = fused.laid(part.natural[:, None], part.appearance, part.trust)
    rings, beyond, _ = fused.density.normalised(nodes)
    total = rings.mass.sum(1)
    total[nodes.far] += beyond.mass.sum(1)
    assert_allclose(total, 1.0, atol=1e-4)


def dense_nodes(centre, reach_km=900.0, count=20_000):
    """Nodes of equal area around a place: unit vectors, and the share of the sphere of each."""
    share = np.sin(reach_km / EARTH_RADIUS_KM / 2.0) ** 2
    i = np.arange(count) + 0.5
    z = 1.0 - 2.0 * share * i / count
    phi = np.pi * (1.0 + np.sqrt(5.0)) * i
    flat = np.sqrt((1.0 - z) * (1.0 + z))
    local = np.stack([flat * np.cos(phi), flat * np.sin(phi), z], -1)
    up = np.asarray(centre, float)
    east = np.cross([0.0, 0.0, 1.0], up)
    east /= np.linalg.norm(east)
    return local @ np.stack([east, np.cross(up, east), up]), share / count


@pytest.mark.parametrize("latitude", [(42.0, 52.0), (53.0, 55.9)])
def test_answers_are_those_of_a_dense_grid(fused, latitude):
    """Log Z, radii, information and probabilities; the nodes are 17 km apart or less."""
    part = world.photos(3, 2, latitude)
    found = world.answers(fused, part)
    for row in range(3):
        one = part.take(slice(row, row + 1))
        vectors, share = dense_nodes(part.truth[row], 1000.0)
        at = torch.from_numpy(vectors).float()[None]
        log_p = fused.log_density_at(one.natural[:, None], one.appearance, one.trust, at)
        mass = share * np.exp(log_p[0].double().numpy())
        assert_allclose(np.log(mass.sum()), 0.0, atol=0.02)
        km = great_circle_km(
            found.latitude[row], found.longitude[row], *latitude_longitude(vectors)
        )
        order = np.argsort(km)
        below = np.cumsum(mass[order]) / mass.sum()
        for level, name in ((0.5, "radius_50_km"), (0.9, "radius_90_km")):
            wanted = km[order][np.searchsorted(below, level)]
            assert_allclose(getattr(found, name)[row], wanted, rtol=0.03, atol=1.0)
        within = [mass[km <= t].sum() for t in (25, 200, 750, 2500)]
        assert_allclose(found.probability[row, 1:], within, atol=0.03)
        information = (mass * log_p[0].double().numpy()).sum()
        assert_allclose(found.information_nats[row], information, atol=0.03)


def test_nodes_miss_no_narrow_peak():
    sharp = world.fused_copy()
    likelihood = sharp.density.likelihood
    with torch.no_grad():
        likelihood.log_noise.fill_(-4.0)
        likelihood.log_signal.fill_(-4.0)
        likelihood.log_background.fill_(-2.0)
        likelihood.log_freedom.fill_(9.0)
        likelihood.gates.weight.zero_()
        likelihood.gates.bias.copy_(torch.tensor([0.0, 0.5]))

    part = world.photos(4, 2)
    nodes, _ = sharp.laid(part.natural[:, None], part.appearance, part.trust)
    for row in range(len(part)):
        vectors, share = dense_nodes(nodes.peak[row].double().numpy(), 60.0)
        one = part.take(slice(row, row + 1))
        at = torch.from_numpy(vectors).float()[None]
        log_p = sharp.log_density_at(one.natural[:, None], one.appearance, one.trust, at)
        # Above 1 the nodes miss mass; a second peak may lie outside the disc.
        assert float((log_p[0].double().exp() * share).sum()) < 1.03


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("prior", [None, "land", "47,15,1500km"])
def test_without_trust_the_density_is_the_networks(samples, prior, monkeypatch):
    def ball(self, rings, nodes):
        return rings.most_within(nodes.centre, 750.0)

    monkeypatch.setattr(FusedDecoder, "answer", ball)
    base = None if prior is None else load_base_measure(prior, uniform_measure())
    plain = Decoder(world.L, DecodeConfig(radius_km=750.0), base)
    made = world.unfitted(plain)
    part = world.photos(6 * samples, 3)
    natural = part.natural.view(6, samples, -1)
    appearance, truth = part.appearance[::samples], part.truth[::samples]
    found = made(natural, appearance, torch.zeros(6))
    wanted = plain(natural)
    off = great_circle_km(found.latitude, found.longitude, wanted.latitude, wanted.longitude)
    assert np.all(off < 0.1 * wanted.radius_50_km)
    for name in ("radius_50_km", "radius_90_km"):
        assert_allclose(getattr(found, name), getattr(wanted, name), rtol=0.1)
    assert_allclose(
        found.probability[:, 1:], wanted.probability[:, 1:], atol=0.06 if prior == "land" else 0.02
    )
    assert_allclose(
        found.information_nats,
        wanted.information_nats,
        atol=0.1 if prior else 0.03,  # coasts
    )
    assert_allclose(found.land_probability, wanted.land_probability, atol=0.08)
    log_p = made.log_probability(natural, appearance, torch.zeros(6), truth)
    assert_allclose(log_p, plain.tables.log_probability(natural, truth), atol=0.1)


def test_a_photo_of_which_nothing_is_known_stays_so(fused):
    natural = torch.zeros(2, 1, (world.L + 1) ** 2)
    natural[1] = 1e-3 * torch.randn(
        1, natural.shape[-1], generator=torch.Generator().manual_seed(0)
    )
    found = fused(natural, torch.full((2, world.COMPONENTS), 9.0), torch.zeros(2))
    assert np.all(found.radius_90_km > 10_000.0)
    assert np.all(found.information_nats < 0.05)


def test_the_map_finds_the_place_and_says_how_sure_it_is(fused):
    part = world.photos(60, 4)
    found, plain = world.answers(fused, part), world.decoder()(part.natural[:, None])
    after, before = errors_km(found, part), errors_km(plain, part)
    assert np.median(after) < 0.5 * np.median(before)
    assert 0.25 < np.mean(after <= found.radius_50_km) < 0.8
    assert np.mean(after <= found.radius_90_km) > 0.75
    assert np.all(np.diff(found.probability, axis=1) >= 0.0)


def test_beyond_the_reach_truths_and_nodes_have_the_same_floor(fused):
    """A truth far from the answer must not get the map's likelihood, which no node there has."""
    part = world.photos(4, 9)
    nodes, _ = fused.laid(part.natural[:, None], part.appearance, part.trust)
    places = fused.density.points(nodes, -torch.from_numpy(part.truth).float()[:, None])
    assert not places.fade.any()
    assert not fused.density.likelihood.log_factor(places, nodes.photos, torch.ones(4)).any()


def test_answers_do_not_depend_on_the_batch(fused):
    part = world.photos(40, 10)
    whole = world.answers(fused, part)
    alone = world.answers(fused, part.take(slice(37, 38)))
    assert_allclose(whole.latitude[37], alone.latitude[0], atol=1e-5)
    assert_allclose(whole.radius_50_km[37], alone.radius_50_km[0], rtol=1e-4)


def test_a_prior_outside_which_nothing_is_possible_is_kept():
    part = world.photos(4, 11)
    prior = load_base_measure("45.5,10,200km", uniform_measure())
    made = world.unfitted(Decoder(world.L, DecodeConfig(radius_km=750.0), prior))
    made.density.likelihood.load_state_dict(world.fused().density.likelihood.state_dict())
    found = world.answers(made, part)
    assert np.all(great_circle_km(found.latitude, found.longitude, 45.5, 10.0) < 225.0)
    assert np.all(found.radius_90_km < 500.0)
    outside = unit_vectors(np.full(4, 50.0), np.full(4, 10.0))
    assert np.all(made.log_probability(part.natural[:, None], *_rest(part), outside) < -1000.0)


def _rest(part):
    return part.appearance, part.trust


@pytest.mark.parametrize("place", [(89.9, 30.0), (-89.9, 0.0), (-16.0, 179.98), (0.0, -180.0)])
def test_poles_and_the_date_line_are_places_like_others(fused, place):
    """The map knows nothing there, and the answer is the network's."""
    vector = unit_vectors(*[np.array([degrees]) for degrees in place])
    natural = torch.from_numpy(world.bump(vector))[:, None]
    found = fused(natural, torch.zeros(1, world.COMPONENTS), torch.ones(1))
    assert great_circle_km(found.latitude, found.longitude, *place) < 20.0
    assert 100.0 < found.radius_50_km[0] < 400.0


def test_mass_far_from_the_map_is_not_lost(fused):
    """Two peaks: one in Europe, which the map sharpens, and one in Australia."""
    part = world.photos(1, 6)
    there = unit_vectors(np.array([-25.0]), np.array([135.0]))
    natural = torch.stack([part.natural, torch.from_numpy(world.bump(there))], 1)
    found = fused(natural, part.appearance, part.trust)
    modes = found.modes[0]
    assert found.radius_90_km[0] > 5000.0
    assert len(modes) == 2
    assert_allclose(sum(mode.probability for mode in modes), 1.0, atol=0.05)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"appearance": torch.zeros(2, 5)}, "want .2, 12."),
        ({"trust": torch.ones(3)}, "same photos"),
        ({"trust": torch.tensor([0.5, 1.5])}, "want 0 to 1"),
        ({"appearance": torch.full((2, 12), torch.nan)}, "not finite"),
        ({"natural": torch.zeros(2, 1, 9)}, "coefficients|samples"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(fused, change, said):
    part = world.photos(2, 1)
    inputs = {
        "natural": part.natural[:, None],
        "appearance": part.appearance,
        "trust": part.trust,
    } | change
    with pytest.raises(ValueError, match=said):
        fused(**inputs)


def test_no_photos_have_no_answers(fused):
    none = world.photos(1, 1).take(slice(0, 0))
    assert len(world.answers(fused, none)) == 0


def test_a_map_without_cells_leaves_the_density_alone():
    appearance_map = world.appearance_map()
    none = dataclasses.replace(
        appearance_map,
        held=appearance_map.held[:0],
        values=appearance_map.values[:0],
        log_variance=appearance_map.log_variance[:0],
    )
    made = FusedDecoder(world.decoder(), AppearanceModel(none))
    part = world.photos(3, 5)
    nodes, _ = made.laid(part.natural[:, None], part.appearance, part.trust)
    assert_allclose(nodes.wide.log_v, 0.0, atol=1e-6)
    norm = part.appearance.square().sum(1, keepdim=True)
    assert_allclose(nodes.wide.residual, norm.expand_as(nodes.wide.residual), rtol=1e-5)

"""The fused density: normalised, level with the network where the map says nothing, and sharper."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from experiments.appearance_map import fused_density
from experiments.appearance_map.decoding import Rule, decode, km_between, masses
from experiments.appearance_map.fitting import FitTable, fit
from experiments.appearance_map.fused_density import REACH_KM, FusedDensity
from experiments.appearance_map.log_z import gap
from experiments.appearance_map.photos import LocatedPhotos
from experiments.appearance_map.radii import fit_radii
from locdiffusion.appearance.appearance_map import AppearanceMap
from locdiffusion.appearance.gaussian_process import Kriging, KrigingConfig
from locdiffusion.appearance.places import Observations
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.density import shdd
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2
from locdiffusion.sphere.geodesy import latitude_longitude, unit_vectors
from support import tiny

pytestmark = pytest.mark.usefixtures("one_thread")

L, COMPONENTS, NOISE, WIDTH_KM = 31, 12, 1.0, 150.0
AXES = 25.0 * tiny.random_points(COMPONENTS, 7)
"""Waves of the appearance, about 1,600 km long."""


def appearance_at(vectors):
    return 4.0 * np.sin(vectors @ AXES.T)


def photos_near(count, seed):
    """Photos in Europe whose density is as wide as it is wrong."""
    rng = np.random.default_rng(seed)
    latitude, longitude = rng.uniform(42.0, 52.0, count), rng.uniform(5.0, 30.0, count)
    truth = unit_vectors(latitude, longitude)
    off = np.degrees(WIDTH_KM / 6371.0) * rng.normal(size=(2, count))
    centre = unit_vectors(latitude + off[0], longitude + off[1] / np.cos(np.radians(latitude)))
    appearance = appearance_at(truth) + NOISE * rng.normal(size=(count, COMPONENTS))
    # A von Mises-Fisher density: F = κ cos γ, of degree 1.
    natural = np.zeros((count, (L + 1) ** 2))
    natural[:, 1:4] = (6371.0 / WIDTH_KM) ** 2 / 3.0 * shdd.encode_vectors(centre, 1)[:, 1:]
    return LocatedPhotos(
        torch.from_numpy(appearance).float(),
        torch.from_numpy(natural).float(),
        torch.zeros(count),
        torch.from_numpy(centre).float(),
        torch.full((count,), 1.18 * WIDTH_KM),
        torch.full((count,), 2.15 * WIDTH_KM),
        torch.from_numpy(truth).float(),
    )


@pytest.fixture(scope="module")
def decoder():
    return Decoder(L, DecodeConfig(radius_km=750.0))


@pytest.fixture(scope="module")
def appearance_map():
    rng = np.random.default_rng(5)
    vectors = unit_vectors(rng.uniform(38.0, 56.0, 1500), rng.uniform(-2.0, 38.0, 1500))
    seen = appearance_at(vectors).astype(np.float32)
    observed = Observations(vectors, seen, np.full(1500, 0.02), 1500)
    return AppearanceMap.fit(Kriging(observed, KrigingConfig(neighbours=60)), 100.0)


@pytest.fixture(scope="module")
def fused(decoder, appearance_map):
    made = FusedDensity(decoder.tables, appearance_map)
    fit(made, [(photos_near(80, 1), 1.0)])
    return made


def test_all_masses_sum_to_one(fused):
    found = masses(fused, photos_near(10, 2))
    assert_allclose(found.mass.sum(1) + found.beyond, 1.0, atol=1e-3)


def test_log_z_agrees_with_a_dense_grid(fused):
    found = gap(fused, photos_near(4, 2), spacing_km=8.0)
    assert found.times_denser > 20 and found.worst < 0.02


def test_rings_that_miss_the_peak_are_found_out(decoder, appearance_map, fused, monkeypatch):
    """Six nodes on a ring, and hardly any near rings."""
    monkeypatch.setattr(fused_density, "WIDE_AZIMUTHS", 6)
    monkeypatch.setattr(fused_density, "NEAR_KM", (0.0, 1.0, 2.0))
    coarse = FusedDensity(decoder.tables, appearance_map, fused.likelihood)
    assert gap(coarse, photos_near(4, 2), spacing_km=8.0).worst > 0.1


def test_peaks_narrower_than_the_wide_nodes_need_the_near_rings_twice(
    decoder, appearance_map, fused, monkeypatch
):
    sharp = FusedDensity(decoder.tables, appearance_map, copy.deepcopy(fused.likelihood))
    with torch.no_grad():
        sharp.likelihood.log_noise.fill_(-4.0)
        sharp.likelihood.log_signal.fill_(-4.0)
        sharp.likelihood.log_background.fill_(-2.0)
        sharp.likelihood.log_freedom.fill_(9.0)
    photos = photos_near(8, 2)
    twice = gap(sharp, photos, spacing_km=2.0)
    monkeypatch.setattr(fused_density, "RECENTRED", 1)
    once = gap(sharp, photos, spacing_km=2.0)
    assert twice.worst < 0.02
    assert once.mean > 3.0 * twice.mean


def test_without_the_map_the_density_is_the_networks(decoder, appearance_map):
    made = FusedDensity(decoder.tables, appearance_map)
    made.requires_grad_(False)
    made.likelihood.gates.bias.copy_(torch.tensor([0.0, -100.0]))  # a = 1, b as small as it may be
    made.likelihood.floor.fill_(1e4)
    photos = photos_near(6, 3)
    found = decode(made, photos, 750.0, [Rule.BALL])[Rule.BALL]
    wanted = decoder.tables.log_probability(photos.natural[:, None], photos.truth.double().numpy())
    assert_allclose(found.log_density_km2 + LOG_SPHERE_AREA_KM2, wanted, atol=0.01)


def test_the_map_finds_the_place_and_says_how_sure_it_is(fused):
    photos = photos_near(60, 4)
    latitude, longitude = latitude_longitude(photos.truth.double().numpy())
    before = km_between(photos.answer, photos.truth).numpy()
    for found in decode(fused, photos, 750.0, list(Rule)).values():
        answer = unit_vectors(found.latitude, found.longitude)
        after = km_between(torch.from_numpy(answer), photos.truth.double()).numpy()
        assert np.median(after) < 0.5 * np.median(before)
        assert 0.25 < np.mean(after <= found.radius_50_km) < 0.8
        assert np.mean(after <= found.radius_90_km) > 0.75
        assert np.all(np.diff(found.probability, axis=1) >= -1e-6)
    assert np.all(np.isfinite([latitude, longitude]))


def test_the_fitted_likelihood_is_that_of_the_answers(fused):
    photos = photos_near(12, 6)
    table = FitTable.measure(fused, photos, 1.0)
    found = table.log_probability(fused.likelihood).numpy()
    answers = decode(fused, photos, 750.0, [Rule.BALL])[Rule.BALL]
    assert_allclose(found, answers.log_density_km2 + LOG_SPHERE_AREA_KM2, atol=0.02)


def test_a_fit_is_worth_it_on_other_photos(decoder, appearance_map, fused):
    table = FitTable.measure(fused, photos_near(60, 8), 1.0)
    raw = FusedDensity(decoder.tables, appearance_map)
    raw.likelihood.standardise(table.photos)
    fitted = table.log_probability(fused.likelihood).mean()
    assert fitted > table.log_probability(raw.likelihood).mean()


@pytest.mark.parametrize("wrong", [0.5, -0.5])
def test_radii_that_are_too_small_or_too_large_are_mended(decoder, appearance_map, fused, wrong):
    made = FusedDensity(decoder.tables, appearance_map, copy.deepcopy(fused.likelihood))
    with torch.no_grad():
        made.likelihood.gates.bias += wrong
    shift, _ = fit_radii(made, [(photos_near(80, 1), 1.0)], 750.0)
    assert shift * wrong < 0.0
    photos = photos_near(150, 12)
    found = decode(made, photos, 750.0, [Rule.BALL])[Rule.BALL]
    answer = torch.from_numpy(unit_vectors(found.latitude, found.longitude))
    error = km_between(answer, photos.truth.double()).numpy()
    # 150 photos: two standard errors of a share are 8 points, fit and photos together 12.
    assert abs(np.mean(error <= found.radius_50_km) - 0.5) < 0.14
    assert abs(np.mean(error <= found.radius_90_km) - 0.9) < 0.10


def test_beyond_the_reach_truths_and_nodes_have_the_same_floor(fused):
    """A truth far from the answer must not get the map's likelihood, which no node there has."""
    photos = photos_near(4, 9)
    far = dataclasses.replace(photos, answer=-photos.truth)
    residuals = fused.map.residuals(far.appearance)
    places = fused.points(far.natural, residuals, far.truth, far.answer)
    assert not places.fade.any() and not places.window.any()
    log_m = fused.likelihood.log_factor(places, masses(fused, far).nodes.photos, torch.ones(4))
    assert not log_m.any()
    assert (km_between(far.truth, far.answer) > REACH_KM).all()


def test_answers_do_not_depend_on_the_batch(fused):
    photos = photos_near(20, 10)
    whole = decode(fused, photos, 750.0, [Rule.BALL])[Rule.BALL]
    alone = decode(fused, photos.take(slice(17, 18)), 750.0, [Rule.BALL])[Rule.BALL]
    assert_allclose(whole.latitude[17], alone.latitude[0], atol=1e-3)
    assert_allclose(whole.radius_50_km[17], alone.radius_50_km[0], rtol=1e-3)

"""Masses of areas against sums over many points of the density itself."""

import functools

import numpy as np
import pytest
import shapely
import torch
from numpy.testing import assert_allclose

from locdiffusion.decoding.area_masses import (
    GridCells,
    Partitions,
    RasterPartition,
    WeightedPoints,
    region_partition,
)
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.decoding.fused_points import _periodic
from locdiffusion.density import shdd
from locdiffusion.density.base_measure import land_measure, polygon_measure
from locdiffusion.density.transforms import pole_frame
from locdiffusion.geography.countries import country_codes
from locdiffusion.geography.regions import (
    FIRST_ID,
    country_sums,
    raster_countries,
    region_codes,
    region_raster,
)
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, latitude_longitude, unit_vectors
from locdiffusion.sphere.grids import fibonacci_grid
from support import appearance_world as world
from support.densities import HARD, D, L, peak

pytestmark = pytest.mark.usefixtures("one_thread")

POINTS = fibonacci_grid(60_000)
BOX = shapely.box(0.0, 40.0, 20.0, 55.0)


@functools.lru_cache
def areas() -> Partitions:
    return Partitions(region_partition())


@functools.lru_cache
def numbers_of_points():
    return region_raster()(torch.from_numpy(POINTS)).numpy()


@functools.lru_cache
def regions():
    """The region of each point: what the raster stands for, its numbers."""
    codes = np.array(["sea", "elsewhere", *region_codes()])
    return codes[numbers_of_points()]


def cap(latitude, longitude, reach_km, rings, azimuths):
    """Points around a place, close near it, and the share of the sphere of each."""
    edges = np.cos(reach_km / EARTH_RADIUS_KM * (np.arange(rings + 1) / rings) ** 1.5)
    z = (edges[:-1] + edges[1:]) / 2.0
    turn = 2.0 * np.pi * (np.arange(azimuths) + 0.5) / azimuths
    flat = np.sqrt(1.0 - z * z)
    waves = (np.outer(flat, np.cos(turn)), np.outer(flat, np.sin(turn)), np.outer(z, turn**0))
    frame = pole_frame(torch.from_numpy(unit_vectors(latitude, longitude))).numpy()
    share = np.repeat((edges[:-1] - edges[1:]) / 2.0 / azimuths, azimuths)
    return np.stack(waves, -1).reshape(-1, 3) @ frame.T, share


def dense(natural, place, base_measure=None):
    """Masses of a density ``(K, d)`` by its values at many points, most of them near a place."""
    near, share = cap(*place, 2000.0, 150, 120)
    far = POINTS[POINTS @ unit_vectors(*place) < np.cos(2000.0 / EARTH_RADIUS_KM)]
    points = np.concatenate([near, far])
    share = np.concatenate([share, np.full(len(far), 1.0 / len(POINTS))])
    field = natural @ shdd.encode_vectors(points, L).T
    if base_measure is not None:
        field = field + base_measure(torch.from_numpy(points)).double().numpy()
    p = np.exp(field - field.max(1, keepdims=True)) * share
    p = (p / p.sum(1, keepdims=True)).mean(0)
    return np.bincount(region_raster()(torch.from_numpy(points)).numpy(), p, areas().region.count)


def tables(columns):
    """Masses ``(N, numbers)`` by region and by country."""
    found = []
    for kind, codes in ((columns.region, region_codes()), (columns.country, raster_countries())):
        table = np.zeros((len(kind), FIRST_ID + len(codes)))
        for row, one in zip(table, kind, strict=True):
            row[one.ids] = one.probability
        found.append(table)
    return found


CASES = {
    "uniform": (None, ["noise", "80 km from the pole", "on the antimeridian"]),
    "land": (land_measure(), ["two peaks far apart", "almost flat", "three samples"]),
    "box": (polygon_measure([BOX]), ["one peak", "one broad peak"]),
}


@pytest.mark.parametrize("case", CASES)
def test_masses_are_those_of_many_points(case):
    base, names = CASES[case]
    decoder = Decoder(L, DecodeConfig(), base)
    for name in names:
        natural = np.array(HARD[name])
        columns = decoder(torch.from_numpy(np.float32(natural[None])), areas())
        (got,), (countries,) = tables(columns.areas)
        wanted = dense(natural, (columns.latitude[0], columns.longitude[0]), base)
        # A peak far from the answer lies on the grid, with cells of 300 km here
        least = 0.015 if name == "two peaks far apart" else 0.01
        assert_allclose(countries, country_sums(wanted), atol=0.01)
        assert_allclose(got, wanted, atol=least)


def test_a_density_on_a_border_is_divided():
    """A narrow density on the border of two countries along a parallel, 49° N."""
    narrow = Decoder(31)
    shares = narrow(torch.from_numpy(np.float32(peak(49.0, -105.0, 40.0, 31)))[None, None], areas())
    (country,) = shares.areas.country
    mass = dict(zip(country.ids.tolist(), country.probability.tolist(), strict=True))
    number = {code: FIRST_ID + i for i, code in enumerate(raster_countries())}
    assert mass[number["CA"]] == pytest.approx(0.5, abs=0.03)
    assert mass[number["US"]] == pytest.approx(0.5, abs=0.03)


def test_cells_of_a_grid_keep_their_mass():
    decoder = Decoder(L)
    cells = GridCells(decoder.tables.grid, None)
    share = np.asarray(cells.matrix(areas().region).sum(0)).ravel()
    assert_allclose(share, 1.0, atol=1e-6)
    mass = decoder.tables.area[None]
    far = torch.zeros(1, dtype=torch.long)
    (got,) = areas().region.shares(WeightedPoints(1, [], far, mass, cells))
    wanted = np.bincount(numbers_of_points(), minlength=areas().region.count) / len(POINTS)
    row = np.zeros_like(wanted)
    row[got.ids] = got.probability
    assert_allclose(row, wanted, atol=2e-3)


@pytest.mark.parametrize(("nodes", "points"), [(8, 12), (24, 72), (32, 96)])
def test_interpolation_along_a_ring_is_that_of_waves(nodes, points):
    angle, fine = (2.0 * np.pi * np.arange(n) / n for n in (nodes, points))
    for order in range(nodes // 2):
        for wave in (np.cos, np.sin):
            assert_allclose(
                _periodic(nodes, points) @ wave(order * angle), wave(order * fine), atol=1e-9
            )


def test_a_fused_density_has_the_masses_of_many_points():
    fused, part = world.fused(), world.photos(1, 2)
    taken = part.natural[:, None], part.appearance, part.trust
    columns = fused(*taken, areas())
    regions, _ = tables(columns.areas)
    for row, got in enumerate(regions):
        photo = tuple(one[row : row + 1] for one in taken)
        place = columns.latitude[row], columns.longitude[row]
        vectors, share = cap(*place, 1000.0, 60, 72)
        log_p = fused.log_density_at(*photo, torch.from_numpy(vectors)[None])[0].double().numpy()
        mass = np.exp(log_p) * share
        number = region_raster()(torch.from_numpy(vectors)).numpy()
        assert mass.sum() == pytest.approx(1.0, abs=0.02)
        wanted = np.bincount(number, mass, areas().region.count) / mass.sum()
        # The map of this small world is rougher than what is interpolated
        assert_allclose(got, wanted, atol=0.03)


def test_the_raster_has_the_country_of_a_point():
    some = POINTS[::20]
    known = country_codes(*latitude_longitude(some))
    raster = regions()[::20]
    same = [
        (a or "sea") == (b if b == "sea" else b[:2]) for a, b in zip(known, raster, strict=True)
    ]
    assert np.mean(same) > 0.995


def test_no_mass_at_all_is_at_the_answer():
    """A prior so small that no point lies in it: the whole mass is where the answer is."""
    speck = polygon_measure([shapely.box(8.50, 47.35, 8.56, 47.40)])
    shares = Decoder(L, DecodeConfig(), speck)(torch.zeros(1, 1, D), areas()).areas.region
    assert region_codes()[shares[0].ids[shares[0].probability.argmax()] - FIRST_ID] == "CH-ZH"
    assert shares[0].probability.sum() == pytest.approx(1.0, abs=1e-3)


def test_without_areas_there_are_none():
    assert Decoder(L)(torch.zeros(1, 1, D)).areas is None
    assert isinstance(region_partition(), RasterPartition)

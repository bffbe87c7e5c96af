"""Decisions from nodes against draws from the same densities, and against the plain decoder."""

import functools

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from locdiffusion.decoding.node_masses import NodeMasses
from locdiffusion.density import shdd
from locdiffusion.density.base_measure import LandShare
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, destination, unit_vectors
from locdiffusion.sphere.grids import polar_grid
from schemas.geotags import THRESHOLDS_KM
from support import densities

pytestmark = pytest.mark.usefixtures("one_thread")

EDGES_KM = np.array([0.0, 1.0, 4.0, 12.0, 35.0, 75.0, 135.0, 220.0, 400.0, 700.0, 1200.0])
LAND = LandShare()


def ring_nodes(log_density_of, centre, edges_km=EDGES_KM, azimuths=48):
    """Nodes around (latitude, longitude) of a density that is given by a function of vectors."""
    grid = polar_grid(edges_km / EARTH_RADIUS_KM, 4, azimuths)
    polar, bearing = np.arccos(grid.cos_theta), np.degrees(grid.longitude)
    km, bearing = (a.ravel() for a in np.meshgrid(polar * EARTH_RADIUS_KM, bearing, indexing="ij"))
    vectors = unit_vectors(*destination(*centre, bearing, km))
    area = grid.weights / (4.0 * np.pi)
    log_density = log_density_of(vectors)
    log_density = log_density - np.log(np.sum(area * np.exp(log_density)))
    radius = np.sqrt(4.0 * area) * EARTH_RADIUS_KM
    return NodeMasses(
        *(
            torch.from_numpy(a)[None]
            for a in (vectors, area * np.exp(log_density), log_density, radius)
        )
    )


def gaussian(centre, sigma_km):
    kappa = (EARTH_RADIUS_KM / sigma_km) ** 2
    return lambda vectors: kappa * (vectors @ unit_vectors(*centre) - 1.0)


@pytest.mark.parametrize("sigma_km", [10.0, 60.0, 200.0])
def test_a_gaussian_has_the_radii_and_probabilities_of_its_formula(sigma_km):
    centre = (47.0, 8.0)
    nodes = ring_nodes(gaussian(centre, sigma_km), centre)
    answer = torch.from_numpy(unit_vectors(*centre))[None]
    found = nodes.columns(answer, answer[:, None], LAND, 750.0, 3)
    assert_allclose(found.radius_50_km, sigma_km * np.sqrt(2.0 * np.log(2.0)), rtol=0.03)
    assert_allclose(found.radius_90_km, sigma_km * np.sqrt(2.0 * np.log(10.0)), rtol=0.03)
    wanted = 1.0 - np.exp(-0.5 * (np.array(THRESHOLDS_KM) / sigma_km) ** 2)
    assert_allclose(found.probability[0], wanted, atol=0.01)
    information = np.log(2.0 * (EARTH_RADIUS_KM / sigma_km) ** 2) - 1.0
    assert_allclose(found.information_nats, information, atol=0.01)


def test_points_beside_the_nodes_have_the_same_probabilities():
    """Nodes of kilometres around one place, asked about another one."""
    centre, sigma = (47.0, 8.0), 40.0
    nodes = ring_nodes(gaussian(centre, sigma), centre, azimuths=24)
    beside = destination(*centre, 70.0, 30.0)
    answer = torch.from_numpy(unit_vectors(*beside))[None]
    rng = np.random.default_rng(0)
    draws = np.hypot(sigma * rng.normal(size=200_000) - 30.0, sigma * rng.normal(size=200_000))
    found = nodes.columns(answer, answer[:, None], LAND, 750.0, 3)
    assert_allclose(found.radius_50_km, np.median(draws), rtol=0.03)
    assert_allclose(found.radius_90_km, np.quantile(draws, 0.9), rtol=0.03)
    for threshold, share in zip(THRESHOLDS_KM[1:], found.probability[0, 1:], strict=True):
        assert_allclose(share, np.mean(draws < threshold), atol=0.015)
    density = torch.tensor(np.log(2.0 * (EARTH_RADIUS_KM / sigma) ** 2) - 0.5 * (30.0 / sigma) ** 2)
    exact = nodes.columns(answer, answer[:, None], LAND, 750.0, 3, density[None])
    assert_allclose(exact.probability[0, 0], np.mean(draws < 1.0), rtol=0.25)


def test_the_ball_is_that_of_the_plain_decoder():
    natural = densities.HARD["two peaks grown together"][0]
    plain = densities.decode([natural], radius_km=600.0)

    edges = np.concatenate([EDGES_KM[:8], np.arange(300.0, 20_000.0, 150.0)])
    nodes = ring_nodes(functools.partial(shdd.field, natural), (12.0, 23.0), edges, 96)
    place = torch.from_numpy(unit_vectors(12.0, 23.0))[None]
    for _ in range(5):
        place = nodes.most_within(place, 600.0)
    theirs = torch.from_numpy(unit_vectors(plain.latitude, plain.longitude))
    both = torch.stack([place, theirs], 1)
    ours, wanted = nodes.within(both, 600.0)[0].tolist()
    assert_allclose(ours, wanted, rtol=0.003)
    found = nodes.columns(theirs, both, LAND, 600.0, 3)
    for name in ("radius_50_km", "radius_90_km"):
        assert_allclose(getattr(found, name), getattr(plain, name), rtol=0.01)
    assert_allclose(found.probability, plain.probability, atol=0.003)
    assert_allclose(found.information_nats, plain.information_nats, atol=0.01)
    assert_allclose(found.land_probability, plain.land_probability, atol=0.02)


def test_thresholds_prefer_the_sharp_place_to_the_middle_of_the_mass():
    """One place of 40 % within 1 km, the rest far around another."""
    sharp, middle = (10.0, 10.0), (12.0, 12.0)
    around = [destination(*middle, b, 250.0) for b in np.arange(0.0, 360.0, 30.0)]
    vectors = unit_vectors(*np.array([sharp, *around]).T)
    mass = np.array([0.4, *[0.05] * 12])
    nodes = NodeMasses(
        torch.from_numpy(vectors)[None],
        torch.from_numpy(mass)[None],
        torch.zeros(1, 13, dtype=torch.float64),
        torch.full((1, 13), 0.5, dtype=torch.float64),
    )
    points = torch.from_numpy(unit_vectors(*np.array([middle, sharp]).T))[None]
    assert nodes.most_thresholds(points).tolist() == [1]
    assert nodes.most_thresholds(points, (0.0, 0.0, 0.0, 1.0, 0.0)).tolist() == [0]


def test_other_places_are_reported_with_their_mass():
    vectors = unit_vectors([10.0, -30.0, -30.0], [10.0, 140.0, 140.5])
    nodes = NodeMasses(
        torch.from_numpy(vectors)[None],
        torch.tensor([[0.6, 0.3, 0.1]]).double(),
        torch.zeros(1, 3).double(),
        torch.ones(1, 3).double(),
    )
    answer = torch.from_numpy(vectors[:1])
    found = nodes.columns(answer, torch.from_numpy(vectors)[None], LAND, 100.0, 3)
    (modes,) = found.modes
    assert [round(mode.probability, 3) for mode in modes] == [0.6, 0.4]


def test_selected_and_joined_photos_are_the_same():
    nodes = ring_nodes(gaussian((0.0, 0.0), 50.0), (0.0, 0.0))
    halves = [
        NodeMasses(*(getattr(nodes, name)[:, part] for name in nodes.__dataclass_fields__))
        for part in (slice(None, 700), slice(700, None))
    ]
    whole = halves[0].joined(halves[1]).take(slice(0, 1))
    point = torch.from_numpy(unit_vectors(0.1, 0.1))[None, None]
    assert_allclose(whole.within(point, 30.0), nodes.within(point, 30.0), rtol=1e-9)

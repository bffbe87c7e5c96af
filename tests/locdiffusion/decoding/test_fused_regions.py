"""Regions of fused densities: they hold what they say, and agree with radii and probabilities."""

import numpy as np
import pytest
import shapely
import torch
from numpy.testing import assert_allclose

from locdiffusion.decoding import fused_mesh
from locdiffusion.decoding.credible_regions import RegionFinder
from locdiffusion.sphere.geodesy import unit_vectors
from support import appearance_world as world

pytestmark = pytest.mark.usefixtures("one_thread")


def regions(fused, part):
    return fused.regions(part.natural[:, None], part.appearance, part.trust)


def test_regions_hold_the_probability_that_they_state():
    """Integrated over the regions' own boxes, on even points."""
    fused, part = world.fused(), world.photos(3, 2)
    for row, pair in enumerate(regions(fused, part)):
        one = part.take(slice(row, row + 1))
        for region in pair:
            west, south, east, north = region.geometry.bounds
            x, y = np.meshgrid(*(np.linspace(a, b, 81) for a, b in ((west, east), (south, north))))
            inside = shapely.contains_xy(region.geometry, x, y)
            at = torch.from_numpy(unit_vectors(y[inside], x[inside])).float()[None]
            log_p = fused.log_density_at(one.natural[:, None], one.appearance, one.trust, at)
            step = np.radians(x[0, 1] - x[0, 0]) * np.radians(y[1, 0] - y[0, 0])
            area = step * np.cos(np.radians(y[inside])) / (4.0 * np.pi)
            held = float(np.sum(np.exp(log_p[0].double().numpy()) * area))
            assert_allclose(held, region.level, atol=0.03)
            assert_allclose(region.probability, region.level, atol=0.001)


def test_regions_are_no_larger_than_the_discs_of_the_radii():
    """A region is the smallest place that holds a probability."""
    fused, part = world.fused(), world.photos(6, 4)
    found = world.answers(fused, part)
    radii = np.stack([found.radius_50_km, found.radius_90_km], 1)
    for pair, of_photo in zip(regions(fused, part), radii, strict=True):
        for region, radius in zip(pair, of_photo, strict=True):
            assert 0.2 < region.area_km2 / (np.pi * radius**2) < 1.08


def test_without_trust_regions_are_those_of_the_density():
    fused, part = world.unfitted(), world.photos(3, 3)
    found = fused.regions(part.natural[:, None], part.appearance, torch.zeros(3))
    plain = RegionFinder(world.L)(part.natural[:, None])
    for ours, wanted in zip(found, plain, strict=True):
        for one, other in zip(ours, wanted, strict=True):
            assert_allclose(one.area_km2, other.area_km2, rtol=0.02)
            apart = shapely.symmetric_difference(one.geometry, other.geometry).area
            assert apart < 0.04 * other.geometry.area


@pytest.mark.parametrize("place", [(89.9, 30.0), (-16.0, 179.98), (0.0, -180.0)])
def test_regions_at_poles_and_at_the_date_line_are_valid(place):
    vector = unit_vectors(*[np.array([degrees]) for degrees in place])
    natural = torch.from_numpy(world.bump(vector))[:, None]
    found = world.fused().regions(natural, torch.zeros(1, world.COMPONENTS), torch.ones(1))
    plain = RegionFinder(world.L)(natural)
    for one, other in zip(found[0], plain[0], strict=True):
        assert one.geometry.is_valid
        assert 0.2 < one.area_km2 / other.area_km2 < 5.0


def areas(found):
    return np.array([[region.area_km2 for region in pair] for pair in found])


def test_regions_are_those_of_a_mesh_many_times_finer(monkeypatch):
    """For settled photos, and for two whose densities are so wide that they have far nodes."""
    fused, part = world.fused(), world.photos(4, 8)
    natural = torch.cat([part.natural, world.photos(2, 9, width_km=900.0).natural])[:, None]
    photos = natural, part.appearance[[0, 1, 2, 3, 0, 1]], torch.ones(6)
    nodes, _ = fused.laid(*fused.checked(*photos))
    assert nodes.whole.tolist() == [True] * 4 + [False] * 2
    found = areas(fused.regions(*photos))
    monkeypatch.setattr(fused_mesh, "LINES", 20)
    monkeypatch.setattr(fused_mesh, "GROWTH", 1.1)
    assert_allclose(found, areas(fused.regions(*photos)), rtol=0.015)


def test_regions_of_photos_are_those_of_each_alone():
    fused, part = world.fused(), world.photos(3, 10)
    alone = [regions(fused, part.take(slice(row, row + 1)))[0] for row in range(3)]
    assert_allclose(areas(regions(fused, part)), areas(alone), rtol=0.003)

"""Cells of H3: parents are those of the library, and masses those of many points."""

import h3
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from locdiffusion.decoding.area_masses import (
    Partitions,
    PointBlock,
    WeightedPoints,
    region_partition,
)
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.decoding.hexagons import Hexagons, parents
from locdiffusion.sphere.geodesy import unit_vectors
from support.densities import D, L, peak

pytestmark = pytest.mark.usefixtures("one_thread")


def points(latitude, longitude, mass):
    """One photo with masses at places."""
    vectors = torch.from_numpy(unit_vectors(latitude, longitude)).float()[None]
    masses = torch.tensor(mass)[None].float()
    photo = torch.zeros(1, dtype=torch.long)
    block = PointBlock(photo, vectors, masses, torch.full_like(masses[0], 1e-6))
    return WeightedPoints(1, [block], torch.zeros(0, dtype=torch.long), torch.zeros(0, 1))


@given(st.floats(-90, 90), st.floats(-180, 180), st.integers(0, 9), st.data())
@settings(max_examples=60, deadline=None)
def test_parents_are_those_of_the_library(latitude, longitude, resolution, data):
    cell = h3.latlng_to_cell(latitude, longitude, resolution)
    coarser = data.draw(st.integers(0, resolution))
    (found,) = parents(np.array([h3.str_to_int(cell)]), coarser).tolist()
    assert h3.int_to_str(found) == h3.cell_to_parent(cell, coarser)


def test_a_cell_without_enough_goes_to_its_parent():
    """95 % in one cell, and 5 % spread over a hundred places of its neighbourhood."""
    rng = np.random.default_rng(0)
    latitude = np.append(48.2, 48.2 + rng.uniform(-2.0, 2.0, 100))
    longitude = np.append(16.4, 16.4 + rng.uniform(-2.0, 2.0, 100))
    mass = np.append(0.95, np.full(100, 0.0005))
    (shares,) = Hexagons(5).shares(points(latitude, longitude, mass))
    assert shares.probability.sum() == pytest.approx(1.0, abs=1e-3)
    cells = [h3.int_to_str(cell) for cell in shares.ids.tolist()]
    assert cells[int(shares.probability.argmax())] == h3.latlng_to_cell(48.2, 16.4, 5)
    assert min(map(h3.get_resolution, cells)) < 5
    both = zip(cells, shares.probability, strict=True)
    coarse = [p for cell, p in both if h3.get_resolution(cell) > 0]
    assert min(coarse) >= 0.01


@pytest.mark.parametrize("height", [0.5, 10.0])
def test_masses_of_a_density_sum_to_one(height):
    natural = torch.from_numpy(np.float32(peak(-17.0, 179.9, height)))[None, None]
    wanted = Partitions(region_partition(), h3=Hexagons(4))
    (shares,) = Decoder(L)(natural, wanted).areas.h3
    assert shares.probability.sum() == pytest.approx(1.0, abs=0.012)
    assert natural.shape[-1] == D
    for cell in shares.ids.tolist():
        assert h3.is_valid_cell(h3.int_to_str(cell))


def test_a_resolution_that_there_is_not():
    with pytest.raises(ValueError, match="want 0 to 9"):
        Hexagons(16)

"""Cells of even size, and interpolation that is exact where theory says so."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from locdiffusion.appearance.cell_grid import CellGrid, CellTaps, cubic_weights
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between, unit_vectors
from support import tiny


def test_each_centre_lies_in_its_own_cell():
    grid = CellGrid(500.0)
    assert len(grid.centres) == len(grid)
    assert_array_equal(grid.cells(grid.centres), np.arange(len(grid)))


def test_cells_are_about_as_wide_as_high_up_to_high_latitudes():
    grid = CellGrid(100.0)
    circumference = 2.0 * math.pi * EARTH_RADIUS_KM
    polar_angle = (np.arange(grid.rows) + 0.5) * math.pi / grid.rows
    width = circumference * np.sin(polar_angle) / grid.columns
    below_80 = np.abs(90.0 - np.degrees(polar_angle)) < 80.0
    assert_allclose(width[below_80], 100.0, rtol=0.03)


def test_no_place_is_farther_from_its_cells_centre_than_half_a_diagonal():
    grid, places = CellGrid(200.0), tiny.random_points(2000, 0)
    km = EARTH_RADIUS_KM * angle_between(grid.centres[grid.cells(places)], places)
    assert km.max() < 200.0 * math.sqrt(0.5) * 1.05


def test_the_neighbours_of_a_cell_are_those_that_touch_it():
    grid = CellGrid(300.0)
    held = np.zeros(len(grid), bool)
    held[grid.cells(unit_vectors([0.0, 60.0], [179.9, 20.0]))] = True
    wider = grid.around(held)
    km = EARTH_RADIUS_KM * angle_between(grid.centres[:, None], grid.centres[held]).min(1)
    assert wider[km < 330.0].all()
    assert not wider[km > 600.0].any()


def test_cubic_convolution_passes_through_values_and_knows_parabolas():
    place = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    weights = cubic_weights(place)
    assert_allclose(weights[0], [0.0, 1.0, 0.0, 0.0], atol=1e-12)
    parabola = 3.0 - 2.0 * torch.arange(-1.0, 3.0) + 5.0 * torch.arange(-1.0, 3.0) ** 2
    wanted = 3.0 - 2.0 * place + 5.0 * place**2
    assert_allclose(weights @ parabola.double(), wanted, atol=1e-12)


@pytest.mark.parametrize("cell_km", [60.0, 120.0])
def test_interpolation_of_a_smooth_field_errs_with_the_cube_of_the_cells(cell_km):
    """Across the date line too: longitude wraps."""
    grid, taps = CellGrid(cell_km), CellTaps(CellGrid(cell_km))
    axis = tiny.random_points(3, 1)

    def field(vectors):
        return np.sin(4.0 * vectors @ axis.T).sum(-1)

    latitude = np.random.default_rng(2).uniform(-75.0, 75.0, 500)
    places = unit_vectors(latitude, np.linspace(170.0, 190.0, 500))
    cell, weight = taps(torch.from_numpy(places))
    found = (torch.from_numpy(field(grid.centres))[cell.long()] * weight).sum(-1)
    assert_allclose(weight.sum(-1), 1.0, atol=1e-12)
    assert np.abs(found.numpy() - field(places)).max() < 60.0 * (cell_km / EARTH_RADIUS_KM) ** 2


def test_a_grid_of_no_sensible_size_is_refused():
    with pytest.raises(ValueError, match=r"cell_km is 0\.1; want 2 to 2000 km"):
        CellGrid(0.1)

"""Averages, the Gaussian process and the map's file, against plain references."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from locdiffusion.appearance.appearance_map import AppearanceMap, land_cells
from locdiffusion.appearance.cell_grid import CellGrid
from locdiffusion.appearance.gaussian_process import Kriging, KrigingConfig, matern
from locdiffusion.appearance.places import Observations, PlaceSums
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between, unit_vectors
from support import tiny

CONFIG = KrigingConfig(length_km=3000.0, neighbours=60, tile_km=1000.0, average_km=50.0)


def world(vectors):
    """A smooth appearance ``(n, 2)`` by place."""
    return np.stack([np.sin(3.0 * vectors[:, 0]), vectors[:, 2] * vectors[:, 1]], -1)


def observed(count, seed=0):
    vectors = tiny.random_points(count, seed)
    return Observations(vectors, world(vectors).astype(np.float32), np.full(count, 0.01), count)


def test_photos_of_a_place_are_averaged_by_the_inverse_of_their_noise():
    here, there = unit_vectors([10.0, -40.0], [20.0, 100.0])
    sums = PlaceSums(1, 50.0)
    sums.add(np.array([[1.0], [3.0]], np.float32), np.stack([here, here]), 0.1)
    sums.add(np.array([[9.0], [5.0]], np.float32), np.stack([here, there]), 0.3)
    found = sums.observations()
    assert found.photos == 4
    assert_allclose(found.vectors, np.stack([here, there]), atol=1e-12)
    # weights 10, 10, 3.33
    assert_allclose(found.appearance[:, 0], [(10 + 30 + 30) / (70 / 3), 5.0], rtol=1e-6)
    assert_allclose(found.noise, [3 / 70, 0.3])


def test_chunks_change_nothing_and_memory_grows_with_places_only():
    vectors = np.repeat(tiny.random_points(3000, 0), 4, 0)
    appearance = np.random.default_rng(1).normal(size=(len(vectors), 2)).astype(np.float32)
    whole, parts = PlaceSums(2, 50.0), PlaceSums(2, 50.0)
    whole.add(appearance, vectors, 0.1)
    for rows in np.array_split(np.arange(len(vectors)), 7):
        parts.add(appearance[rows], vectors[rows], 0.1)
    one, other = whole.observations(), parts.observations()
    order = [np.lexsort(found.vectors.T) for found in (one, other)]
    assert_allclose(one.appearance[order[0]], other.appearance[order[1]], atol=1e-6)
    assert len(one.vectors) <= 3000
    before = parts.observations().vectors.shape
    parts.add(appearance, vectors, 0.1)
    assert parts.observations().vectors.shape == before


def test_no_photo_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="no training photo"):
        PlaceSums(2, 50.0).observations()


def test_the_local_process_equals_the_whole_one_where_all_places_are_near():
    data = observed(60)
    places = tiny.random_points(5, 3)
    found, variance = Kriging(data, CONFIG).at(places)
    chord = np.linalg.norm(data.vectors[:, None] - data.vectors, axis=-1)
    covariance = matern(chord, 3000.0) + np.diag(data.noise)
    towards = matern(np.linalg.norm(data.vectors[:, None] - places, axis=-1), 3000.0)
    weights = np.linalg.solve(covariance, towards)
    assert_allclose(found, weights.T @ data.appearance, atol=1e-8)
    assert_allclose(variance, 1.0 - (weights * towards).sum(0), atol=1e-8)


def test_variance_is_small_near_photos_and_one_far_away():
    vectors = unit_vectors(np.linspace(0.0, 8.0, 30), np.linspace(0.0, 5.0, 30))
    data = Observations(vectors, np.ones((30, 1), np.float32), np.full(30, 0.01), 30)
    config = KrigingConfig(length_km=300.0)
    appearance, variance = Kriging(data, config).at(unit_vectors([4.0, -60.0], [2.5, 170.0]))
    assert variance[0] < 0.05 and variance[1] > 0.999
    assert_allclose(appearance[:, 0], [1.0, 0.0], atol=0.05)


@pytest.fixture(scope="module")
def fitted():
    return AppearanceMap.fit(Kriging(observed(1500), CONFIG), 300.0)


def test_the_map_predicts_the_world_on_land(fitted):
    centres = fitted.grid.centres[fitted.held]
    error = fitted.appearance - world(centres)
    assert np.sqrt((error**2).mean()) < 0.05
    land = np.flatnonzero(land_cells(fitted.grid))
    assert np.isin(land, fitted.held).all()


def test_land_is_a_third_of_the_earth_and_no_ocean():
    grid = CellGrid(100.0)
    land = land_cells(grid)
    assert 0.28 < land.mean() < 0.45  # coasts count as a whole
    places = unit_vectors([47.0, -25.0, 0.0, -45.0], [8.0, 135.0, -140.0, -110.0])
    assert_array_equal(land[grid.cells(places)], [True, True, False, False])


def test_a_saved_map_is_the_same(fitted, tmp_path):
    file = tmp_path / "map.safetensors"
    size = fitted.save(file)
    again = AppearanceMap.load(file)
    assert again.grid == fitted.grid
    for name in ("held", "values", "scale", "log_variance"):
        assert_array_equal(getattr(again, name), getattr(fitted, name))
    cells = len(fitted.held)
    assert 3 * cells <= size < 3 * cells + len(fitted.grid) / 8 + 1000


def test_a_map_whose_tensors_do_not_fit_is_refused(fitted, tmp_path):
    file = tmp_path / "map.safetensors"
    AppearanceMap(
        fitted.grid, fitted.held[1:], fitted.values, fitted.scale, fitted.log_variance
    ).save(file)
    with pytest.raises(ValueError, match=r"no appearance map.*fit the map again"):
        AppearanceMap.load(file)


def test_cells_without_photos_in_reach_are_left_out():
    vectors = unit_vectors(np.full(40, 47.0), np.linspace(5.0, 15.0, 40))
    data = Observations(vectors, np.ones((40, 1), np.float32), np.full(40, 0.1), 40)
    found = AppearanceMap.fit(Kriging(data, KrigingConfig(length_km=200.0)), 200.0)
    centres = found.grid.centres[found.held]
    km = EARTH_RADIUS_KM * angle_between(centres[:, None], vectors).min(1)
    assert len(km) and km.max() < 1000.0

"""The code of a point is exact, even over the poles and across the antimeridian."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import eval_legendre

from locdiffusion.density import shdd
from locdiffusion.sphere.geodesy import (
    EARTH_RADIUS_KM,
    great_circle_km,
    latitude_longitude,
    unit_vectors,
)
from locdiffusion.sphere.grids import fibonacci_grid

LATITUDES = st.one_of(
    st.sampled_from([-90.0, -89.999999, 0.0, 89.999999, 90.0]), st.floats(-90.0, 90.0)
)
LONGITUDES = st.one_of(
    st.sampled_from([-180.0, -179.999999, 0.0, 179.999999, 180.0]), st.floats(-360.0, 360.0)
)


def nearest_point(code: np.ndarray, nodes: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Finds the point of codes ``(n, d)``: argmax of F on a grid, then a compass search."""
    code = np.atleast_2d(np.asarray(code, np.float64))
    max_degree = shdd.max_degree_of(code.shape[-1])
    grid = fibonacci_grid(nodes)
    best = grid[np.argmax(shdd.field(code, grid), axis=-1)]
    step = np.sqrt(4.0 * np.pi / nodes)
    for _ in range(400):
        east, north = tangents(best)
        trial = np.stack(
            [best, *(step_towards(best, d, step) for d in (east, -east, north, -north))], axis=1
        )
        values = np.einsum("nkd,nd->nk", shdd.encode_vectors(trial, max_degree), code)
        choice = np.argmax(values, axis=1)
        best = trial[np.arange(len(best)), choice]
        # Steps to and fro may gain a little each time, as north is not north there: shorten them.
        step *= 0.95
        if np.all(choice == 0):
            step *= 0.5
        if step < 1e-9:
            break
    return latitude_longitude(best)


def tangents(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reference = np.where(np.abs(vectors[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    east = np.cross(reference, vectors)
    east /= np.linalg.norm(east, axis=-1, keepdims=True)
    return east, np.cross(vectors, east)


def step_towards(vectors: np.ndarray, direction: np.ndarray, angle: float) -> np.ndarray:
    return np.cos(angle) * vectors + np.sin(angle) * direction


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(LATITUDES, LONGITUDES), min_size=1, max_size=4))
def test_decoding_a_code_finds_its_point(points):
    latitude, longitude = np.array(points).T
    code = shdd.encode(latitude, longitude, 11)
    back = nearest_point(code, nodes=2_000)
    assert great_circle_km(latitude, longitude, *back).max() < 0.1


@pytest.mark.parametrize("max_degree", [23, 31])
def test_decoding_is_exact_at_the_degrees_in_use(rng, max_degree):
    latitude = np.array([90.0, -90.0, 89.99, 0.0, 51.5, -33.9, -16.5])
    longitude = np.array([12.0, -170.0, 180.0, -180.0, -0.1, 151.2, 179.999])
    back = nearest_point(shdd.encode(latitude, longitude, max_degree), nodes=10_000)
    assert great_circle_km(latitude, longitude, *back).max() < 0.01


@settings(deadline=None, max_examples=50)
@given(LATITUDES, LONGITUDES)
def test_every_code_has_the_same_norm(latitude, longitude):
    code = shdd.encode(latitude, longitude, 31)
    assert code @ code == pytest.approx(1024.0, rel=1e-12)


@settings(deadline=None, max_examples=50)
@given(LATITUDES, LONGITUDES, LATITUDES, LONGITUDES)
def test_the_product_of_codes_depends_on_the_distance_alone(lat1, lon1, lat2, lon2):
    product = shdd.encode(lat1, lon1, 15) @ shdd.encode(lat2, lon2, 15)
    cos = float(np.clip(unit_vectors(lat1, lon1) @ unit_vectors(lat2, lon2), -1, 1))
    degree = np.arange(16)
    wanted = np.sum((2 * degree + 1) * eval_legendre(degree, cos))
    assert product == pytest.approx(wanted, abs=1e-9)


def test_shapes_follow_the_points():
    assert shdd.encode(np.zeros((2, 3)), np.zeros((2, 3)), 4).shape == (2, 3, 25)
    assert shdd.field(np.zeros((7, 25)), np.eye(3)).shape == (7, 3)


def test_field_of_a_code_peaks_at_d_and_has_the_known_half_width():
    """Half-maximum radius 588 km at L = 23 and 441 km at L = 31."""
    for max_degree, half_km in ((23, 588.0), (31, 441.0)):
        code = shdd.encode(90.0, 0.0, max_degree)
        latitude = 90.0 - np.degrees(half_km / 6371.0088)
        peak, half = shdd.field(code, unit_vectors([90.0, latitude], 0.0))
        assert peak == pytest.approx((max_degree + 1) ** 2)
        assert half / peak == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize(
    ("latitude", "longitude", "message"),
    [
        (float("nan"), 0.0, "not finite"),
        (0.0, float("inf"), "not finite"),
        (90.5, 0.0, r"90\.5.*swapped"),
        ([10.0, -151.2], [0.0, 33.0], r"-151\.2.*swapped"),
    ],
)
def test_coordinates_that_are_none_are_errors(latitude, longitude, message):
    with pytest.raises(ValueError, match=message):
        shdd.encode(latitude, longitude, 3)


@pytest.mark.parametrize("dimension", [0, 2, 1000])
def test_a_dimension_that_is_no_square_is_an_error(dimension):
    with pytest.raises(ValueError, match=rf"{dimension}.*\(L \+ 1\)²"):
        shdd.max_degree_of(dimension)


def test_heat_flow_is_the_mean_code_of_points_that_wander(rng):
    """Small random steps on the sphere: their end points are as scattered as heat is."""
    degree, sigma_km, steps = 11, 900.0, 40
    points = np.tile(unit_vectors(50.0, 10.0), (100_000, 1))
    for _ in range(steps):
        step = rng.normal(size=points.shape) * sigma_km / EARTH_RADIUS_KM / np.sqrt(steps)
        points += step - points * (points * step).sum(1, keepdims=True)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    wanted = shdd.encode(50.0, 10.0, degree) * shdd.heat_flow(degree, sigma_km)
    # The mean of 100,000 codes of unit root-mean-square is known to about 0.003.
    np.testing.assert_allclose(shdd.encode_vectors(points, degree).mean(0), wanted, atol=0.02)
    np.testing.assert_array_equal(shdd.heat_flow(degree, 0.0), 1.0)

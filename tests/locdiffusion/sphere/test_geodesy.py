"""Points and distances agree with PROJ on the same sphere, and stay accurate where it is hard."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyproj import Geod

from locdiffusion.sphere.geodesy import (
    EARTH_RADIUS_KM,
    angle_between,
    destination,
    great_circle_km,
    latitude_longitude,
    unit_vectors,
    wrap_longitude,
)

PROJ = Geod(a=EARTH_RADIUS_KM * 1000.0, b=EARTH_RADIUS_KM * 1000.0)
HALF_ROUND_KM = math.pi * EARTH_RADIUS_KM

# Corners are drawn more often than chance would: the poles, the antimeridian, the origin.
LATITUDES = st.one_of(
    st.sampled_from([-90.0, -89.9999999, 0.0, 89.9999999, 90.0]), st.floats(-90.0, 90.0)
)
LONGITUDES = st.one_of(
    st.sampled_from([-180.0, -179.9999999, 0.0, 179.9999999, 180.0, 540.0]),
    st.floats(-720.0, 720.0),
)


def test_distance_is_that_of_proj(rng):
    lat1, lat2 = np.degrees(np.arcsin(rng.uniform(-1, 1, (2, 500))))
    lon1, lon2 = rng.uniform(-180, 180, (2, 500))
    _, _, metres = PROJ.inv(lon1, lat1, lon2, lat2)
    np.testing.assert_allclose(great_circle_km(lat1, lon1, lat2, lon2), metres / 1000, rtol=1e-9)


def test_destination_is_that_of_proj(rng):
    lat, lon = np.degrees(np.arcsin(rng.uniform(-1, 1, 500))), rng.uniform(-180, 180, 500)
    bearing, distance = rng.uniform(-360, 360, 500), rng.uniform(0, HALF_ROUND_KM, 500)
    lon2, lat2, _ = PROJ.fwd(lon, lat, bearing, distance * 1000.0)
    reached = destination(lat, lon, bearing, distance)
    assert great_circle_km(*reached, lat2, lon2).max() < 1e-6


@settings(deadline=None, max_examples=200)
@given(LATITUDES, LONGITUDES)
def test_degrees_survive_the_way_to_vectors_and_back(latitude, longitude):
    vector = unit_vectors(latitude, longitude)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-15)
    back_lat, back_lon = latitude_longitude(vector)
    assert -180.0 <= back_lon < 180.0
    assert abs(back_lat - latitude) < 1e-7
    assert great_circle_km(latitude, longitude, back_lat, back_lon) < 1e-8


@settings(deadline=None, max_examples=200)
@given(LATITUDES, LONGITUDES, st.floats(-360.0, 360.0), st.floats(0.0, HALF_ROUND_KM))
def test_destination_lies_at_the_distance_asked_for(latitude, longitude, bearing, distance):
    reached = destination(latitude, longitude, bearing, distance)
    assert great_circle_km(latitude, longitude, *reached) == pytest.approx(distance, abs=1e-6)


@settings(deadline=None)
@given(LATITUDES, LONGITUDES, LATITUDES, LONGITUDES)
def test_distance_is_symmetric_and_blind_to_whole_turns(lat1, lon1, lat2, lon2):
    forth, back = great_circle_km(lat1, lon1, lat2, lon2), great_circle_km(lat2, lon2, lat1, lon1)
    assert forth == pytest.approx(back, abs=1e-9)
    assert 0.0 <= forth <= HALF_ROUND_KM * (1 + 1e-15)
    assert great_circle_km(lat1, lon1 + 360.0, lat2, lon2) == pytest.approx(forth, abs=1e-8)


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-6, 1e-3, 1.0])
def test_tiny_and_nearly_antipodal_angles_keep_their_digits(angle):
    """An arccos of the dot product returns 0 below 1e-8, and loses as much near π."""
    start = np.array([1.0, 0.0, 0.0])
    near = np.array([math.cos(angle), math.sin(angle), 0.0])
    assert angle_between(start, near) == pytest.approx(angle, rel=1e-12)
    assert math.pi - angle_between(start, -near) == pytest.approx(angle, rel=1e-9, abs=1e-15)


def test_known_distances():
    quarter = HALF_ROUND_KM / 2
    assert great_circle_km(0, 0, 0, 90) == pytest.approx(quarter)
    assert great_circle_km(90, 0, -90, 123) == pytest.approx(2 * quarter)
    assert great_circle_km(10, 179.5, 10, -179.5) == pytest.approx(
        great_circle_km(10, -0.5, 10, 0.5)
    )
    assert great_circle_km(90, 17, 90, -160) == pytest.approx(0, abs=1e-9)


def test_north_of_the_pole_is_the_limit_along_the_meridian():
    latitude, longitude = destination(90.0, 30.0, 180.0, 1000.0)
    assert float(longitude) == pytest.approx(30.0)
    assert float(latitude) == pytest.approx(90.0 - math.degrees(1000.0 / EARTH_RADIUS_KM))


@settings(deadline=None)
@given(st.floats(-1e6, 1e6))
@example(math.nextafter(-180.0, -181.0))
def test_wrapped_longitude_lies_in_its_half_open_range(longitude):
    wrapped = float(wrap_longitude(longitude))
    assert -180.0 <= wrapped < 180.0
    turns = (wrapped - longitude) / 360.0
    assert abs(turns - round(turns)) < 1e-9


def test_arguments_broadcast():
    latitude, longitude = destination([10.0, 20.0, 30.0], 5.0, [[0.0], [90.0]], 100.0)
    assert latitude.shape == longitude.shape == (2, 3)
    assert great_circle_km([[10.0], [20.0]], 0.0, [1.0, 2.0, 3.0], 0.0).shape == (2, 3)

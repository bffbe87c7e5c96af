"""Rasters of areas against the polygons themselves."""

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from locdiffusion.geography.area_raster import AreaRaster, Box, raster_numbers
from locdiffusion.geography.polygons import PolygonIndex
from locdiffusion.geography.regions import find_regions, region_codes
from locdiffusion.geography.units import Units
from locdiffusion.sphere.geodesy import unit_vectors


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_cells_have_the_first_polygon_around_their_centres(seed, count):
    rng = np.random.default_rng(seed)
    shapes = [
        shapely.Point(*rng.uniform(-8, 8, 2)).buffer(rng.uniform(0.5, 6), quad_segs=3)
        for _ in range(count)
    ]
    shapes[0] = shapes[0] - shapely.Point(0, 0).buffer(1.5)
    index = PolygonIndex([str(i) for i in range(count)], shapes)
    box = Box.around((-10.0, -10.0, 10.0, 10.0), 0.37)
    numbers = raster_numbers(index.parts, np.arange(len(index.parts)), box)
    row, column = (places.ravel() for places in np.indices(numbers.shape))
    assert_array_equal(numbers.ravel(), index.parts_around(*box.centres(row, column)))


def test_places_are_looked_up_all_over_the_earth():
    box = Box.around((-180.0, -90.0, 180.0, 90.0), 5.0)
    ids = torch.arange(box.rows * box.columns).view(box.rows, box.columns)
    rng = np.random.default_rng(0)
    latitude = np.append(rng.uniform(-90, 90, 500), [90.0, -90.0, 89.99, -89.99])
    longitude = np.append(rng.uniform(-180, 180, 500), [0.0, 0.0, 179.99, -179.99])
    found = AreaRaster(box, ids, -1)(torch.from_numpy(unit_vectors(latitude, longitude)))
    row = ((90.0 - latitude) // 5.0).clip(max=box.rows - 1)
    wanted = row * box.columns + (longitude + 180.0) // 5.0
    assert_array_equal(found[:-4], wanted[:-4])
    assert (found // box.columns)[-4:].tolist() == [0, box.rows - 1, 0, box.rows - 1]


def test_units_join_polygons_of_one_code():
    squares = [shapely.box(x, 0.0, x + 1.0, 1.0) for x in range(4)]
    units = Units(PolygonIndex(["a", "b", "c", "d"], squares), ["1", "2", "1", None])
    assert units.labels == ("1", "2")
    names, codes, numbers = units.around([0.5] * 5, [0.5, 1.5, 2.5, 3.5, 9.5])
    assert names == ["a", "b", "c", "d", None] and codes == ["1", "2", "1", None, None]
    assert numbers.tolist() == [1, 2, 1, 0, 0]
    vectors = torch.from_numpy(unit_vectors([0.5] * 5, [0.5, 1.5, 2.5, 3.5, 9.5]))
    assert units.raster()(vectors).tolist() == [1, 2, 1, 0, 0]


@pytest.mark.parametrize(
    ("place", "country", "region"),
    [
        ((47.37, 8.54), "CH", "CH-ZH"),
        ((40.7, -74.0), "US", "US-NY"),
        ((42.6, 21.1), "XK", "XK"),
        ((54.5, 7.9), "DE", None),
        ((0.0, -30.0), None, None),
        ((-17.8, 177.9), "FJ", "FJ-W"),
    ],
)
def test_a_region_lies_in_the_country_of_the_point(place, country, region):
    (found,) = find_regions(*([x] for x in place), [country])
    assert found == region if region or not country else found[:2] == country
    assert list(region_codes()) == sorted(region_codes())

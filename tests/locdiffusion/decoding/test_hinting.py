"""Hints: their areas, and what they make of densities that are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from locdiffusion.decoding.answers import PhotoPoints
from locdiffusion.decoding.hint_area import MOST_CORNERS, HintArea, _Disc, checked_area
from locdiffusion.decoding.hinting import Hint, candidates, hinted, nodes_of
from locdiffusion.geography.areas import SEA_WEIGHT, AreaError, Disc
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, great_circle_km, unit_vectors

SPHERE_KM2 = 4.0 * math.pi * EARTH_RADIUS_KM**2


def even_points(count: int) -> np.ndarray:
    """Points of equal areas all over the sphere, ``(count, 3)``."""
    z = 1.0 - 2.0 * (np.arange(count) + 0.5) / count
    return unit_vectors(
        np.degrees(np.arcsin(z)), np.degrees(np.arange(count) * math.pi * (3 - math.sqrt(5)))
    )


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-90, 90),
    st.floats(-180, 180),
    st.floats(-1, math.log10(20015)).map(lambda power: 10**power),
)
def test_points_of_a_disc_lie_in_it_and_have_its_area(latitude, longitude, km):
    disc = Disc(latitude + 0.0, longitude + 0.0, km)
    area = HintArea((_Disc(disc, sea=True),))
    at = np.degrees(np.arcsin(area.laid.vectors[:, 2].clip(-1, 1)))
    east = np.degrees(np.arctan2(area.laid.vectors[:, 1], area.laid.vectors[:, 0]))
    assert great_circle_km(at, east, latitude, longitude).max() <= km * (1 + 1e-6) + 1e-3
    cap = math.sin(km / EARTH_RADIUS_KM / 2) ** 2
    assert area.laid.share.sum() == pytest.approx(cap, rel=1e-9)
    assert (area.weight(area.laid.vectors) == 1.0).all()


@pytest.mark.parametrize(
    "text, km2", [("country:LU", 2_586), ("country:NO", 323_800), ("country:AU", 7_690_000)]
)
def test_points_of_a_country_have_the_area_of_its_land(text, km2):
    laid = HintArea.parse(text).laid
    weight = HintArea.parse(text).weight(laid.vectors)
    assert (weight * laid.share).sum() * SPHERE_KM2 == pytest.approx(km2, rel=0.04)
    assert (weight > 0.0).all() and weight.max() <= 1.0


def test_polygons_are_those_of_their_text():
    text = "MULTIPOLYGON(((10 50, 14 50, 14 52, 10 52, 10 50), (11 50.5, 13 50.5, 12 51.5)), "
    text += "((20 50, 21 50, 21 51, 20 51)))"
    area, shape = (
        HintArea.parse(text),
        shapely.make_valid(
            shapely.from_wkt(
                text.replace("12 51.5)", "12 51.5, 11 50.5)").replace("20 51)", "20 51, 20 50)")
            )
        ),
    )
    points = even_points(200_000)
    latitude = np.degrees(np.arcsin(points[:, 2]))
    longitude = np.degrees(np.arctan2(points[:, 1], points[:, 0]))
    inside = shapely.contains_xy(shape, longitude, latitude)
    near = shapely.contains_xy(shape.buffer(0.3), longitude, latitude)
    weight = area.weight(points)
    assert weight[inside].mean() > 0.9 and not weight[~near].any()


@pytest.mark.parametrize(
    "text, words",
    [
        ("Bergen?", "is no area; write country:NO"),
        ("POLYGON((5 60, 6 60))", "is damaged"),
        ("POLYGON((60 5, 60 6, 61 95, 60 5))", "longitude comes first"),
        ("POLYGON((5 60, 5 61, x 61))", "is damaged"),
        ("POLYGON((5 60, 6 60, 7 60))", "has no area"),
        ("POLYGON EMPTY", "is no area"),
        ("country:ZZ", "is no country"),
        ("91,0,5km", "not within"),
        (f"POLYGON(({', '.join(['5 60'] * (MOST_CORNERS + 1))}))", "simplify it"),
    ],
)
def test_what_is_no_area_is_told(text, words):
    with pytest.raises(AreaError, match=words):
        HintArea.parse(text)
    with pytest.raises(AreaError, match=words):
        checked_area(text)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="POLYGONMUTI()0123456789.,;- ensa:", max_size=80))
def test_any_text_is_an_area_or_is_told(text):
    for start in ("", "POLYGON((", "MULTIPOLYGON((("):
        try:
            checked_area(start + text)
        except AreaError as error:
            assert 20 < len(str(error)) < 500


def hot_spots(points, *spots):
    """Density against the uniform one of kernels exp(κ(cos - 1)), each with a share of the mass."""
    total = np.zeros(len(points))
    for latitude, longitude, km, share in spots:
        kappa = (EARTH_RADIUS_KM / km) ** 2
        cosine = points @ unit_vectors(latitude, longitude)
        norm = 2.0 * kappa / -np.expm1(-2.0 * kappa)
        total += share * norm * np.exp(kappa * (cosine - 1.0))
    return total


SPOTS = ((60.0, 10.0, 400.0, 0.7), (-25.0, 135.0, 600.0, 0.3))


def spots_at(points, spots=SPOTS):
    share = np.full(len(points), 1.0 / len(points))
    return PhotoPoints(points, hot_spots(points, *spots) * share, share)


def uniform(vectors):
    return np.zeros(len(vectors))


@pytest.mark.parametrize("hint", ["60,10,300km;sea", "-25,135,900km;sea", "0,0,2000km;sea"])
@pytest.mark.parametrize("right", [0.5, 0.9, 0.999])
def test_the_mixture_is_that_of_a_dense_quadrature(hint, right):
    points = even_points(400_000)
    area = HintArea.parse(hint)
    inside = area.weight(points)
    p = hot_spots(points, *SPOTS)
    h = 1.0 - right + right * inside / inside.mean()
    dense = p * h / (p * h).sum()
    # The photo's own points are too far apart for a small area
    found = hinted(
        spots_at(even_points(3_000)),
        Hint(area, right),
        lambda vectors: np.log(hot_spots(vectors, *SPOTS)),
        uniform,
    )
    assert found.prior_mass == pytest.approx((p * inside).mean(), rel=0.03, abs=1e-4)
    nodes = nodes_of(found.points)
    mass = nodes.mass[0].numpy()
    assert mass.sum() == pytest.approx(1.0)
    vectors = nodes.vectors[0].numpy()
    for wanted in (area, HintArea.parse("60,10,1500km;sea"), HintArea.parse("-25,135,1500km;sea")):
        expected = dense[wanted.weight(points) > 0].sum()
        assert mass[wanted.weight(vectors) > 0].sum() == pytest.approx(expected, abs=0.02)


def test_a_hint_that_contradicts_the_picture_changes_little():
    points = spots_at(even_points(100_000))
    found = hinted(
        points,
        Hint(HintArea.parse("-40,-100,500km;sea"), 0.9),
        lambda vectors: np.log(hot_spots(vectors, *SPOTS).clip(1e-30)),
        uniform,
    )
    assert found.prior_mass < 1e-6
    near = HintArea.parse("60,10,1500km;sea")
    nodes = nodes_of(found.points)
    inside = near.weight(nodes.vectors[0].numpy()) > 0
    assert nodes.mass[0].numpy()[inside].sum() == pytest.approx(0.7, abs=0.01)


def test_a_hint_for_all_that_is_possible_changes_nothing():
    points = spots_at(even_points(20_000))
    log_p = lambda vectors: np.log(hot_spots(vectors, *SPOTS))  # noqa: E731
    found = hinted(points, Hint(HintArea.parse("0,0,20015km;sea")), log_p, uniform)
    assert found.prior_mass == pytest.approx(1.0, abs=0.01)
    mass = found.points.mass / found.points.mass.sum()
    np.testing.assert_allclose(mass, points.mass / points.mass.sum(), atol=1e-9)


def test_the_sea_of_a_hint_counts_little_and_its_points_may_be_answers():
    area = HintArea.parse("53,-4,400km")
    weight = area.weight(area.laid.vectors)
    assert weight.min() == pytest.approx(SEA_WEIGHT) and weight.max() == 1.0
    nodes = nodes_of(spots_at(even_points(2_000)))
    chosen = candidates(nodes)
    assert chosen.shape[0] == 1 and chosen.shape[2] == 3
    best = hot_spots(chosen[0].numpy(), *SPOTS).max()
    assert best == pytest.approx(hot_spots(even_points(2_000), *SPOTS).max())


@pytest.mark.parametrize("right", [0.0, 1.0, -0.1, math.nan])
def test_what_is_no_probability_is_told(right):
    with pytest.raises(ValueError, match="wanted above 0 and below 1"):
        Hint(HintArea.parse("0,0,5km"), right)

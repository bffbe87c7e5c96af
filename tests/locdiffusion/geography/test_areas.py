"""Areas by name: what is understood, what is refused, and how much of the Earth each covers."""

import math
import string

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st

from locdiffusion.geography.areas import SEA_WEIGHT, AreaError, Areas, Disc, prior_file
from locdiffusion.geography.countries import NEAR_KM, countries, find_countries
from locdiffusion.geography.polygons import raster_share
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, great_circle_km

ROWS, COLUMNS = 240, 480


def cells_of(disc: Disc, rows: int = ROWS, columns: int = COLUMNS) -> float:
    """The area of a disc in cells: that of a cap, 4πR² sin²(r/2R)."""
    return rows * columns * math.sin(disc.radius_km / EARTH_RADIUS_KM / 2.0) ** 2


def centres(rows: int = ROWS, columns: int = COLUMNS) -> tuple[np.ndarray, np.ndarray]:
    z = 1.0 - 2.0 * (np.arange(rows) + 0.5) / rows
    longitude = (np.arange(columns) + 0.5) * 360.0 / columns - 180.0
    return np.meshgrid(np.degrees(np.arcsin(z)), longitude, indexing="ij")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("country:NO", Areas(("NO",))),
        (" COUNTRY: se ;country:no", Areas(("NO", "SE"))),
        ("59.9,10.7,300km", Areas((), (Disc(59.9, 10.7, 300.0),))),
        (" -33.9 , +151. , .5 KM;", Areas((), (Disc(-33.9, 151.0, 0.5),))),
        ("1,2,3km;country:NO;1,2,3.0km", Areas(("NO",), (Disc(1.0, 2.0, 3.0),))),
        *((name, None) for name in ("land", "uniform", "a;b.geojson", "gs://b/prior.parquet", "")),
    ],
)
def test_what_is_understood_and_how_it_is_written(text, wanted):
    found = Areas.parse(text)
    assert found == wanted
    if wanted is not None:
        assert Areas.parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("country:NOR", "'NOR' is no country; write the two letters of ISO 3166-1"),
        ("country:UK", "with U begin UA, UG"),
        ("country:", "'' is no country"),
        ("99,10,3km", r"latitude 99 is not within ±90°. Are the two swapped\?"),
        ("10,181,3km", "longitude 181 is not within"),
        ("1,2,0km", "radius 0 km is not above 0"),
        ("1,2,-3km", "radius -3 km is not above 0"),
        ("1,2,20016km", "at most 20,015 km, which is half around the Earth"),
        ("1,2,3", "no disc; write latitude, longitude and radius, such as 59.9,10.7,300km"),
        ("1,2", "no disc"),
        ("nan,2,3km", "no disc"),
        ("1,2,infkm", "no disc"),
        ("1e400,2,3km", "no disc"),
        ("country:NO;land", "'land' stands beside the area 'country:NO'"),
        (";".join(["1,2,3km"] * 1001), "1,001 areas, limit 1,000"),
    ],
)
def test_what_is_refused_says_what_to_write(text, says):
    with pytest.raises(AreaError, match=says):
        Areas.parse(text)


@given(st.text(alphabet="country:NOSE.,;+-km0123456789 " + string.printable, max_size=40))
def test_any_text_is_areas_something_else_or_an_error(text):
    try:
        found = Areas.parse(text)
    except AreaError as error:
        assert 20 < len(str(error)) < 500
        return
    assert found is None or Areas.parse(str(found)) == found


@settings(max_examples=30, deadline=None)
@given(
    st.floats(-90, 90),
    st.floats(-180, 180),
    st.floats(-3, math.log10(20015)).map(lambda power: 10**power),
)
@example(87.5, 0.0, 10**2.5)  # a pole within it
@example(-90.0, 0.0, 0.03)  # less than 1e-9 of each cell
def test_a_disc_covers_its_area_and_nothing_beyond_the_cells_it_touches(latitude, longitude, km):
    disc = Disc(latitude, longitude, km)
    share = disc.share(ROWS, COLUMNS)
    assert share.sum() == pytest.approx(cells_of(disc), rel=2e-3)  # parallels, coarse at poles
    assert share.min() >= 0.0 and share.max() <= 1.0
    away = great_circle_km(latitude, longitude, *centres())
    # The farthest that the centre of a cell is from a corner of it, polewards.
    reach = 0.51 * EARTH_RADIUS_KM * 2.0 * math.acos(1.0 - 2.0 / ROWS)
    assert not share[away > km + reach].any()
    assert (share[away < km - reach] > 0.99).all()


@pytest.mark.parametrize("latitude, longitude", [(0.0, 0.0), (48.2, 180.0), (-67.0, -179.9)])
def test_a_disc_is_the_polygon_around_it(latitude, longitude):
    disc = Disc(latitude, longitude, 900.0)
    bearing = np.radians(np.arange(0, 360, 0.5))
    at, angle = math.radians(latitude), disc.radius_km / EARTH_RADIUS_KM
    lat = np.arcsin(
        math.sin(at) * math.cos(angle) + math.cos(at) * math.sin(angle) * np.cos(bearing)
    )
    east = np.arctan2(
        np.sin(bearing) * math.sin(angle) * math.cos(at),
        math.cos(angle) - math.sin(at) * np.sin(lat),
    )
    ring = np.degrees(np.stack([east, lat], 1))
    # Around longitude 0, and then turned by whole cells.
    share = raster_share(shapely.Polygon(ring), ROWS, COLUMNS, 64)
    turn = longitude / 360.0 * COLUMNS
    around = Disc(latitude, (turn - round(turn)) * 360.0 / COLUMNS, 900.0).share(ROWS, COLUMNS)
    whole = np.roll(around, round(turn), axis=1)
    np.testing.assert_allclose(disc.share(ROWS, COLUMNS), whole, atol=1e-9)
    if turn == round(turn):
        np.testing.assert_allclose(np.roll(share, round(turn), axis=1), whole, atol=0.08)
        assert abs(share.sum() / whole.sum() - 1.0) < 1e-3


@pytest.mark.parametrize("code", ["NO", "FJ", "LU", "US"])
def test_a_country_is_where_country_codes_says_so(code):
    """At the centres of cells; nearer than 2 km to where another rule begins, both may be right."""
    rows, columns = 960, 1920
    share = Areas((code,)).share(np.ones((rows, columns)))
    latitude, longitude = centres(rows, columns)
    generator = np.random.default_rng(0)
    near = np.flatnonzero(share)
    chosen = np.concatenate(
        [
            generator.choice(near, 150),
            *(generator.choice(near, 50) + d for d in (2, -2, 2 * columns)),
        ]
    )
    chosen = chosen[(chosen >= 0) & (chosen < share.size)]
    at = latitude.ravel()[chosen], longitude.ravel()[chosen]
    found = find_countries(*at)
    for value, found_code, how in zip(
        share.ravel()[chosen], found.codes, found.found_by, strict=True
    ):
        if found_code == code and how == "inside":
            assert value > SEA_WEIGHT
        elif found_code != code:
            assert value < 1.0
    inside = np.array([one == code for one in found.codes])
    assert inside.sum() > 100
    assert (share.ravel()[chosen][inside] > 0).mean() > 0.98  # 2 km of 22


def test_land_counts_alike_and_the_sea_little():
    rows, columns = 960, 1920
    share = Areas(("IS",)).share(np.ones((rows, columns)))
    parts = countries().parts[np.array(countries().part_names, object) == "IS"]
    land = raster_share(parts, rows, columns)
    assert (share[land > 1.0 - 1e-6] == 1.0).all()
    sea = (land == 0.0) & (share > 0.0)
    assert sea.sum() > 50
    np.testing.assert_allclose(share[sea], SEA_WEIGHT, rtol=1e-6)
    latitude, longitude = centres(rows, columns)
    tree, edge = shapely.STRtree(parts), NEAR_KM / 111.2 / 0.4
    points = shapely.points(longitude[sea], latitude[sea])
    assert shapely.distance(points, parts[tree.nearest(points)]).max() < edge


def test_the_sea_of_a_disc_counts_little_unless_it_is_asked_for():
    land = np.random.default_rng(0).random((ROWS, COLUMNS))
    text = "60,5,900km"
    disc = Areas.parse(text).discs[0].share(ROWS, COLUMNS)
    np.testing.assert_allclose(
        Areas.parse(text).share(land), disc * (SEA_WEIGHT + (1.0 - SEA_WEIGHT) * land)
    )
    at_sea = Areas.parse(f"Sea;{text}")
    np.testing.assert_array_equal(at_sea.share(land), disc)
    assert str(at_sea) == f"{text};sea" and Areas.parse(str(at_sea)) == at_sea
    near = Areas.parse("country:IS;sea").share(land)
    assert (near[Areas.parse("country:IS").share(land) > 0.0] > SEA_WEIGHT).any()
    assert near.max() <= 1.0 + 1e-9


def test_sea_alone_is_no_area():
    assert Areas.parse("sea") is None
    assert prior_file("a/b.geojson;sea") == ("a/b.geojson", True)
    assert prior_file("a/sea") == ("a/sea", False)


def test_several_areas_are_their_union():
    texts = "country:NO", "country:SE", "60,11,50km", "0,-30,400km"
    land = np.ones((ROWS, COLUMNS))
    one_by_one = [Areas.parse(text).share(land) for text in texts]
    joined = Areas.parse(";".join(texts)).share(land)
    assert (joined >= np.max(one_by_one, axis=0) - 1e-12).all()
    assert (joined <= np.minimum(np.sum(one_by_one, axis=0), 1.0) + 1e-12).all()
    twice = Areas.parse("60,11,50km;60,11.0,50.0km;country:NO;country:NO")
    assert twice == Areas.parse("country:NO;60,11,50km")

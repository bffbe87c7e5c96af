"""Albums with bad input in bulk: each photo gets a standing, and mistakes pull no other photo."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from locdiffusion.albums.album import Album
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.placing import place
from locdiffusion.sphere.geodesy import great_circle_km
from schemas.albums import Standing
from support import SEED
from support.albums import START_HOUR, hiding, walk

PARAMETERS = AlbumParameters.load()
UNSET = 24.0 * 365.25 * 10.0  # 1980, as of a clock that was never set

hours = st.one_of(
    st.floats(START_HOUR, START_HOUR + 300.0),
    st.sampled_from([np.nan, np.inf, -1e9, UNSET, START_HOUR, START_HOUR + 1.0]),
)
places = st.one_of(
    st.tuples(st.floats(-90.0, 90.0), st.floats(-180.0, 180.0)),
    st.sampled_from([(np.nan, np.nan), (0.0, 0.0), (90.0, 0.0), (48.0, 11.0), (48.001, 11.0)]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(hours, places), max_size=12))
def test_each_photo_has_a_standing_and_answers_are_finite(photos):
    times = np.array([time for time, _ in photos])
    where = np.array([place for _, place in photos]).reshape(-1, 2)
    album = Album.of(times, where[:, 0], where[:, 1])
    answers = place(album, PARAMETERS)
    assert len(answers.standing) == len(photos)
    for row, standing in enumerate(answers.standing):
        assert (standing is Standing.NO_TIME) == (not album.timed[row])
        if standing is Standing.ANCHOR:
            assert answers.latitude[row] == where[row, 0]
        if standing is Standing.PLACED:
            assert -90.0 <= answers.latitude[row] <= 90.0
            assert 0.0 <= answers.radius_50_km[row] <= answers.radius_90_km[row] <= 20_040.0
            assert np.all(np.diff(answers.probability[row]) >= 0.0)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 38),
    st.sampled_from([(0.0, 0.0), (-33.9, 151.2), (37.62, -122.38)]),
    st.randoms(use_true_random=False),
)
def test_an_anchor_that_contradicts_is_found_and_pulls_no_other(wrong, default, random):
    """Null island or an airport's default, in any order of the photos."""
    album = hiding(walk(40, np.random.default_rng(SEED)), np.arange(3, 40, 4))
    if np.isnan(album.latitude[wrong]):
        wrong -= 1
    latitude, longitude = album.latitude.copy(), album.longitude.copy()
    latitude[wrong], longitude[wrong] = default
    order = np.array(random.sample(range(40), 40))
    given_ = Album.of(album.hours[order], latitude[order], longitude[order])
    answers = place(given_, PARAMETERS)
    at = int(np.flatnonzero(order == wrong)[0])
    assert answers.standing[at] is Standing.CONTRADICTS
    assert answers.standing.count(Standing.CONTRADICTS) == 1
    without = place(hiding(given_, np.array([at])), PARAMETERS)
    others = np.arange(40) != at
    apart = great_circle_km(
        answers.latitude, answers.longitude, without.latitude, without.longitude
    )
    assert_allclose(apart[others], 0.0, atol=1e-6)

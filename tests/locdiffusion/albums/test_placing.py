"""Placing: every photo gets an answer or a reason, and nothing bad moves the others."""

import tracemalloc
from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from locdiffusion.albums.album import Album
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.placing import EXPLANATIONS, place
from schemas.albums import Standing
from support import SEED
from support.albums import START_HOUR, hiding, walk

PARAMETERS = AlbumParameters.load()
NUMBERS = ("latitude", "longitude", "radius_50_km", "radius_90_km")


@pytest.fixture(name="album")
def half_hidden():
    return hiding(walk(40, np.random.default_rng(SEED)), np.arange(1, 40, 2))


def test_anchors_stay_where_they_are(album):
    answers = place(album, PARAMETERS)
    assert answers.standing == [Standing.ANCHOR, Standing.PLACED] * 20
    anchors = ~np.isnan(album.latitude)
    assert_allclose(answers.latitude[anchors], album.latitude[anchors], rtol=0)
    assert np.isfinite(answers.probability).all()
    assert np.all(answers.radius_50_km < answers.radius_90_km)
    assert np.all(np.diff(answers.probability, axis=1) >= 0.0)
    assert_allclose(answers.shares.sum(1), 1.0)


def test_a_placed_photo_lies_at_the_anchor_that_is_nearest_in_time(album):
    answers = place(album, PARAMETERS)
    first, second = album.hours[1] - album.hours[0], album.hours[2] - album.hours[1]
    nearest = 0 if first <= second else 2
    assert_allclose(answers.latitude[1], album.latitude[nearest], atol=1e-9)
    assert_allclose([answers.hours_before[1], answers.hours_after[1]], [first, second])


def test_the_order_of_the_photos_does_not_matter(album):
    answers = place(album, PARAMETERS)
    mixed = np.random.default_rng(1).permutation(40)
    shuffled = Album(*(getattr(album, f.name)[mixed] for f in fields(album)))
    other = place(shuffled, PARAMETERS)
    for name in NUMBERS:
        assert_allclose(getattr(other, name), getattr(answers, name)[mixed], rtol=1e-9)


def test_photos_without_a_time_or_of_1980_get_a_reason(album):
    hours = album.hours.copy()
    hours[3], hours[5] = np.nan, 24.0 * 3652.5
    answers = place(replace(album, hours=hours), PARAMETERS)
    assert [answers.standing[i] for i in (3, 5)] == [Standing.NO_TIME] * 2
    assert np.isnan(answers.latitude[[3, 5]]).all()
    assert set(EXPLANATIONS) == set(Standing)


def test_an_anchor_that_contradicts_pulls_nobody(album):
    wrong = replace(album, latitude=album.latitude.copy(), longitude=album.longitude.copy())
    wrong.latitude[20], wrong.longitude[20] = -33.9, 151.2
    answers = place(wrong, PARAMETERS)
    without = place(hiding(album, np.array([20])), PARAMETERS)
    assert answers.standing[20] is Standing.CONTRADICTS
    assert_allclose(answers.latitude, without.latitude, rtol=1e-12)
    assert_allclose(answers.radius_90_km, without.radius_90_km, rtol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_without_anchors_photos_stand_alone(count):
    nowhere = np.full(count, np.nan)
    answers = place(Album.of(START_HOUR + np.arange(count), nowhere, nowhere), PARAMETERS)
    assert answers.standing == [Standing.ALONE] * count


def test_one_anchor_places_the_others_by_the_prior():
    hours = START_HOUR + np.array([0.0, 0.05, 2.0, 50.0, 5000.0])
    latitude = np.array([48.0, *[np.nan] * 4])
    answers = place(Album.of(hours, latitude, latitude), PARAMETERS)
    assert np.all(np.diff(answers.radius_90_km) > 0.0)
    assert np.isinf(answers.hours_after[1:]).all()


def test_before_the_first_anchor_is_as_behind_the_last():
    hours = START_HOUR + np.arange(8.0)
    latitude = np.array([np.nan, np.nan, 48.0, 48.02, 48.5, 48.52, np.nan, np.nan])
    answers = place(
        Album.of(hours, latitude, np.where(np.isnan(latitude), np.nan, 11.0)), PARAMETERS
    )
    assert_allclose(answers.radius_90_km[:2], answers.radius_90_km[:-3:-1], rtol=0.05)
    assert np.all(answers.radius_90_km[[0, 1, 6, 7]] < 500.0)


def test_equal_times_are_no_trouble():
    hours = np.full(6, START_HOUR)
    latitude = np.array([48.0, np.nan, 48.0, np.nan, 48.0001, np.nan])
    answers = place(Album.of(hours, latitude, latitude), PARAMETERS)
    assert np.all(answers.radius_90_km < 3.0)


def test_half_a_position_is_refused():
    with pytest.raises(ValueError, match="half a position"):
        Album.of([START_HOUR], [48.0], [np.nan])
    with pytest.raises(ValueError, match=r"want \[-90, 90\]"):
        Album.of([START_HOUR], [148.0], [1.0])
    with pytest.raises(ValueError, match="one for"):
        Album(*[np.zeros(2)] * 5, np.zeros(3))


@pytest.mark.slow
def test_a_hundred_thousand_photos_need_little_memory():
    peaks = []
    for count in (10_000, 100_000):
        album = hiding(walk(count, np.random.default_rng(SEED), 0.3), np.arange(1, count, 50))
        tracemalloc.start()
        answers = place(album, PARAMETERS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert np.isfinite(answers.radius_90_km).all()
    # 2 kB for each photo, and the same blocks for all.
    assert peaks[1] - peaks[0] < 2_000 * 90_000

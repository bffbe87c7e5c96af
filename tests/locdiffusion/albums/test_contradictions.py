"""Anchors that contradict the others are found, and journeys are not."""

import numpy as np
import pytest

from locdiffusion.albums.album import Album
from locdiffusion.albums.contradictions import LONGEST_RUN, contradicting
from support import SEED
from support.albums import START_HOUR, walk


def found(album):
    """The numbers of the photos that contradict."""
    return np.flatnonzero(contradicting(album, 12.0)).tolist()


def moved(album, photos, latitude, longitude):
    """An album with some photos somewhere else."""
    new_latitude, new_longitude = album.latitude.copy(), album.longitude.copy()
    new_latitude[photos], new_longitude[photos] = latitude, longitude
    return Album.of(album.hours, new_latitude, new_longitude)


def test_a_walk_contradicts_nothing():
    assert found(walk(60, np.random.default_rng(SEED))) == []


@pytest.mark.parametrize("photos", [[0], [30], [59], [3, 17, 18, 19, 40], list(range(20, 26))])
@pytest.mark.parametrize("airport", [(50.03, 8.57), (-33.94, 151.17)])
def test_the_default_of_an_airport_is_found(photos, airport):
    album = walk(60, np.random.default_rng(SEED))
    hurried = Album.of(START_HOUR + np.arange(60) * 0.1, album.latitude, album.longitude)
    assert found(moved(hurried, photos, *airport)) == photos


def test_null_island_is_no_position():
    album = walk(5, np.random.default_rng(SEED))
    assert found(moved(album, [0, 1, 2, 3, 4], 0.0, 0.0)) == [0, 1, 2, 3, 4]


def test_a_clock_that_is_a_day_wrong_is_found():
    hours = START_HOUR + np.arange(96) * 0.5
    album = Album.of(hours, 40.0 + 10.0 * (hours > START_HOUR + 24.0), np.zeros(96))
    shifted = hours.copy()
    shifted[80] -= 24.0
    assert found(Album.of(shifted, album.latitude, album.longitude))[-1] == 80


def test_a_flight_is_believed():
    hours = START_HOUR + np.append(np.arange(10) * 0.2, 20.0 + np.arange(10) * 0.2)
    album = Album.of(hours, np.repeat([48.0, -33.0], 10), np.repeat([11.0, 151.0], 10))
    assert found(album) == []


def test_two_halves_that_cannot_be_reached_are_both_kept():
    n = 2 * LONGEST_RUN + 2
    hours = START_HOUR + np.arange(2 * n) * 0.01
    assert found(Album.of(hours, np.repeat([48.0, -33.0], n), np.zeros(2 * n))) == []


def test_clocks_that_may_be_wrong_contradict_less():
    hours = START_HOUR + np.arange(10) * 0.1
    latitude, camera = np.tile([48.0, 50.0], 5), np.tile([0, 1], 5)
    strict = Album.of(hours, latitude, np.zeros(10), camera)
    loose = Album.of(hours, latitude, np.zeros(10), camera, clock_hours=2.0)
    assert len(found(strict)) == 5
    assert found(loose) == []

"""Tracks: anchors stay, neighbours agree, and each photo keeps its own density."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from locdiffusion.albums.anchors import Anchors
from locdiffusion.albums.motion import LawOfMotion
from locdiffusion.albums.tracks import sample_tracks
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between
from support import SEED
from support.albums import hiding, walk

LAW = LawOfMotion()


@pytest.fixture(name="anchors", scope="module")
def some_anchors():
    album = hiding(walk(20, np.random.default_rng(SEED)), np.r_[0:2, 5:12, 18:20])
    return Anchors.fitted(album, album.order[album.anchored[album.order]], LAW)


def test_tracks_pass_through_the_anchors_and_repeat(anchors):
    tracks = sample_tracks(anchors, 6, SEED)
    assert tracks.shape == (6, 20, 3)
    assert_allclose(np.linalg.norm(tracks, axis=-1), 1.0)
    assert_allclose(tracks[:, 3], np.tile(anchors.album.vectors[3], (6, 1)))
    assert np.array_equal(tracks, sample_tracks(anchors, 6, SEED))
    assert not np.array_equal(tracks, sample_tracks(anchors, 6, SEED + 1))


def test_neighbours_agree_more_than_separate_answers(anchors):
    tracks = sample_tracks(anchors, 100, SEED)
    step = angle_between(tracks[:, 8], tracks[:, 9])
    strangers = angle_between(tracks[:, 8], np.roll(tracks[:, 9], 1, axis=0))
    assert np.median(step) < 0.8 * np.median(strangers)


def test_the_photo_that_is_drawn_first_has_its_own_density(anchors):
    tracks = sample_tracks(anchors, 600, SEED)
    rows = np.array([(4 + 12) // 2])
    bridges = anchors.bridges(rows, *anchors.neighbours(rows))
    alone = bridges.draws(np.random.default_rng(1).random((1, 600, 3)))[0]
    for quantile in (0.25, 0.5, 0.75):
        far = [
            EARTH_RADIUS_KM * np.quantile(angle_between(x, anchors.album.vectors[4]), quantile)
            for x in (tracks[:, 8], alone)
        ]
        assert_allclose(far[0], far[1], rtol=0.2)


def test_without_anchors_there_is_no_track():
    album = hiding(walk(3, np.random.default_rng(SEED)), np.arange(3))
    with pytest.raises(ValueError, match="no anchor"):
        sample_tracks(Anchors.fitted(album, np.zeros(0, np.int64), LAW), 1, SEED)

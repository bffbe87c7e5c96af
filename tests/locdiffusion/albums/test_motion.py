"""The law of motion: its weights, its table, and settings that make no sense."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from locdiffusion.albums.motion import LADDER_KM, LawOfMotion, MotionTable

LAW = LawOfMotion()
HOURS = np.array([0.004, 0.1, 1.0, 7.7, 100.0, 1e5])


def test_kernels_and_places_share_one():
    kernels, back = LAW.weights([LAW.scale_mean, np.add(LAW.scale_mean, 1.0)], HOURS)
    assert kernels.shape == (2, len(HOURS), len(LADDER_KM) + 1)
    assert np.all(kernels >= 0.0)
    assert_allclose(kernels.sum(-1) + back, 1.0)


def test_cameras_get_farther_with_time_and_faster_ones_more():
    kernels, _ = LAW.weights([LAW.scale_mean, np.add(LAW.scale_mean, [1, 0, 0, 0, 0])], HOURS)
    farther = (kernels[..., :-1] * np.log(LADDER_KM)).sum(-1) / kernels[..., :-1].sum(-1)
    assert np.all(np.diff(farther, axis=1) > 0.0)
    assert np.all(farther[1] > farther[0])


def test_the_table_is_the_law():
    scales = np.add(LAW.scale_mean, np.random.default_rng(1).normal(size=(3, 5)))
    hours = np.geomspace(0.004, 1e6, 300)
    kernels, back = MotionTable(LAW, scales)(hours)
    exact, exact_back = LAW.weights(scales, hours)
    assert_allclose(np.moveaxis(kernels, 1, 0), exact, atol=0.012)
    assert_allclose(back.T, exact_back, atol=0.002)
    assert_allclose(kernels.sum(-1) + back, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jump": 0.0}, "jump is 0"),
        ({"scale_mean": (1.0, 2.0)}, "has 2 entries"),
        ({"place_share": (0.5, 0.2)}, "a share for each width"),
        ({"day_hours": -1.0}, "want more than 0"),
    ],
)
def test_a_law_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LawOfMotion(**changes)

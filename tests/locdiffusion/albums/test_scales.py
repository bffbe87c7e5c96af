"""The scales of an album: found again where they are known, and the prior where nothing is."""

import numpy as np
from numpy.testing import assert_allclose

from locdiffusion.albums.motion import LawOfMotion
from locdiffusion.albums.scales import AlbumScales, Pairs, fit_scales
from support import SEED
from support.albums import walk

LAW = LawOfMotion()


def test_without_pairs_the_scales_are_the_prior():
    album = walk(1, np.random.default_rng(SEED))
    scales = fit_scales(Pairs.of(album, album.order, LAW), LAW)
    assert_allclose(scales.mode, LAW.scale_mean)
    assert_allclose(np.sqrt(np.diag(scales.covariance)), LAW.scale_deviation)


def test_a_hundred_times_the_speed_is_learned():
    modes = []
    for speed_kmh in (0.4, 40.0):
        album = walk(100, np.random.default_rng(SEED), speed_kmh)
        modes.append(fit_scales(Pairs.of(album, album.order, LAW), LAW).mode)
    assert_allclose(modes[1][0] - modes[0][0], np.log(100.0), atol=0.6)


def test_the_mode_is_a_maximum():
    album = walk(80, np.random.default_rng(SEED))
    pairs = Pairs.of(album, album.order, LAW)
    scales = fit_scales(pairs, LAW)

    def log_posterior(theta):
        off = (theta - LAW.scale_mean) / LAW.scale_deviation
        return 0.5 * pairs.log_likelihood(theta, LAW).sum() - 0.5 * off @ off

    best = log_posterior(scales.mode)
    for step in 0.3 * np.concatenate([np.eye(5), -np.eye(5)]):
        assert log_posterior(scales.mode + step) < best


def test_draws_have_the_mean_and_the_covariance():
    rng = np.random.default_rng(SEED)
    root = rng.normal(size=(5, 5))
    scales = AlbumScales(rng.normal(size=5), root @ root.T)
    draws = scales.draws()
    assert_allclose(draws.mean(0), scales.mode)
    assert_allclose(np.cov(draws.T, bias=True), scales.covariance)

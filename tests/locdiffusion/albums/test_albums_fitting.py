"""Fitting and checking on made-up albums, and the parameters that are shipped."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from locdiffusion.albums.album import Album
from locdiffusion.albums.check import UNITS, check, hidden, report
from locdiffusion.albums.fitting import fit
from locdiffusion.albums.levels import HiddenShares, Levels
from locdiffusion.albums.parameters import AlbumParameters
from support import SEED
from support.albums import START_HOUR, walk

PARAMETERS = AlbumParameters.load()


@pytest.fixture(name="albums", scope="module")
def walks():
    return [walk(50, np.random.default_rng(seed), 20.0) for seed in (SEED, SEED + 1, SEED + 2)]


def test_the_shipped_parameters_have_a_card():
    assert PARAMETERS.card.albums == 3
    assert PARAMETERS.card.photos == 596
    assert "photographers" in PARAMETERS.card.fitted_on


def test_parameters_come_back_from_a_file(tmp_path):
    PARAMETERS.save(tmp_path / "mine.json")
    assert AlbumParameters.load(tmp_path / "mine.json") == PARAMETERS


def test_a_fit_moves_towards_the_albums_and_says_on_what(albums):
    fitted = fit(albums, PARAMETERS, "walks")
    assert fitted.card.fitted_on == "walks"
    assert (fitted.card.albums, fitted.card.photos) == (3, 150)
    # A cyclist is faster than the photographers.
    assert fitted.law.scale_mean[0] > PARAMETERS.law.scale_mean[0] + 0.2
    assert fitted.law.scale_deviation[0] < PARAMETERS.law.scale_deviation[0] + 0.2


def test_albums_without_anchors_cannot_be_fitted():
    nowhere = Album.of(START_HOUR + np.arange(3), np.full(3, np.nan), np.full(3, np.nan))
    with pytest.raises(ValueError, match="None of 1 albums"):
        fit([nowhere], PARAMETERS, "nothing")
    with pytest.raises(ValueError, match="could be hidden"):
        check([nowhere], PARAMETERS, "photos", 0.5, 1)


def test_radii_of_walks_are_honest(albums):
    rows = check(albums, PARAMETERS, "photos", 0.5, 1)
    # 75 photos: two standard errors are 12 and 7 points.
    assert abs(np.mean(rows.error_km <= rows.radius_50_km) - 0.5) < 0.13
    assert abs(np.mean(rows.error_km <= rows.radius_90_km) - 0.9) < 0.09
    assert_allclose(rows.error_km, rows.nearest_km, atol=1e-6)
    assert np.mean(rows.interpolated_km) > 0.0


def test_the_report_counts_every_photo_once(albums):
    rows = check(albums, PARAMETERS, "hours", 0.5, 1)
    lines = report(rows).splitlines()
    told = [int(line.split()[-6]) for line in lines if line.startswith("up to")]
    assert sum(told) == len(rows)


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_hidden_as_a_whole(unit):
    album = walk(200, np.random.default_rng(SEED))
    mask = hidden(album, unit, 0.5, 1)
    assert 0 < mask.sum() < len(album)
    assert np.array_equal(mask, hidden(album, unit, 0.5, 1))
    if UNITS[unit]:
        stretch = np.floor(album.hours / UNITS[unit])
        assert all(len(set(mask[stretch == s].tolist())) == 1 for s in np.unique(stretch))


def test_an_unknown_unit_is_refused(albums):
    with pytest.raises(ValueError, match="want one of photos, hours, days"):
        hidden(albums[0], "weeks", 0.5, 1)


def test_levels_lean_to_the_prior_by_the_number_of_blocks():
    share = np.linspace(0.0, 0.8, 101)
    few, many = (HiddenShares(share, blocks).levels(Levels()) for blocks in (10, 10**6))
    assert_allclose((many.half, many.most), (0.4, 0.72), atol=1e-4)
    assert_allclose((few.half, few.most), (0.45, 0.81), atol=1e-4)
    assert_allclose(few.probability(np.array([0.0, few.half, 1.0])), [0.0, 0.5, 1.0])
    with pytest.raises(ValueError, match="half < most"):
        Levels(0.9, 0.5)

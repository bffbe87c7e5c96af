"""Places alone are the decoder's places: the same score, nearly always the same point."""

import numpy as np
import pytest
import shapely
import torch

from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.decoding.point_only import Locator
from locdiffusion.density import shdd
from locdiffusion.density.base_measure import land_measure, polygon_measure
from locdiffusion.sphere.geodesy import great_circle_km, latitude_longitude, unit_vectors
from support.dense_decoder import score
from support.densities import HARD, RADII_KM, D, L, decode, decoder, noise, peak, scattered

pytestmark = pytest.mark.usefixtures("one_thread")

ALONE = [name for name, densities in HARD.items() if len(densities) == 1]


def locate(natural, **settings):
    """Degrees of ``(N, d)`` or ``(N, 1, d)`` natural parameters."""
    natural = np.asarray(natural, np.float32).reshape(-1, 1, D)
    return Locator(decoder(L, **settings))(torch.from_numpy(natural))


@pytest.mark.parametrize("name", ALONE)
def test_the_place_scores_as_well_as_the_dense_decoders(dense, name):
    natural, radius_km = np.stack(HARD[name]), RADII_KM.get(name, 200.0)
    wanted = dense.decode(natural, radius_km)
    place = unit_vectors(*locate(natural, radius_km=radius_km))[0]
    assert score(dense.log_density(natural), place, radius_km) > 0.85 * wanted.score


@pytest.mark.parametrize("radius_km", [100.0, 400.0])
def test_places_are_those_of_the_decoder(rng, dense, radius_km):
    """Where they are not, it took the other of two places, with a score not much worse."""
    natural = scattered(rng, 200)
    whole = decode(natural, radius_km=radius_km)
    places = locate(natural, radius_km=radius_km)
    off_km = great_circle_km(*places, whole.latitude, whole.longitude)
    assert np.mean(off_km < 1.0) > 0.9
    for i in np.nonzero(off_km >= 1.0)[0]:
        log_density = dense.log_density(natural[i])
        found = score(log_density, unit_vectors(*(axis[i] for axis in places)), radius_km)
        best = unit_vectors(whole.latitude[i], whole.longitude[i])
        assert found > 0.75 * score(log_density, best, radius_km)


def test_needles_are_found_wherever_they_are(rng):
    """A standard deviation of 24 km, where nodes are 620 km apart."""
    vectors = rng.normal(size=(300, 3))
    vectors[:4] = [[0, 0, 1], [0, 0, -1], [-1, 1e-3, 0], [-1, -1e-3, 0]]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    latitude, longitude = latitude_longitude(vectors)
    needles = 2000.0 * np.stack([peak(*p, 1.0) for p in zip(latitude, longitude, strict=True)])
    assert great_circle_km(*locate(needles), latitude, longitude).max() < 0.1


def test_the_base_measure_decides_between_equal_peaks():
    sea, land = (-35.0, -120.0), (48.0, 20.0)
    both = (peak(*sea) + peak(*land))[None, None]
    config = DecodeConfig(200.0)
    with_land = Locator(Decoder(L, config, land_measure()))
    place = with_land(torch.from_numpy(both.astype(np.float32)))
    assert great_circle_km(*place, *land)[0] < 300.0
    whole = with_land.decoder(torch.from_numpy(both.astype(np.float32)))
    assert great_circle_km(*place, whole.latitude, whole.longitude)[0] < 1.0


def test_a_place_does_not_depend_on_its_batch(rng):
    natural = scattered(rng, 70)
    together = np.stack(locate(natural), 1)
    apart = np.concatenate([np.stack(locate(natural[i : i + 9]), 1) for i in range(0, 70, 9)])
    np.testing.assert_allclose(apart, together, atol=1e-4)


def test_nearly_flat_and_flat_densities_have_places():
    places = locate([np.zeros(D), noise(1, 1e-3), shdd.encode(0.0, 0.0, L) * 0])
    assert np.isfinite(places).all()


def test_no_photos_are_no_places():
    assert [axis.shape for axis in locate(np.zeros((0, D)))] == [(0,), (0,)]


def test_several_densities_of_a_photo_need_the_decoder():
    with pytest.raises(ValueError, match=r"\(2, 3, 144\).*use decode"):
        Locator(decoder())(torch.zeros(2, 3, D))


def test_a_prior_that_excludes_needs_the_decoder():
    with pytest.raises(ValueError, match="use decode"):
        Locator(Decoder(L, DecodeConfig(200.0), polygon_measure([shapely.box(5, 45, 10, 48)])))

"""The fit of the map's likelihood, on photos of a world whose appearance is known."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from locdiffusion.calibrate.fused_fitting import (
    FusedPart,
    LikelihoodFields,
    fit,
    fit_likelihood,
    fit_radii,
)
from locdiffusion.sphere.geodesy import great_circle_km, latitude_longitude
from support import appearance_world as world

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_fitted_likelihood_is_that_of_the_answers():
    part, fused = world.photos(12, 6), world.fused()
    found = LikelihoodFields.measure(fused, part).log_probability(fused.density.likelihood)
    wanted = fused.log_probability(part.natural[:, None], part.appearance, part.trust, part.truth)
    assert_allclose(found, wanted, atol=0.02)


def test_a_fit_is_worth_it_on_other_photos():
    fused, raw = world.fused(), world.unfitted()
    fields = LikelihoodFields.measure(fused, world.photos(60, 8))
    raw.density.likelihood.standardise(fields.photos)
    fitted, before = (fields.log_probability(one.density.likelihood).mean() for one in (fused, raw))
    assert fitted > before


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0.5, -0.5])
def test_radii_that_are_too_small_or_too_large_are_mended(wrong):
    made = world.fused_copy()
    with torch.no_grad():
        made.density.likelihood.gates.bias += wrong
    shift, _ = fit_radii(made, [world.photos(80, 1)])
    assert shift * wrong < 0.0
    part = world.photos(150, 12)
    found = world.answers(made, part)
    error = great_circle_km(found.latitude, found.longitude, *latitude_longitude(part.truth))
    # 150 photos: two standard errors of a share are 8 points, fit and photos together 12.
    assert abs(np.mean(error <= found.radius_50_km) - 0.5) < 0.14
    assert abs(np.mean(error <= found.radius_90_km) - 0.9) < 0.10


def test_a_fit_tells_what_it_found_and_uses_at_most_so_many_photos(monkeypatch):
    monkeypatch.setattr("locdiffusion.calibrate.fused_fitting.MOST_PHOTOS", 16)
    monkeypatch.setattr("locdiffusion.calibrate.fused_fitting.STEPS", 3)
    made = world.unfitted()
    found = fit(made, [world.photos(60, 1), world.photos(20, 3)])
    assert len(found.nats) == 2 and np.isfinite(found.nats).all()
    assert not any(parameter.requires_grad for parameter in made.parameters())


def test_photos_of_a_part_share_its_weight_and_are_thinned_evenly():
    part = world.photos(50, 1)
    few = FusedPart(part.natural, part.appearance, part.trust, part.truth, 4.0).thinned(5)
    assert len(few) == 5 and few.weight == 4.0
    assert_allclose(few.truth, part.truth[::10])


def test_a_fit_that_diverges_says_so():
    made, part = world.unfitted(), world.photos(20, 1)
    broken = FusedPart(part.natural, part.appearance, part.trust, part.truth, float("nan"))
    with pytest.raises(ValueError, match="more photos"):
        fit_likelihood(made, [broken])

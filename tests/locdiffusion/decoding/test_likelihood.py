"""Likelihoods of places: those of the densities that the decoders answer with, without q₀."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from locdiffusion.decoding.likelihood import MapTerms, PhotoLikelihood
from locdiffusion.sphere.grids import fibonacci_grid
from support import appearance_world as world

pytestmark = pytest.mark.usefixtures("one_thread")


def near_truths(part, count=40):
    """Places within some hundreds of km of the truths and all over the sphere, ``(S, 3)``."""
    rng = np.random.default_rng(0)
    moved = part.truth[rng.integers(len(part.truth), size=count)]
    moved = moved + rng.normal(scale=0.03, size=moved.shape)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    return np.concatenate([moved, fibonacci_grid(20)])


@pytest.mark.parametrize("copies", [1, 3], ids=["one density", "three densities"])
def test_a_likelihood_with_a_map_is_the_fused_density_over_q0(copies):
    fused, part = world.fused(), world.photos(6, 2)
    scales = torch.linspace(1.0, 0.5, copies)[:, None]
    natural = part.natural[:, None] * scales
    terms = MapTerms.of(fused, natural, part.appearance, part.trust)
    look = part.appearance.double().numpy()
    likelihood = PhotoLikelihood.of(fused.decoder.tables, natural, look, terms=terms)
    places = near_truths(part)
    found = likelihood.at(places)(np.array([4, 0, 1]))
    at = torch.from_numpy(places).float().expand(6, -1, -1)
    wanted = fused.log_density_at(natural, part.appearance, part.trust, at).double().numpy()
    wanted = (wanted - np.log(likelihood.base(places)))[[4, 0, 1]]
    assert_allclose(found, wanted - wanted.max(1, keepdims=True), atol=0.02)
    assert np.ptp(found) > 5.0


def test_a_likelihood_without_a_map_is_the_field():
    tables, natural = world.decoder().tables, world.photos(3, 2).natural[:, None]
    likelihood = PhotoLikelihood.of(tables, natural, np.eye(3))
    places = near_truths(world.photos(3, 2))
    found = likelihood.at(places)(np.arange(3))
    wanted = [tables.log_probability(natural, np.tile(place, (3, 1))) for place in places]
    wanted = np.stack(wanted, 1) - np.log(likelihood.base(places))
    assert_allclose(found, wanted - wanted.max(1, keepdims=True), atol=2e-3)
    assert_allclose(likelihood.weight, 1.0)
    assert len(likelihood) == 3

"""What our own model gets, given to rivals: a temperature per photo, weights, a decision rule."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import vonmises_fisher

from experiments.baselines import calibration
from experiments.baselines.calibration import Calibration, Rule, balanced, temperatures_of
from experiments.baselines.evidence import Evidence, Settings
from experiments.baselines.kernel_mixture import KernelMixture
from experiments.baselines.registry import Said, answer
from locdiffusion.calibrate import fitting
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import latitude_longitude
from support import tiny

pytestmark = pytest.mark.usefixtures("one_thread")


def photos_at(vectors: np.ndarray, embeddings: np.ndarray) -> EmbeddedPhotos:
    latitude, longitude = latitude_longitude(vectors)
    keys = [str(number) for number in range(len(vectors))]
    return EmbeddedPhotos(keys, embeddings.astype(np.float32), latitude, longitude)


def two_kinds(count: int, seed: int) -> tuple[Evidence, EmbeddedPhotos, np.ndarray]:
    """Points that are off by 60 km for photos like those of training, and by 1,500 for others."""
    rng = np.random.default_rng(seed)
    points = tiny.random_points(count, seed)
    odd = np.arange(count) % 2 == 1
    truth = np.stack(
        [
            vonmises_fisher(point, 20.0 if other else 1e4).rvs(1, random_state=rng)[0]
            for point, other in zip(points, odd, strict=True)
        ]
    )
    embeddings = np.concatenate([truth, rng.normal(scale=0.01, size=(count, 3))], 1)
    embeddings[odd, 3:] += 3.0
    return Evidence.alike(points[:, None]), photos_at(truth, embeddings), odd


def test_photos_unlike_training_get_a_higher_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "FIT_STEPS", (0, 60))
    monkeypatch.setattr(calibration, "COVERAGE_PHOTOS", 100)
    places = tiny.random_points(600, 9)
    noise = np.random.default_rng(9).normal(scale=0.01, size=(600, 3))
    train = photos_at(places, np.concatenate([places, noise], 1))
    known, val, odd = two_kinds(200, 1)
    asked, test, _ = two_kinds(200, 2)
    model = temperatures_of(train, 0)
    said = Said([known], {"test": asked}, {"rival": "points", "choices": {"points": 1}})
    found, record = answer(said, [val], {"test": test}, model)
    radius = found["test"].radius_50_km
    assert np.median(radius[odd]) > 5.0 * np.median(radius[~odd])
    assert record["choices"]["temperature_steps"] == 60 and record["choices"]["points"] == 1
    assert not model.out.weight.any()  # the next rival starts from an unfitted model
    # One temperature for all gives photos of both kinds the same radius.
    monkeypatch.setattr(fitting, "FIT_STEPS", (0,))
    alike, record = answer(said, [val], {"test": test}, model)
    radius = alike["test"].radius_50_km
    assert_allclose(np.median(radius[odd]), np.median(radius[~odd]), rtol=0.05)
    gain = found["test"].log_density_km2.mean() - alike["test"].log_density_km2.mean()
    assert record["choices"]["temperature_steps"] == 0 and gain > 0.3


def test_a_temperature_is_a_power_of_each_kernel() -> None:
    """p^{1/τ} of one von Mises-Fisher kernel, normalised, is one of concentration κ/τ."""
    points, truth = tiny.random_points(3, 0)[:, None], tiny.random_points(3, 1)[:, None]
    tau = np.array([0.5, 1.0, 4.0])
    mixture = Evidence.alike(points).mixture(Settings(1.0, 80.0, 0.0), tau)
    reference = [
        vonmises_fisher(p[0], 80.0 / t).logpdf(x[0]) + np.log(4.0 * np.pi)
        for p, t, x in zip(points, tau, truth, strict=True)
    ]
    assert_allclose(mixture.log_density(truth)[:, 0], reference, rtol=1e-6)


def test_a_temperature_evens_the_weights() -> None:
    points = tiny.random_points(2, 0)[None].repeat(2, 0)
    evidence = Evidence.alike(points, np.array([[0.0, 2.0], [0.0, 2.0]]))
    weights = evidence.mixture(Settings(), np.array([1.0, 2.0])).weights
    assert_allclose(np.log(weights[:, 1] / weights[:, 0]), [2.0, 1.0])


def test_a_place_may_be_decided_before_the_temperature() -> None:
    """At temperature 4 twenty weak neighbours outweigh the strong one; the radii always have it."""
    strong, weak = tiny.random_points(2, 5)
    points = np.stack([strong, *[weak] * 20])[None]
    evidence = Evidence.alike(points, np.array([[3.5, *[0.0] * 20]]))
    photos = photos_at(strong[None], np.zeros((1, 6)))
    found = {}
    for tempered in (True, False):
        calibrated = object.__new__(Calibration)
        calibrated.settings, calibrated.rule = Settings(1.0, 1e4, 0.0), Rule(25.0, tempered)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(calibrated, "_features", lambda *_: None, raising=False)
            patch.setattr(calibrated, "_log_temperature", lambda _: np.log([4.0]), raising=False)
            found[tempered] = calibrated.predictions(evidence, photos)
    degrees = latitude_longitude(np.stack([weak, strong]))
    for row, tempered in enumerate((True, False)):
        assert_allclose(found[tempered].latitude, degrees[0][row], atol=0.01)
        assert_allclose(found[tempered].longitude, degrees[1][row], atol=0.01)
    assert found[True].log_density_km2 == found[False].log_density_km2


def test_thresholds_prefer_the_sharp_place_to_the_broad_one() -> None:
    """45 % within 25 km here, or 55 % spread over 2,500 km there."""
    here, there = tiny.random_points(2, 3)
    mixture = KernelMixture(
        np.stack([here, there])[None], np.array([[0.45, 0.55]]), np.array([[1e6, 40.0]]), 0.0
    )
    assert Rule().answers(mixture)[0] @ here > 0.9999


def test_parts_count_by_their_weights() -> None:
    parts = [tiny.learnable_photos(count, seed) for seed, count in enumerate((40, 20, 30))]
    chosen = balanced(parts)
    assert chosen.keys == parts[0].keys + parts[1].keys[:10] + parts[2].keys[:10]
    np.testing.assert_array_equal(chosen.embeddings[40:50], parts[1].embeddings[:10])


def test_one_part_is_taken_whole() -> None:
    part = tiny.learnable_photos(7, 0)
    assert balanced([part]).fingerprint == part.fingerprint

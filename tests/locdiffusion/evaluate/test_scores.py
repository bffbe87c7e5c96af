"""Scores against closed forms, SciPy and worlds whose calibration is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from locdiffusion.config import ConfigError
from locdiffusion.evaluate.bootstrap import Bootstrap
from locdiffusion.evaluate.metrics import coverage, error_summary
from locdiffusion.evaluate.proximity import (
    EDGES_KM,
    MIN_PHOTOS,
    nearest_training_km,
    score_strata,
    strata_numbers,
)
from locdiffusion.evaluate.record import Evaluation, SplitRecord, Training
from locdiffusion.evaluate.reliability import equal_mass_bins, reliabilities, wilson
from locdiffusion.evaluate.scores import errors_km, score
from locdiffusion.sphere.geodesy import great_circle_km
from schemas.geotags import THRESHOLDS_KM
from support.answers import FEW, made_up

WIDE = Bootstrap(resamples=1000, level=0.999)
"""For intervals that must hold a known truth."""


@pytest.fixture
def exponential(rng: np.random.Generator) -> np.ndarray:
    """Errors of an honest method that states an exponential law of mean 300 km."""
    return rng.exponential(300.0, 2000)


class TestBootstrap:
    def test_the_mean_of_hits_agrees_with_scipy(self, rng: np.random.Generator) -> None:
        hits = rng.random(400) < 0.3
        bootstrap = Bootstrap(resamples=4000, seed=1)
        found = bootstrap.mean_estimates(hits[:, None])[0]
        theirs = scipy.stats.bootstrap(
            (hits,), np.mean, n_resamples=4000, method="percentile", random_state=2
        ).confidence_interval
        k, n = int(hits.sum()), len(hits)
        binomial = scipy.stats.binom.ppf([0.025, 0.975], n, k / n) / n
        # A quantile of 4000 draws is known to about 0.06 standard errors of 0.023.
        assert found.value == k / n
        np.testing.assert_allclose([found.low, found.high], theirs, atol=0.006)
        np.testing.assert_allclose([found.low, found.high], binomial, atol=0.006)

    def test_the_median_agrees_with_scipy(self, exponential: np.ndarray) -> None:
        sample = exponential[:301]
        found = Bootstrap(resamples=2000).median_estimates(sample[:, None])[0]
        theirs = scipy.stats.bootstrap(
            (sample,), np.median, n_resamples=2000, method="percentile", random_state=3
        ).confidence_interval
        assert found.value == np.median(sample)
        np.testing.assert_allclose([found.low, found.high], theirs, atol=8.0)

    def test_blocks_are_an_inner_affair(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = np.random.default_rng(0).normal(size=(50, 3))
        bootstrap = Bootstrap(resamples=37, seed=5)
        whole = bootstrap.means(values), bootstrap.medians(values)
        monkeypatch.setattr("locdiffusion.evaluate.bootstrap._CHUNK_ELEMENTS", 120)
        assert len(list(bootstrap.draws(50))) == 19
        np.testing.assert_allclose(bootstrap.means(values), whole[0], rtol=1e-12)
        np.testing.assert_array_equal(bootstrap.medians(values), whole[1])

    def test_replicas_are_those_of_the_draws(self) -> None:
        values = np.random.default_rng(1).normal(size=(20, 2))
        bootstrap = Bootstrap(resamples=15)
        drawn = np.concatenate(list(bootstrap.draws(20)))
        np.testing.assert_allclose(bootstrap.means(values), values[drawn].mean(1), rtol=1e-12)
        np.testing.assert_array_equal(bootstrap.medians(values), np.median(values[drawn], 1))

    def test_the_seed_decides(self) -> None:
        values = np.arange(30.0)[:, None]
        same = [Bootstrap(50, seed=s).mean_estimates(values) for s in (4, 4, 5)]
        assert same[0] == same[1] != same[2]

    @pytest.mark.parametrize("bad", [{"resamples": 1}, {"level": 1.0}, {"seed": -1}])
    def test_settings_that_make_no_sense(self, bad: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="want"):
            Bootstrap(**bad)  # type: ignore[arg-type]


class TestScores:
    def test_agree_with_the_summary_of_the_pipeline(self, exponential: np.ndarray) -> None:
        answers, latitude, longitude = made_up(exponential)
        scores = score(answers, latitude, longitude, FEW)
        distance = errors_km(answers, latitude, longitude)
        np.testing.assert_allclose(distance, exponential, rtol=1e-6)
        summary = error_summary(distance)
        assert [e.value for e in scores.within] == list(summary["within"].values())
        assert scores.n == summary["n"] and scores.median_km.value == summary["median_km"]
        for name in ("50", "90"):
            found = getattr(scores, f"coverage_{name}").value
            assert found == coverage(distance, getattr(answers, f"radius_{name}_km"))

    def test_by_hand(self) -> None:
        distance = np.array([0.0, 100.0, 1492.7, 3000.0])
        density = np.array([-10.0, -11.0, -12.0, -15.0])
        scores = score(*made_up(distance, log_density_km2=density), FEW)
        np.testing.assert_allclose(
            scores.geoscore.value, 1250 * (1 + sum(np.exp(-distance[1:] / 1492.7))), rtol=1e-9
        )
        assert scores.nats_per_km2 is not None and scores.nats_per_km2.value == 12.0
        assert [e.value for e in scores.within] == [0.25, 0.25, 0.5, 0.5, 0.75]
        np.testing.assert_allclose(scores.mean_km.value, distance.mean(), rtol=1e-9)
        np.testing.assert_allclose(scores.median_km.value, 796.35, rtol=1e-9)

    def test_the_uniform_sphere_scores_the_log_of_its_area(self) -> None:
        n, area = 40, 4 * np.pi * 6371.0088**2
        scores = score(*made_up(np.ones(n), log_density_km2=np.full(n, -np.log(area))), FEW)
        assert scores.nats_per_km2 is not None
        np.testing.assert_allclose(scores.nats_per_km2.value, 20.05, atol=0.005)

    def test_an_honest_method_is_found_honest(self, exponential: np.ndarray) -> None:
        scores = score(*made_up(exponential))
        assert scores.coverage_50 is not None and scores.coverage_90 is not None
        # Within four standard errors of a share of 2000 photos.
        assert abs(scores.coverage_50.value - 0.5) < 4 * np.sqrt(0.25 / 2000)
        assert abs(scores.coverage_90.value - 0.9) < 4 * np.sqrt(0.09 / 2000)
        assert scores.radius_50_km is not None
        np.testing.assert_allclose(scores.radius_50_km.value, 300 * np.log(2))
        # One stated value, so one bin, and the ECE is the error of a share.
        assert all(r.ece.value < 4 * 0.5 / np.sqrt(2000) for r in scores.reliability)

    def test_what_is_not_stated_is_left_out(self, exponential: np.ndarray) -> None:
        unknown = np.full(len(exponential), np.nan)
        columns = {"radius_50_km": unknown, "radius_90_km": unknown, "log_density_km2": unknown}
        probability = np.full((len(exponential), 5), np.nan)
        scores = score(*made_up(exponential, probability=probability, **columns), FEW)
        assert scores.coverage_90 is scores.nats_per_km2 is scores.radius_50_km is None
        assert scores.reliability == () and scores.n == 2000

    def test_numbers_that_are_not_finite_are_refused(self) -> None:
        density = np.array([-10.0, -np.inf])
        with pytest.raises(ValueError, match=r"log_density_km2 has 1 values.*mix in"):
            score(*made_up(np.ones(2), log_density_km2=density), FEW)
        answers, latitude, longitude = made_up(np.ones(3))
        with pytest.raises(ValueError, match=r"1 of 3 photos.*without truth"):
            score(answers, np.array([0.0, np.nan, 0.0]), longitude, FEW)
        with pytest.raises(ValueError, match="for 3 predictions; want as many"):
            score(answers, latitude[:2], longitude[:2], FEW)
        with pytest.raises(ValueError, match="0 photos"):
            score(*made_up(np.ones(0)), FEW)


class TestReliability:
    def beta_world(self, rng: np.random.Generator, n: int = 20_000) -> tuple[np.ndarray, ...]:
        """Probabilities of all sizes, and distances that lie within 200 km as often."""
        p = rng.beta(0.7, 0.7, n)
        return p, np.where(rng.random(n) < p, 100.0, 300.0)

    def test_a_perfect_method_has_the_error_of_chance(self, rng: np.random.Generator) -> None:
        p, distance = self.beta_world(rng)
        found = reliabilities(p[:, None], distance, (200.0,), WIDE)[0]
        assert found.ece.value < 0.01 and len(found.bins) == 15
        # The mean of 15 half-normals: 0.2 of their sum is about 1.3 standard deviations.
        assert abs(found.ece.value - found.ece_if_perfect) < 0.6 * found.ece_if_perfect
        expected = np.mean(p * (1 - p))
        assert found.brier.low < expected < found.brier.high
        inside = [b.frequency.low <= b.probability <= b.frequency.high for b in found.bins]
        assert sum(inside) >= 12

    @pytest.mark.parametrize("shift", [-0.15, 0.1])
    def test_a_shifted_method_is_off_by_the_shift(
        self, shift: float, rng: np.random.Generator
    ) -> None:
        p = rng.uniform(0.2, 0.8, 20_000)
        distance = np.where(rng.random(len(p)) < p, 100.0, 300.0)
        found = reliabilities((p + shift)[:, None], distance, (200.0,), WIDE)[0]
        np.testing.assert_allclose(found.ece.value, abs(shift), atol=0.01)
        assert found.ece.low < abs(shift) < found.ece.high

    def test_brier_of_certainty(self) -> None:
        right = reliabilities(np.ones((40, 1)), np.zeros(40), (25.0,), FEW)[0]
        wrong = reliabilities(np.ones((40, 1)), np.full(40, 99.0), (25.0,), FEW)[0]
        assert (right.brier.value, wrong.brier.value) == (0.0, 1.0)
        assert (right.ece.value, wrong.ece.value) == (0.0, 1.0)
        assert right.histogram[-1] == 40 and sum(right.histogram) == 40

    @given(arrays(np.float64, st.integers(1, 80), elements=st.sampled_from([0, 0.1, 0.5, 1.0])))
    def test_bins_partition_in_order_and_never_part_equals(self, p: np.ndarray) -> None:
        number = equal_mass_bins(p, 4)
        assert set(number.tolist()) == set(range(number.max() + 1)) and number.max() < 4
        order = np.argsort(p, kind="stable")
        assert np.all(np.diff(number[order]) >= 0)
        assert len({(v, k) for v, k in zip(p, number, strict=True)}) == len(set(p.tolist()))

    def test_bins_are_of_equal_mass_and_few_photos_get_few(self, rng: np.random.Generator) -> None:
        assert set(np.bincount(equal_mass_bins(rng.random(1500))).tolist()) == {100}
        assert equal_mass_bins(rng.random(45)).max() == 1
        assert equal_mass_bins(rng.random(3)).max() == 0

    @pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (3, 7), (50, 100), (0, 1)])
    def test_wilson_is_scipys(self, hits: int, n: int) -> None:
        wanted = scipy.stats.binomtest(hits, n).proportion_ci(0.9, method="wilson")
        found = wilson(hits, n, 0.9)
        np.testing.assert_allclose([found.low, found.high], [wanted.low, wanted.high], atol=1e-12)
        assert found.value == hits / n

    def test_a_probability_above_one(self) -> None:
        with pytest.raises(ValueError, match=r"A probability is 1\.5"):
            reliabilities(np.full((3, 1), 1.5), np.zeros(3), (25.0,), FEW)


class TestProximity:
    def test_the_nearest_equals_brute_force(self, rng: np.random.Generator) -> None:
        a, b = rng.uniform([-90, -180], [90, 180], (2, 60, 2))
        found = nearest_training_km(a[:, 0], a[:, 1], b[:, 0], b[:, 1])
        every = great_circle_km(a[:, None, 0], a[:, None, 1], b[:, 0], b[:, 1])
        np.testing.assert_allclose(found, every.min(1), rtol=1e-12, atol=1e-9)

    def test_across_the_date_line_at_the_poles_and_at_the_antipode(self) -> None:
        found = nearest_training_km([0.0, 90.0, 0.0], [179.9, 10.0, 0.0], [0.0], [-179.9])
        kilometre = np.radians(1.0) * 6371.0088
        np.testing.assert_allclose(found, [0.2 * kilometre, 90 * kilometre, 179.9 * kilometre])
        assert nearest_training_km([12.0], [34.0], [12.0], [34.0 + 360.0])[0] < 1e-6

    def test_nothing_to_be_near_to(self) -> None:
        with pytest.raises(ValueError, match="0 training photos"):
            nearest_training_km([0.0], [0.0], [], [])
        with pytest.raises(ValueError, match="not finite"):
            nearest_training_km([np.nan], [0.0], [0.0], [0.0])

    @given(arrays(np.float64, st.integers(0, 300), elements=st.floats(0, 20037)))
    def test_strata_partition_the_photos(self, distance: np.ndarray) -> None:
        numbers, lows = strata_numbers(distance)
        highs = [*lows[1:], np.inf]
        assert lows[0] == 0.0 and set(lows) <= set(EDGES_KM)
        assert np.all((np.array(lows)[numbers] <= distance) & (distance < np.array(highs)[numbers]))
        counts = np.bincount(numbers, minlength=len(lows))
        assert counts.sum() == len(distance)
        assert len(lows) == 1 or counts.min() >= MIN_PHOTOS

    @pytest.mark.parametrize("edges", [[], [1.0, 2.0], [0.0, 5.0, 5.0]])
    def test_edges_that_do_not_rise_from_0(self, edges: list[float]) -> None:
        with pytest.raises(ValueError, match="want them to rise from 0"):
            strata_numbers(np.ones(3), edges)

    def test_each_stratum_is_scored_alone(self, rng: np.random.Generator) -> None:
        near = np.repeat([5.0, 60.0, 900.0], [50, 30, 10])
        errors = np.repeat([10.0, 100.0, 300.0], [50, 30, 10])
        strata = score_strata(*made_up(errors), near, bootstrap=FEW)
        assert [s.scores.n for s in strata] == [50, 40]  # ten are too few to stand alone
        assert [s.label for s in strata] == ["0-10 km", "over 10 km"]
        assert [s.scores.within[1].value for s in strata] == [1.0, 0.0]
        assert strata[1].scores.within[2].value == 0.75
        assert strata[0].median_km_to_training == 5.0 and not strata[0].scores.reliability


class TestRecord:
    def record(self, distance: np.ndarray) -> Evaluation:
        answers = made_up(distance)
        strata = score_strata(*answers, distance, bootstrap=FEW)
        split = SplitRecord("val", ("DATA/*.tar",), "00ff", 2, score(*answers, FEW), strata)
        return Evaluation("made-up", None, FEW, Training(7, "aa"), (split,))

    def test_round_trip(self, exponential: np.ndarray, tmp_path: Path) -> None:
        record = self.record(exponential)
        record.write(tmp_path / "scores.json")
        assert Evaluation.read(tmp_path / "scores.json") == record
        assert [p.name for p in tmp_path.iterdir()] == ["scores.json"]
        plain = json.loads((tmp_path / "scores.json").read_text())
        assert plain["thresholds_km"] == list(THRESHOLDS_KM)
        assert plain["splits"][0]["scores"]["n"] == 2000
        assert plain["splits"][0]["strata"][-1]["high_km"] is None

    def test_a_file_of_another_format(self, tmp_path: Path) -> None:
        self.record(np.ones(5)).write(tmp_path / "scores.json")
        text = (tmp_path / "scores.json").read_text()
        (tmp_path / "scores.json").write_text(text.replace('"format": 1', '"format": 9'))
        with pytest.raises(ConfigError, match="format is 9; this version reads 1"):
            Evaluation.read(tmp_path / "scores.json")

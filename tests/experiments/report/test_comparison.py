"""Paired comparisons see differences that two separate intervals do not."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.report.comparison import Verdict, compare, verdict
from locdiffusion.evaluate.bootstrap import Estimate
from locdiffusion.evaluate.scores import score
from support.answers import FEW, made_up


class TestComparison:
    def test_a_method_is_level_with_itself(self, rng: np.random.Generator) -> None:
        answers, *truth = made_up(rng.exponential(300.0, 2000))
        found = compare(answers, answers, *truth, FEW)
        assert set(found.within) == {Estimate(0.0, 0.0, 0.0)}
        assert verdict(found.median_km, higher_is_better=False) is Verdict.LEVEL

    def test_pairing_sees_what_two_intervals_do_not(self, rng: np.random.Generator) -> None:
        distance = rng.exponential(300.0, 500)
        better = np.where((distance > 200) & (distance < 215), 190.0, distance)
        worse, *truth = made_up(distance)
        good = made_up(better, log_density_km2=np.full(500, -13.0))[0]
        apart = [score(a, *truth, FEW, reliability=False).within[2] for a in (good, worse)]
        assert apart[0].low < apart[1].high  # the intervals overlap
        found = compare(good, worse, *truth, FEW)
        assert found.within[2].value == pytest.approx(
            np.mean(better <= 200) - np.mean(distance <= 200)
        )
        assert verdict(found.within[2], higher_is_better=True) is Verdict.BETTER
        assert verdict(found.geoscore, higher_is_better=True) is Verdict.BETTER
        assert found.nats_per_km2 == Estimate(-1.0, -1.0, -1.0)
        back = compare(worse, good, *truth, FEW)
        assert verdict(back.within[2], higher_is_better=True) is Verdict.WORSE
        assert back.median_km.value == -found.median_km.value

    def test_lower_can_be_better(self) -> None:
        assert verdict(Estimate(-3, -5, -1), higher_is_better=False) is Verdict.BETTER
        assert verdict(Estimate(3, 1, 5), higher_is_better=False) is Verdict.WORSE
        assert verdict(Estimate(3, -1, 5), higher_is_better=False) is Verdict.LEVEL

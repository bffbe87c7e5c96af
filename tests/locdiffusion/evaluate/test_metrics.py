"""Figures against sums by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from locdiffusion.evaluate.metrics import coverage, error_summary
from schemas.geotags import THRESHOLDS_KM

DISTANCES = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 20037.5))


def test_by_hand() -> None:
    summary = error_summary([0.5, 1.0, 1.1, 25.0, 600.0, 20000.0, 199.0, 2500.0])
    within = {"1": 2 / 8, "25": 4 / 8, "200": 5 / 8, "750": 6 / 8, "2500": 7 / 8}
    assert summary == {"n": 8, "median_km": (25.0 + 199.0) / 2, "within": within}


@given(DISTANCES)
def test_agrees_with_counting(distance: np.ndarray) -> None:
    summary = error_summary(distance)
    counts = [sum(1 for d in distance if d <= t) for t in THRESHOLDS_KM]
    assert summary["n"] == len(distance)
    assert [round(v * len(distance)) for v in summary["within"].values()] == counts
    assert [float(key) for key in summary["within"]] == list(THRESHOLDS_KM)
    below = sum(1 for d in distance if d < summary["median_km"])
    assert below <= len(distance) / 2


def test_no_photos_give_no_figures_rather_than_nan() -> None:
    summary = error_summary([])
    assert summary["n"] == 0 and summary["median_km"] is None
    assert set(summary["within"].values()) == {None}
    assert coverage([], []) is None
    json.dumps(summary, allow_nan=False)


def test_coverage_by_hand() -> None:
    assert coverage([1.0, 2.0, 3.0, 4.0], [1.0, 1.9, 10.0, 4.1]) == 0.75
    assert coverage(5.0, 6.0) == 1.0


@given(DISTANCES)
def test_coverage_does_not_depend_on_order_and_grows_with_the_radius(distance: np.ndarray) -> None:
    radius = distance[::-1].copy()
    order = np.random.default_rng(0).permutation(len(distance))
    plain = coverage(distance, radius)
    assert plain == coverage(distance[order], radius[order])
    assert plain is not None and plain <= coverage(distance, radius + 1.0)  # type: ignore[operator]
    assert coverage(distance, distance) == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_not_averaged(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite; drop rows without truth"):
        error_summary([1.0, bad])
    with pytest.raises(ValueError, match="not finite"):
        coverage([1.0, 2.0], [1.0, bad])
    with pytest.raises(ValueError, match="not finite"):
        coverage([1.0, bad], [1.0, 1.0])


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 distances for 3 radii"):
        coverage([1.0, 2.0], [1.0, 2.0, 3.0])

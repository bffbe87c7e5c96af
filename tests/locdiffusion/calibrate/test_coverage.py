"""Radii are moved and stretched until they hold what they say: with errors whose law is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from locdiffusion.calibrate import fitting
from locdiffusion.calibrate.coverage import (
    FACTOR_KNOTS,
    LEVELS,
    WIDEST,
    CoverageTable,
    Stretch,
    fit_factor,
    fit_stretch,
)
from locdiffusion.calibrate.parts import LocatedDensities
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.inference import Answerer
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import latitude_longitude
from support.tiny import random_points

pytestmark = pytest.mark.usefixtures("one_thread")

KNOTS = np.linspace(-4.0, 2.0, 13)
COUNT = 4000


def exponential_table(
    needed: float, seed: int, fitted: npt.NDArray[np.float64] | None = None, weight: float = 1.0
) -> CoverageTable:
    """Photos whose radii are right at log τ = `needed`: errors ~ Exp(e^needed), radii ∝ τ."""
    error = np.random.default_rng(seed).exponential(np.exp(needed), COUNT)
    quantiles = -np.log(1.0 - np.array(LEVELS))
    margin = KNOTS + np.log(quantiles)[:, None, None] - np.log(error)[:, None]
    return CoverageTable(KNOTS, margin, np.zeros(COUNT) if fitted is None else fitted, weight)


class TestFitStretch:
    def test_widens_radii_that_are_all_too_small_by_the_same(self) -> None:
        logs = np.random.default_rng(0).normal(-2.0, 0.02, COUNT)
        found = fit_stretch([exponential_table(-2.0 + np.log(2.0), 1, logs)])
        assert found(logs).mean() == pytest.approx(-2.0 + np.log(2.0), abs=0.06)

    def test_stretches_where_only_the_doubted_part_is_too_small(self) -> None:
        """Known ground is right at -2; new ground has -1 and needs -1 + 0.5: the factor is 1.5."""
        known, new = np.full(COUNT, -2.0), np.full(COUNT, -1.0)
        parts = [exponential_table(-2.0, 2, known, 4.0), exponential_table(-0.5, 3, new)]
        found = fit_stretch(parts)
        assert found.factor == pytest.approx(1.5, abs=0.1)
        for part in parts:
            covered = part.coverage(found(part.log_temperature))
            np.testing.assert_allclose(covered, LEVELS, atol=0.02)

    def test_right_radii_stay(self) -> None:
        known, new = np.full(COUNT, -2.0), np.full(COUNT, -1.0)
        found = fit_stretch([exponential_table(-2.0, 4, known), exponential_table(-1.0, 5, new)])
        assert found.shift == pytest.approx(0.0, abs=0.06)
        assert found.factor == pytest.approx(1.0, abs=0.06)

    def test_one_temperature_for_all_is_moved_and_never_stretched(self) -> None:
        logs = np.full(COUNT, -2.0)
        found = fit_stretch([exponential_table(-1.0, seed, logs) for seed in (6, 7)])
        assert found.factor == 1.0
        assert found.shift == pytest.approx(1.0, abs=0.06)

    def test_the_heavier_part_is_put_right_where_both_cannot_be(self) -> None:
        logs = np.full(COUNT, -2.0)
        first, second = (
            fit_stretch(
                [exponential_table(-2.0, 8, logs, w), exponential_table(-1.0, 9, logs, 1.0 / w)]
            ).shift
            for w in (10.0, 0.1)
        )
        assert first == pytest.approx(0.0, abs=0.1)
        assert second == pytest.approx(1.0, abs=0.1)

    @pytest.mark.parametrize("margin", [-3.0, 3.0])
    def test_a_flat_loss_changes_nothing(self, margin: float) -> None:
        """All truths within the radii, or none, whatever the temperature."""
        logs = np.random.default_rng(0).normal(-2.0, 0.5, 50)
        table = CoverageTable(KNOTS, np.full((2, 50, len(KNOTS)), margin), logs)
        assert fit_stretch([table]) == Stretch(float(logs.mean()), 0.0, 1.0)


def factor_table(needed: float, count: int, seed: int) -> CoverageTable:
    """Photos whose radii are right at a factor: errors ~ Exp(needed), radii ∝ factor."""
    error = np.random.default_rng(seed).exponential(needed, count)
    quantiles = -np.log(1.0 - np.array(LEVELS))
    margin = FACTOR_KNOTS + np.log(quantiles)[:, None, None] - np.log(error)[:, None]
    return CoverageTable(FACTOR_KNOTS, margin, np.zeros(count))


class TestFitFactor:
    @pytest.mark.parametrize("needed", [0.3, 0.5, 0.8, 1.5, 2.0, 4.0])
    def test_finds_the_factor(self, needed: float) -> None:
        """Both shares move by about 0.3 per log factor, so that log factors err by 2 / √N."""
        found = fit_factor(factor_table(needed, 2000, seed=1))
        assert found.why == ""
        assert abs(np.log(found.value / needed)) < 4.0 * 2.0 / np.sqrt(2000)

    def test_right_radii_stay_in_most_draws(self) -> None:
        """Chance moves the factor in few of 200 draws, and never far."""
        found = [fit_factor(factor_table(1.0, 200, seed)) for seed in range(200)]
        values = np.array([factor.value for factor in found])
        assert np.mean(values == 1.0) > 0.85
        assert np.abs(np.log(values)).max() < 4.0 * 2.0 / np.sqrt(200)
        assert all(bool(f.why) == (f.value == 1.0) for f in found)
        assert "by more than chance" in found[0].why

    @pytest.mark.parametrize(("margin", "said"), [(-3.0, "0 % and 0 %"), (3.0, "100 % and 100 %")])
    def test_a_flat_loss_changes_nothing(self, margin: float, said: str) -> None:
        table = CoverageTable(
            FACTOR_KNOTS, np.full((2, 60, len(FACTOR_KNOTS)), margin), np.zeros(60)
        )
        found = fit_factor(table)
        assert found.value == 1.0 and said in found.why

    def test_few_photos_that_move_do_not_narrow_all_radii(self) -> None:
        """Positions that are the answers, but for a few whose answer moves with the temperature."""
        margin = np.full((2, 500, len(FACTOR_KNOTS)), 8.0)
        margin[:, :12, :6] = -1.0
        found = fit_factor(CoverageTable(FACTOR_KNOTS, margin, np.zeros(500)))
        assert found.value == 1.0 and "answers themselves" in found.why

    @pytest.mark.parametrize("seed", range(20))
    def test_coverage_of_all_photos_never_widens(self, seed: int) -> None:
        """Margins that go up and down with the factor, and are positive at 1."""
        rng = np.random.default_rng(seed)
        margin = rng.normal(0.5, 1.0, (2, 60, len(FACTOR_KNOTS)))
        margin[:, :, len(FACTOR_KNOTS) // 2] = 0.1
        assert fit_factor(CoverageTable(FACTOR_KNOTS, margin, np.zeros(60))).value <= 1.0

    def test_says_that_the_factor_is_at_its_bound(self) -> None:
        found = fit_factor(factor_table(30.0, 500, seed=2))
        assert found.value == pytest.approx(WIDEST) and "the checkpoint" in found.why


class TestStretch:
    def test_is_affine_about_its_centre(self) -> None:
        stretch = Stretch(centre=-2.0, shift=0.25, factor=1.5)
        np.testing.assert_allclose(stretch(np.array([-2.0, -1.0])), [-1.75, -0.25])


class TestCoverageTable:
    def test_agrees_with_the_decoder_at_and_between_its_knots(self) -> None:
        """Hills of degree 7 whose truth lies up to some hundred km off."""
        degree, count = 7, 60
        centres = random_points(count, seed=11)
        natural = torch.from_numpy(0.4 * encode_vectors(centres, degree)).float()
        near = centres + np.random.default_rng(12).normal(0.0, 0.2, centres.shape)
        place = latitude_longitude(near / np.linalg.norm(near, axis=1, keepdims=True))
        photos = EmbeddedPhotos(["x"] * count, np.zeros((count, 1), np.float32), *place)
        knots = np.linspace(-1.0, 1.0, 9)
        densities, answerer = LocatedDensities(photos, natural), Answerer(Decoder(degree))
        table = CoverageTable.measure(densities, np.zeros(count), answerer, knots)
        assert table.margin.shape == (2, count, 9)
        for log_temperature, off in ((knots[2], 0.0), (knots[6], 0.0), (0.11, 1.01 / count)):
            direct = fitting.measure(densities, answerer, float(np.exp(log_temperature)))
            found = table.coverage(np.full(count, log_temperature))
            wanted = [direct["coverage_50"], direct["coverage_90"]]
            np.testing.assert_allclose(found, wanted, atol=off + 1e-9)

    def test_outside_its_range_the_ends_hold(self) -> None:
        table = exponential_table(0.0, 10)
        for far, end in ((-9.0, KNOTS[0]), (9.0, KNOTS[-1])):
            at_end = table.coverage(np.full(COUNT, end))
            np.testing.assert_array_equal(table.coverage(np.full(COUNT, far)), at_end)

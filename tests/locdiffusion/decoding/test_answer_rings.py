"""What is measured around answers, and the last step towards the top."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.speed.head.fine import fine_answers
from locdiffusion.decoding import answer_rings
from locdiffusion.decoding.coarse_search import Mixtures
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.decoding.distance_profile import ZONES_KM, disc_weights, ring_grids
from locdiffusion.density import shdd
from locdiffusion.density.base_measure import BaseMeasure, land_measure
from locdiffusion.sphere.geodesy import (
    EARTH_RADIUS_KM,
    angle_between,
    destination,
    great_circle_km,
    latitude_longitude,
    unit_vectors,
)
from locdiffusion.sphere.grids import fibonacci_grid
from support.tiny import random_points

pytestmark = pytest.mark.usefixtures("one_thread")

L = 23
D = (L + 1) ** 2


def densities(height: float, count: int, seed: int) -> torch.Tensor:
    """η of one peak each, `height` nats high, and some waves."""
    waves = np.random.default_rng(seed).normal(size=(count, D)) * (0.1 * height / D)
    natural = height / D * shdd.encode_vectors(random_points(count, seed), L) + waves
    return torch.from_numpy(natural.astype(np.float32))[:, None]


def mixtures_of(decoder: Decoder, natural: torch.Tensor) -> Mixtures:
    found = decoder.tables.search(natural, 1)
    return decoder.tables.mixtures(natural, found, torch.nonzero(~found.settled)[:, 0])


@pytest.mark.parametrize("radius_km", [0.5, 25.0, 90.0, 200.0, 750.0, 1700.0, 2500.0])
def test_rings_are_cut_where_the_disc_ends(radius_km: float) -> None:
    """Areas of caps and the value of a cubic at the rim, from rings that know neither."""
    area, rim = 0.0, 0.0
    for rings, edges in zip(ring_grids(), ZONES_KM, strict=True):
        share, at_rim = disc_weights(radius_km, edges)
        area += float(share @ (rings.row_weight * len(rings.longitude)))
        km = EARTH_RADIUS_KM * np.arccos(rings.cos_theta)
        rim += float(at_rim @ (1.0 + km + km**2 - km**3))
    wanted = 2.0 * np.pi * (1.0 - np.cos(radius_km / EARTH_RADIUS_KM))
    assert area == pytest.approx(wanted, rel=1e-7)
    assert rim == pytest.approx(1.0 + radius_km + radius_km**2 - radius_km**3, rel=1e-6)


@pytest.mark.parametrize("base", [None, land_measure()], ids=["uniform", "land"])
def test_an_answer_a_little_off_is_brought_to_the_top(base: BaseMeasure | None) -> None:
    decoder = Decoder(L, DecodeConfig(radius_km=500.0), base)
    natural = densities(20.0, 12, 1)
    answers = decoder(natural)
    mixtures = mixtures_of(decoder, natural)
    off = destination(answers.latitude, answers.longitude, np.arange(12) * 30.0, 6.0)
    start = torch.from_numpy(unit_vectors(*off).astype(np.float32))
    found = decoder.answer_rings(mixtures, start)
    reached = latitude_longitude(found.answer.double().numpy())
    assert great_circle_km(*reached, answers.latitude, answers.longitude).max() < 0.1
    np.testing.assert_allclose(found.profile.quantile_km(0.5), answers.radius_50_km, rtol=2e-3)
    np.testing.assert_allclose(found.mass, [modes[0].probability for modes in answers.modes], 1e-3)


def rows_seen(module: torch.nn.Module) -> list[int]:
    """Counts the rows of a module's first input, call by call."""
    counts: list[int] = []
    module.register_forward_hook(lambda _, inputs, __: counts.append(len(inputs[0])))
    return counts


def test_rings_without_mass_are_left_out_and_nothing_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sums are those over all rings."""
    natural = torch.cat([densities(60.0, 6, 2), densities(4.0, 2, 3), densities(20.0, 2, 4)])
    decoder = Decoder(L, DecodeConfig(radius_km=300.0), land_measure())
    mixtures = mixtures_of(decoder, natural)
    mean = decoder.tables.search(natural, 1).ring_candidates[:, 1]
    rings = decoder.answer_rings
    inner, outer = rows_seen(rings.inner), rows_seen(rings.outer)
    everyone = torch.arange(10)
    found = rings._measured(mixtures, everyone, mean)
    assert inner == [10] and 2 <= sum(outer) < 10
    monkeypatch.setattr(answer_rings, "NEGLIGIBLE_LOG_P", -np.inf)
    outer.clear()
    whole = rings._measured(mixtures, everyone, mean)
    assert outer == [10]
    # Gain and step (columns 2 to 4) of a point off the top differ by float32 alone.
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-7)


def test_probabilities_are_those_of_dense_nodes() -> None:
    """A batch of narrow and broad densities holds within each threshold what dense nodes hold."""
    natural = torch.cat([densities(60.0, 6, 2), densities(4.0, 2, 3)])
    base = land_measure()
    decoder = Decoder(L, DecodeConfig(radius_km=300.0), base)
    answers = decoder(natural)
    nodes = fibonacci_grid(100_000)
    log_base = base(torch.from_numpy(nodes).float()).double().numpy()
    log_p = shdd.field(natural[:, 0].double().numpy(), nodes) + log_base
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    distance = angle_between(unit_vectors(answers.latitude, answers.longitude)[:, None], nodes)
    for column, km in ((2, 200.0), (3, 750.0), (4, 2500.0)):  # the nodes are 70 km apart
        wanted = (p * (EARTH_RADIUS_KM * distance <= km)).sum(1) / p.sum(1)
        np.testing.assert_allclose(answers.probability[:, column], wanted, atol=0.01)


@pytest.mark.slow
def test_the_mean_of_a_narrow_density_will_do_for_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """No score is summed for narrow densities, and the answers are as if it were."""
    natural = torch.cat([densities(40.0, 10, 4), densities(5.0, 3, 5)])
    base = land_measure()
    decoder = Decoder(L, DecodeConfig(radius_km=750.0), base)
    counts = rows_seen(decoder.kernel)
    found = decoder(natural)
    few, counts[:] = list(counts), []
    decoder(natural[10:])
    assert few == counts
    counts.clear()
    monkeypatch.setattr("locdiffusion.decoding.decoder.NARROW", 0.0)
    wanted = decoder(natural)
    assert sum(few) < sum(counts) - 10
    apart = great_circle_km(found.latitude, found.longitude, wanted.latitude, wanted.longitude)
    assert apart.max() < 0.1
    for name in ("radius_50_km", "radius_90_km", "probability", "information_nats"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=2e-3)
    assert [len(modes) for modes in found.modes] == [len(modes) for modes in wanted.modes]
    fine = fine_answers(natural[:, 0], found.latitude, found.longitude, 750.0, base)
    assert great_circle_km(found.latitude, found.longitude, *fine).max() < 3.0


def test_all_photos_may_be_narrow() -> None:
    """Then no score is summed, and a batch has none of the other kind."""
    natural = densities(60.0, 5, 6)
    decoder = Decoder(L, DecodeConfig(radius_km=750.0))
    counts = rows_seen(decoder.kernel)
    found = decoder(natural)
    assert not counts
    places = unit_vectors(found.latitude, found.longitude)
    assert np.einsum("nk,nk->n", places, random_points(5, 6)).min() > np.cos(0.05)


def test_a_prior_that_cuts_a_density_does_not_leave_its_answer_behind() -> None:
    """q₀ falls to nothing on a line through each density: the fine grid has the same answers."""
    weight = np.ones((240, 480))
    weight[:, 240:] = 0.0  # east of Greenwich
    base = BaseMeasure(weight, excluding=True)
    latitude, longitude = np.array([5.0, 30.0, -40.0, 62.0]), np.array([1.0, -0.5, 0.2, -1.5])
    natural = 14.0 / D * shdd.encode(latitude, longitude, L)
    tensor = torch.from_numpy(natural.astype(np.float32))
    found = Decoder(L, DecodeConfig(radius_km=500.0), base)(tensor[:, None])
    wanted = fine_answers(tensor, found.latitude, found.longitude, 500.0, base)
    assert (found.longitude < 0.0).all()
    assert great_circle_km(found.latitude, found.longitude, *wanted).max() < 3.0

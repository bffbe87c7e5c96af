"""Photos that the coarse search settles get the answers that the whole sphere would give them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.decoding.mode_seeking import NewtonStep, climb_score
from locdiffusion.decoding.peaks import walked
from locdiffusion.density import shdd
from locdiffusion.density.base_measure import BaseMeasure, land_measure
from locdiffusion.sphere.geodesy import great_circle_km, unit_vectors
from support.dense_decoder import score
from support.tiny import random_points

pytestmark = pytest.mark.usefixtures("one_thread")

L = 23
D = (L + 1) ** 2


def peaks(places: np.ndarray, height: float) -> np.ndarray:
    """η of one peak each at unit vectors ``(N, 3)``, `height` nats high."""
    natural: np.ndarray = height / D * shdd.encode_vectors(places, L)
    return natural


def tensor(natural: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(natural.astype(np.float32))[:, None]


def mixed_batch() -> np.ndarray:
    """Sharp peaks, hardly any knowledge, and two far peaks of which one is a thousandth."""
    sharp = peaks(random_points(8, 1), 28.0)
    broad = peaks(random_points(4, 2), 4.0)
    lesser = peaks(random_points(4, 3), 28.0) + peaks(random_points(4, 4), 21.0)
    return np.concatenate([sharp, broad, lesser])[np.random.default_rng(0).permutation(16)]


def answers(decoder: Decoder, natural: np.ndarray) -> dict[str, np.ndarray]:
    columns = vars(decoder(tensor(natural)))
    return {name: values for name, values in columns.items() if name != "modes"}


@pytest.mark.parametrize("base", [None, land_measure()], ids=["uniform", "land"])
def test_settled_photos_have_the_answers_of_the_whole_sphere(base: BaseMeasure | None) -> None:
    natural = mixed_batch()
    decoder = Decoder(L, DecodeConfig(radius_km=150.0), base)
    settled = decoder.tables.search(tensor(natural), 6).settled
    assert 0 < int(settled.sum()) < len(settled)
    found = answers(decoder, natural)
    decoder.tables.search.may_settle = False
    wanted = answers(decoder, natural)
    apart = great_circle_km(*(a[k] for a in (found, wanted) for k in ("latitude", "longitude")))
    assert apart.max() < 0.05
    for name in ("radius_50_km", "radius_90_km"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, err_msg=name)
    for name in ("probability", "information_nats", "land_probability"):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-4, err_msg=name)


def test_a_second_peak_of_a_thousandth_is_not_overlooked() -> None:
    """It is 7 nats lower, and 1e-3 of the mass is far from the first."""
    first, second = unit_vectors([10.0, -40.0], [20.0, -100.0])
    natural = peaks(first[None], 28.0) + peaks(second[None], 21.0)
    assert not Decoder(L).tables.search(tensor(natural), 6).settled.any()
    assert Decoder(L).tables.search(tensor(peaks(first[None], 28.0)), 6).settled.all()


def test_several_samples_and_priors_that_exclude_are_never_settled() -> None:
    natural = tensor(peaks(random_points(3, 5), 28.0))
    assert Decoder(L).tables.search(natural, 6).settled.all()
    assert not Decoder(L).tables.search(natural.repeat(1, 2, 1), 6).settled.any()
    weight = np.ones((240, 480))
    weight[:, 240:] = 0.0
    half = BaseMeasure(weight, excluding=True)
    assert not Decoder(L, None, half).tables.search(natural, 6).settled.any()


def test_a_peak_off_the_coast_is_answered_by_the_coast() -> None:
    """F is highest 200 km out at sea, where q₀ is a hundredth; the score is highest on the land."""
    weight = np.ones((240, 480))
    weight[:, 240:] = 0.01  # east of Greenwich
    base = BaseMeasure(weight)
    natural = peaks(unit_vectors([5.0], [1.8]), 40.0)
    decoder = Decoder(L, DecodeConfig(radius_km=100.0), base)
    assert decoder.tables.search(tensor(natural), 6).settled.all(), (
        "or the coarse map finds the coast"
    )
    got = decoder(tensor(natural))
    assert -1.5 < got.longitude[0] < 0.0

    def density(vectors: np.ndarray) -> np.ndarray:
        return shdd.field(natural, vectors)[0] + base(torch.from_numpy(vectors).float()).numpy()

    ours = score(density, unit_vectors(got.latitude, got.longitude)[0], 100.0)
    along = unit_vectors(5.0, np.arange(-3.0, 3.0, 0.05))
    best = max(score(density, place, 100.0) for place in along)
    assert ours > 0.998 * best


def test_a_climb_ends_at_the_top_and_stops_at_a_kink() -> None:
    """On a paraboloid in two rounds; on a cone, whose slope expects more than there is, soon."""
    top = torch.from_numpy(unit_vectors([20.0, 20.0], [30.0, 30.0]))[:, None]
    start = walked(top, torch.tensor([[[0.03, 0.01]], [[0.02, -0.02]]], dtype=torch.float64))
    rounds = []

    def newton(photo: torch.Tensor, points: torch.Tensor) -> NewtonStep:
        rounds.append(len(points))
        gap = (points - top[photo, 0]).norm(dim=-1)
        steps = torch.stack(
            [(top[photo, 0] - points) @ axis for axis in south_and_east(top[0, 0])], -1
        )
        cone = photo == 1
        value = torch.where(cone, 1.0 - gap, 1.0 - gap**2)
        steps = torch.where(cone[:, None], 0.05 * steps / gap[:, None].clamp(min=1e-9), steps)
        gain = torch.where(cone, 0.05, gap**2)
        return NewtonStep(torch.cat([torch.stack([value, value, gain], -1), steps], -1))

    at = newton(torch.arange(2), start[:, 0])
    rounds.clear()
    places, reached = climb_score(start, NewtonStep(at.values[:, None]), newton, 8)
    gap = (places - top).norm(dim=-1)[:, 0]
    assert gap[0] < 1e-4 and gap[1] < 0.02
    assert len(rounds) < 8 and reached.score.min() > 0.98


def south_and_east(point: torch.Tensor) -> torch.Tensor:
    east = torch.linalg.cross(point.new_tensor([0.0, 0.0, 1.0]), point)
    east = east / east.norm()
    return torch.stack([torch.linalg.cross(east, point), east])

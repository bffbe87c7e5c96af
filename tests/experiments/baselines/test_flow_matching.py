"""The flow's geometry by identities, and a flow whose target is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import vonmises_fisher

from experiments.baselines.flow_matching import (
    FlowMatching,
    FlowNetwork,
    exponential,
    log_density_of_others,
    logarithm,
    matching_loss,
    samples,
    transported,
)
from experiments.baselines.network import Budget
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import angle_between, latitude_longitude
from support import tiny

pytestmark = pytest.mark.usefixtures("one_thread")


def points(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(tiny.random_points(count, seed))


def test_exponential_and_logarithm_are_inverse():
    x, y = points(50, 0), points(50, 1)
    tangent = logarithm(x, y)
    assert_allclose((tangent * x).sum(-1), 0.0, atol=1e-14)
    assert_allclose(tangent.norm(dim=-1), angle_between(x, y), rtol=1e-12)
    assert_allclose(exponential(x, tangent), y, atol=1e-12)
    assert_allclose(exponential(x, 0.0 * tangent), x, atol=1e-15)
    assert_allclose(logarithm(x, x), 0.0, atol=1e-12)


def test_transport_keeps_lengths_and_turns_the_way_back_into_the_way_on():
    x, y, z = points(50, 0), points(50, 1), points(50, 2)
    carried = transported(x, y, logarithm(x, z))
    assert_allclose((carried * y).sum(-1), 0.0, atol=1e-12)
    assert_allclose(carried.norm(dim=-1), logarithm(x, z).norm(dim=-1), rtol=1e-9)
    assert_allclose(transported(x, y, logarithm(x, y)), -logarithm(y, x), atol=1e-9)


class Exact(FlowNetwork):
    """The velocity of a target of one point: log_x(x₁)/(1 - t)."""

    def __init__(self, target: torch.Tensor) -> None:
        super().__init__(2, 500, 0.0)
        self.target = target

    def forward(self, x, t, modulation):
        return logarithm(x, self.target.expand_as(x)) / (1.0 - t)


def test_the_loss_of_the_exact_velocity_is_zero():
    """The wanted velocity is written in two ways, for early and late t; both are this one."""
    target = points(1, 3)
    truth = target.repeat(500, 1)
    loss = matching_loss(
        Exact(target).double(),
        torch.zeros(500, 2).double(),
        truth,
        torch.Generator().manual_seed(0),
    )
    assert float(loss) < 1e-12


@pytest.mark.parametrize("steps", [2, 7])
def test_samples_of_the_exact_flow_arrive(steps):
    target = points(1, 3)
    found = samples(Exact(target).double(), torch.zeros(2, 2).double(), 16, steps)
    assert_allclose(found, target.expand(2, 16, 3), atol=1e-9)


def test_velocities_are_tangent():
    network = FlowNetwork(4, 3000, 0.0)
    x = points(6, 0).float().view(2, 3, 3)
    velocity = network(x, torch.tensor([[[0.1]], [[0.8]]]), network.modulation(torch.randn(2, 4)))
    assert_allclose((velocity * x).sum(-1).detach(), 0.0, atol=1e-6)


def test_a_photos_samples_do_not_depend_on_its_batch():
    network = FlowNetwork(3, 3000, 0.0).double().eval()
    embeddings = points(5, 0)
    together = samples(network, embeddings, 8, 3)
    assert_allclose(together[3:4], samples(network, embeddings[3:4], 8, 3), atol=1e-9)


def test_a_known_target_is_approximated(rng):
    """All photos alike, truths of one von Mises-Fisher density: the samples' mean and spread."""
    centre, kappa, count = tiny.random_points(1, 3)[0], 12.0, 4000
    truth = vonmises_fisher(centre, kappa).rvs(count, random_state=rng)
    noise = rng.normal(size=(count, 2)).astype(np.float32)
    photos = EmbeddedPhotos([""] * count, noise, *latitude_longitude(truth))
    rival = FlowMatching(count=256, steps=12)
    rival.fit(photos, photos, Budget(250, 64, 5e-3, parameters=12_000, ema_decay=0.98))
    middle = EmbeddedPhotos([""], np.zeros((1, 2), np.float32), *np.zeros((2, 1)))
    drawn = rival.evidence(middle).points[0]
    mean = drawn.mean(0)
    resultant = np.linalg.norm(mean)
    assert angle_between(mean / resultant, centre) < 0.1
    assert_allclose(1.0 - resultant, 1.0 / kappa, rtol=0.35)


def test_the_density_of_the_others_is_leave_one_out(rng):
    points = vonmises_fisher([0.0, 0.0, 1.0], 50.0).rvs(40, random_state=rng)[None]
    found = log_density_of_others(points)[0]
    gap = 1.0 - points[0] @ points[0].T
    kappa = 40 ** (1 / 3) * 2.0 * np.log(2.0) / np.median(gap[~np.eye(40, dtype=bool)])
    terms = np.exp(-kappa * gap) - np.eye(40)
    assert_allclose(found, np.log(terms.sum(1)), atol=1e-8)
    assert log_density_of_others(points[:, :1]) == 0.0

"""The network: its shapes, what it must ignore, what it knows before it is trained, and that it
learns."""

import math

import numpy as np
import pytest
import torch

from locdiffusion.density import shdd
from locdiffusion.density.log_partition import LogPartition, PartitionConfig
from locdiffusion.diffusion.losses import shdd_kl
from locdiffusion.model.cs_unet import CSUNet, CSUNetConfig
from locdiffusion.model.siren import ConditionedSine, NoiseLevelFeatures

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = CSUNetConfig(max_degree=7, embedding_dim=12, condition_dim=24, widths=(24, 16, 8))
D = CONFIG.dimension


def network(seed=0, trained=True, **settings):
    """A network; `trained` gives every weight a random value, as training would."""
    torch.manual_seed(seed)
    net = CSUNet(CSUNetConfig(**{**vars(CONFIG), **settings})).eval()
    if trained:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return net


def inputs(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = 10 * torch.randn(count, D, generator=generator)
    sigma = torch.exp(torch.randn(count, generator=generator) + 2)
    return x, sigma, torch.randn(count, 12, generator=generator)


def infinite(count):
    return torch.full((count,), math.inf)


@pytest.mark.parametrize("count", [1, 5])
def test_shapes(count):
    eta = network()(*inputs(count))
    assert eta.shape == (count, D)
    assert torch.isfinite(eta).all()


def test_levels_see_the_coarse_degrees():
    assert CONFIG.level_dimensions == (64, 16, 4)
    net = network(widths=(16,))
    assert net(*inputs(2)).shape == (2, D)


def test_at_infinite_noise_x_is_ignored_entirely():
    """Even values that are not numbers must not leak through."""
    net = network()
    x, _, condition = inputs(4)
    wanted = net(torch.zeros(4, D), infinite(4), condition)
    for other in (x, 1e20 * x, torch.full_like(x, math.nan)):
        assert torch.equal(net(other, infinite(4), condition), wanted)


def test_rows_do_not_see_each_other():
    net = network()
    x, sigma, condition = inputs(6)
    sigma[::2] = math.inf
    together = net(x, sigma, condition)
    for i in range(6):
        row = slice(i, i + 1)
        torch.testing.assert_close(together[row], net(x[row], sigma[row], condition[row]))


def test_x_sigma_and_image_all_matter():
    net = network()
    x, sigma, condition = inputs(3)

    def learned(x, sigma, condition):
        return net(x, sigma, condition) - x / sigma[:, None] ** 2

    base = learned(x, sigma, condition)
    for other in (
        learned(x + 1.0, sigma, condition),
        learned(x, 2 * sigma, condition),
        learned(x, sigma, condition + 1.0),
    ):
        assert float((other - base).detach().abs().mean()) > 1e-4


def test_evaluation_is_deterministic_and_dropout_belongs_to_training():
    net = network(dropout=0.5)
    assert torch.equal(net(*inputs(3)), net(*inputs(3)))
    net.train()
    assert not torch.equal(net(*inputs(3)), net(*inputs(3)))
    assert torch.equal(*(network(seed=4)(*inputs(3)) for _ in range(2)))


def test_with_f_zero_the_network_is_the_bayes_skip():
    net = network()
    with torch.no_grad():
        for head in net.heads:
            head.weight.zero_()
            head.bias.zero_()
    x, sigma, condition = inputs(5)
    torch.testing.assert_close(net(x, sigma, condition), x / sigma[:, None] ** 2)
    assert torch.equal(net(x, infinite(5), condition), torch.zeros(5, D))


def test_the_bayes_skip_is_the_exact_posterior(rng):
    """On 200 places: prior exp⟨η, code⟩ times the Gaussian likelihood of x_σ, normalised by brute
    force, is exp⟨η + x_σ/σ², code⟩: |code|² is the same everywhere and drops out."""
    vectors = rng.normal(size=(200, 3))
    codes = shdd.encode_vectors(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 7)
    eta, sigma = 0.1 * rng.normal(size=D), 3.0
    x = codes[17] + sigma * rng.normal(size=D)
    log_posterior = codes @ eta - np.sum((x - codes) ** 2, -1) / (2 * sigma**2)
    by_skip = codes @ (eta + x / sigma**2)
    np.testing.assert_allclose(
        log_posterior - np.logaddexp.reduce(log_posterior),
        by_skip - np.logaddexp.reduce(by_skip),
        atol=1e-9,
    )


@pytest.mark.parametrize("trunk_blocks", [0, 2])
def test_before_training_f_depends_on_the_image_alone(trunk_blocks):
    net = network(trained=False, trunk_blocks=trunk_blocks)
    x, sigma, condition = inputs(4)
    image_part = net(x, infinite(4), condition)
    torch.testing.assert_close(
        net(x, sigma, condition), image_part + x / sigma[:, None] ** 2, rtol=1e-5, atol=1e-6
    )
    assert float(image_part.detach().abs().mean()) > 1e-5
    # Near the uniform density: the loss starts at about 0 nats.
    assert float(image_part.detach().norm(dim=1).max()) * math.sqrt(D) < 1.0


def test_standardised_embeddings_may_have_any_scale_and_origin():
    x, sigma, _ = inputs(32)
    embeddings = torch.randn(32, 12, generator=torch.Generator().manual_seed(2))
    plain, scaled = network(), network()
    plain.standardise(embeddings)
    scaled.standardise(100 * embeddings + 7)
    torch.testing.assert_close(
        scaled(x, sigma, 100 * embeddings + 7), plain(x, sigma, embeddings), rtol=1e-3, atol=1e-4
    )


def test_a_constant_feature_does_not_blow_up():
    embeddings = torch.randn(50, 12, generator=torch.Generator().manual_seed(2))
    embeddings[:, 3] = 5.0
    net = network()
    net.standardise(embeddings)
    x, sigma, _ = inputs(50)
    assert torch.isfinite(net(x, sigma, embeddings)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_degree": 0}, "max_degree"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"widths": ()}, "one positive width"),
        ({"widths": (8, 0)}, "one positive width"),
        ({"max_degree": 3, "widths": (8, 8, 8)}, "fewer widths"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
        ({"trunk_blocks": -1}, "trunk_blocks is -1"),
    ],
)
def test_impossible_sizes_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        CSUNetConfig(**{**vars(CONFIG), **settings})


def test_sine_layer_keeps_the_variance_of_its_input():
    """The SIREN initialisation: activations neither die nor saturate through ten layers."""
    torch.manual_seed(0)
    layers = [ConditionedSine(256, 256, 8) for _ in range(10)]
    x, condition = torch.randn(500, 256), torch.zeros(500, 8)
    spreads = []
    with torch.no_grad():
        for layer in layers:
            x = layer(x, condition)
            spreads.append(float(x.std()))
    assert float(x.abs().max()) <= 1.0
    assert 0.5 < min(spreads[2:]) <= max(spreads) < 0.8


def test_infinite_noise_has_features_of_its_own():
    features = NoiseLevelFeatures(4)(torch.tensor([1.0, 8.0, math.inf, math.inf]))
    assert features.shape == (4, 9)
    assert torch.equal(features[2], torch.tensor([0.0] * 8 + [1.0]))
    assert torch.equal(features[2], features[3])
    assert torch.all(features[:2, -1] == 0)
    assert not torch.allclose(features[0], features[1])


def test_a_trunk_starts_as_the_identity_and_then_matters():
    fresh, grown = (network(trained=trained, trunk_blocks=2) for trained in (False, True))
    _, _, condition = inputs(3)
    with torch.no_grad():
        image = fresh.image((condition - fresh.embedding_mean) / fresh.embedding_std)
        c = fresh.condition_norm(image)
        torch.testing.assert_close(fresh._told(image, c), c, rtol=1e-3, atol=1e-4)
        before = grown.from_image(condition)
        for block in grown.trunk:
            block[-1].weight.zero_()
        assert float((grown.from_image(condition) - before).abs().mean()) > 1e-4


@pytest.mark.parametrize("trunk_blocks", [0, 2])
def test_sixteen_photos_can_be_learned_by_heart(rng, trunk_blocks):
    """Loss in nats against the uniform answer: from about 0 to below -5 in 250 steps."""
    vectors = rng.normal(size=(16, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = torch.from_numpy(vectors.astype(np.float32))
    code = torch.from_numpy(shdd.encode_vectors(vectors, 7).astype(np.float32))
    condition = torch.randn(16, 12, generator=torch.Generator().manual_seed(3))
    net = network(trained=False, dropout=0.0, trunk_blocks=trunk_blocks)
    net.train()
    partition = LogPartition(
        7, PartitionConfig(rows=24, offsets=2, panels=3, nodes_per_panel=3, azimuths=12)
    )
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(250):
        sigma = infinite(16)
        sigma[step % 2 :: 2] = 8.0
        x = code + torch.where(torch.isinf(sigma), 0.0, sigma)[:, None] * torch.randn(
            16, D, generator=generator
        )
        loss = shdd_kl(net(x, sigma, condition), code, truth, partition, generator).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert abs(losses[0]) < 1.0
    assert np.mean(losses[-10:]) < -5.0
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.any(parameter.grad != 0), f"{name} does not learn"

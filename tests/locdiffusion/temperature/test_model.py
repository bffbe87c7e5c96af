"""Temperatures of photos: their features against a plain version, and how they are applied."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locdiffusion.density.base_measure import land_measure, positions_measure, uniform_measure
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.model.similarity import discriminants, largest
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from locdiffusion.temperature import FEATURES, TemperatureConfig, TemperatureModel
from locdiffusion.temperature import model as module
from support.tiny import MODEL, learnable_photos, random_denoiser, random_points

pytestmark = pytest.mark.usefixtures("one_thread")

PHOTOS = learnable_photos(60, seed=3)


@pytest.fixture
def model() -> TemperatureModel:
    return TemperatureModel.of_training(
        PHOTOS.embeddings,
        PHOTOS.vectors,
        MODEL.max_degree,
        uniform_measure(),
        TemperatureConfig(gallery=60, components=12, neighbours=5),
    )


def natural_at(vectors: np.ndarray, sharpness: float) -> torch.Tensor:
    return torch.from_numpy(sharpness * encode_vectors(vectors, MODEL.max_degree)).float()


@pytest.mark.parametrize("at_once", [8, 64])
def test_features_are_those_of_brute_force(
    model: TemperatureModel, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(module, "PHOTOS", at_once)
    asked = learnable_photos(20, seed=4)
    natural = natural_at(asked.vectors, 0.5)
    found = model.features(torch.from_numpy(asked.embeddings), natural).numpy()
    positions = positions_measure(PHOTOS.vectors)
    gap = (asked.embeddings[:, None] - PHOTOS.embeddings) @ model.projection.numpy()
    dissimilarity = np.sqrt((gap**2).sum(-1))
    order = np.argsort(dissimilarity, 1)[:, :5]
    km = great_circle_to(PHOTOS.vectors[order], asked.vectors)
    everyone = np.sort(great_circle_to(PHOTOS.vectors[None].repeat(20, 0), asked.vectors), 1)
    unlike = np.take_along_axis(dissimilarity, order, 1)
    mean = PHOTOS.embeddings.mean(0)
    wanted = {
        "similar_nearest_km": km.min(1) + 20,
        "similar_median_km": np.median(km, 1) + 20,
        "similar_first_km": km[:, 0] + 20,
        "similar_mean_km": np.exp(np.log(km + 20).mean(1)),
        "similar_spread_km": km.std(1) + 20,
        "dissimilarity": unlike[:, 0],
        "dissimilarity_growth": unlike[:, -1] / unlike[:, 0],
        "unusualness": np.linalg.norm((asked.embeddings - mean) @ model.projection.numpy(), axis=1),
        **{f"training_{r}_km": everyone[:, r - 1] + 10 for r in (1, 2, 5, 20)},
        "negative_log_density_here": np.exp(
            -positions(torch.from_numpy(asked.vectors).float()).numpy()
        ),
        "sharpness": natural_at(asked.vectors, 0.5).norm(dim=1).numpy(),
    }
    for name, values in wanted.items():
        column = found[:, FEATURES.index(name)]
        np.testing.assert_allclose(np.exp(column), values, rtol=0.06, atol=1.0, err_msg=name)
    assert found.shape == (20, len(FEATURES)) and np.isfinite(found).all()


@pytest.mark.parametrize("columns", [7, 64, 1000, 1003])
def test_the_largest_are_those_of_topk(rng: np.random.Generator, columns: int) -> None:
    values = torch.from_numpy(rng.normal(size=(5, columns)))
    values[1, : columns // 2] += 10.0
    wanted = values.topk(5, dim=1)
    found, index = largest(values, 5)
    assert torch.equal(found, wanted.values)
    assert torch.equal(index, wanted.indices)


def test_the_tree_finds_what_all_products_find(model: TemperatureModel) -> None:
    """The way of a CPU and that of a GPU; float32 knows an angle to 2 km."""
    answers = torch.from_numpy(random_points(30, seed=8)).float()
    found = model._nearest_km(answers, 20)
    cosine = answers.double() @ model.directions.double().T
    wanted = EARTH_RADIUS_KM * torch.acos(largest(cosine, 20)[0].clamp(-1, 1))
    assert found.shape == (30, 20)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=2.0)


def test_discriminants_are_blind_to_what_differs_between_neighbours(
    rng: np.random.Generator,
) -> None:
    """Ten photos of each place: the loudest axes are the look's, and none is kept."""
    places = random_points(60, seed=5)
    known = np.repeat(places @ rng.normal(size=(3, 12)), 10, axis=0)
    look = rng.normal(size=(600, 4)) @ rng.normal(size=(4, 12))
    embeddings = (known + 3.0 * look + 0.01 * rng.normal(size=known.shape)).astype(np.float32)
    vectors = np.repeat(places, 10, axis=0) + 1e-4 * rng.normal(size=(600, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    axes = discriminants(embeddings, vectors, 3)
    assert axes.shape == (12, 3)
    spread = [np.square((part - part.mean(0)) @ axes).sum() for part in (known, 3.0 * look)]
    assert spread[0] > 2.0 * spread[1]
    _, principal = np.linalg.eigh(np.cov(embeddings.T))
    loudest = principal[:, -3:]
    of_look = [np.square((part - part.mean(0)) @ loudest).sum() for part in (known, 3.0 * look)]
    assert of_look[1] > 5.0 * of_look[0]


def test_one_photo_has_axes_too() -> None:
    assert discriminants(np.zeros((1, 4), np.float32), random_points(1, seed=1), 2).shape == (4, 2)


def test_a_loaded_model_has_the_same_features(model: TemperatureModel) -> None:
    """What is derived from the stored tensors is derived anew."""
    loaded = TemperatureModel(
        model.config, MODEL.max_degree, PHOTOS.embeddings.shape[1], uniform_measure()
    )
    loaded.load_state_dict(model.state_dict())
    condition = torch.from_numpy(PHOTOS.embeddings[:4])
    natural = natural_at(PHOTOS.vectors[:4], 0.5)
    torch.testing.assert_close(
        loaded.features(condition, natural), model.features(condition, natural), rtol=0, atol=0
    )


def great_circle_to(places: np.ndarray, points: np.ndarray) -> np.ndarray:
    cosine = np.einsum("nkj,nj->nk", places, points)
    return EARTH_RADIUS_KM * np.arccos(cosine.clip(-1, 1))


def test_information_is_none_of_a_flat_density_and_grows(model: TemperatureModel) -> None:
    centre = np.array([[0.0, 0.6, 0.8]])
    condition = torch.from_numpy(PHOTOS.embeddings[:1])
    information = [
        float(model.features(condition, natural_at(centre, s))[0, FEATURES.index("information")])
        for s in (0.0, 0.1, 0.5, 3.0)
    ]
    assert information[0] == pytest.approx(0.0, abs=1e-5)
    assert sorted(information) == information


def test_without_a_fit_nothing_changes(model: TemperatureModel) -> None:
    condition = torch.from_numpy(PHOTOS.embeddings)
    natural = torch.randn(len(PHOTOS), MODEL.dimension)
    assert torch.equal(model(condition, natural), torch.ones(len(PHOTOS)))


def test_a_small_training_set_gives_a_small_gallery() -> None:
    few = learnable_photos(4, seed=1)
    model = TemperatureModel.of_training(few.embeddings, few.vectors, 7, land_measure())
    assert model.config.gallery == 4 and model.config.neighbours == 4
    found = model.features(torch.from_numpy(few.embeddings), torch.zeros(4, MODEL.dimension))
    assert torch.isfinite(found).all()


def test_same_seed_same_gallery() -> None:
    def drawn(seed: int) -> TemperatureModel:
        config = TemperatureConfig(gallery=10, components=3, neighbours=2)
        return TemperatureModel.of_training(
            PHOTOS.embeddings, PHOTOS.vectors, 7, uniform_measure(), config, seed
        )

    assert torch.equal(drawn(1).gallery, drawn(1).gallery)
    assert not torch.equal(drawn(1).gallery, drawn(2).gallery)


def test_temperatures_have_bounds(model: TemperatureModel) -> None:
    condition = torch.from_numpy(PHOTOS.embeddings[:2])
    natural = torch.zeros(2, MODEL.dimension)
    for bias, wanted in ((50.0, 20.0), (-50.0, 0.02)):
        model.out.bias.fill_(bias)
        assert model(condition, natural).tolist() == pytest.approx([wanted] * 2, rel=0.003)


def test_temper_divides_what_the_image_says_alone() -> None:
    """f/τ + x/σ²: at σ = ∞ the whole, at small σ hardly anything."""
    denoiser = random_denoiser()
    condition = torch.from_numpy(learnable_photos(6, seed=9).embeddings)
    tau = denoiser.temperature(condition)
    x, sigma = torch.randn(6, MODEL.dimension) * 3, torch.full((6,), 3.0)
    plain = denoiser.network(x, sigma, condition)
    bayes = x / 9.0
    expected = (plain - bayes) / tau[:, None] + bayes
    torch.testing.assert_close(denoiser(x, sigma, condition), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        denoiser.from_image(condition), denoiser.network.from_image(condition) / tau[:, None]
    )


@pytest.mark.parametrize("wrong", [{"gallery": 0}, {"neighbours": 0}, {"components": 0}])
def test_refuses_sizes(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TemperatureConfig(**wrong)

"""Distillation: the teacher's density, the simulated queries, and a student that learns them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.distillation import dataset, fidelity, rivals
from experiments.distillation import run as distillation
from experiments.distillation.queries import (
    ALONG,
    CROWDED,
    HELD_OUT,
    HELD_OUT_ALONG,
    HELD_OUT_MASKED,
    TRAINING,
    Ambiguity,
    QuerySimulator,
)
from experiments.distillation.source import TaughtQueries, projected_exponent
from experiments.distillation.teacher import Teacher, random_land
from locdiffusion.density.base_measure import land_measure
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.evaluate.scores import score
from locdiffusion.model.cs_unet import CSUNet, CSUNetConfig
from locdiffusion.sphere.geodesy import great_circle_km, unit_vectors
from locdiffusion.train.recipe import TrainConfig
from locdiffusion.train.trainer import Trainer
from support.tiny_teacher import GALLERY, PLACES, WIDTH, tiny_queries, tiny_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

L = 5


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return tiny_teacher()


def test_the_teachers_density_is_its_formula(teacher: Teacher) -> None:
    q = teacher.embeddings[:3]
    found = teacher.log_posterior(q).exp().numpy()
    odds = np.exp(teacher.scale * q.numpy() @ teacher.embeddings.numpy().T) / PLACES
    assert found == pytest.approx(odds / odds.sum(1, keepdims=True), rel=1e-4)
    assert found.argmax(1).tolist() == [0, 1, 2]


def test_draws_follow_the_density(teacher: Teacher) -> None:
    q = torch.nn.functional.normalize(teacher.embeddings[:1] + teacher.embeddings[7:8], dim=1)
    drawn = teacher.draw(q, 40_000, torch.Generator().manual_seed(0))
    share = np.bincount(drawn[0].numpy(), minlength=PLACES) / 40_000
    wanted = teacher.log_posterior(q)[0].exp().numpy()
    assert np.abs(share - wanted).max() < 0.01
    assert np.abs(share - wanted).sum() < 0.1


def test_random_land_is_land() -> None:
    places = random_land(500, np.random.default_rng(0))
    assert places.shape == (500, 2)
    assert (places[:, 0] > -60).all()
    log_land = land_measure()(torch.from_numpy(unit_vectors(places[:, 0], places[:, 1])))
    assert (log_land > 0).all()


def test_queries_repeat_and_are_unit_vectors(teacher: Teacher) -> None:
    first, again, other = (tiny_queries(teacher, 600, seed=s) for s in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert torch.linalg.norm(first.embeddings.float(), dim=1) == pytest.approx(1.0, abs=2e-3)
    assert first.drawn.shape == (600, 4)


def test_clear_queries_mean_their_place_and_vague_ones_do_not(teacher: Teacher) -> None:
    simulator = distillation.gallery_simulator(teacher)
    rows = torch.arange(GALLERY)
    right = {}
    settings = {"sure": Ambiguity(0, 0.0, 1.0, 1.0, 0.1), **TRAINING}
    for name, setting in settings.items():
        rng = np.random.default_rng(3)
        q = simulator(setting, teacher.vectors[rows], teacher.embeddings[rows], rng)
        found = teacher.gallery_similarity(q).argmax(1)
        right[name] = float((found == rows).float().mean())
    assert right["sure"] > 0.99
    assert right["sure"] > right["clear"] > right["typical"] > right["vague"]


def test_places_near_by_are_mistaken_as_far_off_as_the_setting_says(teacher: Teacher) -> None:
    setting = Ambiguity(1, 1.0, 1e-6, 1e6, 0.0, nearest_km=300.0, farthest_km=600.0)
    rng = np.random.default_rng(0)
    dense = random_land(20_000, rng)
    vectors = unit_vectors(dense[:, 0], dense[:, 1])
    eye = torch.eye(64)[torch.arange(20_000) % 64]
    simulator = QuerySimulator(vectors, eye)
    near = simulator._mistaken_for(setting, vectors[:500], rng)
    km = great_circle_km(*dense[:500].T, *dense[near].T)
    assert 300 < np.median(km) < 1000  # a Gaussian step has √3 times the length


def test_queries_are_kept_and_only_found_by_their_identity(
    teacher: Teacher, tmp_path: Path
) -> None:
    made = tiny_queries(teacher, 20)
    dataset.save(tmp_path / "q.safetensors", made, "these")
    found = dataset.load(tmp_path / "q.safetensors", "these")
    assert found is not None and found.fingerprint == made.fingerprint
    assert dataset.load(tmp_path / "q.safetensors", "others") is None
    assert dataset.load(tmp_path / "none.safetensors", "these") is None


def test_a_batch_brings_the_mean_code_of_its_draws(teacher: Teacher) -> None:
    made = tiny_queries(teacher, 40)
    for share in (0.0, 0.8, 1.0):
        batch = TaughtQueries(made, teacher.vectors, L, 8, 0, share).batch(2)
        assert batch.mean_code is not None
        row = int((made.embeddings.float() - batch.embeddings[0]).abs().sum(1).argmin())
        drawn = teacher.vectors[made.drawn[row].numpy()]
        truth = unit_vectors(*made.places[row : row + 1].T)
        taught = encode_vectors(drawn, L).mean(0)
        wanted = share * encode_vectors(truth, L)[0] + (1 - share) * taught
        assert batch.mean_code[0].numpy() == pytest.approx(wanted, abs=1e-5)
        assert any(np.allclose(batch.vectors[0], v) for v in [*drawn, *truth])
    with pytest.raises(ValueError, match="no draws"):
        TaughtQueries(replace(made, drawn=made.drawn[:, :0]), teacher.vectors, L, 8, 0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_the_true_place_is_the_point_in_its_share_of_epochs(teacher: Teacher, share: float) -> None:
    made = tiny_queries(teacher, 64)
    truths = unit_vectors(*made.places.T)
    source = TaughtQueries(made, teacher.vectors, L, 64, 0, share)
    drawn = made.drawn[:, 0].numpy()
    outside = np.abs(truths - teacher.vectors[drawn]).max(1) > 1e-6  # a draw can be the truth
    rows = np.arange(64)
    hits = [
        np.abs(source._one_of(rows, made.drawn[:, 0], epoch) - truths).max(1) < 1e-12
        for epoch in range(20)
    ]
    assert np.mean(hits, 0)[outside] == pytest.approx(share, abs=0.11)
    assert np.mean(hits, 1) == pytest.approx(np.mean(hits), abs=0.1), "each epoch has its share"


def test_a_query_to_learn_from_has_a_gap_of_its_own_and_a_test_has_one(teacher: Teacher) -> None:
    setting = Ambiguity(0, 0.0, 1.0, 1.0, 0.0, gap=1.0)
    rows = torch.arange(200) % GALLERY
    for seed, common in ((None, False), (1, True)):
        simulator = distillation.gallery_simulator(teacher, seed)
        place = teacher.embeddings[rows]
        q = simulator(setting, teacher.vectors[rows], place, np.random.default_rng(0))
        # q is (place + gap) / |place + gap|: the plane of both holds the gap.
        along = q - (q * place).sum(1, keepdim=True) * place
        gap = torch.nn.functional.normalize(along, dim=1).mean(0).norm()
        assert (gap > 0.9) == common


def test_land_without_photos_is_drawn_anew(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def marked(places: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(places[:, :1]).float().expand(-1, WIDTH)

    monkeypatch.setattr(dataset, "embed_places", marked)
    places, embeddings = dataset.true_places(
        teacher, 300, dataset.PlaceMix(jittered=0.0), np.random.default_rng(0)
    )
    known = {tuple(row) for row in teacher.positions}
    new = np.array([tuple(row) not in known for row in places])
    land = float(teacher.log_weight[teacher.gallery :].exp().sum())
    assert new.mean() == pytest.approx(land, abs=0.1)
    assert torch.equal(embeddings[new], marked(places[new]))


def test_the_projected_exponent_is_the_weighted_least_squares_fit(teacher: Teacher) -> None:
    """NumPy's own solver on the stacked system, ridge and all."""
    found = projected_exponent(teacher, L, ridge=0.2)
    weight = teacher.log_weight.exp().double().numpy()
    codes = encode_vectors(teacher.vectors, L)
    unit = (weight @ codes**2).mean()
    rows = np.concatenate(
        [np.sqrt(weight)[:, None] * codes, np.sqrt(0.2 * unit) * np.eye(codes.shape[1])]
    )
    right = np.zeros((len(rows), WIDTH))
    right[: len(weight)] = np.sqrt(weight)[:, None] * teacher.embeddings.double().numpy()
    wanted = teacher.scale * np.linalg.lstsq(rows, right, rcond=None)[0]
    assert found.numpy() == pytest.approx(wanted, rel=1e-3, abs=1e-4 * np.abs(wanted).max())


def test_a_network_with_a_linear_skip_starts_from_the_projected_exponent(
    teacher: Teacher, tmp_path: Path
) -> None:
    made = tiny_queries(teacher, 64)
    start = projected_exponent(teacher, L)
    config = TrainConfig(
        model=CSUNetConfig(L, WIDTH, 16, (16, 8), linear_skip=True), steps=2, batch_size=64
    )
    source = TaughtQueries(made, teacher.vectors, L, 64, 0, start=start)
    network = Trainer(config, source, made.as_photos(), tmp_path).average
    q = made.embeddings.float()
    with torch.no_grad():
        linear = network.config.natural_scale * network.linear(q)
        rest = network.from_image(q) - linear
    assert torch.allclose(linear, q @ start.T, rtol=1e-4, atol=1e-5)
    without = CSUNet(replace(network.config, linear_skip=False))
    weights = {n: t for n, t in network.state_dict().items() if not n.startswith("linear.")}
    without.load_state_dict(weights)
    with torch.no_grad():
        assert torch.allclose(rest, without.eval().from_image(q), rtol=1e-3, atol=1e-4)


def test_the_loss_sees_the_mean_code_only_where_the_image_speaks_alone(
    teacher: Teacher, tmp_path: Path
) -> None:
    made = tiny_queries(teacher, 64)
    config = TrainConfig(
        model=CSUNetConfig(L, WIDTH, 16, (16, 8)), steps=2, batch_size=64, evaluate_every=2
    )
    source = TaughtQueries(made, teacher.vectors, L, 64, 0)
    trainer = Trainer(config, source, made.as_photos(), tmp_path)
    inputs = trainer._make_inputs(0)
    batch = source.batch(0)
    pure = torch.isinf(inputs.sigma)
    assert pure.any() and not pure.all()
    assert torch.equal(inputs.target[pure], batch.mean_code[pure])
    assert torch.equal(inputs.target[~pure], inputs.code[~pure])


def test_a_student_learns_the_teachers_density(teacher: Teacher, tmp_path: Path) -> None:
    """Its divergence from the teacher falls far below that of knowing nothing."""
    made = tiny_queries(teacher, 2048, draws=8)
    val = tiny_queries(teacher, 200, draws=0, seed=5)
    config = TrainConfig(
        model=CSUNetConfig(9, WIDTH, 128, (48, 24), dropout=0.0),
        steps=150,
        batch_size=128,
        warmup=10,
        learning_rate=3e-3,
        evaluate_every=150,
        ema_decay=0.97,
    )
    trainer = Trainer(
        config, TaughtQueries(made, teacher.vectors, 9, 128, 0), val.as_photos(), tmp_path
    )
    trainer.run(lambda figures: None, lambda: False)
    log_t = teacher.log_posterior(val.embeddings.float())
    natural = trainer.average.from_image(val.embeddings.float())
    codes = torch.from_numpy(encode_vectors(teacher.vectors, 9)).float()
    log_p = torch.log_softmax(natural @ codes.T + teacher.log_weight, 1)
    ours = fidelity._expected(log_t, log_t - log_p).mean()
    nothing = fidelity._expected(log_t, log_t - teacher.log_weight).mean()
    assert ours < 0.5 * nothing


def test_the_rival_finds_the_heavier_of_two_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """One place is the likeliest, but a group elsewhere has more mass together."""
    positions = np.array([[10.0, 10.0], [40.0, 40.0], [40.1, 40.0], [40.0, 40.1]])
    embeddings = torch.eye(4)
    two = Teacher(positions, embeddings, torch.zeros(4), 10.0, 4)
    q = torch.tensor([[0.6, 0.55, 0.55, 0.55]])
    q = torch.nn.functional.normalize(q, dim=1).numpy()
    assert rivals.best_places(two, q)[0].tolist() == [10.0]
    monkeypatch.setattr(rivals, "CENTRES", 4)
    assert abs(rivals.DecodedGallery(10.0, 100.0).answer(two, q)[0][0] - 40.0) < 0.2


def test_far_places_are_far_from_the_gallery(teacher: Teacher) -> None:
    far = fidelity.far_places(teacher, 30, np.random.default_rng(0))
    gallery = teacher.positions[: teacher.gallery]
    km = great_circle_km(far[:, None, 0], far[:, None, 1], gallery[None, :, 0], gallery[None, :, 1])
    assert km.min() >= fidelity.FAR_KM


def test_points_without_radii_are_scored(teacher: Teacher) -> None:
    points = fidelity._points((np.array([1.0, 2.0]), np.array([3.0, 4.0])))
    found = score(points, [1.0, 2.0], [3.0, 40.0])
    assert found.within[0].value == 0.5
    assert found.coverage_50 is None


def test_the_held_out_setting_is_none_of_the_training_ones() -> None:
    fitted = [*TRAINING.values(), *ALONG.values(), *CROWDED.values()]
    assert not {HELD_OUT, HELD_OUT_ALONG, HELD_OUT_MASKED} & set(fitted)
    assert json.dumps(vars(HELD_OUT))

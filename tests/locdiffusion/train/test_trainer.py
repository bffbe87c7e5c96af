"""The loop learns, and a run that was stopped ends bit for bit as one that was not."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file

from locdiffusion.density.log_partition import LogPartition
from locdiffusion.density.shdd import encode_vectors, heat_flow
from locdiffusion.sphere.geodesy import great_circle_km, latitude_longitude, unit_vectors
from locdiffusion.train import trainer as trainer_module
from locdiffusion.train.batches import Ahead, Share, batch_rows
from locdiffusion.train.distributed import Processes
from locdiffusion.train.label_smoothing import SmoothingConfig, scattered
from locdiffusion.train.recipe import TrainConfig
from locdiffusion.train.tensorboard import Scalars
from locdiffusion.train.trainer import Stopped, Trainer, learning_rate_factor
from locdiffusion.train.training_state import PROGRESS, STATE
from support.tiny import MODEL, learnable_photos
from support.tiny_training import MEMORY as RECIPE
from support.tiny_training import TRAIN, VAL, Spied

pytestmark = pytest.mark.usefixtures("one_thread")


def ignore(_: object) -> None:
    pass


def never() -> bool:
    return False


def finished(directory: Path, config: TrainConfig = RECIPE) -> Spied:
    trainer = Spied(config, TRAIN, VAL, directory)
    trainer.run(ignore, never)
    return trainer


@pytest.fixture(scope="module")
def undisturbed(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Spied:
    return finished(tmp_path_factory.mktemp("undisturbed"))


def same_weights(one: Trainer, other: Trainer) -> bool:
    pairs = ((one.network, other.network), (one.average, other.average))
    return all(
        torch.equal(a, b)
        for mine, theirs in pairs
        for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
    )


def test_learns_what_the_embedding_tells(tmp_path: Path) -> None:
    """0 nats is the uniform answer; half of all positions lie within 10,007 km of any point."""
    config = replace(RECIPE, steps=150, batch_size=64, evaluate_every=50, ema_decay=0.95)
    val = learnable_photos(200, seed=2)
    trainer = Trainer(config, learnable_photos(1000, seed=1), val, tmp_path)
    trainer.run(ignore, never)
    first, *_, last = trainer.history
    assert last["train_nats"] < first["train_nats"] - 0.3
    assert last["val_nats"] < -1.0
    assert last["val_median_km"] < 2500.0
    assert [figures["step"] for figures in trainer.history] == [50, 100, 150]


def test_smoothed_places_are_learned_only_where_the_image_speaks_alone(tmp_path: Path) -> None:
    config = replace(RECIPE, smoothing=SmoothingConfig(800.0, 2000.0, 0.25))
    inputs = Trainer(config, TRAIN, VAL, tmp_path)._make_inputs(0)
    plain = Trainer(RECIPE, TRAIN, VAL, tmp_path)._make_inputs(0)
    pure = torch.isinf(inputs.sigma)
    assert pure.any() and not pure.all()
    sharp, broad = (heat_flow(MODEL.max_degree, km) for km in (800.0, 2000.0))
    factors = torch.from_numpy(0.75 * sharp + 0.25 * broad).float()
    assert torch.equal(inputs.target[pure], inputs.code[pure] * factors)
    assert torch.equal(inputs.target[~pure], inputs.code[~pure])
    assert torch.equal(plain.target, plain.code)


def test_the_share_of_the_foot_changes_evenly_over_the_run(tmp_path: Path) -> None:
    fading = SmoothingConfig(800.0, 2000.0, 0.5, last_broad_share=0.1)
    steps = {0: 0.5, 3: 0.4, 6: 0.3, 9: 0.2, 12: 0.1}
    for step, share in steps.items():
        same = SmoothingConfig(800.0, 2000.0, share).factors(MODEL.max_degree)
        np.testing.assert_allclose(fading.factors(MODEL.max_degree, step / 12), same, rtol=1e-12)
    assert RECIPE.steps == 12
    trainer = Trainer(replace(RECIPE, smoothing=fading), TRAIN, VAL, tmp_path)
    for step in (0, 6):
        inputs = trainer._make_inputs(step)
        pure = torch.isinf(inputs.sigma)
        factors = torch.from_numpy(fading.factors(MODEL.max_degree, step / 12)).float()
        assert pure.any()
        assert torch.equal(inputs.target[pure], inputs.code[pure] * factors)


def test_places_under_noise_are_scattered_where_the_recipe_says_so(tmp_path: Path) -> None:
    smoothing = SmoothingConfig(800.0, 2000.0, 0.25, under_noise=True)
    inputs = Trainer(replace(RECIPE, smoothing=smoothing), TRAIN, VAL, tmp_path)._make_inputs(0)
    plain = Trainer(RECIPE, TRAIN, VAL, tmp_path)._make_inputs(0)
    pure = torch.isinf(inputs.sigma)
    factors = torch.from_numpy(smoothing.factors(MODEL.max_degree)).float()
    assert torch.equal(inputs.truth[pure], plain.truth[pure])
    assert torch.equal(inputs.target[pure], plain.code[pure] * factors)
    moved_km = great_circle_km(
        *latitude_longitude(inputs.truth[~pure].numpy()),
        *latitude_longitude(plain.truth[~pure].numpy()),
    )
    assert 300.0 < np.median(moved_km) < 3000.0
    codes = torch.from_numpy(encode_vectors(inputs.truth[~pure].numpy(), MODEL.max_degree))
    torch.testing.assert_close(inputs.code[~pure], codes.float(), rtol=1e-4, atol=1e-4)
    assert torch.equal(inputs.target[~pure], inputs.code[~pure])


def test_the_mean_code_of_scattered_places_is_the_smoothed_code() -> None:
    config = SmoothingConfig(150.0, 500.0, 0.3, last_broad_share=0.1)
    start = unit_vectors(np.full(100_000, 62.0), np.full(100_000, -117.0))
    generator = torch.Generator().manual_seed(0)
    drawn = scattered(start, config, 0.5, generator)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1.0, rtol=1e-12)
    mean = encode_vectors(drawn, 15).mean(0)
    want = encode_vectors(start[:1], 15)[0] * config.factors(15, 0.5)
    # The codes' own spread over 100,000 draws is 0.003 at most.
    np.testing.assert_allclose(mean, want, atol=0.02)
    still = SmoothingConfig()
    np.testing.assert_allclose(scattered(start[:5], still, 0.0, generator), start[:5], atol=1e-15)


@pytest.mark.parametrize(
    "wrong", [{"km": -1.0}, {"broad_km": 6000.0}, {"broad_share": 1.5}, {"last_broad_share": -0.5}]
)
def test_impossible_smoothing_is_an_error(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        SmoothingConfig(**wrong)


class TestResume:
    @pytest.mark.parametrize("stops", [(7,), (5, 6, 11), (12,)])
    def test_stopped_and_resumed_is_undisturbed(
        self, stops: tuple[int, ...], undisturbed: Spied, tmp_path: Path
    ) -> None:
        """Weights, averages, figures and the loss of every step, bit for bit."""
        losses: dict[int, float] = {}
        for stop in stops:
            trainer = Spied(RECIPE, TRAIN, VAL, tmp_path)
            trainer.resume()
            with pytest.raises(Stopped, match=f"after step {stop} of 12"):
                trainer.run(ignore, lambda s=stop, t=trainer: t.step == s)  # type: ignore[misc]
            losses |= trainer.losses
        last = Spied(RECIPE, TRAIN, VAL, tmp_path)
        assert last.resume() and last.step == stops[-1]
        last.run(ignore, never)
        assert losses | last.losses == undisturbed.losses
        assert last.history == undisturbed.history
        assert same_weights(last, undisturbed)

    def test_the_saved_state_is_the_undisturbed_one_too(
        self, undisturbed: Spied, tmp_path: Path
    ) -> None:
        again = finished(tmp_path)
        for name in (STATE, PROGRESS):
            assert (tmp_path / name).read_bytes() == (undisturbed.directory / name).read_bytes()
        assert again.losses == undisturbed.losses

    def test_another_seed_is_another_run(self, undisturbed: Spied, tmp_path: Path) -> None:
        other = finished(tmp_path, replace(RECIPE, seed=5, steps=2))
        assert other.losses[0] != undisturbed.losses[0]

    def test_nothing_to_resume(self, tmp_path: Path) -> None:
        trainer = Trainer(RECIPE, TRAIN, VAL, tmp_path / "empty")
        assert not trainer.resume() and trainer.step == 0

    def test_a_finished_run_does_nothing_more(self, undisturbed: Spied) -> None:
        again = Spied(RECIPE, TRAIN, VAL, undisturbed.directory)
        assert again.resume()
        again.run(ignore, never)
        assert again.losses == {} and same_weights(again, undisturbed)

    @pytest.mark.parametrize(
        ("config", "train", "what"),
        [
            (replace(RECIPE, learning_rate=2e-3), TRAIN, "config"),
            (replace(RECIPE, model=replace(MODEL, dropout=0.2)), TRAIN, "config"),
            (RECIPE, VAL, "data"),
        ],
    )
    def test_another_recipe_or_data_is_refused(
        self, config: TrainConfig, train: Any, what: str, undisturbed: Spied
    ) -> None:
        trainer = Trainer(config, train, VAL, undisturbed.directory)
        with pytest.raises(ValueError, match=f"another {what}; give a new --output, or --overwr"):
            trainer.resume()
        assert trainer.step == 0

    def test_a_state_of_before_a_setting_was_invented(
        self, undisturbed: Spied, tmp_path: Path
    ) -> None:
        """It had the setting's default, so it is the same run."""
        shutil.copytree(undisturbed.directory, tmp_path, dirs_exist_ok=True)
        tensors = load_file(tmp_path / STATE)
        progress = json.loads((tmp_path / PROGRESS).read_text())
        del progress["config"]["bf16"], progress["config"]["stream"]
        save_file(tensors, tmp_path / STATE, metadata={"progress": json.dumps(progress)})
        assert Trainer(RECIPE, TRAIN, VAL, tmp_path).resume()
        with pytest.raises(ValueError, match="another config"):
            Trainer(replace(RECIPE, bf16=True), TRAIN, VAL, tmp_path).resume()

    def test_the_state_holds_no_pickle(self, undisturbed: Spied) -> None:
        files = sorted(path.name for path in undisturbed.directory.iterdir())
        assert files == [PROGRESS, STATE]
        assert len(load_file(undisturbed.directory / STATE)) > 10
        progress = json.loads((undisturbed.directory / PROGRESS).read_text())
        assert progress["step"] == 12 and len(progress["history"]) == 3


def rows_of(trainer: Trainer, step: int) -> npt.NDArray[np.int64]:
    config = trainer.config
    return batch_rows(step, len(trainer.vectors), config.batch_size, config.seed)


class TestBatches:
    def rows(self, count: int, size: int, steps: int) -> list[np.ndarray]:
        config = replace(RECIPE, batch_size=size)
        trainer = Trainer(config, learnable_photos(count, seed=3), VAL, Path("unused"))
        return [rows_of(trainer, step) for step in range(steps)]

    def test_each_photo_once_an_epoch_in_an_order_of_its_own(self) -> None:
        rows = self.rows(count=60, size=20, steps=9)
        epochs = [np.concatenate(rows[i : i + 3]) for i in (0, 3, 6)]
        for epoch in epochs:
            assert sorted(epoch) == list(range(60))
        assert not np.array_equal(epochs[0], epochs[1])

    def test_what_does_not_fill_a_batch_waits_for_another_epoch(self) -> None:
        rows = self.rows(count=50, size=20, steps=20)
        for i in range(0, 20, 2):
            assert len(set(rows[i]) | set(rows[i + 1])) == 40
        assert set(np.concatenate(rows)) == set(range(50))

    def test_fewer_photos_than_a_batch(self) -> None:
        assert [sorted(r) for r in self.rows(count=5, size=20, steps=2)] == [[0, 1, 2, 3, 4]] * 2

    def test_a_permutation_is_drawn_once_an_epoch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn: list[Any] = []
        original = np.random.default_rng

        def counted(seed: Any) -> np.random.Generator:
            drawn.append(seed)
            return original(seed)

        expected = [original([7, epoch]).permutation(30) for epoch in range(2)]
        monkeypatch.setattr(np.random, "default_rng", counted)
        rows = [batch_rows(step, 30, 10, seed=7) for step in range(6)]
        assert drawn == [[7, 0], [7, 1]]
        np.testing.assert_array_equal(np.concatenate(rows), np.concatenate(expected))
        rows[5][:] = 0  # a caller may do with them what it likes
        np.testing.assert_array_equal(batch_rows(5, 30, 10, seed=7), expected[1][20:])


class TestAhead:
    def test_gives_each_step_its_own_in_any_number_of_threads(self) -> None:
        for threads in (0, 1, 3):
            ahead = Ahead(lambda step: step * step, steps=20, threads=threads)
            assert [ahead(step) for step in range(5, 20)] == [n * n for n in range(5, 20)]
            ahead.close()

    def test_makes_each_once_and_none_past_the_end(self) -> None:
        made: list[int] = []
        ahead = Ahead(made.append, steps=6, threads=2)
        for step in range(6):
            ahead(step)
        ahead.close()
        assert sorted(made) == list(range(6))

    def test_an_error_comes_out_where_it_is_asked_for(self) -> None:
        def fail(step: int) -> int:
            if step == 2:
                raise OSError("the disk is gone")
            return step

        ahead = Ahead(fail, steps=5, threads=2)
        assert [ahead(0), ahead(1)] == [0, 1]
        with pytest.raises(OSError, match="the disk is gone"):
            ahead(2)
        ahead.close()

    def test_a_training_that_prepares_its_steps_ahead_is_the_same(
        self, undisturbed: Spied, tmp_path: Path
    ) -> None:
        """As on a GPU, where codes and noise are made in threads."""
        trainer = Spied(RECIPE, TRAIN, VAL, tmp_path)
        trainer._inputs = Ahead(trainer._make_inputs, RECIPE.steps, threads=3)
        trainer.run(ignore, never)
        trainer.close()
        assert trainer.losses == undisturbed.losses


class TestAverage:
    def test_follows_the_weights_by_the_recipe(self, tmp_path: Path) -> None:
        """aₜ₊₁ = aₜ + (1 - δₜ)(wₜ₊₁ - aₜ), δₜ = min(ema_decay, (1 + t)/(10 + t))."""
        trainer = Trainer(RECIPE, TRAIN, VAL, tmp_path)
        start = next(iter(trainer.network.parameters())).detach().clone()
        expected, weights = start.clone(), start
        for step in range(3):
            trainer._train_step(step)
            weights = next(iter(trainer.network.parameters())).detach()
            expected += (1.0 - min(0.9, (1 + step) / (10 + step))) * (weights - expected)
        average = next(iter(trainer.average.parameters()))
        torch.testing.assert_close(average, expected)
        assert not torch.equal(average, weights) and not torch.equal(average, start)

    def test_is_what_is_validated(self, tmp_path: Path) -> None:
        trainer = Trainer(RECIPE, TRAIN, VAL, tmp_path)
        before = trainer.validate()
        with torch.no_grad():
            for parameter in trainer.network.parameters():
                parameter.fill_(torch.nan)
        assert trainer.validate() == before

    def test_knows_the_embeddings_scale(self, tmp_path: Path) -> None:
        average = Trainer(RECIPE, TRAIN, VAL, tmp_path).average
        np.testing.assert_allclose(average.embedding_mean, TRAIN.embeddings.mean(0), atol=1e-6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(RECIPE, TRAIN, VAL, tmp_path)
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    monkeypatch.setattr(trainer_module, "shdd_kl", lambda natural, *_: natural.sum(-1) * value)
    with pytest.raises(FloatingPointError, match=r"at step 0; lower learning_rate \(now 0\.003\)"):
        trainer.run(ignore, never)
    pairs = zip(before, trainer.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate_factor(step, 100, 10) for step in range(101)]
    np.testing.assert_allclose(rates[:11], [*np.arange(1, 11) / 10, 1.0])
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0.0, abs=1e-12)
    assert learning_rate_factor(0, 5, 0) == 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"evaluate_every": 0},
        {"warmup": -1},
        {"learning_rate": 0.0},
        {"gradient_clip": -1.0},
        {"weight_decay": -0.1},
        {"ema_decay": 1.0},
    ],
    ids=str,
)
def test_recipes_that_make_no_sense(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(RECIPE, **change)


def test_reports_every_validation(tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    report: Callable[[dict[str, float]], None] = seen.append
    trainer = Trainer(RECIPE, TRAIN, VAL, tmp_path)
    trainer.run(report, never)
    assert seen == trainer.history and [figures["step"] for figures in seen] == [5, 10, 12]


class TestEarlyValidations:
    def test_come_before_the_first_regular_one_and_leave_no_trace(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trainer_module, "EARLIEST", 1)
        seen: list[dict[str, float]] = []
        trainer = Spied(RECIPE, TRAIN, VAL, tmp_path)
        trainer.run(seen.append, never)
        assert [figures["step"] for figures in seen] == [1, 2, 5, 10, 12]
        assert trainer.history == seen[2:]
        assert np.mean([trainer.losses[step] for step in range(5)]) == seen[2]["train_nats"]

    def test_leave_the_losses_as_they_are(
        self, undisturbed: Spied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trainer_module, "EARLIEST", 1)
        again = finished(tmp_path)
        assert again.losses == undisturbed.losses and again.history == undisturbed.history


class TestSaving:
    @pytest.mark.parametrize(
        ("every_s", "saves"),
        [(25.0, [3, 5, 8, 10, 12]), (1e9, [5, 10, 12]), (0.0, [*range(1, 13)])],
    )
    def test_as_often_as_told_besides_validations(
        self, every_s: float, saves: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The clock moves by ten seconds at each step; validations are after steps 5, 10, 12."""
        trainer = Spied(RECIPE, TRAIN, VAL, tmp_path)
        monkeypatch.setattr(trainer_module.time, "monotonic", lambda: 10.0 * len(trainer.losses))
        saved: list[int] = []
        monkeypatch.setattr(trainer, "save_state", lambda: saved.append(trainer.step))
        trainer.run(ignore, never, save_every_s=every_s)
        assert saved == saves

    def test_only_the_first_process_writes(self, tmp_path: Path) -> None:
        second = Processes(torch.device("cpu"), Share(1, 2))
        trainer = Trainer(RECIPE, TRAIN, VAL, tmp_path)
        trainer.processes = second
        trainer.save_state()
        assert not list(tmp_path.iterdir())


class TestScalars:
    def read(self, directory: Path) -> dict[str, dict[int, float]]:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(directory / "tensorboard"))
        events.Reload()
        return {
            tag: {event.step: event.value for event in events.Scalars(tag)}
            for tag in events.Tags()["scalars"]
        }

    def test_tell_of_each_step_and_validation(self, tmp_path: Path) -> None:
        trainer = Spied(replace(RECIPE, gradient_clip=0.1), TRAIN, VAL, tmp_path)
        scalars = Scalars.open(tmp_path, 1, 0)
        assert scalars is not None
        trainer.run(ignore, never, scalars=scalars)
        scalars.close()
        found = self.read(tmp_path)
        losses = {step + 1: loss for step, loss in trainer.losses.items()}
        assert found["train/loss"] == pytest.approx(losses)
        rates = [RECIPE.learning_rate * learning_rate_factor(step, 12, 3) for step in range(12)]
        assert list(found["train/learning_rate"].values()) == pytest.approx(rates)
        assert min(found["train/gradient_norm"].values()) > 0.1  # before clipping
        assert min(found["train/images_per_s"].values()) > 0
        for name in ("nats", "median_km", "within_25", "within_200"):
            expected = {figures["step"]: figures[f"val_{name}"] for figures in trainer.history}
            assert found[f"val/{name}"] == pytest.approx(expected)

    def test_of_some_steps_alone(self, tmp_path: Path) -> None:
        scalars = Scalars.open(tmp_path, 5, 0)
        assert scalars is not None
        for step in range(1, 13):
            scalars.step(step, {"loss": 0.5})
        scalars.close()
        assert list(self.read(tmp_path)["train/loss"]) == [5, 10]

    def test_what_a_resumed_run_does_again_stands_there_once(self, tmp_path: Path) -> None:
        for start, stop, value in ((1, 10, 1.0), (7, 13, 2.0)):
            scalars = Scalars.open(tmp_path, 1, start - 1)
            assert scalars is not None
            for step in range(start, stop):
                scalars.step(step, {"loss": value})
            scalars.close()
        found = self.read(tmp_path)["train/loss"]
        assert found == {step: 1.0 if step < 7 else 2.0 for step in range(1, 13)}

    def test_without_the_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        assert Scalars.open(tmp_path, 1, 0) is None


def test_bf16_trains_nearly_the_same_with_the_loss_in_float32(
    undisturbed: Spied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: set[torch.dtype] = set()
    original = LogPartition.forward

    def forward(self: LogPartition, natural: torch.Tensor, *rest: Any) -> torch.Tensor:
        kinds.add(natural.dtype)
        return original(self, natural, *rest)

    monkeypatch.setattr(LogPartition, "forward", forward)
    trainer = finished(tmp_path, replace(RECIPE, bf16=True))
    assert kinds == {torch.float32}
    assert trainer.losses != undisturbed.losses
    assert trainer.losses == pytest.approx(undisturbed.losses, abs=0.05)
    assert all(p.dtype == torch.float32 for p in trainer.network.parameters())

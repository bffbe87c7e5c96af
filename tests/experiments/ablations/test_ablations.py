"""Ablations: encodings that come back, densities that are what they claim, runs that resume."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.ablations import __main__ as command
from experiments.ablations import answers, encodings, fitting, networks, runs, sampled, workers
from experiments.ablations.plan import (
    Base,
    Budget,
    Encoding,
    Loss,
    Network,
    Noise,
    Run,
    Variant,
    all_runs,
)
from experiments.standard_diffusion import standard_sigmas
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2
from locdiffusion.overhead.command import main as cut_patches
from support import ROOT, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


BUDGET = Budget(
    steps=3,
    batch_size=16,
    photos=64,
    condition_dim=16,
    widths=(16, 8),
    measured=12,
    samples=3,
    sample_steps=2,
    voters=6,
)
LATLON = Variant(Encoding.LATLON, Loss.L2, None, Network.MLP, Noise.STANDARD)
XYZ = replace(LATLON, encoding=Encoding.XYZ)
XYZ_KL = Variant(Encoding.XYZ, Loss.KL, Base.UNIFORM, Network.UNET, Noise.STANDARD)
SHDD = Variant(max_degree=7)
SHDD_L2 = Variant(loss=Loss.L2, base=None, max_degree=7)


def label(variant: Variant) -> str:
    return f"{variant.encoding.value}-{variant.loss.value}"


class TestPlan:
    def test_the_set_holds_what_the_issue_asks_for(self) -> None:
        variants = [run.variant for run in all_runs()]
        assert len({run.name for run in all_runs()}) == len(variants) == len(set(variants))
        for network in Network:
            shown = {(v.encoding, v.loss, v.base) for v in variants if v.network is network}
            assert len(shown) == 7  # lat/lon has no KL, L2 no base measure
        assert {v.max_degree for v in variants} == {15, 23, 31, 47}
        assert sum(run.sweep for run in all_runs()) == 2 and any(run.radii for run in all_runs())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"encoding": Encoding.LATLON}, "no density on the sphere"),
            ({"base": None}, "want one for KL"),
            ({"encoding": Encoding.XYZ}, "use standard noise"),
            ({"image_first": False, "network": Network.MLP}, "about CS-UNet"),
            ({"loss": Loss.L2, "base": None, "smoothing_km": 75.0}, "SHDD codes under KL"),
        ],
    )
    def test_what_has_no_meaning_is_refused(self, change: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            replace(Variant(), **change)

    def test_a_budget_of_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            Budget(steps=0)


class TestEncodings:
    @pytest.mark.parametrize("variant", [LATLON, XYZ, SHDD], ids=lambda v: v.encoding.value)
    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 1000), stretch=st.floats(0.5, 2.0))
    def test_a_place_comes_back(self, variant: Variant, seed: int, stretch: float) -> None:
        """Of SHDD and xyz also when stretched: only their direction says where."""
        vectors = tiny.random_points(5, seed)
        code = encodings.encode(vectors, variant)
        assert code.shape == (5, encodings.dimension(variant))
        if variant.encoding is not Encoding.LATLON:
            code = stretch * code
        back = encodings.points(code, variant)
        np.testing.assert_allclose(back, vectors, atol=2e-3 if variant is SHDD else 2e-6)

    @pytest.mark.parametrize("variant", [XYZ, SHDD], ids=lambda v: v.encoding.value)
    def test_unit_root_mean_square(self, variant: Variant) -> None:
        code = encodings.encode(tiny.random_points(4000, 1), variant)
        assert code.square().mean().item() == pytest.approx(1.0, abs=0.02)

    def test_standard_noise_is_ddpms_with_t_uniform(self) -> None:
        config = encodings.noise_range(XYZ, 0.5)
        drawn = encodings.draw_sigmas(20_000, XYZ, config, torch.Generator().manual_seed(0))
        pure = torch.isinf(drawn)
        assert pure.float().mean().item() == pytest.approx(0.5, abs=0.02)
        levels = np.sort(standard_sigmas(999))
        wanted = np.quantile(levels, [0.25, 0.5, 0.75])
        found = np.quantile(drawn[~pure].numpy(), [0.25, 0.5, 0.75])
        np.testing.assert_allclose(found, wanted, rtol=0.06)

    def test_both_noises_have_the_same_pure_share(self) -> None:
        shares = []
        for noise in Noise:
            variant = replace(SHDD, noise=noise)
            config = encodings.noise_range(variant, 0.6)
            drawn = encodings.draw_sigmas(5000, variant, config, torch.Generator().manual_seed(1))
            shares.append(torch.isinf(drawn).float().mean().item())
        assert shares == pytest.approx([0.6, 0.6], abs=0.03)


class TestNetworks:
    @pytest.mark.parametrize("variant", [XYZ_KL, SHDD, SHDD_L2, LATLON], ids=label)
    def test_shapes_and_the_skip(self, variant: Variant) -> None:
        """A KL network answers x/σ² to its noise at the start; an estimator does not."""
        photos = torch.from_numpy(tiny.learnable_photos(8, 0).embeddings)
        network = networks.build(variant, BUDGET, photos).eval()
        numbers = encodings.dimension(variant)
        x, sigma = torch.randn(8, numbers), torch.full((8,), 2.0)
        other = network(torch.zeros_like(x), sigma, photos)
        difference = network(x, sigma, photos) - other
        skip = x / 4.0 if variant.loss is Loss.KL else torch.zeros_like(x)
        torch.testing.assert_close(difference, skip, atol=1e-5, rtol=1e-4)

    def test_noise_may_enter_from_the_start(self) -> None:
        photos = torch.from_numpy(tiny.learnable_photos(8, 0).embeddings)
        network = networks.build(replace(SHDD, image_first=False), BUDGET, photos).eval()
        x, sigma = torch.randn(8, 64), torch.full((8,), 2.0)
        learned = network(x, sigma, photos) - x / 4.0
        assert not torch.allclose(learned, network(torch.zeros(8, 64), sigma, photos), atol=1e-4)

    def test_sizes_are_about_equal(self) -> None:
        photos = torch.randn(4, 1280)
        sizes = [
            sum(p.numel() for p in networks.build(run.variant, Budget(), photos).parameters())
            for run in all_runs()
            if run.group == "design"
        ]
        assert max(sizes) / min(sizes) < 1.6


class TestFitting:
    def test_three_numbers_are_a_von_mises_fisher_density(self) -> None:
        """The KL of xyz is -log of κ/sinh κ · exp(κ μ·y), here from the formula."""
        truth = tiny.random_points(6, 3)
        mean = tiny.random_points(6, 4)
        kappa = np.array([0.5, 2.0, 10.0, 50.0, 200.0, 800.0])
        # κ μ·y = Σ η code with code = √3 (y, z, x)
        eta = torch.from_numpy((kappa[:, None] * mean)[:, [1, 2, 0]] / np.sqrt(3.0)).float()
        partition = fitting.LogPartition(1)
        code = encodings.encode(truth, XYZ_KL)
        whole = fitting.as_natural(eta, XYZ_KL), fitting.as_natural(code, XYZ_KL)
        vectors = torch.from_numpy(truth).float()
        generator = torch.Generator().manual_seed(0)
        draws = [fitting.shdd_kl(*whole, vectors, partition, generator) for _ in range(64)]
        # Against the uniform sphere: log p = log κ - log sinh κ + κ μ·y.
        log_sinh = kappa + np.log1p(-np.exp(-2 * kappa)) - np.log(2.0)
        wanted = -(np.log(kappa) - log_sinh + kappa * (mean * truth).sum(1))
        np.testing.assert_allclose(torch.stack(draws).mean(0).numpy(), wanted, atol=0.05, rtol=2e-3)

    def test_a_fit_is_the_same_twice(self) -> None:
        first, second = (fitting.fit(SHDD, BUDGET, tiny.learnable_photos(64, 0)) for _ in range(2))
        assert first.loss == second.loss

    def test_a_fit_learns(self) -> None:
        """40 steps gain 0.5 nats of likelihood over 3; the photos' places are easy to read."""
        photos = tiny.learnable_photos(256, 0)
        nll = []
        for steps in (3, 40):
            budget = replace(BUDGET, steps=steps, learning_rate=1e-2, measured=100)
            fitted = fitting.fit(SHDD, budget, photos)
            nll.append(answers.measure(fitted, photos, budget)["density"]["nll_km2"])
        assert nll[1] < nll[0] - 0.3

    def test_smoothed_places_are_learned_broader(self) -> None:
        """What is learned of blurred places is blurred: less likely at the true ones."""
        photos = tiny.learnable_photos(256, 0)
        budget = replace(BUDGET, steps=60, learning_rate=1e-2, measured=100)
        nll = []
        for km in (0.0, 4000.0):
            fitted = fitting.fit(replace(SHDD, smoothing_km=km), budget, photos)
            nll.append(answers.measure(fitted, photos, budget)["density"]["nll_km2"])
        assert nll[1] > nll[0] + 0.1

    def test_progress_is_told_each_step(self) -> None:
        told: list[int] = []
        fitting.fit(XYZ, BUDGET, tiny.learnable_photos(20, 0), lambda: told.append(1))
        assert len(told) == BUDGET.steps


class TestAnswers:
    @pytest.mark.parametrize("variant", [LATLON, XYZ, XYZ_KL, SHDD, SHDD_L2], ids=label)
    def test_every_kind_of_answer(self, variant: Variant) -> None:
        photos = tiny.learnable_photos(32, 0)
        fitted = fitting.fit(variant, BUDGET, photos)
        found = answers.measure(fitted, photos, BUDGET)
        wanted = {"density"} if variant.loss is Loss.KL else {"mean", "vote"}
        assert set(found) == wanted
        for name, summary in found.items():
            assert summary["n"] == (BUDGET.voters if name == "vote" else BUDGET.measured)
            assert ("nll_km2" in summary) == (name == "density")
        json.dumps(found, allow_nan=False)

    def test_an_ignorant_density_scores_the_area_of_the_earth(self) -> None:
        photos = tiny.learnable_photos(16, 0)
        fitted = fitting.fit(replace(SHDD, base=Base.UNIFORM), BUDGET, photos)
        with torch.no_grad():
            for parameter in fitted.network.parameters():
                parameter.zero_()
        nll = answers.measure(fitted, photos, BUDGET)["density"]["nll_km2"]
        assert nll == pytest.approx(LOG_SPHERE_AREA_KM2, abs=1e-3)

    def test_radii_and_steps(self) -> None:
        photos = tiny.learnable_photos(16, 0)
        fitted = fitting.fit(SHDD, BUDGET, photos)
        radii = answers.accuracy_by_radius(fitted, photos, BUDGET)
        assert [row["radius_km"] for row in radii] == list(answers.ANSWER_RADII_KM)

    def test_steps_that_decide_nothing_are_not_computed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sampled, "SWEEP_STEPS", (1, 8))
        photos = tiny.learnable_photos(8, 0)
        fitted = fitting.fit(SHDD, BUDGET, photos)
        rows = sampled.accuracy_by_steps(fitted, photos, BUDGET)
        calls = {(row["schedule"], row["steps"]): row["calls"] for row in rows}
        assert calls["re-centred", 8] == 8 and 1 <= calls["standard", 8] < 8

    def test_the_subset_does_not_depend_on_the_order(self) -> None:
        photos = tiny.learnable_photos(20, 0)
        part = sampled.subset(photos, 7, seed=1)
        turned = sampled.EmbeddedPhotos(
            photos.keys[::-1],
            photos.embeddings[::-1],
            photos.latitude[::-1],
            photos.longitude[::-1],
        )
        assert set(sampled.subset(turned, 7, seed=1).keys) == set(part.keys)
        assert set(sampled.subset(photos, 7, seed=2).keys) != set(part.keys)

    def test_the_vote_goes_to_the_crowd(self) -> None:
        here, there = tiny.random_points(2, 5)
        crowd = here + 1e-3 * tiny.random_points(3, 6)
        crowd /= np.linalg.norm(crowd, axis=1, keepdims=True)
        answer = sampled.vote(np.stack([there, *crowd])[None])
        assert answer[0] @ here > 0.999


class TestCommand:
    @pytest.fixture
    def small(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """A set of two tiny runs over photos in memory; the names of those that were executed."""
        small = (Run("one", "design", SHDD), Run("two", "degree", XYZ))
        monkeypatch.setattr("experiments.ablations.plan.all_runs", lambda: small)
        photos = {name: tiny.learnable_photos(24, i) for i, name in enumerate(("val", "other"))}
        loaded = tiny.learnable_photos(64, 9), photos
        monkeypatch.setattr(workers, "load", lambda options: loaded)
        executed: list[str] = []
        real = runs.execute

        def execute(run: Run, *rest: object) -> dict:
            executed.append(run.name)
            return real(run, BUDGET, *rest[1:]) | {"budget": runs.to_dict(rest[0])}

        monkeypatch.setattr(workers, "execute", execute)
        return executed

    @staticmethod
    def flags(output: Path, *more: str) -> list[str]:
        same = ["--train", "t", "--val", "v", "--val-regions", "r", "--embeddings", "e"]
        return [*same, "--output", str(output), *more]

    def test_each_run_is_made_once(
        self, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command.main(self.flags(tmp_path, "--only", "two")) == 0
        assert command.main(self.flags(tmp_path)) == 0
        assert small == ["two", "one"]
        assert "2 runs, 1 of them done" in capsys.readouterr().out
        record = json.loads((tmp_path / "one.json").read_text())
        assert record["settings"]["encoding"] == "SHDD" and record["parameters"] > 0
        assert set(record["results"]) == {"val", "other"} and record["seconds"]["all"] >= 0

    def test_each_seed_is_a_run(self, small: list[str], tmp_path: Path) -> None:
        assert command.main(self.flags(tmp_path, "--only", "two", "--seeds", "0", "1")) == 0
        assert small == ["two", "two"]
        seeds = {
            path.name: json.loads(path.read_text())["budget"]["seed"] for path in tmp_path.iterdir()
        }
        assert seeds == {"two-seed-0.json": 0, "two-seed-1.json": 1}

    def test_networks_have_the_sizes_of_the_shipped_recipe(self) -> None:
        options = command.parse(self.flags(Path("out"), "--networks", "--seeds", "0", "7"))
        found = command.budgets(options)
        assert [budget.seed for budget in found] == [0, 7]
        assert {(b.condition_dim, b.widths) for b in found} == {(640, (320, 160, 80))}
        chosen = {run.name: run.variant for run in command.chosen(None, networks=True)}
        assert len(chosen) == 6 and {v.max_degree for v in chosen.values()} == {31}
        assert chosen["unet-trunk-scattered"].trunk_blocks == 2
        assert chosen["mlp-scattered"].smoothing_km == 50.0 and chosen["mlp"].smoothing_km == 0.0

    def test_another_budget_in_the_same_place_is_refused(
        self, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command.main(self.flags(tmp_path, "--only", "two")) == 0
        assert command.main(self.flags(tmp_path, "--steps", "7")) == 2
        assert "another budget" in capsys.readouterr().err

    def test_an_unknown_name_is_refused(
        self, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command.main(self.flags(tmp_path, "--only", "three")) == 2
        assert "No run is named 'three'" in capsys.readouterr().err

    def test_the_names_can_be_listed(
        self, small: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command.main(["--list"]) == 0
        assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
            ["one", "design"],
            ["two", "degree"],
        ]


@pytest.mark.ci
@pytest.mark.slow
def test_two_processes_as_a_user_starts_them(tmp_path: Path) -> None:
    """`python -m` and new processes: they cannot import a package's `__main__`."""
    for split, count in (("train", 12), ("val", 4), ("val_regions", 4)):
        arguments = ["--split", split, "--count", str(count), "--output", str(tmp_path / split)]
        assert cut_patches(arguments) == 0
    command_line = [sys.executable, "-m", "experiments.ablations", "--jobs", "2"]
    for flag, split in (("--train", "train"), ("--val", "val"), ("--val-regions", "val_regions")):
        command_line += [flag, str(tmp_path / split / "*.tar")]
    command_line += ["--embeddings", str(tmp_path / "cache"), "--output", str(tmp_path / "out")]
    command_line += ["--steps", "1", "--batch-size", "4", "--limit", "12", "--measured", "4"]
    command_line += ["--only", "latlon-l2-mlp", "xyz-l2-mlp"]
    done = subprocess.run(command_line, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {file.stem for file in (tmp_path / "out").glob("*.json")} == {
        "latlon-l2-mlp",
        "xyz-l2-mlp",
    }

"""The benchmark measures the right things: no test looks at a clock's numbers."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from experiments.speed.pipeline import accelerator, job, lines
from experiments.speed.pipeline.__main__ import GROUPS, main
from experiments.speed.pipeline.job import BEAM, LOOP, SHIPPED, TRIVIAL, JobFailed, Spent, Task
from experiments.speed.pipeline.lines import QUICK, Bench, Cost, Sizes
from experiments.speed.pipeline.trivial import TrivialGeotagger, write_archive
from locdiffusion.photos.archive import Sample
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.photo import PhotoRecord, decode_photo
from pipelines.geotag.batches import read_batches, run_stage
from schemas.geotags import ErrorRow, Stage

SIZES = Sizes(3, (200, 1200), (16, 112), (100, 2000), (200, 2000), 100, 16)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return tuple(map(str, write_archive(tmp_path_factory.mktemp("bench") / "archive", 2, 40)))


def task(kind: str, shards: tuple[str, ...], output: Path, **changes: object) -> Task:
    return replace(Task(kind, TRIVIAL, shards, 40 * len(shards), str(output)), **changes)


# One job.


def test_loop_and_job_do_the_same(shards: tuple[str, ...], tmp_path: Path) -> None:
    loop = job.measure(task(LOOP, shards, tmp_path / "loop"))
    beam = job.measure(task(BEAM, shards, tmp_path / "beam"))
    assert loop.digest == beam.digest
    one = job.measure(task(LOOP, shards[:1], tmp_path / "one"))
    assert one.digest != loop.digest, "the digest covers every shard"
    assert {"processor", "cores", "torch_threads", "apache-beam", "pyarrow"} <= set(beam.about)
    json.dumps(asdict(beam))


def test_a_job_that_loses_photos_is_no_measurement(shards: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="80 predictions of 81 photos"):
        job.measure(task(LOOP, shards, tmp_path / "out", photos=81))


@pytest.mark.slow
def test_the_peak_of_a_fresh_process_is_its_own(shards: tuple[str, ...], tmp_path: Path) -> None:
    """The system's own peak (ru_maxrss) of a new process starts at what its parent holds."""
    (before,) = job.run_fresh(task(LOOP, shards, tmp_path / "before"))
    ballast = np.ones(2**27)  # 1 GiB, held while the other process starts
    (after,) = job.run_fresh(task(LOOP, shards, tmp_path / "after"))
    assert job.peak_bytes() > ballast.nbytes
    assert after.peak_bytes < before.peak_bytes + ballast.nbytes // 32
    assert after.peak_bytes_before <= after.peak_bytes


def test_a_process_that_fails_is_told_and_the_other_one_ended(
    shards: tuple[str, ...], tmp_path: Path
) -> None:
    good = task(LOOP, shards, tmp_path / "good")
    bad = task(LOOP, (str(tmp_path / "none.tar"),), tmp_path / "bad")
    with pytest.raises(JobFailed, match=r"none\.tar.* gave no answer:(.|\n)*no file matches"):
        job.run_fresh(good, bad)


def test_archives_are_the_same_when_made_again(tmp_path: Path) -> None:
    first, again, other = (
        [path.read_bytes() for path in write_archive(tmp_path / name, 2, 3, seed=seed)]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again != other
    assert first[0] != first[1]


# What a worker holds, besides what the benchmark sees of it from outside.


def test_bytes_of_photos_do_not_pile_up(shards: tuple[str, ...]) -> None:
    seen: list[weakref.ref[Sample]] = []
    alive: list[int] = []

    def decode(sample: Sample, preprocess: Callable, thumbnail: bool) -> PhotoRecord | ErrorRow:
        seen.append(weakref.ref(sample))
        alive.append(sum(one() is not None for one in seen))
        return decode_photo(sample, preprocess, thumbnail)

    batches = read_batches(Shard("s", shards[0]), TrivialGeotagger().preprocess, 32, decode)
    assert sum(len(batch) for batch in batches) == len(seen) == 40
    assert max(alive) <= 2


def test_a_shard_waits_as_columns_only(shards: tuple[str, ...]) -> None:
    """Neither pixels nor embeddings hang on to a decoded batch, not even as somebody's base."""
    model, held = TrivialGeotagger(), []
    for batch in read_batches(Shard("s", shards[0]), model.preprocess, 32):
        for stage in (Stage.EMBED, Stage.SAMPLE, Stage.DECODE):
            batch = run_stage(batch, stage, model)
        arrays = vars(batch.payload.answers).values()
        held += [array for array in arrays if isinstance(array, np.ndarray)]
    owners = [array if array.base is None else array.base for array in held]
    held_bytes = sum({id(array): array.nbytes for array in owners}.values())
    assert 0 < held_bytes <= 40 * 128


# What is made of the numbers.


def test_a_cost_is_a_straight_line_through_two_sizes() -> None:
    cost = Cost.between((100, 300), (2.0, 5.0))
    assert cost == Cost(0.015, 0.5)


class Measured:
    """In place of fresh processes: every photo and every job has its price."""

    def __init__(self, per_photo: float = 1.1, fixed: float = 0.3, leak: int = 0) -> None:
        self.per_photo, self.fixed, self.leak = per_photo, fixed, leak
        self.tasks: list[Task] = []
        self.together: list[list[str]] = []

    def __call__(self, *tasks: Task) -> list[Spent]:
        self.together.append([task.kind for task in tasks])
        return [self.spent(task) for task in tasks]

    def spent(self, task: Task) -> Spent:
        self.tasks.append(task)
        beam = task.kind == BEAM
        seconds = 1.0 + task.photos * 1e-3 * (self.per_photo if beam else 1.0) + self.fixed * beam
        seconds *= 1.5 if len(self.tasks) <= 4 else 1.0  # a disturbed first turn
        wall = 8.0 + 1e-3 * task.photos / max(task.processes, 1)
        largest = task.photos // len(task.shards)
        peak = 700_000_000 + self.leak * task.photos + 2000 * largest
        digest = str(hash(task.shards))
        return Spent(5.0 if beam else 0.5, seconds, wall, 650_000_000, peak, digest, {"cores": 2})


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Measured], Bench]:
    def make(measured: Measured) -> Bench:
        monkeypatch.setattr(lines, "run_fresh", measured)
        monkeypatch.setattr(lines, "write_archive", stand_in)
        return Bench(SIZES, tmp_path)

    return make


def stand_in(directory: Path, shards: int, *rest: object) -> list[Path]:
    return [directory / f"{index}.tar" for index in range(shards)]


@pytest.mark.parametrize(
    ("per_photo", "fixed", "met"),
    [(1.1, 0.3, [True, True]), (1.3, 0.3, [False, True]), (1.2, 1.4, [True, False])],
)
def test_job_against_loop(
    bench: Callable[[Measured], Bench], per_photo: float, fixed: float, met: list[bool]
) -> None:
    measured = Measured(per_photo, fixed)
    marginal, constant, imports = bench(measured).trivial()
    assert marginal.numbers["ratio"] == pytest.approx(per_photo)
    assert len(marginal.numbers["ratios"]) == 3
    numbers = constant.numbers
    assert numbers["job_cpu_seconds"] - numbers["loop_cpu_seconds"] == pytest.approx(fixed)
    assert [marginal.met, constant.met, imports.met] == [*met, None]
    assert imports.numbers == {LOOP: 0.5, BEAM: 5.0}
    assert measured.together == [[LOOP, BEAM]] * 6
    assert [task.photos for task in measured.tasks] == [200, 200, 1200, 1200] * 3
    assert all(len(task.shards) == task.photos // 100 for task in measured.tasks)
    assert len({task.output for task in measured.tasks}) == len(measured.tasks)


def test_the_real_encoder_has_a_budget_of_its_own(bench: Callable[[Measured], Bench]) -> None:
    measured = Measured(1.1)
    (line,) = bench(measured).encoder()
    assert line.met is False and line.budget == "<= 1.05"
    assert {task.model for task in measured.tasks} == {SHIPPED}


@pytest.mark.parametrize(("leak", "met"), [(0, True), (1000, False)])
def test_memory_is_flat_or_not(bench: Callable[[Measured], Bench], leak: int, met: bool) -> None:
    measured = Measured(leak=leak)
    shards, large = bench(measured).memory()
    assert (shards.met, large.met) == (met, None)
    assert shards.numbers["bytes_per_photo"] == leak
    assert large.numbers["bytes_per_photo"] == leak + 2000
    assert [len(task.shards) for task in measured.tasks] == [1, 20, 1]
    assert [task.photos for task in measured.tasks] == [100, 2000, 2000]


def test_scaling_leaves_out_the_start(bench: Callable[[Measured], Bench]) -> None:
    measured = Measured()
    (line,) = bench(measured).scaling()
    assert line.numbers["seconds_per_photo"] == pytest.approx([1e-3, 5e-4])
    assert "2.00 times as many photos per second (1,000 -> 2,000)" in line.measured
    assert line.numbers["start_seconds"] == pytest.approx([8.0, 8.0])
    assert [task.processes for task in measured.tasks] == [1, 1, 2, 2]


def test_wall_times_without_sense_are_called_so(bench: Callable[[Measured], Bench]) -> None:
    class Busy(Measured):
        def spent(self, task: Task) -> Spent:
            return replace(super().spent(task), wall_seconds=9.0)

    (line,) = bench(Busy()).scaling()
    assert "too busy" in line.measured and line.numbers["seconds_per_photo"] == [0.0, 0.0]


def test_other_predictions_are_no_comparison(bench: Callable[[Measured], Bench]) -> None:
    class Different(Measured):
        def spent(self, task: Task) -> Spent:
            return replace(super().spent(task), digest=task.kind)

    with pytest.raises(JobFailed, match="other predictions"):
        list(bench(Different()).trivial())


# The command.


def test_the_command_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(lines, "run_fresh", lambda *tasks: list(map(job.measure, tasks)))
    file = tmp_path / "out" / "bench.json"
    assert main(["--quick", "--only", "memory", "--seed", "3", "--output", str(file)]) == 0
    said = capsys.readouterr().out
    written = json.loads(file.read_text())
    assert [line["group"] for line in written["lines"]] == ["memory", "memory"]
    assert all(line["measured"] in said for line in written["lines"])
    assert written["sizes"] == {**asdict(QUICK), "seed": 3} | {
        name: list(getattr(QUICK, name))
        for name in ("trivial", "encoder", "memory", "scaling", "isolation", "accelerator")
    }
    assert written["about"]["apache-beam"] in said
    assert "met" not in said.lower(), "a quick run must not judge"


def test_a_job_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fails(*tasks: Task) -> list[Spent]:
        raise JobFailed("no space left")

    monkeypatch.setattr(lines, "run_fresh", fails)
    assert main(["--quick", "--only", "scaling"]) == 1
    assert capsys.readouterr().err == "error: no space left\n"


def test_listing_is_measured_on_a_tree_with_junk(capsys: pytest.CaptureFixture) -> None:
    assert main(["--quick", "--only", "listing"]) == 0
    assert "listing 300 files in 3 folders, 20 % junk" in capsys.readouterr().out


def test_an_accelerator_is_held_for_every_photo_and_idle_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "PHOTOS_PER_SECOND", 50.0)
    shards = write_archive(tmp_path / "in", 2, 3, (32, 24), texture=0.25, distinct=2)
    driven = accelerator.drive(shards, 6, 2, tmp_path / "out", regions=True)
    assert 0 < driven.busy < 1 and 0 < driven.photos_per_second < 50
    assert len(pandas.read_parquet(tmp_path / "out/regions")) == 2 * 6
    with pytest.raises(JobFailed, match="6 predictions of 7 photos"):
        accelerator.drive(shards, 7, 2, tmp_path / "again", regions=False)
    assert accelerator.decode_alone(shards, 2) > 0


def test_a_job_is_judged_by_what_decoding_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding 150 photos/s keeps a device of 300 busy for half of the time."""
    rates = {False: accelerator.Driven(120.0, 0.4), True: accelerator.Driven(90.0, 0.3)}
    monkeypatch.setattr(accelerator, "decode_alone", lambda *_: 150.0)
    monkeypatch.setattr(accelerator, "drive", lambda *given: rates[given[-1]])
    found = accelerator.measure_accelerator([], 9, 2, 3, Path(), regions=True)
    assert found["allowed"] == 0.5 and found["ratio"] == pytest.approx(0.6)
    assert found["with_regions"] == pytest.approx(0.75)
    found = accelerator.measure_accelerator([], 9, 2, 3, Path(), regions=False)
    assert found["ratio"] == pytest.approx(0.8) and "with_regions" not in found


@pytest.mark.slow
def test_the_whole_benchmark_runs(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    assert main(["--quick", "--output", str(file)]) == 0
    found = json.loads(file.read_text())["lines"]
    assert [line["group"] for line in found] == [
        *["trivial"] * 3, "encoder", *["memory"] * 2, "scaling", "listing", *["isolation"] * 2,
        *["accelerator"] * 7,
    ]  # fmt: skip
    assert {line["group"] for line in found} == set(GROUPS)

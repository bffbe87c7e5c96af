"""The benchmark of the build measures the right things: no test looks at a clock's numbers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from experiments.speed.pipeline.job import BEAM, LOOP, JobFailed
from experiments.speed.shards import __main__ as bench
from experiments.speed.shards import inputs, job
from experiments.speed.shards.job import IMAGE_PART, METADATA_PART, YFCC_PART, Spent, Task
from pipelines.build_shards.exclusions import read_exclusions
from pipelines.sources import mp16
from pipelines.sources.lines import read_lines
from pipelines.sources.record import Drop, photo_id


def metadata_flags(root: Path, rows: int) -> tuple[str, ...]:
    root.mkdir()
    path = inputs.write_list(root / "mp16.csv", rows)
    guard = inputs.write_guard(root / "guard.csv", rows)
    flags = ("--source=mp16", "--metadata", str(path), "--images", str(root / "images"))
    return (*flags, "--exclude", str(guard), "--author-cap=30", "--cell-cap=1", "--shard-size=900")


def test_loop_and_beam_plan_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in many partitions, of which the loop knows nothing."""
    monkeypatch.setattr("pipelines.build_shards.settings.PARTITION_BYTES", 100_000)
    flags = metadata_flags(tmp_path / "in", 6000)
    done = {
        kind: job.measure(Task(kind, METADATA_PART, flags, str(tmp_path / kind), 6000))
        for kind in (LOOP, BEAM)
    }
    assert done[LOOP].digest == done[BEAM].digest
    manifests = [
        json.loads((tmp_path / kind / "_manifest/metadata.json").read_text()) for kind in done
    ]
    assert manifests[0] == manifests[1]
    wanted = {"author_cap", "cell_cap", "duplicate_id", "excluded_author", "malformed_row"}
    assert wanted == manifests[0]["dropped"].keys()
    other = job.measure(
        Task(LOOP, METADATA_PART, (*flags, "--seed=1"), str(tmp_path / "other"), 6000)
    )
    assert other.digest != done[LOOP].digest, "the digest is of what was written"


def test_loop_and_beam_make_the_same_shards(tmp_path: Path) -> None:
    path = inputs.write_photos(tmp_path / "in", 12, (64, 48))
    flags = ("--source=mp16", "--metadata", str(path), "--images", str(tmp_path / "in/images"))
    flags = (*flags, "--min-size=16", "--shard-size=4", "--val-fraction=0")
    done = [
        job.measure(Task(kind, IMAGE_PART, flags, str(tmp_path / kind), 12)) for kind in job.KINDS
    ]
    assert done[0].digest == done[1].digest
    tars = sorted(path.name for path in (tmp_path / BEAM).glob("train/*.tar"))
    assert tars == [f"train-{number:05d}.tar" for number in range(3)]


def test_a_job_that_loses_rows_is_no_measurement(tmp_path: Path) -> None:
    flags = metadata_flags(tmp_path / "in", 50)
    with pytest.raises(JobFailed, match="50 of 51 rows"):
        job.measure(Task(LOOP, METADATA_PART, flags, str(tmp_path / "out"), 51))


def test_generated_lines_are_as_said(tmp_path: Path) -> None:
    path = inputs.write_list(tmp_path / "mp16.csv", 20_000)
    lines = list(read_lines(str(path)))
    assert mp16.columns_of(lines[0]).has_header and len(lines) == 20_001
    rows = [mp16.parse(line) for line in lines[1:]]
    broken = sum(isinstance(row, Drop) for row in rows)
    keys = Counter(photo_id(row.key) for row in rows if not isinstance(row, Drop))
    assert 10 < broken < 100 and 20 < keys.total() - len(keys) < 200
    guard = read_exclusions([str(inputs.write_guard(tmp_path / "guard.csv", 20_000))])
    leaks = sum(not isinstance(row, Drop) and guard.check(row) is not None for row in rows)
    assert 0 < leaks < 2_000
    again = inputs.write_list(tmp_path / "again.csv", 20_000)
    assert again.read_bytes() == path.read_bytes()


def test_numbers_come_from_the_right_measurements() -> None:
    """Marginal costs of 10 and 12 µs, fixed ones of 1 and 2 s."""

    def spent(cpu: float, peak: int) -> Spent:
        return Spent(cpu, 2 * cpu, 5_000_000, peak, "")

    turns = {
        LOOP: [[spent(1.0 + 1e-5 * rows, 7_000_000) for rows in (1000, 101_000)]],
        BEAM: [[spent(2.0 + 1.2e-5 * rows, 9_000_000) for rows in (1000, 101_000)]],
    }
    found = bench.numbers((1000, 101_000), turns)
    assert found["ratio"] == pytest.approx(1.2) and found["ratios"] == [pytest.approx(1.2)]
    assert found["cpu_microseconds"] == pytest.approx({LOOP: 10.0, BEAM: 12.0})
    assert found["fixed_cpu_seconds"] == pytest.approx({LOOP: 1.0, BEAM: 2.0})
    assert found["peak_megabytes"] == {LOOP: [2.0, 2.0], BEAM: [4.0, 4.0]}
    assert found["per_second"][LOOP] == pytest.approx(101_000 / (2 * 2.01))
    words = bench.told(METADATA_PART, found)
    assert "1.20 [1.20, 1.20]" in words and "records/s" in words


@pytest.mark.ci
@pytest.mark.slow
def test_the_whole_benchmark_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert bench.main(["--quick", "--output", str(tmp_path / "a" / "bench.json")]) == 0
    told = capsys.readouterr().out
    assert "records/s" in told and "images/s" in told and "say nothing" in told
    assert json.loads((tmp_path / "a" / "bench.json").read_text())["parts"].keys() == {
        METADATA_PART,
        YFCC_PART,
        IMAGE_PART,
    }

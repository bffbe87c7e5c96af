"""A run that is killed again and again ends with the bytes of one that was left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest

from pipelines.geotag.command import TIMES
from pipelines.geotag.output import Output
from support import SEED, python_path
from support.archives import bad_members, sound_members, tar_bytes, write_tar
from support.outputs import tree

Kill = Callable[[int, str], float | None]
"""From the number of an event and its name to None, or to how many seconds later to kill."""


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    """A server that has imported everything and forks: kills hit work, not imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.killable"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", python_path()["PYTHONPATH"])
        patch.setenv("OMP_NUM_THREADS", "1")  # threads would not survive the fork
        context.Process(target=os.getpid).start()
    yield context


def run(
    processes: ForkServerContext, archive: Path, output: Path, kill: Kill | None = None
) -> int | None:
    """Runs the command in a process of its own, and kills it when told to; its exit status."""
    ours, theirs = processes.Pipe()
    arguments = ["--input", f"{archive}/*.tar", "--output", str(output)]
    arguments += ["--batch_size=3", "--accept-damaged"]
    from support.killable import attempt

    process = processes.Process(target=attempt, args=(arguments, theirs))
    process.start()
    theirs.close()
    count = 0
    try:
        while True:
            event = ours.recv()
            count += 1
            wait = None if kill is None or killed_here_before(output) else kill(count, event)
            if wait != 0:
                ours.send("go on")  # to the next event at most
            if wait is not None:
                time.sleep(wait)
                process.kill()
                break
    except EOFError:
        pass  # it ended by itself
    process.join()
    ours.close()
    return process.exitcode


def killed_here_before(output: Path) -> bool:
    """Whether the shard in work had a kill already: with two it would be an error row."""
    notes = [json.loads(path.read_bytes()) for path in output.glob("_attempts/*.json")]
    return any(note["deaths"] > 1 for note in notes)


def many_shards(root: Path, count: int) -> Path:
    """A few photos each; one shard of bad photos and one cut short among them."""
    for index in range(count):
        write_tar(root / f"val-{index:03d}.tar", sound_members(4, 10 * index))
    write_tar(root / "bad-0.tar", [m for members, _ in bad_members().values() for m in members])
    (root / "cut-0.tar").write_bytes(tar_bytes(sound_members(5, 1000))[:6000])
    return root


def schedule(kills: int) -> list[Kill]:
    """The first file, random moments of the work, then the files that close a run."""

    def at(wanted: str) -> Kill:
        return lambda count, event: 0.0 if event == wanted else None

    def after(events: int, seconds: float) -> Kill:
        return lambda count, event: seconds if count >= events else None

    rng = np.random.default_rng(SEED)
    ends = [at(f"write {name}") for name in ("summary.json", "map.png", "map.html", "report.html")]
    ends = ends if kills > 6 else ends[:1]
    moments = [
        after(int(rng.integers(4, 26)), float(rng.choice([0, rng.uniform(0, 0.02)])))
        for _ in range(kills - 1 - len(ends))
    ]
    return [at("write run.json"), *moments, *ends]


def finished_files(output: Path) -> dict[Path, tuple[int, int]]:
    """The files of shards that have a manifest, each by inode and time of writing."""
    files = [
        output / name
        for shard, manifest in Output(str(output)).manifest_files().items()
        for name in (
            f"predictions/part-{shard}.parquet",
            f"errors/part-{shard}.parquet",
            f"_manifest/{manifest.file}",
        )
    ]
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


@pytest.mark.parametrize(
    ("kills", "shards"), [(4, 5), pytest.param(20, 20, marks=pytest.mark.slow)]
)
def test_a_run_killed_again_and_again(
    processes: ForkServerContext, tmp_path: Path, kills: int, shards: int
) -> None:
    archive = many_shards(tmp_path / "archive", shards)
    assert run(processes, archive, tmp_path / "whole") == 0
    output, kept, caught, progress = tmp_path / "out", {}, [], set()
    for kill in schedule(kills):
        assert run(processes, archive, output, kill) == -signal.SIGKILL
        now = finished_files(output)
        assert {file: now[file] for file in kept} == kept, "a finished shard was done again"
        kept = now
        progress.add(len(kept) // 3)
        caught += [path.name for path in output.rglob(".*.tmp")]
    assert run(processes, archive, output) == 0
    assert {file: finished_files(output)[file] for file in kept} == kept
    assert len(kept) == 3 * (shards + 2), "the last kill comes after the last shard"
    assert len(progress - {0, shards + 2}) >= kills / 4, "too few kills came amid the shards"
    assert len(caught) >= kills / 4, "too few kills came while a file was being written"
    whole, found = tree(tmp_path / "whole"), tree(output)
    assert sorted(found) == sorted(whole)  # and so no temporary file
    assert {"map.png", "map.html", "report.html"} <= set(whole)
    for name, data in whole.items():
        if name != "summary.json":
            assert found[name] == data, name
    assert without_times(found["summary.json"]) == without_times(whole["summary.json"])


def without_times(summary: bytes) -> dict:
    return {name: value for name, value in json.loads(summary).items() if name not in TIMES}

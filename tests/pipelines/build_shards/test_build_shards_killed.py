"""A build that is killed again and again ends with the bytes of one that was left alone."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest

from support import SEED, python_path
from support.flickr import make_photos, write_msgpack_shards, write_places365
from support.killable_build import attempt
from support.outputs import tree

Kill = Callable[[int, str], bool]
"""From the number of an event and its name to whether to kill now."""


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.killable_build"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", python_path()["PYTHONPATH"])
        patch.setenv("OMP_NUM_THREADS", "1")  # threads would not survive the fork
        context.Process(target=os.getpid).start()
    yield context


def run(
    processes: ForkServerContext, flags: Sequence[str], kill: Kill | None = None
) -> tuple[int | None, list[str]]:
    """Runs the command in a process of its own, and kills it when told to; status and events."""
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=attempt, args=(flags, theirs))
    process.start()
    theirs.close()
    events: list[str] = []
    try:
        while True:
            events.append(ours.recv())
            if kill is not None and kill(len(events), events[-1]):
                process.kill()
                break
    except EOFError:
        pass  # it ended by itself
    process.join()
    ours.close()
    return process.exitcode, events


def at(wanted: str) -> Kill:
    return lambda count, event: event == wanted


def after(events: int, seconds: float) -> Kill:
    def kill(count: int, event: str) -> bool:
        if count == events:
            time.sleep(seconds)
        return count == events

    return kill


def schedule(moments: int) -> list[Kill]:
    """Each step of a build, in order, and between them random moments of the work.

    Without moments, only the steps after which most is left behind.
    """
    steps = [
        "write out/run.json",
        "write plan/train-00001.parquet",
        "write _manifest/metadata.json",
        "write candidates/train-00000.json",
        "wrote train/train-00001.tar",
        "write out/summary.json",
    ]
    rng = np.random.default_rng(SEED)
    kills = []
    for step in steps if moments else (steps[1], steps[3], steps[4]):
        kills.append(at(step))
        for _ in range(moments):
            kills.append(after(int(rng.integers(2, 30)), float(rng.uniform(0, 0.02))))
    return kills


def finished_files(output: Path) -> dict[Path, tuple[int, int]]:
    """The files of shards that have a manifest, each by inode and time of writing."""
    files = []
    for path in output.glob("_manifest/*-*.json"):
        split = path.stem.partition("-")[0]
        files += [path, output / split / f"{path.stem}.tar"]
        files.append(output / "index" / f"part-{path.stem}.parquet")
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


@pytest.mark.parametrize(
    ("moments", "photos"), [(0, 30), pytest.param(5, 90, marks=pytest.mark.slow)]
)
def test_a_build_killed_again_and_again(
    processes: ForkServerContext, tmp_path: Path, moments: int, photos: int
) -> None:
    listed = make_photos(photos, authors=8)
    stored = [*listed[:-4], *listed[-2:]]  # two have no image
    metadata = write_places365(tmp_path / "mp16.csv", [*listed, *listed[:3]])
    write_msgpack_shards(tmp_path / "images", stored, 9)
    flags = ["--source=mp16", "--metadata", str(metadata), "--images", str(tmp_path / "images")]
    flags += ["--messages=*.msg", "--shard-size=8", "--min-size=32", "--val-fraction=0.2"]
    flags += ["--connections=2", "--author-cap=9"]
    whole = tmp_path / "whole" / "out"
    assert run(processes, [*flags, "--output", str(whole)])[0] == 0
    output, killed, written = tmp_path / "out", 0, {}
    for kill in schedule(moments):
        status, _ = run(processes, [*flags, "--output", str(output)], kill)
        killed += status == -9
        assert status in (0, -9)
        for file, when in written.items():
            assert finished_files(output)[file] == when, f"{file} was written again"
        written = finished_files(output)
    assert killed >= (10 if moments else 3), "hardly a kill hit"
    status, events = run(processes, [*flags, "--output", str(output)])
    assert status == 0 and "photo" not in events, "all photos had been fetched"
    left = [path for path in output.rglob("*") if path.name.endswith(".tmp")]
    assert left == [] and tree(output) == tree(whole)

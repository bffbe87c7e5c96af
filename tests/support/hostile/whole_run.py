"""Runs the geotag command in a process of its own and measures it and its children.

python -m support.hostile.whole_run REPORT.json ARGUMENTS...
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

import support.hostile
from locdiffusion import isolation
from support import ROOT
from support.archives import photo
from support.hostile.folders import fill_outside, fill_with_links, fill_with_names, fill_with_pipes

ORDINARY = 6
"""Number of ordinary photos among the hostile ones."""


@dataclass(frozen=True)
class Measured:
    """What a run took and left behind.

    Attributes:
        status: Exit status.
        console: What was printed, errors too.
        memory: Peak memory of the command, and of the largest of its children, in bytes.
        call_s: CPU seconds of the longest call of a child process: of one photo, or of one file.
        output: Output directory.
    """

    status: int
    console: str
    memory: tuple[int, int]
    call_s: float
    output: Path

    @property
    def located(self) -> list[tuple[str, str]]:
        """Shard and key of the photos with a prediction."""
        return [(row["shard"], row["key"]) for row in self._rows("predictions")]

    @property
    def failed(self) -> list[tuple[str, str]]:
        """Shard and key of the photos that failed."""
        return [(row["shard"], row["key"]) for row in self._rows("errors") if row["key"]]

    def _rows(self, layer: str) -> Iterator[dict[str, str]]:
        for file in sorted((self.output / layer).glob("*.parquet")):
            yield from pq.read_table(file).to_pylist()


def files(kind: str) -> dict[str, Callable[[], bytes]]:
    """Collects the hostile files of all modules: PICTURES or ARCHIVES, by name."""
    found = {}
    for module in pkgutil.iter_modules(support.hostile.__path__):
        makers = importlib.import_module(f"support.hostile.{module.name}")
        for name, make in getattr(makers, kind, {}).items():
            found[f"{module.name}-{name}"] = make
    return found


def write_ordinary(folder: Path) -> None:
    """Writes ordinary photos, between which the hostile ones are read."""
    folder.mkdir(parents=True)
    for number in range(ORDINARY):
        name = f"{'aguz'[number % 4]}{number}-ordinary.jpg"
        (folder / name).write_bytes(photo(number, (640, 480)))


def write_hostile(folder: Path) -> None:
    """Writes hostile pictures among ordinary photos; hostile archives and folders beside these."""
    write_ordinary(folder / "photos")
    for name, make in files("PICTURES").items():
        (folder / "photos" / name).write_bytes(make())
    for name, make in files("ARCHIVES").items():
        (folder / name).write_bytes(make())
    fill_with_links(folder / "links", fill_outside(folder.parent / "outside"))
    fill_with_pipes(folder / "pipes")
    fill_with_names(folder / "names")


def run(output: Path, *arguments: str, trace: Path | None = None) -> Measured:
    """Geotags with the shipped checkpoint, in a process of its own.

    Args:
        output: Output directory, which is made.
        arguments: Words of the command line.
        trace: File into which strace writes what the processes open and connect to.
    """
    report = output.with_suffix(".measured.json")
    command = [sys.executable, "-m", "support.hostile.whole_run", str(report)]
    if trace is not None:
        watch = ["strace", "-f", "--seccomp-bpf", "-qq", "-s", "4096", "-o", str(trace)]
        command = [*watch, "-e", "trace=%file,%net", "-e", "signal=none", *command]
    done = subprocess.run(
        [*command, *arguments, "--output", str(output)],
        capture_output=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        },
    )
    console = (done.stdout + done.stderr).decode("utf-8", "backslashreplace")
    ours, childs, call_s = json.loads(report.read_text())
    return Measured(done.returncode, console, (ours, childs), call_s, output)


def main() -> int:
    """Runs the command; writes the peak memory of both, and the CPU time of the longest call."""
    from pipelines.geotag.command import main as geotag

    report, *arguments = sys.argv[1:]
    calls = _timed_calls()
    status = geotag(arguments)
    _close_children()
    peaks = [
        resource.getrusage(who).ru_maxrss * 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    Path(report).write_text(json.dumps([*peaks, max(calls, default=0.0)]))
    return status


def _timed_calls() -> list[float]:
    """Makes child processes tell the CPU seconds of each call; returns the list that is filled."""
    calls: list[float] = []
    call = isolation._Child.call

    def timed(child: isolation._Child, request: bytes) -> bytes:
        before = _cpu_s(child._process.pid)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            return call(child, request)
        finally:
            if child._process.poll() is None:
                calls.append(_cpu_s(child._process.pid) - before)
            else:
                now = resource.getrusage(resource.RUSAGE_CHILDREN)
                took = now.ru_utime + now.ru_stime - ended.ru_utime - ended.ru_stime
                calls.append(took - before)

    isolation._Child.call = timed  # type: ignore[method-assign]
    return calls


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _close_children() -> None:
    """Ends the children, since only of those that have ended the system tells the memory."""
    for one in gc.get_objects():
        if isinstance(one, isolation.IsolatedFunction):
            one.close()


if __name__ == "__main__":
    sys.exit(main())

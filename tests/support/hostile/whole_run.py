"""Runs the geotag command in a process of its own and measures it and its children.

python -m support.hostile.whole_run REPORT.json ARGUMENTS...
"""

from __future__ import annotations

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
from support import ROOT
from support.archives import photo

ORDINARY = 6
"""Number of ordinary photos among the hostile ones."""


@dataclass(frozen=True)
class Measured:
    """What a run took and left behind.

    Attributes:
        status: Exit status.
        console: What was printed, errors too.
        memory: Peak memory of the command, and of the largest of its children, in bytes.
        output: Output directory.
    """

    status: int
    console: str
    memory: tuple[int, int]
    output: Path

    @property
    def located(self) -> set[str]:
        """Keys of the photos with a prediction."""
        return {row["key"] for row in self._rows("predictions")}

    @property
    def failed(self) -> dict[str, str]:
        """Status of each photo that failed."""
        return {row["key"]: row["status"] for row in self._rows("errors") if row["key"]}

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
    """Writes all hostile pictures among ordinary photos, and all hostile archives beside them."""
    write_ordinary(folder / "photos")
    for name, make in files("PICTURES").items():
        (folder / "photos" / name).write_bytes(make())
    for name, make in files("ARCHIVES").items():
        (folder / name).write_bytes(make())


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
        watch = ["strace", "-f", "-qq", "-s", "4096", "-o", str(trace)]
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
    memory = json.loads(report.read_text()) if report.exists() else [0, 0]
    return Measured(done.returncode, console, (memory[0], memory[1]), output)


def main() -> int:
    """Runs the command; writes the peak memory of this process and of its largest child."""
    from pipelines.geotag.command import main as geotag

    report, *arguments = sys.argv[1:]
    status = geotag(arguments)
    _close_children()
    peaks = [
        resource.getrusage(who).ru_maxrss * 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    Path(report).write_text(json.dumps(peaks))
    return status


def _close_children() -> None:
    """Ends the children, since only of those that have ended the system tells the memory."""
    import gc

    from locdiffusion.isolation import IsolatedFunction

    for one in gc.get_objects():
        if isinstance(one, IsolatedFunction):
            one.close()


if __name__ == "__main__":
    sys.exit(main())

"""Runs one measured job in its own process: the geotag pipeline, or a plain loop."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.speed.pipeline.trivial import TrivialLoader
from locdiffusion.cli.parser import RunFailed
from pipelines.geotag.command import Job, build
from pipelines.geotag.model_cache import Loader
from pipelines.geotag.options import parse
from pipelines.geotag.plain_loop import run_plain_loop

LOOP, BEAM = "loop", "beam"
TRIVIAL, SHIPPED = "trivial", "shipped"
VERSIONS = ("apache-beam", "numpy", "pillow", "pyarrow")
ROOT = Path(__file__).parents[3]
SAYS = "benchmark: "
"""Prefix of the lines that a measured process prints for its parent; Beam prints others."""


class JobFailed(RunFailed):
    """A measured job failed; the message ends with its output."""


@dataclass(frozen=True)
class Task:
    """A job to measure.

    Attributes:
        kind: LOOP or BEAM.
        model: TRIVIAL, or SHIPPED for the shipped encoder and checkpoint.
        shards: Paths of the shards.
        photos: Number of photos in all shards.
        output: Directory to create.
        processes: Number of worker processes (BEAM only); 0 works in the measuring process.
    """

    kind: str
    model: str
    shards: tuple[str, ...]
    photos: int
    output: str
    processes: int = 0


@dataclass(frozen=True)
class Spent:
    """Time and memory of a job.

    Attributes:
        import_cpu_seconds: CPU seconds of importing modules and loading the model.
        cpu_seconds: CPU seconds of the job, with its child processes.
        wall_seconds: Wall seconds of the job.
        peak_bytes_before: Peak memory before the job.
        peak_bytes: Peak memory at the end.
        digest: Hash of all predictions, which shows that two jobs gave the same result.
        about: Machine and versions; empty if torch was not loaded.
    """

    import_cpu_seconds: float
    cpu_seconds: float
    wall_seconds: float
    peak_bytes_before: int
    peak_bytes: int
    digest: str
    about: Mapping[str, Any] = field(default_factory=dict)


def run_fresh(*tasks: Task) -> list[Spent]:
    """Measures tasks, each in a new Python process with one thread per operation.

    All load their modules first and then start together. Several tasks share one processor core, so
    that other work of the machine slows all of them alike and their CPU times can be compared.
    (Where a process cannot choose its core, the system distributes them.)

    Raises:
        JobFailed: A process failed; the message has the end of its stderr.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    code = (
        f"from experiments.speed.pipeline.job import answer; answer(share_a_core={len(tasks) > 1})"
    )
    with contextlib.ExitStack() as stack:
        errors = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in tasks]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=error,
                text=True,
            )
            for error in errors
        ]
        try:
            for process, task in zip(processes, tasks, strict=True):
                _say(process, json.dumps(asdict(task)))
            for process in processes:
                _listen(process)  # it is ready
            for process in processes:
                _say(process, "start")
            answers = [_listen(process) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        for task, error, text in zip(tasks, errors, answers, strict=True):
            if not text:
                error.seek(0)
                raise JobFailed(f"{task} gave no answer:\n{error.read()[-2000:]}")
    return [Spent(**json.loads(text)) for text in answers]


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has failed, and will give no answer
        process.stdin.write(line + "\n")
        process.stdin.flush()


def _listen(process: subprocess.Popen[str]) -> str:
    """Returns the text after SAYS in the next such line; empty if the process ends before."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(SAYS):
            return line.removeprefix(SAYS)
    return ""


def answer(share_a_core: bool) -> None:
    """Runs in the new process: reads a Task and a start line on stdin, prints Spent as JSON."""
    given = json.loads(sys.stdin.readline())

    def wait() -> None:
        print(f"{SAYS}ready", flush=True)
        sys.stdin.readline()
        if share_a_core and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    spent = measure(Task(**{**given, "shards": tuple(given["shards"])}), wait)
    print(f"{SAYS}{json.dumps(asdict(spent))}", flush=True)


def measure(task: Task, wait: Callable[[], None] = lambda: None) -> Spent:
    """Runs a task in this process.

    Args:
        task: Task to run.
        wait: Function that is called after loading, before the clock starts.

    Raises:
        JobFailed: Not every photo became a prediction.
    """
    flags = [f"--direct_num_workers={task.processes}", "--direct_running_mode=multi_processing"]
    arguments = ["--input", *task.shards, "--output", task.output]
    load: Loader | None = TrivialLoader() if task.model == TRIVIAL else None
    job = build(parse([*arguments, *(flags if task.processes else [])]), load)
    work = beam_job() if task.kind == BEAM else plain_loop
    wait()
    peak_before = peak_bytes()
    before, start = cpu_seconds(), time.perf_counter()
    work(job)
    cpu, wall = cpu_seconds() - before, time.perf_counter() - start
    found = sum(manifest["predictions"] for manifest in job.output.manifests())
    if found != task.photos:
        raise JobFailed(f"{found} predictions of {task.photos} photos; see {task.output}")
    about = _about() if "torch" in sys.modules else {}
    return Spent(before, cpu, wall, peak_before, peak_bytes(), _digest(Path(task.output)), about)


def beam_job() -> Callable[[Job], Any]:
    """Imports Beam, and returns a function that launches a job and waits for its end."""
    from pipelines.geotag.transforms import launch

    return lambda job: launch(job.options, job.load, job.configuration, job.output, job.shards)


def plain_loop(job: Job) -> None:
    """Does the same work without Beam."""
    run_plain_loop(job.options, job.load, job.configuration, job.output, job.shards)


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def peak_bytes() -> int:
    """Peak resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss of a new process begins at what its parent held
        for line in status.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _digest(output: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(output.glob("predictions/*.parquet")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _about() -> dict[str, Any]:
    from experiments.speed.head.timing import machine

    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {**machine(), **versions}

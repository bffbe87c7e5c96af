"""Runs one measured part of a build in its own process: by Beam, or by a plain loop."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from experiments.speed.pipeline.job import BEAM, LOOP, JobFailed, cpu_seconds, peak_bytes
from pipelines.build_shards import fingerprints, finishing, metadata, planning, tables
from pipelines.build_shards.candidates import make_candidate
from pipelines.build_shards.command import Job, build
from pipelines.build_shards.options import parse
from pipelines.build_shards.output import METADATA, PLAN, split_of

METADATA_PART, YFCC_PART, IMAGE_PART = "metadata", "yfcc", "images"
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Task:
    """A part of a build to measure.

    Attributes:
        kind: LOOP or BEAM.
        part: METADATA_PART, YFCC_PART or IMAGE_PART of the build.
        flags: Flags of `pipelines.build_shards`.
        output: Directory to create.
        rows: Number of rows that must be read.
    """

    kind: str
    part: str
    flags: tuple[str, ...]
    output: str
    rows: int


@dataclass(frozen=True)
class Spent:
    """Time and memory of a part.

    Attributes:
        cpu_seconds: CPU seconds of the part, with child processes, without imports.
        wall_seconds: Wall seconds of the part.
        peak_before_bytes, peak_bytes: Peak memory before the part, and at the end.
        digest: Hash of the output, which shows that two parts gave the same result.
    """

    cpu_seconds: float
    wall_seconds: float
    peak_before_bytes: int
    peak_bytes: int
    digest: str


def run_fresh(task: Task) -> Spent:
    """Measures a task in a new Python process, with one thread per operation.

    Raises:
        JobFailed: The process failed; the message has the end of its stderr.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", "from experiments.speed.shards.job import answer; answer()"],
        input=json.dumps(asdict(task)),
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise JobFailed(f"{task} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return Spent(**json.loads(done.stdout.splitlines()[-1]))


def answer() -> None:
    """Runs in the new process: reads a Task on stdin, prints Spent in the last line, as JSON."""
    given = json.load(sys.stdin)
    print(json.dumps(asdict(measure(Task(**{**given, "flags": tuple(given["flags"])})))))


def measure(task: Task) -> Spent:
    """Runs a task in this process.

    Raises:
        JobFailed: Not every row was read.
    """
    job = build(parse([*task.flags, "--output", task.output]))
    work = _BEAM[task.part]() if task.kind == BEAM else _LOOPS[task.part]
    if task.part == IMAGE_PART:
        plan_in_a_loop(job)
    peak, before, start = peak_bytes(), cpu_seconds(), time.perf_counter()
    work(job)
    cpu, wall = cpu_seconds() - before, time.perf_counter() - start
    read = (job.output.manifest(METADATA) or {}).get("read")
    if read != task.rows:
        raise JobFailed(f"{read} of {task.rows} rows were read; see {task.output}")
    return Spent(cpu, wall, peak, peak_bytes(), _digest(Path(task.output), task.part))


def plan_in_a_loop(job: Job) -> None:
    """Does the metadata part without Beam: all records at once, rule by rule."""
    settings, output = job.settings, job.output
    counts: Counter[str] = Counter()
    parts = []
    for span in job.records:
        for chunk in metadata.read_records(span, settings):
            counts[planning.READ] += chunk.read
            counts.update(planning.record_drops(chunk.id, chunk.drops, output))
            parts.append(chunk.table)
    links = [one.table for span in job.links for one in metadata.read_links(span, settings.inputs)]
    records, drops = metadata.link(
        pa.concat_tables([tables.RECORDS.empty_table(), *parts]),
        pa.concat_tables([tables.LINKS.empty_table(), *links]),
        settings.inputs,
    )
    counts.update(planning.record_drops("link-00000", drops, output))
    for name, cap, keep in (
        ("author", settings.rules.author_cap, metadata.cap_authors),
        ("cell", settings.rules.cell_cap, metadata.cap_cells),
    ):
        if cap:
            records, drops = keep(records, settings.rules)
            counts.update(planning.record_drops(f"{name}-00000", drops, output))
    photos = metadata.count_splits(records, settings.rules)
    shards = metadata.shard_counts(photos, settings.rules)
    for shard, part in metadata.plan_tables(records, shards, settings.rules):
        output.write_table(part, PLAN, f"{shard}.parquet")
        counts[f"{planning.PLANNED}{shard}"] = len(part)
    planning.write_metadata_manifest(counts, settings, output)


def make_in_a_loop(job: Job) -> None:
    """Does the image part without Beam: shard by shard, then all fingerprints at once."""
    shards = list((job.output.manifest(METADATA) or {})["shards"])
    workers = job.options.workers
    counts = Counter(map(split_of, shards))
    together: dict[fingerprints.Key, list[bytes]] = defaultdict(list)
    for shard in shards:
        table = make_candidate(shard, job.settings, job.output, workers)
        for key, rows in fingerprints.spread(shard, table, 1):
            together[key].append(rows)
    alike = defaultdict(list)
    for (by, _), packed in together.items():
        for like, one in fingerprints.find_duplicates(by, packed, counts):
            alike[like].append(one)
    duplicates = defaultdict(list)
    for like, several in alike.items():
        for shard, duplicate in finishing.named(like, several, job.output):
            duplicates[shard].append(duplicate)
    for shard in shards:
        finishing.finish_shard(shard, duplicates[shard], job.settings, job.output)


def _plan_by_beam() -> Callable[[Job], Any]:
    """Imports Beam, and returns a function that runs the metadata part."""
    import apache_beam as beam

    from pipelines.beam.jobs import run_job
    from pipelines.build_shards.transforms import PlanShards

    def run(job: Job) -> None:
        plan = PlanShards(job.settings, job.output, job.links)
        run_job(job.options, lambda pipeline: pipeline | beam.Create(job.records) | plan)

    return run


def _make_by_beam() -> Callable[[Job], Any]:
    """Imports Beam, and returns a function that runs the image part."""
    import apache_beam as beam

    from pipelines.beam.jobs import run_job
    from pipelines.build_shards.transforms import MakeShards

    def run(job: Job) -> None:
        shards = list((job.output.manifest(METADATA) or {})["shards"])
        make = MakeShards(job.settings, job.output, job.options.workers)
        run_job(job.options, lambda pipeline: pipeline | beam.Create(shards) | make)

    return run


_BEAM = {METADATA_PART: _plan_by_beam, YFCC_PART: _plan_by_beam, IMAGE_PART: _make_by_beam}
_LOOPS = {METADATA_PART: plan_in_a_loop, YFCC_PART: plan_in_a_loop, IMAGE_PART: make_in_a_loop}
KINDS = (LOOP, BEAM)


def _digest(output: Path, part: str) -> str:
    digest = hashlib.sha256()
    pattern = "*/*.tar" if part == IMAGE_PART else f"{PLAN}/*.parquet"
    for path in sorted(output.glob(pattern)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()

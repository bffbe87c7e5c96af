"""Measures the overhead of Beam in the geotag job, and prints one line per number.

python -m experiments.speed.pipeline
python -m experiments.speed.pipeline --only memory --output bench.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from locdiffusion.cli.parser import DONE, run_command
from locdiffusion.files import write_json

GROUPS = ("trivial", "encoder", "memory", "scaling", "listing", "isolation", "accelerator")

EPILOG = """\
lines:
  trivial  CPU time of the geotag job against a plain loop over the same functions (read_batches,
           run_stage, write_shard), with a model that costs next to nothing
  encoder  the same with the image encoder and the checkpoint that are shipped
  memory   peak memory of a worker as photos, shards and the size of a shard grow
  scaling  photos per second with two worker processes against one
  listing  CPU time and memory of listing 100,000 small files in 1,000 folders
  isolation
           decoding and embedding with decoders in child processes, against decoding here
  accelerator
           photos per second, and share of time a simulated accelerator is busy, with a job on all
           cores, against decoding alone with the same threads; with and without --regions

Each job runs in a new process, with one thread per operation. Loop and job start together and share
one core, so that whatever else the machine does slows both alike. CPU time is that of the process
and its children, in user and system mode, without imports and without loading the model, which come
before the clock. A straight line through two sizes parts it into a marginal cost per photo and a
fixed cost per job; printed is the ratio of the medians and, in brackets, the smallest and the
largest ratio of a turn. Both must write the same bytes. Photos are generated.
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.speed.pipeline",
        description="Measure the overhead of Beam in the geotag job.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, metavar="FILE", help="also write the lines as JSON")
    add("--only", nargs="+", choices=GROUPS, default=GROUPS, help="groups of lines (all)")
    add("--turns", type=int, help="turns of loop and job (3)")
    add("--seed", type=int, help="seed of the generated photos (0)")
    add("--quick", action="store_true", help="tiny sizes, which only show that it runs")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures and prints line by line; returns machine, sizes and lines.

    Raises:
        JobFailed: A job failed, or loop and job gave different results.
    """
    from experiments.speed.pipeline.lines import QUICK, Bench, Sizes

    sizes = QUICK if options.quick else Sizes()
    given = {name: getattr(options, name) for name in ("turns", "seed")}
    sizes = replace(sizes, **{name: value for name, value in given.items() if value is not None})
    lines = []
    if options.quick:
        print("quick: tiny sizes; these numbers say nothing about the budgets")
    with tempfile.TemporaryDirectory(prefix="bench-pipeline-") as directory:
        bench = Bench(sizes, Path(directory))
        for group in options.only:
            for line in bench.groups()[group]():
                met = {True: "met", False: "NOT MET", None: ""}[line.met]
                verdict = f"   {met}" if met and not options.quick else ""
                print(f"{line.name}\n    {line.measured}\n    budget {line.budget}{verdict}")
                sys.stdout.flush()
                lines.append({"group": group, **asdict(line)})
    for name, value in {**bench.about, **asdict(sizes)}.items():
        print(f"{name:18} {value}")
    return {"about": bench.about, "sizes": asdict(sizes), "lines": lines}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status. A budget that is not met is no error."""
    return run_command(lambda: _run(parse(argv)))


def _run(options: argparse.Namespace) -> int:
    results = run(options)
    if options.output:
        write_json(options.output, results)
    return DONE


if __name__ == "__main__":
    sys.exit(main())

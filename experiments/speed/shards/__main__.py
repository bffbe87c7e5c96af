"""Measures the cost of a build of training shards, and prints one line per number.

python -m experiments.speed.shards
python -m experiments.speed.shards --only images --output bench.json
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from experiments.speed.pipeline.job import BEAM, LOOP, JobFailed
from experiments.speed.pipeline.lines import Cost
from experiments.speed.shards.inputs import write_guard, write_list, write_photos, write_yfcc
from experiments.speed.shards.job import (
    IMAGE_PART,
    KINDS,
    METADATA_PART,
    YFCC_PART,
    Spent,
    Task,
    run_fresh,
)
from locdiffusion.cli.parser import DONE, run_command
from locdiffusion.files import write_json

PARTS = (METADATA_PART, YFCC_PART, IMAGE_PART)

EPILOG = """\
lines:
  metadata  from generated lines of mp16_places365.csv to the plan of every shard, with a leak guard
            and caps per photographer and per cell
  yfcc      the same from generated lines of yfcc100m_dataset, without caps
  images    from generated photos in a folder to finished shards: read, decode, scale, encode,
            write, compare, copy

Each is done by Beam and by a plain loop over the same functions, in turns, each in a new process
with one thread per operation; both must write the same bytes. CPU time is that of the process and
its children, without imports. A straight line through two sizes parts it into a marginal cost and a
fixed cost per job; printed is the ratio of the medians and, in brackets, the smallest and the
largest ratio of a turn. Memory is the most that the process held above what it held before.
"""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements; the default takes some minutes on two cores.

    Attributes:
        turns: Number of turns of loop and job.
        metadata: Small and large number of rows of MP-16.
        yfcc: Small and large number of rows of YFCC100M.
        images: Small and large number of photos.
        shard_size: Photos per shard in the image part.
        photo: Width and height of a photo in pixels.
        seed: Seed of the generated lists and photos.
    """

    turns: int = 2
    metadata: tuple[int, int] = (250_000, 1_000_000)
    yfcc: tuple[int, int] = (100_000, 400_000)
    images: tuple[int, int] = (200, 1_000)
    shard_size: int = 100
    photo: tuple[int, int] = (500, 375)
    seed: int = 0


QUICK = Sizes(1, (200, 400), (100, 200), (4, 8), 4, (64, 48))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.speed.shards",
        description="Measure the cost of a build of training shards.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, metavar="FILE", help="also write the numbers as JSON")
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="parts of the build (both)")
    add("--turns", type=int, help=f"turns of loop and job ({Sizes.turns})")
    for name in (METADATA_PART, YFCC_PART):
        few, many = getattr(Sizes, name)
        about = f"small and large number of rows of {name} ({few:,} {many:,})"
        add(f"--{name}", nargs=2, type=int, metavar="N", help=about)
    add("--seed", type=int, help=f"seed of the generated lists and photos ({Sizes.seed})")
    add("--quick", action="store_true", help="tiny sizes, which only show that it runs")
    return parser.parse_args(argv)


class Bench:
    """Makes input and measures builds of it.

    Args:
        sizes: Sizes of the measurements.
        directory: Empty directory for input and output.
    """

    def __init__(self, sizes: Sizes, directory: Path) -> None:
        self.sizes, self.directory = sizes, directory

    def measure(self, part: str) -> dict[str, Any]:
        """Measures loop and job at two sizes, in turns.

        Raises:
            JobFailed: One of them failed, or they gave different results.
        """
        sizes: tuple[int, int] = getattr(self.sizes, part)
        flags = [self._flags(part, rows) for rows in sizes]
        spent: dict[str, list[list[Spent]]] = {kind: [] for kind in KINDS}
        for _ in range(self.sizes.turns):
            for kind in KINDS:
                spent[kind].append(
                    [self._run(kind, part, *one) for one in zip(flags, sizes, strict=True)]
                )
        digests = {
            (i, one.digest) for turns in spent.values() for t in turns for i, one in enumerate(t)
        }
        if len(digests) != len(sizes):
            raise JobFailed(f"{part}: the loop and Beam did not write the same bytes")
        return numbers(sizes, spent)

    def _run(self, kind: str, part: str, flags: tuple[str, ...], rows: int) -> Spent:
        output = self.directory / "out"
        try:
            return run_fresh(Task(kind, part, flags, str(output), rows))
        finally:
            shutil.rmtree(output, ignore_errors=True)

    def _flags(self, part: str, rows: int) -> tuple[str, ...]:
        root = self.directory / f"{part}-{rows}"
        root.mkdir()
        source = "yfcc100m" if part == YFCC_PART else "mp16"
        common = [f"--source={source}", f"--seed={self.sizes.seed}"]
        common.append("--download" if part == YFCC_PART else f"--images={root / 'images'}")
        if part == YFCC_PART:
            path = write_yfcc(root / "yfcc100m_dataset", rows, self.sizes.seed)
        elif part == METADATA_PART:
            path = write_list(root / "mp16.csv", rows, self.sizes.seed)
            guard = write_guard(root / "guard.csv", rows)
            common += ["--exclude", str(guard), "--author-cap=200", "--cell-cap=500"]
        else:
            path = write_photos(root, rows, self.sizes.photo, self.sizes.seed)
            common += [f"--shard-size={self.sizes.shard_size}", "--min-size=16", "--connections=1"]
        return (*common, "--metadata", str(path))


def numbers(sizes: tuple[int, int], spent: dict[str, list[list[Spent]]]) -> dict[str, Any]:
    """Computes the numbers that are printed.

    Args:
        sizes: Small and large number of rows.
        spent: Results by kind for each turn: with few rows, with many.
    """
    cost = {
        kind: Cost.between(
            sizes, [median(turn[size].cpu_seconds for turn in turns) for size in range(2)]
        )
        for kind, turns in spent.items()
    }
    ratios = [
        _per_row(sizes, job) / _per_row(sizes, loop)
        for loop, job in zip(spent[LOOP], spent[BEAM], strict=True)
    ]
    return {
        "rows": list(sizes),
        "ratio": cost[BEAM].per_photo / cost[LOOP].per_photo,
        "ratios": ratios,
        "per_second": {
            kind: sizes[1] / median(turn[1].wall_seconds for turn in turns)
            for kind, turns in spent.items()
        },
        "cpu_microseconds": {kind: 1e6 * one.per_photo for kind, one in cost.items()},
        "fixed_cpu_seconds": {kind: one.fixed for kind, one in cost.items()},
        "peak_megabytes": {
            kind: [
                median(turn[size].peak_bytes - turn[size].peak_before_bytes for turn in turns) / 1e6
                for size in range(2)
            ]
            for kind, turns in spent.items()
        },
    }


def _per_row(sizes: tuple[int, int], turn: list[Spent]) -> float:
    return Cost.between(sizes, [one.cpu_seconds for one in turn]).per_photo


def told(part: str, found: dict[str, Any]) -> str:
    """Formats the numbers in words."""
    unit = "images" if part == IMAGE_PART else "records"
    few, many = found["rows"]
    lines = [
        f"{part}: {few:,} and {many:,} {unit}",
        f"    CPU time per {unit[:-1]} by Beam / by a loop: {found['ratio']:.2f} "
        f"[{min(found['ratios']):.2f}, {max(found['ratios']):.2f}]",
    ]
    for kind in KINDS:
        rate, memory = found["per_second"][kind], found["peak_megabytes"][kind]
        lines.append(
            f"    {kind:5} {rate:>10,.0f} {unit}/s at {many:,}, "
            f"{found['cpu_microseconds'][kind]:,.1f} µs CPU each + "
            f"{found['fixed_cpu_seconds'][kind]:.1f} s; "
            f"memory {memory[0]:,.0f} -> {memory[1]:,.0f} MB"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints line by line.

    Returns:
        The exit status: 1 if a job failed.
    """
    return run_command(lambda: _run(parse(argv)))


def _run(options: argparse.Namespace) -> int:
    given = {name: getattr(options, name) for name in ("turns", "seed", METADATA_PART, YFCC_PART)}
    sizes = replace(
        QUICK if options.quick else Sizes(),
        **{name: value for name, value in given.items() if value is not None},
    )
    if options.quick:
        print("quick: tiny sizes; these numbers say nothing")
    found = {}
    with tempfile.TemporaryDirectory(prefix="bench-shards-") as directory:
        bench = Bench(sizes, Path(directory))
        for part in options.only:
            found[part] = bench.measure(part)
            print(told(part, found[part]), flush=True)
    if options.output is not None:
        write_json(options.output, {"sizes": asdict(sizes), "parts": found})
    return DONE


if __name__ == "__main__":
    sys.exit(main())

"""Simulates duration and cost against shard size, and derives the recommended shard size.

    python -m experiments.dataflow_simulation.stragglers --output deploy/stragglers.png

prints a table and draws it. `fleet` says what is simulated and what is assumed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.dataflow_simulation.cost import whole
from experiments.dataflow_simulation.fleet import Fleet, Run, simulate
from locdiffusion.cli.parser import DONE, run_command

SIZES = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
WORKERS = (10, 30, 100, 300)
MOST_SHARDS = 200_000  # larger simulations take a minute and change nothing
TOLERANCE = 0.03  # share of the cost that does not justify cutting an archive anew
SEEDS = 3

DESCRIPTION = """\
Simulates a geotag job with shards of many sizes and with fleets of several sizes, and tells which
size costs least. Shards cannot be split between workers, so large ones leave workers waiting at the
end; small ones cost a fixed time each. Same seed, same numbers.
"""

EXAMPLES = """\
examples:
  python -m experiments.dataflow_simulation.stragglers --output deploy/stragglers.png
  python -m experiments.dataflow_simulation.stragglers --photos 1e6 --images-per-second 1000 \\
      --workers 4 20
"""

Table = Mapping[int, Mapping[int, tuple[Run, float]]]


def sweep(fleet: Fleet, sizes: Sequence[int], workers: Sequence[int]) -> Table:
    """Simulates every fleet size with every shard size.

    Args:
        fleet: Settings that the runs share; its seed is the first of SEEDS.
        sizes: Shard sizes in photos.
        workers: Numbers of workers.

    Returns:
        For each number of workers and each size, the run with the median cost over SEEDS, and its
        cost divided by that of geotagging alone. Sizes that make too many shards are left out.
    """
    table: dict[int, dict[int, tuple[Run, float]]] = {}
    for count in workers:
        row = table.setdefault(count, {})
        for size in sizes:
            one = replace(fleet, shard_photos=size, workers=count)
            if one.shards > MOST_SHARDS:
                continue
            runs = [simulate(replace(one, seed=fleet.seed + n)) for n in range(SEEDS)]
            run = sorted(runs, key=lambda run: run.paid_seconds)[SEEDS // 2]
            row[size] = run, run.paid_seconds / one.ideal_worker_seconds
    return table


def recommended(row: Mapping[int, tuple[Run, float]]) -> tuple[int, int]:
    """Finds the smallest and largest shard size whose cost is within TOLERANCE of the least."""
    least = min(cost for _, cost in row.values())
    good = [size for size, (_, cost) in row.items() if cost <= least * (1 + TOLERANCE)]
    return min(good), max(good)


def report(fleet: Fleet, table: Table) -> str:
    """Formats the table as Markdown: hours, and cost divided by that of geotagging alone."""
    sizes = sorted({size for row in table.values() for size in row})
    lines = [
        f"{fleet.photos:,} photos, {fleet.images_per_second:g} images/s and worker, "
        f"{fleet.threads} threads; hours (paid worker hours / geotagging alone)",
        "",
        "| photos per shard | " + " | ".join(f"{count} workers" for count in table) + " |",
        "|--:|" + "--:|" * len(table),
    ]
    for size in sizes:
        cells = []
        for row in table.values():
            run, cost = row.get(size, (None, 0.0))
            cells.append(f"{run.seconds / 3600:.2f} ({cost:.2f})" if run else "")
        lines.append(f"| {size:,} | " + " | ".join(cells) + " |")
    best = [recommended(row) for row in table.values()]
    lines.append(f"| within {TOLERANCE:.0%} of the best | " + " | ".join(map(_span, best)) + " |")
    return "\n".join(lines)


def _span(sizes: tuple[int, int]) -> str:
    return f"{sizes[0]:,}" if sizes[0] == sizes[1] else f"{sizes[0]:,}-{sizes[1]:,}"


def draw(fleet: Fleet, table: Table, path: str) -> None:
    """Draws duration and cost against the shard size, in two panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), dpi=120, layout="constrained")
    time, cost = figure.subplots(1, 2)
    for place, (count, row) in enumerate(table.items()):
        colour, sizes = f"C{place}", list(row)
        time.plot(sizes, [run.seconds / 3600 for run, _ in row.values()], "o-", color=colour)
        paid = [times for _, times in row.values()]
        cost.plot(sizes, paid, "o-", color=colour, label=f"{count} workers")
        ideal = fleet.ideal_worker_seconds
        needed = [run.needed_seconds / ideal for run, _ in row.values()]
        cost.plot(sizes, needed, ":", color=colour)
        low, high = recommended(row)
        good = [(size, times) for size, (_, times) in row.items() if low <= size <= high]
        cost.plot(*zip(*good, strict=True), color=colour, linewidth=8, alpha=0.3)
    time.set_yscale("log")
    time.set_yticks([0.3, 0.5, 1, 2, 3, 5, 10], minor=False)
    time.set_yticks([], minor=True)
    time.yaxis.set_major_formatter("{x:g}")
    _label(time, "hours from start to last photo")
    _label(cost, "paid worker hours / geotagging alone")
    cost.set_ylim(1, 2.6)
    cost.legend(loc="upper left", fontsize=9, framealpha=1)
    figure.suptitle(
        f"{fleet.photos:,} photos at {fleet.images_per_second:g} images/s and worker, simulated\n"
        "solid: all workers kept to the end; dotted: none kept idle; "
        f"thick: within {TOLERANCE:.0%} of the best",
        fontsize=10,
    )
    figure.savefig(path, metadata={"Software": None})


def _label(axes: Any, title: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("photos per shard")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)


def parser() -> argparse.ArgumentParser:
    """Builds the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.dataflow_simulation.stragglers",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add(
        "--photos",
        type=whole,
        default=10**8,
        metavar="N",
        help="photos in the archive (%(default)s)",
    )
    add(
        "--images-per-second",
        type=float,
        default=400.0,
        metavar="R",
        help="photos per second of a worker; an assumption, measure yours (%(default)s)",
    )
    add(
        "--workers",
        type=whole,
        nargs="+",
        default=list(WORKERS),
        help="numbers of workers (%(default)s)",
    )
    add("--sizes", type=whole, nargs="+", default=list(SIZES), help="shard sizes in photos")
    add(
        "--seed",
        type=int,
        default=0,
        help="seed; the same one gives the same numbers (%(default)s)",
    )
    add("--output", metavar="PNG", help="file that the picture is written to")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, and draws it if asked to.

    Args:
        arguments: Arguments without the program's name; None takes `sys.argv`.

    Returns:
        The exit status.
    """
    return run_command(lambda: _run(parser().parse_args(arguments)), ValueError)


def _run(given: argparse.Namespace) -> int:
    fleet = Fleet(given.photos, 1, 1, given.images_per_second, seed=given.seed)
    table = sweep(fleet, sorted(given.sizes), given.workers)
    print(report(fleet, table))
    if given.output:
        draw(fleet, table, given.output)
    return DONE


if __name__ == "__main__":
    sys.exit(main())

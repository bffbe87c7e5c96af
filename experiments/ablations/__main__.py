"""Trains small variants of the model at equal budget, each with one choice changed.

    python -m experiments.ablations --train 'DATA/train/*.tar' --val 'DATA/val/*.tar' \
      --val-regions 'DATA/val_regions/*.tar' --embeddings CACHE --output OUT --jobs 2

writes one JSON file per run into OUT. A command that was stopped continues when it is repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locdiffusion.config import from_dict

if TYPE_CHECKING:
    from locdiffusion.train.recipe import TrainConfig

EPILOG = """examples:
  python -m experiments.ablations --train 'DATA/train/*.tar' --val 'DATA/val/*.tar' \\
    --val-regions 'DATA/val_regions/*.tar' --embeddings CACHE --output OUT --jobs 2
  python -m experiments.ablations ... --only degree-47 noise-standard
  python -m experiments.ablations ... --list
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    from experiments.ablations.plan import Budget
    from locdiffusion import recipes

    default = Budget()
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ablations",
        description="Train small variants of the model at equal budget and measure them on "
        "validation photos.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--train", nargs="+", required=True, metavar="GLOB", help="training shards")
    add(
        "--val",
        nargs="+",
        required=True,
        metavar="GLOB",
        help="validation shards from the regions of training",
    )
    add(
        "--val-regions",
        nargs="+",
        required=True,
        metavar="GLOB",
        help="validation shards from regions that training leaves out",
    )
    add(
        "--embeddings",
        required=True,
        type=Path,
        metavar="DIR",
        help="directory in which embeddings are cached",
    )
    add(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="directory that gets one JSON file per run",
    )
    shipped = recipes.read("sample")["encoder"]
    add("--encoder", default=shipped, help="frozen image encoder (%(default)s)")
    add("--steps", type=int, default=default.steps, help="training steps (%(default)s)")
    add("--batch-size", type=int, default=default.batch_size, help="photos per step (%(default)s)")
    add("--limit", type=int, default=default.photos, help="number of training photos (%(default)s)")
    add(
        "--measured",
        type=int,
        default=default.measured,
        help="photos measured per split (%(default)s)",
    )
    add(
        "--seeds",
        type=int,
        nargs="+",
        default=[default.seed],
        metavar="SEED",
        help="seeds of weights, batches and noise; each run is made with each (0)",
    )
    add(
        "--networks",
        action="store_true",
        help="instead of the small variants: three networks at the sizes of the recipe 'sample', "
        "with and without scattered places",
    )
    add("--only", nargs="+", metavar="NAME", help="do only these runs; --list prints the names")
    add("--jobs", type=int, default=1, help="runs at a time, each with one thread (%(default)s)")
    add("--list", action="store_true", help="print the names of the runs and exit")
    return parser.parse_args(argv)


def chosen(names: Sequence[str] | None, networks: bool = False) -> list[Any]:
    """Selects runs by name.

    Args:
        names: Names of the runs; None takes all.
        networks: Whether they are those of `--networks`.

    Raises:
        ValueError: There is no run of that name.
    """
    from experiments.ablations.plan import all_runs, network_runs

    runs = all_runs()
    if networks:
        recipe = _shipped_recipe()
        runs = network_runs(recipe.model.max_degree, recipe.smoothing)
    known = {run.name: run for run in runs}
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise ValueError(f"No run is named {unknown[0]!r}; there are {', '.join(known)}.")
    return [run for name, run in known.items() if names is None or name in names]


def _shipped_recipe() -> TrainConfig:
    from locdiffusion import recipes
    from locdiffusion.train.recipe import TrainConfig

    return from_dict(TrainConfig, recipes.read("sample"))


def budgets(options: argparse.Namespace) -> list[Any]:
    """Makes the budget of each seed."""
    from experiments.ablations.plan import Budget

    budget = Budget(
        steps=options.steps,
        batch_size=options.batch_size,
        photos=options.limit,
        measured=options.measured,
    )
    if options.networks:
        recipe = _shipped_recipe()
        budget = replace(
            budget,
            condition_dim=recipe.model.condition_dim,
            widths=recipe.model.widths,
            dropout=recipe.model.dropout,
            pure_fraction=recipe.noise.pure_fraction,
        )
    return [replace(budget, seed=seed) for seed in options.seeds]


def perform(options: argparse.Namespace) -> int:
    """Executes every run whose file is missing; returns how many were executed."""
    from tqdm import tqdm

    from experiments.ablations.runs import identity, is_done
    from experiments.ablations.workers import finished, load

    runs = chosen(options.only, options.networks)
    train, splits = load(options)
    options.output.mkdir(parents=True, exist_ok=True)
    todo = []
    for budget in budgets(options):
        for run in runs:
            seed = f"-seed-{budget.seed}" if len(options.seeds) > 1 else ""
            path = options.output / f"{run.name}{seed}.json"
            if not is_done(path, identity(run, budget, train, splits)):
                todo.append((run, budget, path))
    count = len(runs) * len(options.seeds)
    print(f"{count} runs, {count - len(todo)} of them done; {len(train):,} photos")
    # Seed by seed, the slowest first, so that no long run is left alone at the end.
    todo.sort(key=lambda job: (job[1].seed, -job[0].weight))
    total = sum(run.weight for run, _, _ in todo)
    layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=total, desc="ablations", bar_format=layout, file=sys.stderr) as bar:
        for run in finished(options, todo, (train, splits)):
            bar.set_description(f"ablations ({run.name} done)")
            bar.update(run.weight)
    return len(todo)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if "--list" in arguments:
        runs = chosen(None, "--networks" in arguments)
        print("\n".join(f"{run.name:<24} {run.group}" for run in runs))
        return 0
    options = parse(arguments)
    try:
        made = perform(options)
    except KeyboardInterrupt:
        print("stopped; the same command goes on.", file=sys.stderr)
        return 130
    except (ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{made} runs made in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

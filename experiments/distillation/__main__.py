"""Distils GeoCLIP's density into a checkpoint, without a photo.

    python -m experiments.distillation --output RUN

simulates queries, asks GeoCLIP's published weights for their density over 125,000 places, trains
CS-UNet on places drawn from it, calibrates on other simulated queries, and writes RUN/checkpoint.
A run that is stopped with Ctrl-C continues when the same command is typed again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from locdiffusion.train.recipe_flags import add_recipe_flags, chosen_recipe, listing_last

RECIPE = "geoclip_distilled"
EPILOG = """examples:
  python -m experiments.distillation --output RUN              # the shipped checkpoint, again
  python -m experiments.distillation --output TINY --queries 2000 --val-queries 200 \\
      --set steps=20 --set model.max_degree=7                   # does it work here?
  python -m experiments.distillation.report --checkpoint RUN/checkpoint --output REPORT

GeoCLIP's weights come with its package: pip install 'locdiffusion[geoclip]'. The shipped checkpoint
took about an hour and a half on two processors.
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `set` holds the settings that differ from the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.distillation",
        description="Train a LocDiffusion checkpoint on GeoCLIP's density, by simulated queries.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="RUN", help="directory of the run")
    add("--queries", type=int, default=300_000, help="training queries (%(default)s)")
    add("--val-queries", type=int, default=4_000, help="validation queries (%(default)s)")
    add("--draws", type=int, default=16, help="places the teacher draws per query (%(default)s)")
    add("--land-places", type=int, default=25_000, help="places beside the gallery's (%(default)s)")
    add_recipe_flags(parser, RECIPE)
    add("--device", default="cpu", help="torch device of the training (%(default)s)")
    add("--about", type=Path, metavar="FILE", help="Markdown that opens the model card")
    return parser.parse_args(listing_last(argv))


def run(options: argparse.Namespace) -> Path:
    """Simulates, trains, calibrates and writes; returns the directory of the checkpoint."""
    from experiments.distillation import run as distillation
    from experiments.distillation.teacher import TeacherConfig
    from locdiffusion.model.deferred_encoder import DeferredEncoder
    from locdiffusion.train import finish, run
    from locdiffusion.train.distributed import processes

    config = chosen_recipe(options)
    config = replace(config, warmup=min(config.warmup, config.steps // 10 + 1))
    taught = distillation.Curriculum(
        queries=options.queries,
        val_queries=options.val_queries,
        draws=options.draws,
        teacher=TeacherConfig(options.land_places, seed=config.seed),
        seed=config.seed,
    )
    with processes(options.device) as group:
        data, _ = distillation.load(taught, config, options.output, group)
        trainer = run.train(config, data, options.output, group, 10.0, 10)
        data = distillation.thinned(data)
        about = options.about.read_text("utf-8") if options.about else None
        encoder = DeferredEncoder(config.encoder)
        return finish.finish(trainer, data, encoder, about, distillation.TEMPERATURE)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse(argv)
    from locdiffusion.model.weights import EncoderWeightsError
    from locdiffusion.train.trainer import Stopped

    try:
        directory = run(options)
    except (Stopped, KeyboardInterrupt) as stopped:
        print(f"{stopped or 'stopped'}; the same command resumes.", file=sys.stderr)
        return 130
    except (ValueError, FloatingPointError, EncoderWeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"checkpoint: {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Trains a checkpoint on photos with known position; `locdiffusion train`."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from locdiffusion import recipes
from locdiffusion.cli.flags import add_flags, folder
from locdiffusion.cli.parser import DONE, STOPPED, Parser, UsageError, positive, run_command, whole
from locdiffusion.model.weights import EncoderWeightsError
from locdiffusion.train.recipe_flags import add_recipe_flags, chosen_recipe, listing_last

ABOUT = """\
Trains a checkpoint on webdataset shards of photos with known position. A run that was
stopped with Ctrl-C or killed goes on where it was when the same command is typed again.

examples:
  locdiffusion overhead --split train --count 2000 --output DATA/train
  locdiffusion overhead --split val --count 500 --output DATA/val
  locdiffusion train --train 'DATA/train/*.tar' --val 'DATA/val/*.tar' \\
      --output RUN --set model.max_degree=23 --set steps=1000
  locdiffusion geotag 'photos/*.tar' --output out --checkpoint RUN/checkpoint
  locdiffusion train --train 'DATA/train/*.tar' --val 'DATA/val/*.tar' \\
      --output RUN --test unseen='DATA/unseen/*.tar'
  locdiffusion train --recipe sample --list-settings   # all settings, explained
  torchrun --nproc-per-node 4 -m locdiffusion.train --recipe mp16_vit_l_14 \\
      --device cuda --train 'gs://BUCKET/train/*.tar' \\
      --val 'gs://BUCKET/val/*.tar' --output RUN
  tensorboard --logdir RUN                             # curves while it runs
  locdiffusion train --add-map-to overhead --train 'DATA/train/*.tar' \\
      --val 'DATA/val/*.tar' --output RUN              # trains nothing
"""

MORE = """\
recipes (--recipe):
{recipes}

photos:
  Shards are webdataset tars with <key>.jpg and <key>.json, which holds
  {{"latitude": ..., "longitude": ...}}. An embedding <key>.npy beside a photo is
  used as it is; other photos are embedded once.

read more:
  docs/TRAINING.md, docs/MP16.md

The flags of earlier versions that set one setting of the recipe are still understood.
"""


def parser() -> Parser:
    """Returns the parser of the command."""
    names = "\n".join(
        textwrap.fill(f"  {name}: {about}", 80, subsequent_indent="    ")
        for name, about in recipes.shipped().items()
    )
    made = Parser(
        "train", "--train GLOB --val GLOB --output DIR [flags]", ABOUT, MORE.format(recipes=names)
    )
    _add_photos(made.add_argument_group("photos"))
    add_recipe_flags(made.add_argument_group("recipe: the settings that decide the weights"))
    run = made.add_argument_group("run")
    add_flags(run, "--output", type=folder, required=True)
    add_flags(run, "--embeddings", type=Path)
    add_flags(run, "--device")
    run.add_argument(
        "--overwrite", action="store_true", help="start anew in --output; the embeddings are kept"
    )
    run.add_argument(
        "--add-map-to",
        metavar="CHECKPOINT",
        help="train nothing: copy this checkpoint and give it an appearance map of --train, fitted "
        "on --val, --val-regions and --val-looks; network, temperatures and familiarity stay",
    )
    run.add_argument(
        "--about",
        type=Path,
        metavar="FILE",
        help="Markdown that opens the model card: purpose, limits",
    )
    run.add_argument(
        "--save-every-minutes",
        type=float,
        default=10.0,
        metavar="N",
        help="minutes between saved states, besides one after each validation (default "
        "%(default)g)",
    )
    run.add_argument(
        "--log-every",
        type=whole,
        default=10,
        metavar="N",
        help="steps between TensorBoard scalars in OUTPUT/tensorboard; 0 writes none (default "
        "%(default)s)",
    )
    return made


def _add_photos(group: argparse._ActionsContainer) -> None:
    add = group.add_argument
    shards: dict[str, Any] = {"nargs": "+", "metavar": "GLOB"}
    optional: dict[str, Any] = {"nargs": "*", "metavar": "GLOB", "default": []}
    add("--train", **shards, required=True, help="shards to learn from: paths or URLs (gs://...)")
    add("--val", **shards, required=True, help="shards for choices and calibration")
    add(
        "--val-regions",
        **optional,
        help="validation shards from regions that --train leaves out; with them the radii account "
        "for unknown regions",
    )
    add(
        "--val-looks",
        **optional,
        help="validation shards of photos that look unlike those of --train (another season or "
        "camera); with them the radii account for unusual photos",
    )
    add(
        "--val-photos",
        type=positive,
        metavar="N",
        help="use at most N photos of each validation set, evenly spaced; 20000 are plenty, and "
        "calibration takes long on more (default all)",
    )
    add(
        "--test",
        **{**optional, "metavar": "NAME=GLOB"},
        help="shards of a test set, measured once at the end",
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: A flag is unknown, or a value is wrong or missing.
    """
    options: argparse.Namespace = parser().parse_args(listing_last(argv))
    if options.save_every_minutes <= 0:
        raise UsageError(
            f"--save-every-minutes is {options.save_every_minutes:g}, wanted more than 0"
        )
    return options


def run(options: argparse.Namespace) -> Path | None:
    """Embeds the photos, trains, calibrates, measures and writes the checkpoint.

    Returns:
        Directory of the checkpoint; None in all processes but the first.
    """
    from locdiffusion.train import finish, run
    from locdiffusion.train.distributed import processes

    if options.add_map_to:
        return _map_added(options)
    recipe, patterns = chosen_recipe(options), _patterns(options)
    with processes(options.device) as group:
        config, encoder = run.completed(recipe, group.device)
        cache = options.embeddings or options.output / "embeddings"
        tests = _named(options.test)
        data = run.load(patterns, tests, config, encoder, cache, group, options.val_photos)
        if options.overwrite:
            run.remove(options.output, group)
        trainer = run.train(
            config, data, options.output, group, options.save_every_minutes, options.log_every
        )
        if not group.is_first:
            return None
        return finish.finish(trainer, data, encoder, _about(options))


def _map_added(options: argparse.Namespace) -> Path:
    """Copies a checkpoint with an appearance map of the training photos.

    Raises:
        ValueError: The output holds a checkpoint, or the photos were embedded by another encoder.
    """
    from locdiffusion import checkpoint
    from locdiffusion.appearance.training_photos import AppearanceConfig
    from locdiffusion.model.deferred_encoder import DeferredEncoder
    from locdiffusion.model.fingerprint import LEAST_COSINE, cosine
    from locdiffusion.model.model_files import local_checkpoint
    from locdiffusion.train import finish, run
    from locdiffusion.train.distributed import processes

    target = options.output / finish.CHECKPOINT
    if (target / checkpoint.CONFIG).exists() and not options.overwrite:
        raise ValueError(
            f"{target} is a checkpoint already; give another --output, or --overwrite."
        )
    loaded = checkpoint.load(local_checkpoint(options.add_map_to))
    own = loaded.config.fingerprint
    with processes(options.device) as group:
        encoder = DeferredEncoder(loaded.config.encoder.name, str(group.device))
        cache, tests = options.embeddings or options.output / "embeddings", _named(options.test)
        photos = _patterns(options), tests, None, encoder, cache, group, options.val_photos
        data = run.load(*photos)
        if own and data.fingerprint and cosine(own, data.fingerprint) < LEAST_COSINE:
            raise ValueError(
                f"The photos in {cache} were embedded by another {encoder.spec.name} than that of "
                f"{options.add_map_to}; give another --embeddings."
            )
        loaded.denoiser.to(group.device)
        config = chosen_recipe(options).appearance or AppearanceConfig()
        made = finish.with_map(loaded, data, config)
        return finish.write(made, data, options.output, _about(options))


def _patterns(options: argparse.Namespace) -> dict[str, list[str]]:
    return {name: getattr(options, name) for name in ("train", "val", "val_regions", "val_looks")}


def _about(options: argparse.Namespace) -> str | None:
    return options.about.read_text("utf-8") if options.about else None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit status.
    """

    def body() -> int:
        options = parse(argv)
        from locdiffusion.train.trainer import Stopped

        try:
            directory = run(options)
        except (Stopped, KeyboardInterrupt) as stopped:
            if os.environ.get("RANK", "0") == "0":  # the first of torchrun's processes
                print(f"{stopped or 'stopped'}; the same command resumes.", file=sys.stderr)
            return STOPPED
        if directory is not None:
            print(f"checkpoint: {directory}")
        return DONE

    return run_command(body, ValueError, FloatingPointError, EncoderWeightsError)


def _named(pairs: Sequence[str]) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, pattern = pair.partition("=")
        if not (name and equals and pattern):
            raise ValueError(
                f"--test got {pair!r}; want NAME=GLOB, as in unseen='DATA/unseen/*.tar'."
            )
        named.setdefault(name, []).append(pattern)
    return named

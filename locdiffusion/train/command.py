"""Trains a checkpoint on shards of photos with known position.

    python -m locdiffusion.train --train 'DATA/train/*.tar' --val 'DATA/val/*.tar' --output RUN

This embeds every photo once with the frozen image encoder (cached under RUN/embeddings), trains the
CS-UNet with the SHDD-KL loss, fits temperatures and decoding radius on the validation photos, and
writes RUN/checkpoint (model.safetensors, config.json). A run that was stopped with Ctrl-C or killed
is resumed by the same command. On several GPUs:

    torchrun --nproc_per_node 4 -m locdiffusion.train --recipe mp16_vit_l_14 --device cuda \
        --train 'gs://BUCKET/mp16/train/*.tar' --val 'gs://BUCKET/mp16/val/*.tar' --output RUN
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from locdiffusion import recipes
from locdiffusion.train.recipe_flags import add_recipe_flags, chosen_recipe

EPILOG = """recipes (--recipe):
{recipes}

examples:
  python -m locdiffusion.train --train 'DATA/train/*.tar' --val 'DATA/val/*.tar' --output RUN
  python -m locdiffusion.train ... --set model.max_degree=23 --set steps=1000  # smaller and faster
  python -m locdiffusion.train ... --test unseen='DATA/unseen/*.tar'    # measured once at the end
  python -m locdiffusion.train --recipe sample --list-settings          # every setting, explained
  torchrun --nproc_per_node 4 -m locdiffusion.train ... --recipe mp16_vit_l_14 --device cuda
  tensorboard --logdir RUN                                              # curves while it runs

Shards are webdataset tars with <key>.jpg and <key>.json {{"latitude": ..., "longitude": ...}}; make
some with: python -m locdiffusion.overhead --split train --count 2000 --output DATA/train
An embedding <key>.npy beside a photo is used as it is; other photos are embedded once.
The flags of earlier versions that set one setting are still understood.
"""


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    names = recipes.shipped().items()
    described = "\n".join(f"  {name:<20}{about}" for name, about in names)
    found = argparse.ArgumentParser(
        prog="python -m locdiffusion.train",
        description="Train a LocDiffusion checkpoint on webdataset shards of photos with known "
        "position.",
        epilog=EPILOG.format(recipes=described),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = found.add_argument_group("photos")
    shards: dict[str, Any] = {"nargs": "+", "default": [], "metavar": "GLOB"}
    required = {**shards, "required": True}
    data.add_argument("--train", help="shards to learn from: paths or URLs (gs://...)", **required)
    data.add_argument("--val", help="shards for choices and calibration", **required)
    data.add_argument(
        "--val-regions",
        help="validation shards from regions that --train leaves out; with them the radii account "
        "for unknown regions",
        **{**shards, "nargs": "*"},
    )
    data.add_argument(
        "--val-looks",
        help="validation shards of photos that look unlike those of --train (another season or "
        "camera); with them the radii account for unusual photos",
        **{**shards, "nargs": "*"},
    )
    data.add_argument(
        "--val-photos",
        type=int,
        metavar="N",
        help="use at most N photos of each validation set, evenly spaced; 20000 are plenty, and "
        "calibration takes long on more (default all)",
    )
    data.add_argument(
        "--test",
        help="shards of a test set, measured once at the end",
        **{**shards, "nargs": "*", "metavar": "NAME=GLOB"},
    )
    data.add_argument("--embeddings", type=Path, help="cache of embeddings (OUTPUT/embeddings)")
    recipe = found.add_argument_group("recipe: settings that decide the weights")
    add_recipe_flags(recipe)
    work = found.add_argument_group("run")
    work.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="directory of the run; resumed if it holds one",
    )
    work.add_argument(
        "--overwrite",
        action="store_true",
        help="start anew in --output; the embeddings are kept",
    )
    work.add_argument(
        "--about",
        type=Path,
        metavar="FILE",
        help="Markdown that opens the model card: purpose, limits",
    )
    work.add_argument(
        "--device",
        default="cpu",
        help="cpu, cuda, cuda:1 ...; under torchrun, cuda gives each process a GPU of its own "
        "(%(default)s)",
    )
    work.add_argument(
        "--save-every-minutes",
        type=float,
        default=10.0,
        metavar="N",
        help="minutes between saved states, besides one after each validation (%(default)g)",
    )
    work.add_argument(
        "--log-every",
        type=int,
        default=10,
        metavar="N",
        help="steps between TensorBoard scalars in OUTPUT/tensorboard; 0 writes none (%(default)s)",
    )
    return found


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line and checks its numbers."""
    flags = parser()
    options = flags.parse_args(argv)
    if options.save_every_minutes <= 0:
        flags.error(f"--save-every-minutes is {options.save_every_minutes:g}; want more than 0")
    if options.val_photos is not None and options.val_photos < 1:
        flags.error(f"--val-photos is {options.val_photos}; want 1 or more")
    if options.log_every < 0:
        flags.error(f"--log-every is {options.log_every}; want 0 or more")
    return options


def run(options: argparse.Namespace) -> Path | None:
    """Embeds the photos, trains, calibrates, measures and writes the checkpoint.

    Returns:
        Directory of the checkpoint; None in all processes but the first.
    """
    from locdiffusion.train import run
    from locdiffusion.train.distributed import processes

    recipe = chosen_recipe(options)
    named = ("train", "val", "val_regions", "val_looks")
    patterns = {name: getattr(options, name) for name in named}
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
        about = options.about.read_text() if options.about else None
        return run.finish(trainer, data, encoder.spec, about)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse(argv)
    from locdiffusion.model.image_encoder import EncoderWeightsError
    from locdiffusion.train.trainer import Stopped

    first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes, the one that speaks
    try:
        directory = run(options)
    except (Stopped, KeyboardInterrupt) as stopped:
        if first:
            print(f"{stopped or 'stopped'}; the same command resumes.", file=sys.stderr)
        return 130
    except (ValueError, FloatingPointError, EncoderWeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if directory is not None:
        print(f"checkpoint: {directory}")
    return 0


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

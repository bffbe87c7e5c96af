"""Trains a checkpoint on shards of photos with known position.

    python -m locdiffusion.train --train 'DATA/train/*.tar' --val 'DATA/val/*.tar' --output RUN

embeds every photo once with the frozen image encoder (cached under RUN/embeddings), trains CS-UNet
with SHDD-KL, prints validation accuracy as it goes, fits temperatures and decoding radius on the
validation photos, and writes RUN/checkpoint (model.safetensors, config.json). Stop it with Ctrl-C,
or kill it, and start it again with the same command: it goes on where it was. On several GPUs:

    torchrun --nproc_per_node 4 -m locdiffusion.train --config mp16_vit_l_14 --device cuda \
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

EPILOG = """configurations (--config):
{configurations}

examples:
  python -m locdiffusion.train --train 'DATA/train/*.tar' --val 'DATA/val/*.tar' --output RUN
  python -m locdiffusion.train ... --max-degree 23 --steps 1000     # smaller and faster
  python -m locdiffusion.train ... --test unseen='DATA/unseen/*.tar'  # measured once at the end
  torchrun --nproc_per_node 4 -m locdiffusion.train ... --config mp16_vit_l_14 --device cuda
  tensorboard --logdir RUN                                          # curves while it runs

Shards are webdataset tars with <key>.jpg and <key>.json {{"latitude": ..., "longitude": ...}}; make
some with: python -m locdiffusion.overhead --split train --count 2000 --output DATA/train
A sample's own embedding, <key>.npy, is used as it is; other photos are embedded once.
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line to settings; None for what is left to the configuration."""
    names = recipes.shipped()
    configurations = "\n".join(f"  {name:<15}{about}" for name, about in names.items())
    parser = argparse.ArgumentParser(
        prog="python -m locdiffusion.train",
        description="Train a LocDiffusion checkpoint on webdataset shards of photos with truth.",
        epilog=EPILOG.format(configurations=configurations),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, switch = parser.add_argument, argparse.BooleanOptionalAction
    shards: dict[str, Any] = {"nargs": "+", "required": True, "metavar": "GLOB"}
    add("--train", help="shards to learn from: paths or URLs (gs://...)", **shards)
    add("--val", help="shards for choices and calibration", **shards)
    add(
        "--val-regions",
        nargs="*",
        default=[],
        metavar="GLOB",
        help="validation shards from regions that --train leaves out: with them the radii learn "
        "how far to trust the network on new ground",
    )
    add(
        "--val-looks",
        nargs="*",
        default=[],
        metavar="GLOB",
        help="validation shards of photos that look unlike those of --train (another season or "
        "camera): with them the radii learn how far to trust the network on such",
    )
    add(
        "--val-photos",
        type=int,
        metavar="N",
        help="take no more photos of each validation set, evenly spaced; 20000 are plenty, and "
        "calibration takes long on more (default all)",
    )
    add(
        "--test", nargs="*", default=[], metavar="NAME=GLOB", help="shards measured once at the end"
    )
    add("--output", required=True, type=Path, help="directory of the run; resumed if it holds one")
    add("--embeddings", type=Path, help="cache of embeddings (default OUTPUT/embeddings)")
    add("--overwrite", action="store_true", help="start anew in OUTPUT; keeps the embeddings")
    add(
        "--about",
        type=Path,
        metavar="FILE",
        help="Markdown that opens the model card: purpose, limits",
    )
    add(
        "--config",
        metavar="NAME",
        help=f"recipe: {' or '.join(names)} (see below), or a file NAME.json; the flags below go "
        "over it, and their defaults are those without it",
    )
    add("--name", help="name of the checkpoint (default overhead)")
    add(
        "--encoder",
        help="frozen image encoder: efficientnet_lite0, efficientnet_lite0+texture@32px (for "
        "overhead imagery: textures too, and 32 pixels of detail whatever a photo's resolution), "
        "open_clip:MODEL/TAG or /FILE, geoclip or geoclip:FILE (default efficientnet_lite0)",
    )
    add("--max-degree", type=int, help="L, detail of the codes (default 31)")
    add(
        "--answer-base",
        choices=("positions", "land", "uniform"),
        help="where photos may be before they are looked at: as the training photos, on land, "
        "or anywhere (default positions)",
    )
    add(
        "--towards-land",
        type=float,
        metavar="T",
        help="answers by base^(1-T) * land^T: 0, the answer base alone, to 1 (default 0)",
    )
    add("--steps", type=int, help="training steps (default 3000)")
    add("--batch-size", type=int, help="photos per step, of all processes (default 256)")
    add("--learning-rate", type=float, help="peak rate (default 0.001)")
    add("--gradient-clip", type=float, help="largest norm of a gradient (default 1)")
    add("--ema-decay", type=float, help="of the averaged weights that are saved (default 0.999)")
    add("--dropout", type=float, help="in the network (default 0.1)")
    add("--evaluate-every", type=int, help="steps between validations (default 500)")
    add("--seed", type=int, help="of weights, batches and noise (default 0)")
    add(
        "--smoothing-km",
        type=float,
        metavar="KM",
        help="learn from places scattered this far around the true ones, which generalises to new "
        "ground (default 0)",
    )
    add("--smoothing-broad-share", type=float, help="of places scattered farther (default 0)")
    add(
        "--smoothing-last-broad-share",
        type=float,
        help="of those at the end of the run, which then changes evenly (default as at first)",
    )
    add(
        "--smoothing-under-noise",
        action=switch,
        help="scatter them in rows with noise too, for sampling mode (default no)",
    )
    add("--smoothing-broad-km", type=float, metavar="KM", help="how far those (default 500)")
    add("--bf16", action=switch, help="the network in bfloat16, on a GPU (default no)")
    add(
        "--stream",
        action=switch,
        help="read training photos from the cache on disk as they are needed, instead of holding "
        "all in memory (default no)",
    )
    add("--shuffle-buffer", type=int, help="of a stream: photos it is shuffled in (default 65536)")
    add(
        "--lanes",
        type=int,
        help="of a stream: places it is read at; the number of processes divides them (default 8)",
    )
    add(
        "--device",
        default="cpu",
        help="cpu, cuda, cuda:1 ...; under torchrun, cuda gives each process a GPU of its own "
        "(default %(default)s)",
    )
    add(
        "--save-every-minutes",
        type=float,
        default=10.0,
        metavar="N",
        help="save the state this often, besides after each validation (default %(default)g)",
    )
    add(
        "--log-every",
        type=int,
        default=10,
        metavar="N",
        help="steps between TensorBoard scalars in OUTPUT/tensorboard; 0: none "
        "(default %(default)s)",
    )
    options = parser.parse_args(argv)
    if options.save_every_minutes <= 0:
        parser.error(f"--save-every-minutes is {options.save_every_minutes:g}; want more than 0")
    if options.val_photos is not None and options.val_photos < 1:
        parser.error(f"--val-photos is {options.val_photos}; want 1 or more")
    if options.log_every < 0:
        parser.error(f"--log-every is {options.log_every}; want 0 or more")
    return options


def run(options: argparse.Namespace) -> Path | None:
    """Embeds, trains, calibrates, measures, writes the checkpoint.

    Returns:
        The checkpoint's directory; None in all processes but the first.
    """
    from locdiffusion.train import run
    from locdiffusion.train.distributed import processes

    settings = recipes.read(options.config) if options.config else {}
    settings = recipes.with_flags(settings, vars(options))
    named = ("train", "val", "val_regions", "val_looks")
    patterns = {name: getattr(options, name) for name in named}
    with processes(options.device) as group:
        config, encoder = run.recipe(settings, group.device)
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

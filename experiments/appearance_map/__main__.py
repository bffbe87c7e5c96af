r"""Tries the appearance map on validation photos, and writes a map, a record and a page.

python -m experiments.appearance_map --train 'DATA/plain/*.tar' 'DATA/plain_spring/*.tar' \
      --train-augmented 'DATA/train/*.tar' 'DATA/seasons/*.tar' \
      --val val='DATA/val/*.tar' val_regions='DATA/val_regions/*.tar' \
      --embeddings DATA/embeddings --output OUT
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from locdiffusion.cli.parser import DONE, positive, run_command

MAP, RECORD, PAGE = "map.safetensors", "record.json", "findings.md"

ABOUT = """\
Fit an appearance map to training photos, multiply the density of a checkpoint
by it, and compare the result with the density alone and with nearest
neighbours, on validation photos.

The map says for every cell of the land what a photo taken there would look
like: the discriminants of its embedding, predicted by a Gaussian process over
the training photos, and their variance. It is a file of some megabytes, and no
training photo is needed any more when photos are located.
"""

MORE = """\
what happens:
  1. photos of all shards are embedded, unless the cache holds them
  2. training photos are averaged by place, and the map is predicted from them
  3. half of each validation set fits five constants and eight weights, by
     likelihood; the other half is scored. No test photo is read. Two more
     numbers make the radii hold as many truths as they say
  4. the same with fewer photos, other cells and fewer discriminants
  5. log Z is compared with a dense grid, and the step is timed

files in --output:
  map.safetensors  the first map        record.json  all numbers
  findings.md      the page (--page writes it elsewhere)

The shards are those of 'make benchmark-data', and 'make appearance-map' runs
all this. With 65,000 training photos that are embedded already it takes 6
minutes of CPU time on one core.
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.appearance_map",
        description=ABOUT,
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--train",
        nargs="+",
        required=True,
        metavar="GLOB",
        help="training shards as they were taken",
    )
    add(
        "--train-augmented",
        nargs="*",
        default=[],
        metavar="GLOB",
        help="training shards with varied colours, which count as noisier",
    )
    add(
        "--val",
        nargs="+",
        required=True,
        metavar="NAME=GLOB",
        help="validation sets; the first is that of the training regions and has the weight of "
        "four others",
    )
    add("--embeddings", type=Path, required=True, metavar="DIR", help="embedding cache")
    add("--output", type=Path, required=True, metavar="DIR", help="directory of the results")
    add("--page", type=Path, metavar="FILE", help="where the page goes (OUTPUT/findings.md)")
    add("--checkpoint", help="directory or name of a checkpoint (default: the shipped one)")
    add(
        "--cells",
        nargs="+",
        type=float,
        default=[56.0, 40.0, 80.0],
        metavar="KM",
        help="sizes of the map's cells; the first one is compared with rivals (56 40 80)",
    )
    add(
        "--components",
        nargs="+",
        type=positive,
        default=[64, 32],
        metavar="C",
        help="numbers of discriminants, the first one for all other maps (64 32)",
    )
    add(
        "--counts",
        nargs="*",
        type=positive,
        default=[40_000, 100_000],
        metavar="N",
        help="numbers of training photos besides all of them (40000 100000)",
    )
    add(
        "--photos-per-set",
        type=positive,
        default=1000,
        metavar="N",
        help="most photos in a half of a validation set (%(default)s)",
    )
    add(
        "--log-z-photos",
        type=positive,
        default=16,
        metavar="N",
        help="photos of each set whose log Z is checked on a dense grid (%(default)s)",
    )
    add("--length-km", type=float, metavar="KM", help="length of the covariance (400)")
    add("--no-neighbours", action="store_true", help="leave nearest neighbours out: 2 GB, minutes")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Runs the trial and writes its files."""
    # Imported here, so that --help answers at once.
    import pyarrow.parquet as pq

    from experiments.appearance_map.page import render
    from experiments.appearance_map.training_photos import TrainingFiles
    from experiments.appearance_map.trial import DENSITY, RULES, Record, Trial, sizes_of
    from experiments.report.__main__ import splits_of
    from experiments.speed.head.timing import machine
    from locdiffusion.appearance.gaussian_process import KrigingConfig
    from locdiffusion.checkpoint import load
    from locdiffusion.config import to_dict
    from locdiffusion.files import write_atomically, write_json
    from locdiffusion.model.deferred_encoder import DeferredEncoder
    from locdiffusion.photos.embedding_cache import embed_shards
    from locdiffusion.photos.patterns import expand_patterns

    checkpoint = load(options.checkpoint)
    encoder = DeferredEncoder(checkpoint.config.encoder.name, "cpu")

    def files(patterns: Sequence[str]) -> list[Path]:
        return (
            embed_shards(expand_patterns(patterns), encoder, options.embeddings) if patterns else []
        )

    training = TrainingFiles(files(options.train), files(options.train_augmented))
    validation = {name: files(globs) for name, globs in splits_of(options.val).items()}
    total = sum(pq.read_metadata(f).num_rows for f in (*training.plain, *training.augmented))
    trial = Trial(checkpoint, training, validation, options.photos_per_set)
    config = KrigingConfig()
    if options.length_km is not None:
        config = replace(config, length_km=options.length_km)
    options.output.mkdir(parents=True, exist_ok=True)
    sizes = sizes_of(total, options.counts, options.cells, options.components)
    rules = list(RULES)
    fused, first, answers = trial.fused(sizes[0], config, rules, options.output / MAP)
    first, shifts = trial.with_radii(fused, first)
    log_z, step = trial.log_z(fused, options.log_z_photos), trial.step(fused)
    rivals = {DENSITY: trial.density()}
    if not options.no_neighbours:
        rivals |= trial.neighbours()
    other = options.output / f"other-{MAP}"
    maps = [first, *(trial.fused(size, config, rules[:1], other)[1] for size in sizes[1:])]
    other.unlink(missing_ok=True)
    record = Record(
        checkpoint.model_id,
        machine(),
        {name: len(photos) for name, photos in trial.fitted.items()},
        {name: len(photos) for name, photos in trial.scored.items()},
        {name: trial.score(found) for name, found in rivals.items()},
        maps,
        {name: trial.difference(answers[rules[0]], found) for name, found in rivals.items()},
        shifts,
        log_z,
        step,
    )
    write_json(options.output / RECORD, to_dict(record))
    page = options.page or options.output / PAGE
    write_atomically(page, render(record))
    print(f"wrote {options.output / MAP}, {options.output / RECORD} and {page}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse(argv)

    def work() -> int:
        run(options)
        return DONE

    return run_command(work, ValueError, OSError)


if __name__ == "__main__":
    sys.exit(main())

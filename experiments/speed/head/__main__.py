"""Measures the head against its budgets and prints one line per comparison.

python -m experiments.speed.head
python -m experiments.speed.head --photos 'DATA/val/*.tar' --embeddings CACHE --output bench.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from locdiffusion.cli.parser import DONE, run_command
from locdiffusion.files import write_json

if TYPE_CHECKING:
    from experiments.speed.head.lines import Line

GROUPS = ("decode", "encoder", "geoclip", "plonk", "albums")

EPILOG = """\
lines:
  decode   coarse to fine against a dense 0.25° grid, and how far the two answers lie apart
  encoder  share of the head (network and decoder) in the time of the default image encoder, and
           of the checkpoint's own
  geoclip  the head against GeoCLIP's: image MLP, 100,000 positions, softmax, the five best
  plonk    the head against PLONK's sampler: 16 calls of a network of its size
  albums   placing the photos of an album, by anchors alone and with evidence, against
           the default image encoder

Both things of a line run in turns in one process. Printed: the ratio of the medians and, in
brackets, the 10 % and 90 % quantile of the ratios of single turns. The rivals have random weights
of the real sizes: that changes what they answer, not what they cost. Our head runs on one thread,
as in the pipeline, whatever --threads gives the others.
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.speed.head",
        description="Measure the head against its budgets.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", help="directory or name of a checkpoint (default: the shipped one)")
    add(
        "--photos",
        nargs="+",
        default=[],
        metavar="GLOB",
        help="shards of photos that give real embeddings",
    )
    add("--embeddings", type=Path, metavar="DIR", help="directory of cached embeddings")
    add("--output", type=Path, metavar="FILE", help="also write the lines as JSON")
    add("--only", nargs="+", choices=GROUPS, default=GROUPS, help="groups of lines (all)")
    add("--batches", nargs="+", type=int, help="batch sizes (1 32 256)")
    add("--turns", type=int, help="timed turns of each line (7)")
    add("--threads", type=int, default=1, help="threads of torch (default %(default)s)")
    add("--no-stored-codes", action="store_true", help="leave out the dense line that takes 4 GB")
    add("--quick", action="store_true", help="tiny sizes, which only show that it runs")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures and prints line by line; returns machine, inputs and lines."""
    from experiments.speed.head.lines import QUICK, Bench, Sizes
    from experiments.speed.head.photos import embeddings_of
    from experiments.speed.head.timing import machine
    from locdiffusion.checkpoint import load
    from locdiffusion.cpu import torch_threads
    from locdiffusion.model.image_encoder import load_image_encoder
    from locdiffusion.model.lite0 import EFFICIENTNET_LITE0

    sizes = QUICK if options.quick else Sizes()
    if options.batches:
        sizes = replace(sizes, batches=tuple(options.batches))
    if options.turns:
        sizes = replace(sizes, turns=options.turns)
    if options.no_stored_codes:
        sizes = replace(sizes, stored_codes=False)
    checkpoint = load(options.checkpoint)
    encoder = load_image_encoder(checkpoint.config.encoder.name)
    count = max(*sizes.batches, sizes.checked)
    embeddings, source = embeddings_of(
        checkpoint, encoder, count, options.photos, options.embeddings
    )
    with torch_threads(options.threads):
        about = {**machine(), "checkpoint": checkpoint.model_id, "inputs": source}
        if options.quick:
            print("quick          tiny sizes; these numbers say nothing about the budgets")
        other = "encoder" in options.only and encoder.spec.name != EFFICIENTNET_LITE0
        default_encoder = load_image_encoder(EFFICIENTNET_LITE0) if other else None
        bench = Bench(checkpoint, encoder, embeddings, sizes, default_encoder)
        about["radius_km"] = bench.checkpoint.config.decode.radius_km
        for name, value in about.items():
            print(f"{name:14} {value}")
        lines = []
        for group in options.only:
            for line in bench.lines()[group]():
                print(_said(line, verdict=not options.quick), flush=True)
                lines.append({"group": group, **line.to_dict()})
    return {"about": about, "sizes": asdict(sizes), "lines": lines}


def _said(line: Line, verdict: bool) -> str:
    """Formats a line for printing, with the medians behind its ratio."""
    text = f"{line.name}, {line.photos} photos: {line.measured}"
    if line.timed is not None:
        first, second = (1e3 * float(np.median(s)) for s in (line.timed.first, line.timed.second))
        text += f" [{second:.2f} and {first:.2f} ms per photo]"
    met = {True: "met", False: "NOT MET", None: "no budget"}[line.met]
    return f"{text}; budget {line.budget}" + (f": {met}" if verdict else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status. A budget that is not met is no error."""
    return run_command(lambda: _run(parse(argv)), ValueError)


def _run(options: argparse.Namespace) -> int:
    results = run(options)
    if options.output:
        write_json(options.output, results)
    return DONE


if __name__ == "__main__":
    sys.exit(main())

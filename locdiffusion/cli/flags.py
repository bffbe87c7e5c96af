"""The flags that several commands have, each with its one help text."""

from __future__ import annotations

import argparse
from typing import Any

from locdiffusion.cli.parser import PATHS, SWITCH, positive

FLAGS: dict[str, dict[str, Any]] = {
    "--output": {"metavar": "DIR", "help": "directory to create, or to resume"},
    "--checkpoint": {
        "metavar": "NAME|DIR",
        "help": "trained model: a shipped one (overhead, geoclip-distilled) or a directory "
        "(default overhead, which knows satellite views only)",
    },
    "--encoder": {
        "metavar": "NAME",
        "help": "where the weights of the checkpoint's image encoder are, if they are not found: "
        "geoclip:FILE or open_clip:MODEL/FILE; another encoder than the checkpoint's is refused",
    },
    "--prior": {
        "metavar": "NAME|FILE",
        "help": "where the photos may come from: land, uniform, or a file of polygons (GeoJSON or "
        "GeoParquet, with a column `weight` if some are likelier); outside the polygons nothing is "
        "an answer (default: the checkpoint's own)",
    },
    "--gallery": {
        "metavar": "geoclip|FILE",
        "help": "add a second, finer answer: the place of this list that agrees best with photo "
        "and density near the answer; geoclip (its own 100,000), or a CSV or Parquet file with "
        "latitude and longitude; takes about a minute per 100,000 places at the start; only with a "
        "checkpoint of the encoder geoclip",
    },
    "--mode": {
        "choices": ["density", "sampling"],
        "default": "density",
        "help": "density: one network call per photo; sampling: mixes reverse diffusions, several "
        "times slower (default %(default)s)",
    },
    "--samples": {
        "type": positive,
        "default": 16,
        "metavar": "N",
        "help": "samples per photo in sampling mode (default %(default)s)",
    },
    "--steps": {
        "type": positive,
        "default": 8,
        "metavar": "N",
        "help": "steps of the sampler in sampling mode (default %(default)s)",
    },
    "--seed": {
        "type": int,
        "default": 0,
        "metavar": "N",
        "help": "start of all random numbers: the same seed gives the same output "
        "(default %(default)s)",
    },
    "--device": {
        "default": "cpu",
        "help": "torch device: cpu, cuda, cuda:1 ... (default %(default)s)",
    },
    "--bf16": {
        **SWITCH,
        "help": "embed in bfloat16: faster on a GPU, a little less exact; needs --device cuda",
    },
    "--embeddings": {
        "metavar": "DIR",
        "help": "directory in which embeddings are kept for the next run "
        "(default OUTPUT/embeddings)",
    },
    "--overwrite": {
        **SWITCH,
        "help": "delete what an earlier run wrote to --output, and nothing else, then start anew",
    },
}

MODEL = ("checkpoint", "encoder", "prior", "gallery", "mode", "samples", "steps", "seed", "device")
"""The settings of a Geotagger that a command takes."""


def add_flags(group: argparse._ActionsContainer, *names: str, **changes: Any) -> None:
    """Adds flags that several commands have.

    Args:
        group: A parser, or a group of its flags.
        names: Keys of FLAGS.
        changes: Settings that differ in this command, such as `type` or `required`.
    """
    for name in names:
        group.add_argument(name, **{**FLAGS[name], **changes})


def add_input(group: argparse._ActionsContainer, help: str, metavar: str = "PATH") -> None:
    """Adds the inputs of a command: paths without a flag, or behind `--input`.

    Args:
        group: A parser, or a group of its flags.
        help: What may be given.
        metavar: Name of one input in the help.
    """
    group.add_argument(PATHS, nargs="*", metavar=metavar, help=help)
    group.add_argument(
        "--input", nargs="+", default=[], metavar=metavar, help=f"the same as {metavar} alone"
    )

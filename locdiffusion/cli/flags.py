"""The flags that several commands have, each with its one help text."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from locdiffusion.cli.parser import PATHS, SWITCH, positive


def from_home(place: str) -> str:
    """Returns a path with its `~` replaced as a shell does, which it does not within quotes."""
    first = place.partition("/")[0]
    return place if os.path.lexists(first) else os.path.expanduser(place)


def folder(place: str) -> Path:
    """Returns the path of a folder, with its `~` replaced."""
    return Path(from_home(place))


class Joined(argparse.Action):
    """Joins the values of a flag that is given several times by `;`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Adds a value to those before it."""
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is None else f"{before};{values}")


FLAGS: dict[str, dict[str, Any]] = {
    "--output": {"type": from_home, "metavar": "DIR", "help": "directory to create, or to resume"},
    "--exclude": {
        "action": "append",
        "default": [],
        "metavar": "PATTERN",
        "help": "leave out files and folders of this name or path, such as 'Trash' or "
        "'*_small.jpg'; may be repeated",
    },
    "--follow-links": {
        **SWITCH,
        "help": "also read what links in a folder lead to outside of it; whoever made the folder "
        "can have any file of yours read so",
    },
    "--checkpoint": {
        "metavar": "NAME|DIR",
        "help": "trained model: a shipped one (overhead, geoclip-distilled) or a directory "
        "(default overhead, which knows satellite views only)",
    },
    "--encoder": {
        "metavar": "NAME",
        "help": "path of the weights of the checkpoint's image encoder, when the automatic search "
        "fails: geoclip:FILE or open_clip:MODEL/FILE; another encoder than the checkpoint's is "
        "refused",
    },
    "--prior": {
        "action": Joined,
        "metavar": "PRIOR",
        "help": "where the photos may come from: country:NO, a disc such as 59.9,10.7,300km "
        "(latitude, longitude, radius), several of these (--prior country:NO --prior country:SE, "
        "or country:NO;country:SE), a file of polygons (GeoJSON, GeoParquet, GeoPackage or a "
        "zipped shapefile, with a column `weight` if some are likelier), land, or uniform; no "
        "answer lies outside areas and polygons, and the sea in them counts a twentieth of land, "
        "or as much if ;sea follows (default: the checkpoint's own)",
    },
    "--gallery": {
        "metavar": "geoclip|FILE|none",
        "help": "places that the answer is made from as well, for accuracy below 200 km: geoclip "
        "(its own 100,000, the default of the checkpoint geoclip-distilled), a CSV or Parquet "
        "file with latitude and longitude, or none; takes about a minute per 100,000 places at "
        "the start; only with a checkpoint of the encoder geoclip",
    },
    "--mode": {
        "choices": ["density", "sampling"],
        "help": "density: one network call per photo; sampling: mixes reverse diffusions, several "
        "times slower (default %(default)s)",
    },
    "--samples": {"help": "samples per photo, in sampling mode only (default %(default)s)"},
    "--steps": {"help": "steps of the sampler, in sampling mode only (default %(default)s)"},
    "--seed": {
        "help": "start of all random numbers; same command, same output (default %(default)s)"
    },
    "--device": {"help": "torch device: cpu, cuda, cuda:1 ... (default %(default)s)"},
    "--bf16": {
        **SWITCH,
        "default": None,
        "help": "embed in bfloat16: faster on a GPU, a little less exact (the default where "
        "the GPU of this machine computes with it; a run that is resumed stays as it was)",
    },
    "--no-bf16": {
        "dest": "bf16",
        "action": "store_false",
        "default": None,
        "help": "embed in float32, on a GPU in TF32 where it has that",
    },
    "--embeddings": {
        "metavar": "DIR",
        "help": "directory that keeps embeddings for the next run (default OUTPUT/embeddings)",
    },
    "--overwrite": {
        **SWITCH,
        "help": "delete what an earlier run wrote to --output, and nothing else, then start anew",
    },
}
FLAGS["--mode"] |= {"default": "density"}
FLAGS["--device"] |= {"default": "cpu"}
FLAGS["--samples"] |= {"type": positive, "default": 16, "metavar": "N"}
FLAGS["--steps"] |= {"type": positive, "default": 8, "metavar": "N"}
FLAGS["--seed"] |= {"type": int, "default": 0, "metavar": "N"}

MODEL = ("checkpoint", "encoder", "prior", "gallery", "mode", "samples", "steps", "seed", "device")
"""The settings of a Geotagger that a command takes."""


def add_flags(group: argparse._ActionsContainer, *names: str, **changes: Any) -> None:
    """Adds keys of FLAGS to a parser or group, with changes such as `type` or `required`."""
    for name in names:
        group.add_argument(name, **{**FLAGS[name], **changes})


def add_input(group: argparse._ActionsContainer, help: str, metavar: str = "PATH") -> None:
    """Adds the inputs of a command: paths without a flag, or behind `--input`."""
    group.add_argument(PATHS, nargs="*", metavar=metavar, help=help)
    same = f"the same as {metavar} alone"
    group.add_argument("--input", nargs="+", default=[], metavar=metavar, help=same)


def add_number(
    group: argparse._ActionsContainer,
    flag: str,
    kind: Callable[[str], float],
    default: float,
    metavar: str,
    help: str,
) -> None:
    """Adds a flag with a number, and tells its default."""
    text = f"{help} (default %(default)s)"
    group.add_argument(flag, type=kind, default=default, metavar=metavar, help=text)

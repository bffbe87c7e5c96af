"""Draws the answer for one photo as a picture, and prints it as a table; `locdiffusion card`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from locdiffusion.cli.flags import MODEL, add_flags, add_input, folder
from locdiffusion.cli.parser import DONE, Parser
from locdiffusion.cli.terminal import printable, tell
from locdiffusion.model.weights import EncoderWeightsError

if TYPE_CHECKING:
    from locdiffusion.card.answer import AnsweredPhoto

SUFFIX = "-card.png"

ABOUT = """\
Draws the answer for one photo: the photo, the globe with its density, the radii and a
table, which is printed too.

examples:
  locdiffusion card patch.jpg    # a satellite view; writes patch-card.png here
  locdiffusion card photo.jpg --checkpoint geoclip-distilled
  locdiffusion card patch.jpg --output answer.png
  locdiffusion card photos/*.jpg --output CARDS    # one picture each
  locdiffusion card patch.jpg --json > answer.geojson
  locdiffusion card photos/IMG_1.jpg --albums OUT    # alone, and with its album
"""

MORE = """\
how to read a card:
  The cross is the answer. The solid circle holds the truth with probability
  50 %, the dashed one with 90 %; the brown shade says where else the photo may
  be from. A circle of thousands of km means that the model does not know. The
  truth is drawn where the photo's EXIF has a GPS position, or NAME.json beside
  NAME.jpg has {"latitude": ..., "longitude": ...}; the model sees neither.

which checkpoint:
  overhead, the default, knows satellite views only: of other photos it says
  nearly nothing. For photos from the ground: --checkpoint geoclip-distilled;
  `locdiffusion help geotag` says what that needs.
"""


def parser() -> Parser:
    """Returns the parser of the command."""
    made = Parser("card", "PHOTO ... [--output FILE.png] [flags]", ABOUT, MORE, required=["input"])
    group = made.add_argument_group("input and output")
    add_input(group, "files of photos: JPEG, PNG, WebP or HEIC", "PHOTO")
    add_flags(
        group,
        "--output",
        type=folder,
        metavar="FILE.png",
        help="picture to write; for several photos a folder (default: NAME-card.png here)",
    )
    about = "output of `locdiffusion albums`: the card shows what other photos say, too"
    group.add_argument("--albums", metavar="OUT", help=about)
    group.add_argument("--json", action="store_true", help="print GeoJSON instead of tables")
    add_flags(made.add_argument_group("the model"), *(f"--{name}" for name in MODEL))
    return made


def targets(photos: Sequence[Path], output: Path | None) -> list[Path]:
    """Returns the path of the picture of each photo.

    Args:
        photos: Paths of the photos.
        output: File for one picture, or folder; None is this folder.

    Raises:
        ValueError: Several pictures would go into one file, or one over another or over a photo.
    """
    one_file = output is not None and output.suffix.lower() == ".png"
    if one_file and len(photos) > 1:
        raise ValueError(
            f"--output {output} is one file for {len(photos)} photos; want a folder: --output CARDS"
        )
    if output is not None and one_file:
        paths = [output]
    else:
        paths = [(output or Path()) / f"{photo.stem}{SUFFIX}" for photo in photos]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise ValueError(
                f"two photos are named {photos[i].stem}: both cards would be {path}; make one "
                "after the other, each with its own --output"
            )
        if path.resolve() in {photo.resolve() for photo in photos}:
            raise ValueError(f"--output {path} is a photo; give the card another name")
    return paths


def run(options: argparse.Namespace) -> int:
    """Draws and prints all cards; returns the exit status.

    Raises:
        OSError, ValueError, EncoderWeightsError: A photo or the model cannot be used.
    """
    from locdiffusion.card.album import album_answer
    from locdiffusion.card.answer import answer
    from locdiffusion.card.figure import card_png
    from locdiffusion.geotagger import Geotagger
    from locdiffusion.model_card import purpose

    photos = [Path(photo) for photo in options.input]
    paths = targets(photos, options.output)
    albums = [album_answer(options.albums, photo) if options.albums else None for photo in photos]
    geotagger = Geotagger.load(**{name: getattr(options, name) for name in MODEL})
    about = purpose(options.checkpoint)
    answers = []
    for photo, path, album in zip(photos, paths, albums, strict=True):
        answers.append(replace(answer(geotagger, photo, about), album=album))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(card_png(answers[-1]))
        if answers[-1].problem:
            tell(f"no truth: {answers[-1].problem}")
        if not options.json:
            print(table(answers[-1]), end="\n\n")
        print(printable(f"written: {path}"), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        features = [one.to_geojson() for one in answers]
        print(json.dumps({"type": "FeatureCollection", "features": features}, indent=1))
    elif about:
        print(f"\nabout the model: {about}")
    return DONE


def table(answer: AnsweredPhoto) -> str:
    """Returns the rows of an answer as text for a terminal."""
    rows = answer.rows()
    width = max(len(name) for name, _ in rows)
    lines = [str(answer.path), *(f"  {name:<{width}}  {value}" for name, value in rows)]
    return "\n".join(map(printable, lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return parser().run(arguments, run, ValueError, OSError, EncoderWeightsError)

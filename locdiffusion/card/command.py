r"""Draws one photo's answer as a picture, and prints it as a table.

python -m locdiffusion.card patch.jpg
python -m locdiffusion.card patch.jpg --output patch.png --prior europe.geojson
python -m locdiffusion.card photos/*.jpg --output CARDS --json > answers.geojson
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from locdiffusion.card.answer import AnsweredPhoto

SUFFIX = "-card.png"

EPILOG = """examples:
  python -m locdiffusion.card patch.jpg                      # writes patch-card.png here
  python -m locdiffusion.card patch.jpg --output answer.png
  python -m locdiffusion.card photos/*.jpg --output CARDS    # one picture each into a folder
  python -m locdiffusion.card patch.jpg --json > answer.geojson

how to read a card: the cross is the answer. The solid circle holds the truth with probability
50 %, the dashed one with 90 %; the brown shade says where else the photo may be from. A circle of
thousands of km means that the model does not know. The truth is drawn where the photo's EXIF has a
GPS position, or NAME.json beside NAME.jpg has {"latitude": ..., "longitude": ...}; the model sees
neither.
the shipped checkpoint knows overhead imagery only: on other photos its answers are noise.
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line to settings."""
    parser = argparse.ArgumentParser(
        prog="python -m locdiffusion.card",
        description="Draw one photo's answer: photo, globe with its density, radii, table.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("photos", nargs="+", type=Path, metavar="PHOTO", help="JPEG, PNG, WebP or HEIC")
    add(
        "--output",
        type=Path,
        metavar="FILE.png",
        help="picture to write; for several photos a folder (NAME-card.png in this folder)",
    )
    add("--checkpoint", metavar="PATH", help="a directory or a shipped name (the shipped default)")
    add("--prior", metavar="PRIOR", help="land, uniform or a file of polygons (the checkpoint's)")
    add("--mode", default="density", help="density or sampling (%(default)s)")
    add("--seed", type=int, default=0, help="of sampling (%(default)s)")
    add("--json", action="store_true", help="print GeoJSON instead of tables")
    return parser.parse_args(argv)


def targets(photos: Sequence[Path], output: Path | None) -> list[Path]:
    """Where the picture of each photo goes.

    Raises:
        ValueError: Several pictures in one file, or one over another or over a photo.
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


def run(options: argparse.Namespace) -> list[AnsweredPhoto]:
    """Draws and prints all cards; what they say.

    Raises:
        OSError, ValueError: A photo, the checkpoint or the prior cannot be used.
    """
    from locdiffusion.card.answer import answer
    from locdiffusion.card.figure import card_png
    from locdiffusion.geotagger import Geotagger
    from locdiffusion.model_card import purpose

    paths = targets(options.photos, options.output)
    geotagger = Geotagger.load(
        options.checkpoint, prior=options.prior, mode=options.mode, seed=options.seed
    )
    about = purpose(options.checkpoint)
    answers = []
    for photo, path in zip(options.photos, paths, strict=True):
        answers.append(answer(geotagger, photo, about))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(card_png(answers[-1]))
        if not options.json:
            print(table(answers[-1]), end="\n\n")
        print(f"written: {path}", file=sys.stderr if options.json else sys.stdout)
    if options.json:
        features = [one.to_geojson() for one in answers]
        print(json.dumps({"type": "FeatureCollection", "features": features}, indent=1))
    elif about:
        print(f"\nabout the model: {about}")
    return answers


def table(answer: AnsweredPhoto) -> str:
    """The rows of an answer for a terminal."""
    rows = answer.rows()
    width = max(len(name) for name, _ in rows)
    return "\n".join([str(answer.path), *(f"  {name:<{width}}  {value}" for name, value in rows)])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse(argv)
    try:
        run(options)
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0

"""Checks and fits the placing of albums on a table of photos; `locdiffusion albums`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from locdiffusion.albums.album import Album
from locdiffusion.albums.check import UNITS, check, report
from locdiffusion.albums.fitting import fit
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.table import read_albums
from locdiffusion.cli.flags import add_flags, add_number
from locdiffusion.cli.parser import DONE, Parser, UsageError, fraction, run_command
from locdiffusion.cli.terminal import printable
from locdiffusion.files import write_atomically

ABOUT = """\
Albums: photos without a position are placed by the times and positions of the others.
`check` hides known positions of a table of photos, and tells how far the answers are
off and whether the radii are honest. `fit` fits the law of motion to the table.

examples:
  exiftool -csv -n -r -DateTimeOriginal -OffsetTimeOriginal -Make -Model \\
      -SerialNumber -GPSLatitude -GPSLongitude -Directory PHOTOS > photos.csv
  locdiffusion albums check photos.csv
  locdiffusion albums check photos.csv --hide days --share 0.8
  locdiffusion albums check photos.csv --plot check.png
  locdiffusion albums fit photos.csv --output mine.json
  locdiffusion albums check photos.csv --parameters mine.json
"""

MORE = """\
A table is CSV or Parquet with the columns key, album, camera, captured_at, offset,
latitude and longitude; only captured_at, latitude and longitude are needed.
"""


def parser() -> Parser:
    """Returns the parser of the command."""
    made = Parser("albums", "check|fit TABLE ... [flags]", ABOUT, MORE)
    group = made.add_argument_group("input and output")
    group.add_argument("action", choices=("check", "fit"), help="what to do with the table")
    group.add_argument("table", nargs="+", metavar="TABLE", help="tables of photos")
    group.add_argument("--output", type=Path, metavar="FILE", help="parameters that fit writes")
    about = "parameters that fit wrote (default: the shipped ones)"
    group.add_argument("--parameters", type=Path, metavar="FILE", help=about)
    about = "picture of what check finds: coverage, and errors by gap"
    group.add_argument("--plot", type=Path, metavar="FILE.png", help=about)
    group = made.add_argument_group("what check hides")
    about = "what is hidden as a whole (default photos)"
    group.add_argument("--hide", choices=tuple(UNITS), default="photos", help=about)
    add_number(group, "--share", fraction, 0.5, "X", "share of them that is hidden")
    add_flags(group, "--seed")
    return made


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; raises UsageError for what cannot be meant."""
    options: argparse.Namespace = parser().parse_args(arguments)
    if options.action == "fit" and options.output is None:
        raise UsageError("fit needs --output FILE, for example --output mine.json")
    if options.plot and options.action != "check":
        raise UsageError(f"--plot {options.plot} is of check; fit draws nothing")
    if options.plot and options.plot.suffix.lower() != ".png":
        raise UsageError(f"--plot {options.plot} is no PNG; want FILE.png, such as check.png")
    return options


def _run(options: argparse.Namespace) -> int:
    parameters = AlbumParameters.load(options.parameters)
    albums: list[Album] = [album for url in options.table for album, _ in read_albums(url).values()]
    if options.action == "check":
        rows = check(albums, parameters, options.hide, options.share, options.seed)
        print(report(rows))
        if options.plot:
            from locdiffusion.albums.figure import check_png

            write_atomically(options.plot, check_png(rows))
            print("\n" + printable(f"written: {options.plot}"))
        return DONE
    names = ", ".join(Path(url).name for url in options.table)
    fitted = fit(albums, parameters, f"albums of {names}")
    fitted.save(options.output)
    print(f"{fitted.card.photos} photos of {fitted.card.albums} albums fitted: {options.output}")
    return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command(lambda: _run(parse(arguments)), ValueError, OSError)

"""Measures how well albums place photos.

python -m experiments.albums real --table photos.csv
python -m experiments.albums trips
python -m experiments.albums simulated --table photos.csv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from locdiffusion.cli.parser import DONE, run_command

EPILOG = """\
trials:
  real       albums of a table, each with parameters fitted to the others; positions
             are hidden, as single photos, hours or days, and asked for
  trips      random trips in the regions of validation, a patch from above at each
             stop: every photo alone, the album, and the album with 10 % anchors
  simulated  albums of a table with made-up evidence, independent and sharing
             mistakes: photos alone, with anchors, and as an album
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.albums",
        description="Measure how well albums place photos.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("trial", choices=("real", "trips", "simulated"), help="what to measure")
    add("--table", nargs="+", default=[], metavar="TABLE", help="tables of photos")
    add("--draws", type=int, default=5, metavar="N", help="draws of what is hidden (5)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the first draw (0)")
    add("--least", type=int, default=50, metavar="N", help="anchors of an album of its own (50)")
    add("--trips", type=int, default=60, metavar="N", help="number of overhead trips (60)")
    add("--photos", type=int, default=15, metavar="N", help="photos of each trip (15)")
    options = parser.parse_args(argv)
    if options.trial != "trips" and not options.table:
        parser.error(f"{options.trial} needs --table TABLE, for example --table photos.csv")
    return options


def run(options: argparse.Namespace) -> Iterator[str]:
    """Measures; yields the rows of a table."""
    if options.trial == "trips":
        from experiments.albums.trips import trip_lines
        from locdiffusion.geotagger import Geotagger

        yield from trip_lines(Geotagger.load(), options.trips, options.photos, options.seed)
        return
    from locdiffusion.albums.table import read_albums

    albums = [album for url in options.table for album, _ in read_albums(url).values()]
    seeds = range(options.seed, options.seed + options.draws)
    if options.trial == "real":
        from experiments.albums.real import TRIALS, left_out, lines, measure

        parameters = left_out(albums)
        for unit, share in TRIALS:
            found = measure(albums, parameters, unit, share, seeds)
            yield from lines(f"{100 * share:.0f} % of the {unit}", found, options.least, albums)
        return
    from experiments.albums.simulated import simulated_lines

    yield from simulated_lines(albums, options.seed)


def _run(options: argparse.Namespace) -> int:
    from experiments.albums.scores import HEADER

    print(HEADER)
    for row in run(options):
        print(row, flush=True)
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command(lambda: _run(parse(argv)), ValueError, OSError)


if __name__ == "__main__":
    sys.exit(main())

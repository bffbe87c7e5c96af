"""Joins a catalogue of photos with the answers of an output; `locdiffusion join`.

The rows of the catalogue keep their order and all their columns. What matched and what did not is
told in numbers and by examples, on both sides.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from locdiffusion.cli.flags import from_home
from locdiffusion.cli.parser import DONE, SWITCH, Parser, UsageError
from locdiffusion.files import absolute, create_atomically, write_atomically
from locdiffusion.photos.left_out import number
from locdiffusion.photos.lists import PARQUET_ENDINGS
from locdiffusion.photos.storage import DataError
from pipelines.join.catalogue import Catalogue, Key, read_catalogue
from pipelines.join.matching import MOST_SHOWN, Matching, match

ABOUT = """\
Join a catalogue of photos (CSV or Parquet) with the answers of `locdiffusion geotag`. Tells how
many rows name a photo, how many name none or several, and shows examples of both sides; --output
writes the catalogue with positions, radii and countries beside its own columns.

examples:
  locdiffusion join catalogue.csv out                    # column `stem`
  locdiffusion join catalogue.csv out --column filename --output joined.csv
  locdiffusion join catalogue.parquet out --on photo_id --output joined.parquet
"""

MORE = """\
what --on compares:
  stem       file name without folders and ending: IMG_1 (the default); cells of
             the catalogue may have both
  name       file name with ending: IMG_1.jpg; cells may have folders
  path       path in the archive, or in the folder that was named
  key        the column `key` of the output
  photo_id   the identity of the photo, docs/OUTPUT.md
  sha256     of its bytes, where geotag ran with --sha256

what is written:
  all columns of the catalogue, and photo_id, shard, key, path, best_latitude,
  best_longitude, best_source, radius_50_km, radius_90_km, country_code and the
  like; `geotag_` comes before a name that the catalogue has. The column `match`
  says `matched`, `ambiguous` (several photos; joined with --all only), `error`
  (the photo has no answer, see errors/) or `unmatched`. Every row of the
  catalogue is there.
"""

MATCH = "match"
MATCHED, AMBIGUOUS, ERROR, UNMATCHED = "matched", "ambiguous", "error", "unmatched"


def parser() -> Parser:
    """Returns the parser of the command."""
    made = Parser("join", "CATALOGUE OUT [flags]", ABOUT, MORE)
    add = made.add_argument
    add(
        "catalogue",
        metavar="CATALOGUE",
        type=from_home,
        help="CSV or Parquet file, a row per photo",
    )
    add("root", metavar="OUT", type=from_home, help="output directory of `locdiffusion geotag`")
    add(
        "--on",
        choices=[key.value for key in Key],
        default=Key.STEM.value,
        help="what a row and a photo have in common (default %(default)s)",
    )
    about = "column of the catalogue that names the photos (default: called as --on)"
    add("--column", metavar="NAME", help=about)
    add("--ignore-case", **SWITCH, help="take small letters and capitals for the same")
    add("--all", **SWITCH, help="join a row with each of several photos that it names")
    about = "file to write, .csv or .parquet; without it, only what would match is told"
    add("--output", metavar="FILE", type=from_home, help=about)
    add("--overwrite", **SWITCH, help="replace the file of --output, if it is there")
    return made


def join(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit status.

    Raises:
        UsageError: The output file is there already, or has another ending.
        DataError: The catalogue or the output cannot be read.
    """
    if options.output and not options.output.lower().endswith((".csv", *PARQUET_ENDINGS)):
        raise UsageError(f"--output {options.output} ends otherwise; want .csv or .parquet")
    key = Key(options.on)
    catalogue = read_catalogue(absolute(options.catalogue), key, options.column)
    matching = match(catalogue, absolute(options.root), key, options.ignore_case)
    for line in told(catalogue, matching, key, options):
        print(line)
    if options.output:
        table = joined(catalogue, matching, options.all)
        _write(options.output, table, options.overwrite)
        print(f"written      {options.output}: {number(len(table), 'row')}")
    return DONE


def states(matching: Matching) -> NDArray[np.str_]:
    """Returns what became of each row of the catalogue, N texts."""
    photos, failed = matching.photos_of_row, matching.failed_of_row
    found = np.select([photos > 1, photos == 1, failed > 0], [AMBIGUOUS, MATCHED, ERROR], UNMATCHED)
    return np.asarray(found, np.str_)


def told(
    catalogue: Catalogue, matching: Matching, key: Key, options: argparse.Namespace
) -> Iterable[str]:
    """Yields the lines that say what matched."""
    rows, state = catalogue.rows, states(matching)
    count = number(len(rows), "row")
    yield f"catalogue    {options.catalogue}: {count}, column {catalogue.column!r}"
    yield f"output       {options.root}: {number(matching.seen, 'photo')}, by {key.value}"
    matched = int(np.sum(state == MATCHED))
    yield f"{MATCHED:<12} {number(matched, 'row')}{_repeated(matching)}"
    for kind, what in ((AMBIGUOUS, "several photos"), (ERROR, "a photo without an answer")):
        some = np.flatnonzero(state == kind)
        if len(some):
            hint = "" if kind is ERROR else "; " + ("joined" if options.all else "--all joins them")
            yield f"{kind:<12} {number(len(some), 'row')} of {what}: {_rows(catalogue, some)}{hint}"
            for row in some[:2].tolist() if kind is AMBIGUOUS else ():
                yield f"{'':12} {catalogue.values[row]!r}: {'; '.join(matching.photos_named(row))}"
    nothing = np.flatnonzero(state == UNMATCHED)
    if len(nothing):
        empty = sum(not catalogue.values[row] for row in nothing.tolist())
        without = f", {empty:,} of them empty" if empty else ""
        shown = _rows(catalogue, nothing)
        yield f"{UNMATCHED:<12} {number(len(nothing), 'row')} of the catalogue{without}: {shown}"
    others = matching.seen - len(matching.of_name)
    if others:
        shown = ", ".join(map(repr, matching.photo_examples))
        yield f"{'':12} {number(others, 'photo')} of the output: {shown}"
    if matched + int(np.sum(state == AMBIGUOUS)) < len(rows):
        yield from _better(matching, matched)


def _repeated(matching: Matching) -> str:
    """Tells that photos are named by several rows, each of which is joined."""
    named = matching.value[matching.photos_of_row > 0]
    twice = int(np.sum(np.bincount(named) > 1)) if len(named) else 0
    return f"; {number(twice, 'photo')} named by several rows" if twice else ""


def _rows(catalogue: Catalogue, rows: NDArray[np.int64]) -> str:
    shown = ", ".join(repr(catalogue.values[row][:80]) for row in rows[:MOST_SHOWN])
    return f"{shown}, ..." if len(rows) > MOST_SHOWN else shown


def _better(matching: Matching, matched: int) -> Iterable[str]:
    """Yields what else could be compared, if more rows would match."""
    key, most = max(matching.other_keys.items(), key=lambda pair: pair[1], default=(None, 0))
    if key is not None and most > matched:
        yield f"{'':12} --on {key.value} would match {number(most, 'row')}"
    elif not matched:
        yield f"{'':12} no other key matches; is it another column (--column), or --ignore-case?"


def joined(catalogue: Catalogue, matching: Matching, every: bool = False) -> pa.Table:
    """Puts the answers beside the rows of a catalogue.

    Args:
        catalogue: The catalogue.
        matching: Its photos.
        every: Whether a row that names several photos comes once for each; else it gets none.

    Returns:
        All columns of the catalogue, MATCH, and those of the photos, null where there is none.
    """
    state, counts = states(matching), matching.photos_of_row
    taken = (counts == 1) | ((counts > 1) & every)
    times = np.where(taken, counts, 1)
    row = np.repeat(np.arange(len(times)), times)
    first = np.searchsorted(matching.of_name, matching.value)
    within = np.arange(len(row)) - np.repeat(np.cumsum(times) - times, times)
    photo = pa.array(first[row] + within, mask=~taken[row])
    table = catalogue.rows.table.take(pa.array(row))
    there = {name.lower() for name in table.column_names}
    columns = {MATCH: pa.array(state[row].tolist(), pa.string())}
    photos = matching.photos
    columns |= {name: photos[name].take(photo) for name in photos.column_names}
    for name, values in columns.items():
        table = table.append_column(f"geotag_{name}" if name in there else name, values)
    return table


def _write(place: str, table: pa.Table, overwrite: bool) -> None:
    """Writes a table as its ending says.

    Raises:
        UsageError: The file is there already, or a column has no place in a CSV file.
    """
    buffer = pa.BufferOutputStream()
    if place.lower().endswith(".csv"):
        try:
            pa.csv.write_csv(table, buffer)
        except pa.ArrowInvalid as error:
            raise UsageError(f"{place} cannot be a CSV file ({error}); write .parquet") from error
    else:
        pq.write_table(table, buffer, compression="zstd")
    data = bytes(buffer.getvalue())
    if overwrite:
        write_atomically(absolute(place), data)
    elif not create_atomically(absolute(place), data):
        raise UsageError(f"{place} is there already; give another file, or add --overwrite")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return parser().run(arguments, join, DataError)

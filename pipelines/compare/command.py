"""Tells what changed between two outputs of `geotag`; `locdiffusion compare`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from locdiffusion.cli.flags import add_flags, from_home
from locdiffusion.cli.parser import DONE, Parser, UsageError, run_command
from locdiffusion.cli.terminal import printable
from locdiffusion.files import absolute
from locdiffusion.photos.left_out import number
from locdiffusion.photos.storage import DataError
from pipelines.compare.comparison import CHANGED_RADIUS, MOVED_KM, compared, summarised
from pipelines.compare.page import compare_page
from pipelines.compare.photos import read_photos
from pipelines.writing.directory import OutputDirectory, OutputError, to_json
from schemas.comparisons import AFTER, BEFORE, Fate
from schemas.geotags import SCHEMA_VERSION

__all__ = ["main", "parser"]

OWNER = "compare.json"
TABLE, PAGE, SUMMARY = "compare.parquet", "compare.html", "compare_summary.json"
MOST_TOLD = 60
"""Most characters of the value of a setting that are printed."""

ABOUT = """\
Tells what changed between two outputs of `geotag`, photo by photo: which answers
moved and by how much against their radii, which photos are new or gone, which
errors are answered now, which countries changed, and which settings differ.

examples:
  locdiffusion geotag ~/Pictures --output out
  locdiffusion geotag ~/Pictures --output out-norway --prior country:NO
  locdiffusion compare out out-norway      # writes out-to-out-norway/
  locdiffusion compare out out-norway --output changes
"""
MORE = f"""\
how photos are joined:
  By photo_id, which stays when other photos are listed or the folder moves; by
  shard and key where an output of an earlier version has no photo_id.

what the numbers mean:
  A photo moved if its answers lie more than {MOVED_KM:g} km apart. A move within
  the radii is what they announced: of two honest answers to one photo,
  the second lies outside the 90 % radius of the first now and then, not often.
  Where many do, one of the two runs is too sure of itself; which one only known
  positions can tell (`locdiffusion evaluate`). A radius grew or shrank if it
  changed by more than a factor of {CHANGED_RADIUS:g}.

output:
  compare.parquet  a row per photo: fate, distance_km, distance_in_radii,
                   radius_ratio, and of each column before and after
  compare.html     the photos that moved the farthest, on a map
  compare.json, compare_summary.json   what was compared; the counts

read more:
  docs/OUTPUT.md (columns), docs/RECIPES.md
"""


@dataclass(frozen=True)
class CompareOutput(OutputDirectory):
    """The output directory of a comparison."""

    FILES: ClassVar[tuple[str, ...]] = (TABLE, PAGE, SUMMARY)
    KIND: ClassVar[str] = "comparison"
    OWNER: ClassVar[str] = OWNER


def parser() -> Parser:
    """Returns the parser of the command."""
    parser = Parser("compare", "OUT1 OUT2 [flags]", ABOUT, MORE)
    group = parser.add_argument_group("input and output")
    about = "two outputs of `locdiffusion geotag`, the earlier one first"
    group.add_argument("outputs", nargs="*", type=from_home, metavar="OUT", help=about)
    about = "directory to create (default OUT1-to-OUT2, in the current directory)"
    add_flags(group, "--output", help=about)
    add_flags(group, "--overwrite", help="replace another comparison in --output")
    return parser


def summary_lines(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Writes a summary as names and values."""
    fates = {fate: summary["fates"][fate.value] for fate in Fate}
    kept = fates[Fate.KEPT]

    def of_kept(count: int) -> str:
        return f"{count:,} ({count / kept:.1%})" if kept else "0"

    lines = [
        ("answered in both", f"{kept:,}"),
        ("new, gone", f"{fates[Fate.NEW]:,}, {fates[Fate.GONE]:,}"),
        ("errors answered now", f"{fates[Fate.ANSWERED]:,}"),
        ("answers that are errors now", f"{fates[Fate.FAILED]:,}"),
        ("errors in both", f"{fates[Fate.ERROR]:,}"),
        (f"moved more than {MOVED_KM:g} km", of_kept(summary["moved"])),
    ]
    if kept:
        median, most = summary["median_km"], summary["quantile_90_km"]
        lines += [
            ("distance, median and 90 %", f"{median:,.1f} km, {most:,.1f} km"),
            ("outside the 50 % radius before", of_kept(summary["outside_radius_50"])),
            ("outside the 90 % radius before", of_kept(summary["outside_radius_90"])),
            ("90 % radius grown", of_kept(summary["radius_grown"])),
            ("90 % radius shrunk", of_kept(summary["radius_shrunk"])),
            ("country changed", of_kept(summary["country_changed"])),
        ]
        if (ratio := summary["median_radius_ratio"]) is not None:
            lines.append(("90 % radius, median ratio", f"{ratio:.2f}"))
        strange, familiar = summary["became_unfamiliar"], summary["became_familiar"]
        if strange or familiar:
            lines.append(("unfamiliar now, familiar now", f"{strange:,}, {familiar:,}"))
    for kind, name in (("countries", "country"), ("statuses", "status")):
        for one in summary[kind]:
            change = f"{one[BEFORE] or 'none'} -> {one[AFTER] or 'none'}"
            lines.append((f"{name} {change}", f"{one['photos']:,}"))
    for name, values in summary["settings"].items():
        told = [_short(values[side]) for side in (BEFORE, AFTER)]
        lines.append((f"setting {name}", " -> ".join(told)))
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= MOST_TOLD else f"{text[: MOST_TOLD - 3]}..."


def run(before: str, after: str, output: CompareOutput, overwrite: bool) -> dict[str, Any]:
    """Compares two outputs, writes the files, and returns the summary.

    Args:
        before: Path or URL of the first output.
        after: Path or URL of the second output.
        output: Directory for the files.
        overwrite: Whether another comparison is replaced.

    Raises:
        DataError: An output cannot be read.
        OutputError: The directory belongs to something else.
    """
    first, second = read_photos(before), read_photos(after)
    table = compared(first, second)
    settings = {BEFORE: before, AFTER: after, "schema_version": SCHEMA_VERSION}
    with output.usable():
        output.claim(settings, overwrite)
    summary = summarised(table, first.run, second.run)
    names = {BEFORE: os.path.basename(before), AFTER: os.path.basename(after)}
    output.write(TABLE, data=_parquet(table, settings))
    output.write(PAGE, data=compare_page(table, summary_lines(summary), names).encode())
    output.write(SUMMARY, data=to_json(summary))
    return summary


def _parquet(table: pa.Table, settings: Mapping[str, Any]) -> bytes:
    metadata = {b"schema_version": SCHEMA_VERSION.encode(), b"config": to_json(settings)}
    buffer = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    return bytes(buffer.getvalue())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""

    def body() -> int:
        options = parser().parse_args(arguments)
        if len(options.outputs) != 2:
            raise UsageError(
                f"{number(len(options.outputs), 'output')}, wanted two: locdiffusion compare OUT1 "
                "OUT2"
            )
        before, after = map(absolute, options.outputs)
        if not options.output and "://" in before + after:
            raise UsageError("where to? an output is not on this machine; give --output DIR")
        default = f"{os.path.basename(before)}-to-{os.path.basename(after)}"
        output = CompareOutput(absolute(options.output or default))
        lines = summary_lines(run(before, after, output, options.overwrite))
        wide = max(len(name) for name, _ in lines)
        for name, value in lines:
            print(printable(f"{name:{wide}}  {value}"))
        for row, name in enumerate((TABLE, PAGE)):
            print(printable(f"{'' if row else 'written':{wide}}  {output.path(name)}"))
        return DONE

    return run_command(body, DataError, OutputError)

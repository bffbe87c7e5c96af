"""The command line of `locdiffusion aggregate`."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from locdiffusion.cli.flags import add_flags, add_input, from_home
from locdiffusion.cli.parser import UsageError
from pipelines.aggregate.cells import MOST_RESOLUTION
from pipelines.aggregate.targets import ADMIN, COUNTRY, REGION
from pipelines.beam.flags import JobFlags, JobParser, add_job_flags, job_settings

ABOUT = """\
Counts photos by area from their probabilities: how many photos of an archive
are expected in each H3 cell, country, region or polygon of yours, and how far
off that is. A photo that is 0.7 in Norway and 0.3 in Chile counts so in both,
which a count of points, one area for each photo, cannot tell.

examples:
  locdiffusion geotag ~/Pictures --output out --areas country,region,h3:4
  locdiffusion aggregate out --h3 4              # cells of 1,770 km2
  locdiffusion aggregate out --kind country --by year
  locdiffusion aggregate out --polygons districts.geojson --group album
  locdiffusion aggregate out --h3 3 --by camera --output by-camera
"""

MORE = """\
areas:
  --h3 N       cells of H3 at resolution N, 0 (4 million km2) to that of the run
               (--areas h3:N). What a photo has in coarser cells only is spread
               evenly over the cells within.
  --kind KIND  the areas that the run wrote: country, region, or admin.
  --polygons FILE
               polygons of your own. If the run had the same file (--admin) its
               own probabilities are taken, which are exact. Else they are made
               of those of H3 cells by the share of the cell in each polygon:
               sharp polygons, but masses no finer than the cells of the run.
  Rows of a `rest` (sea, elsewhere) hold what lies in none, so that the numbers
  add up to the number of photos.

standard errors and --group:
  The number of photos in an area is a sum of yes and no, of which each photo
  says its probability p. Its expectation is the sum of p. Its standard error,
  the root of the sum of p (1 - p), holds if photos are independent: if being
  wrong about one says nothing about the next. Photos of one walk are not: where
  one is in Chile all are. --group COLUMN takes all photos of a group as one
  draw: the standard error is the root of the sum over groups of S (n - S), S
  being the photos of the group expected there and n all of them. The
  expectation stays. That is the most that such photos can vary together; the
  truth lies between the two. Errors of the checkpoint itself, such as a liking
  for some country, are in neither: `locdiffusion evaluate` shows those.

output:
  aggregate.parquet  a row per area and class: photos_expected, standard_error,
                     area_km2, photos_per_km2, geometry (GeoParquet)
  aggregate.tif      photos expected per km2, in degrees (GeoTIFF, float32)
  aggregate.html, aggregate.png   maps
  aggregate.json     what was counted, and how

read more:
  docs/OUTPUT.md (columns), docs/RECIPES.md (what to do with them)
"""
FAILED = "the numbers do not add up to the photos"
PIXELS_DEG = (0.02, 5.0)
"""Smallest and largest pixel of the GeoTIFF in degrees."""


@dataclass(frozen=True)
class AggregateOptions(JobFlags):
    """The checked settings of an aggregate.

    Attributes:
        source: Output of `geotag`.
        h3: Resolution of the cells; None for other areas.
        kind: Kind of the areas with names; None for others.
        polygons: File of polygons; None for other areas.
        polygon_name: Column of that file with the names; None to find it.
        by: What splits the photos into classes; None to count all together.
        group: What photos of one draw have in common; None to count each alone.
        pixel_deg: Size of a pixel of the GeoTIFF in degrees.
        on_beam: Whether a runner of Beam was named.
    """

    source: str
    h3: int | None = None
    kind: str | None = None
    polygons: str | None = None
    polygon_name: str | None = None
    by: str | None = None
    group: str | None = None
    pixel_deg: float = 0.1
    on_beam: bool = False

    @property
    def again(self) -> list[str]:
        """The words to type for the summary of a job that nobody waited for."""
        return ["locdiffusion", "aggregate", "--output", self.output, "--summarise"]


def aggregate_parser() -> JobParser:
    """Returns the parser of the command."""
    usage = "OUT --h3 N | --kind KIND | --polygons FILE [flags]"
    parser = JobParser("aggregate", usage, ABOUT, MORE, FAILED)
    group = parser.add_argument_group("input and output")
    add_input(group, "output of `locdiffusion geotag` with --areas", "OUT")
    about = "directory to create (default: named after OUT and the areas)"
    add_flags(group, "--output", help=about)
    add_flags(group, "--overwrite", help="replace an aggregate with other settings in --output")
    group = parser.add_argument_group("areas, of which one is wanted")
    about = "cells of H3 at this resolution"
    group.add_argument("--h3", type=resolution, metavar="N", help=about)
    about = "areas of the run: country, region or admin"
    group.add_argument("--kind", choices=[COUNTRY, REGION, ADMIN], help=about)
    about = "polygons: GeoJSON, GeoParquet, GeoPackage or a zipped shapefile"
    group.add_argument("--polygons", type=from_home, metavar="FILE", help=about)
    about = "column of FILE with the names (default: name, or the only text)"
    group.add_argument("--polygon-name", metavar="COLUMN", help=about)
    group = parser.add_argument_group("photos")
    about = (
        "count classes of photos apart: year, month, familiarity, or a column of predictions or "
        "albums, such as camera"
    )
    group.add_argument("--by", metavar="COLUMN", help=about)
    about = "take photos that agree in a column, such as album, as one draw"
    group.add_argument("--group", metavar="COLUMN", help=about)
    about = "size of a pixel of the GeoTIFF in degrees (default %(default)s)"
    group.add_argument("--pixel", type=pixel, default=0.1, metavar="DEG", help=about)
    add_job_flags(parser)
    return parser


def resolution(text: str) -> int:
    """Converts a resolution of H3."""
    value = int(text)
    if not 0 <= value <= MOST_RESOLUTION:
        raise argparse.ArgumentTypeError(f"{value}, wanted a resolution of H3 from 0 to 15")
    return value


def pixel(text: str) -> float:
    """Converts the size of a pixel, of which a whole number makes 180 degrees."""
    value, (least, most) = float(text), PIXELS_DEG
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{value:g}, wanted {least:g} to {most:g} degrees")
    return 180.0 / round(180.0 / value)


def parse(arguments: Sequence[str] | None = None) -> AggregateOptions:
    """Parses words, by default those of `sys.argv`.

    Raises:
        UsageError: A flag is unknown, or a value is out of range or missing.
    """
    parser = aggregate_parser()
    ours = parser.parse_job(arguments)
    chosen = [name for name in ("h3", "kind", "polygons") if getattr(ours, name) is not None]
    if not ours.summarise:
        if len(ours.input) != 1:
            parser.error(
                f"{len(ours.input)} outputs, wanted one: locdiffusion aggregate OUT --h3 4"
            )
        if len(chosen) != 1:
            parser.error("wanted one of --h3 N, --kind KIND and --polygons FILE")
        if ours.polygon_name and not ours.polygons:
            parser.error("--polygon-name names a column of --polygons FILE; give FILE, too")
    elif not ours.output:
        parser.error("--summarise wants the --output of the job")
    source = from_home(ours.input[0]) if ours.input else ""
    if not ours.output:
        ours.output = _default_output(
            source, ours.h3, ours.kind, ours.polygons, ours.by, ours.group
        )
    words = [word.partition("=")[0] for word in parser.words(arguments)]
    return AggregateOptions(
        **job_settings(ours),
        source=source,
        h3=ours.h3,
        kind=ours.kind,
        polygons=ours.polygons,
        polygon_name=ours.polygon_name,
        by=ours.by,
        group=ours.group,
        pixel_deg=ours.pixel,
        on_beam="--runner" in words or bool(ours.beam_flags),
    )


def _default_output(
    source: str,
    h3: int | None,
    kind: str | None,
    polygons: str | None,
    by: str | None,
    group: str | None,
) -> str:
    """Names a directory in the current one after the output and what is counted."""
    if "://" in source:
        raise UsageError(f"where to? {source} is not on this machine; give --output DIR")
    file = os.path.basename(polygons or "").partition(".")[0]
    what = f"h3-{h3}" if h3 is not None else kind or file or "polygons"
    words = [os.path.basename(os.path.abspath(source)), what]
    words += [f"by-{by}"] if by else []
    words += [f"group-{group}"] if group else []
    return "-".join(re.sub(r"[^\w.-]+", "_", word) for word in words)

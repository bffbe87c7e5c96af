"""The command line of `locdiffusion albums`."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from locdiffusion.albums.command import parser as check_parser
from locdiffusion.cli.flags import add_flags, add_input, folder, from_home
from locdiffusion.cli.parser import SWITCH, UsageError
from locdiffusion.files import absolute
from pipelines.albums.grouping import FOLDER_AND_CAMERA, AlbumBy
from pipelines.beam.flags import JobFlags, JobParser, add_job_flags, job_settings

ABOUT = """\
Places the photos of an archive by the others of their album: photos with a time
and a position, the anchors, say where those taken before and after them may have
been, and how far off that may be. Every photo becomes one row that says how it
stands in its album. Predictions are never changed, and no photo's own position
is moved. The same command typed again goes on where a job was stopped.

examples:
  locdiffusion geotag ~/Pictures --checkpoint geoclip-distilled --output out \\
      --embeddings
  locdiffusion albums out                  # writes out/albums/
  locdiffusion albums out --album-by folder    # cameras of a folder together
  locdiffusion albums --table photos.csv   # without any image; photos-albums/
  locdiffusion albums --table photos.csv --gpx tracks/*.gpx
  locdiffusion albums check photos.csv     # hides known positions: honest?
  locdiffusion albums fit photos.csv --output mine.json
  locdiffusion albums --table photos.csv --parameters mine.json
"""

MORE = """\
input:
  OUT is what `locdiffusion geotag` wrote. Its photos with a known position, in
  their file or in a document beside them, are anchors. If it keeps embeddings
  (`geotag --embeddings`), what the photos show is joined along each album, too.
  --table FILE is a CSV or Parquet file with a row for each photo, as exiftool
  writes it:
    exiftool -csv -n -r -DateTimeOriginal -OffsetTimeOriginal -Make -Model \\
        -SerialNumber -GPSLatitude -GPSLongitude -Directory PHOTOS > photos.csv
  or with the columns key, album, camera, captured_at, offset, latitude and
  longitude, of which captured_at, latitude and longitude are needed. Rows with
  a position are anchors, rows without are asked.
  --gpx FILE ... adds tracks (GPX 1.0 and 1.1). Of each track only the points
  that photos need are used. A clock whose zone is not known may be 3 hours off.

albums:
  An album is what one person carried: by default the photos of one camera in
  one folder, so that a partner's camera in the same folder is another album. A
  table may have a column `album`, which says it instead.
    --album-by folder          all cameras of a folder together: a phone with
                               GPS places the photos of the camera beside it
    --album-by camera          a camera in all its folders; two phones of one
                               model that tell no serial number seem to be one
    --album-by top-folder,camera   the same, within the first folder below the
                               place that was geotagged, or in which the paths
                               of a table differ
    --album-by none            all photos together
  Photos of an unknown camera are albums by folder.

checking and fitting:
  locdiffusion albums check TABLE ... and locdiffusion albums fit TABLE ... have
  flags of their own, which `locdiffusion albums check --help` explains:
{flags}

output:
  albums/part-*.parquet   a row per photo: geopandas.read_parquet("out/albums")
  albums/_summary.json    counts, and the photos whose position contradicts
                          those of the others, by name

read more:
  docs/ALBUMS.md (the model, its limits), docs/OUTPUT.md (columns)
"""

FAILED = "no photo is an anchor or was placed, or the counts do not add up"


@dataclass(frozen=True)
class AlbumsOptions(JobFlags):
    """The checked settings of an albums job.

    Attributes:
        input: Output of `geotag`; empty if tables are read.
        tables: Tables of photos.
        gpx: Tracks of GPS receivers.
        by: How photos are grouped; None for what suits the input.
        parameters: Parameters of the albums, None for the shipped ones.
        anchors_only: Whether embeddings are not used.
        checkpoint: Checkpoint that made the output; None for the shipped one of its name.
        device: Torch device for what photos show.
    """

    input: str
    tables: tuple[str, ...] = ()
    gpx: tuple[str, ...] = ()
    by: AlbumBy | None = None
    parameters: Path | None = None
    anchors_only: bool = False
    checkpoint: str | None = None
    device: str = "cpu"

    @property
    def again(self) -> list[str]:
        """The words to type for the summary of a job that nobody waited for."""
        source = [self.input] if self.input else ["--table", *self.tables]
        return ["locdiffusion", "albums", *source, "--output", self.output, "--summarise"]


def albums_parser() -> JobParser:
    """Returns the parser of the command."""
    usage = "OUT [flags]\n--table FILE ... [flags]\ncheck|fit TABLE ... [flags]"
    parser = JobParser("albums", usage, ABOUT, MORE.format(flags=_flags_of_check()), FAILED)
    group = parser.add_argument_group("input and output")
    add_input(group, "output of `locdiffusion geotag`", "OUT")
    about = "table of photos instead: CSV or Parquet; several are read as one"
    group.add_argument("--table", nargs="+", default=[], type=from_home, metavar="FILE", help=about)
    about = "tracks of the person with the cameras: their points are anchors of every album"
    group.add_argument("--gpx", nargs="+", default=[], type=from_home, metavar="FILE", help=about)
    about = "directory in which albums/ is made, or resumed (default OUT itself, or the name of "
    add_flags(group, "--output", help=about + "the table and -albums, in the current directory)")
    add_flags(group, "--overwrite", help="delete what is in albums/, then start anew")
    group = parser.add_argument_group("albums")
    group.add_argument(
        "--album-by",
        metavar="WHAT",
        help=f"what the photos of an album have in common: folder, top-folder, camera, two of "
        f"these with a comma between them, or none (default {FOLDER_AND_CAMERA})",
    )
    about = "how cameras move, as `fit` wrote it (default: what is shipped)"
    group.add_argument("--parameters", type=folder, metavar="FILE", help=about)
    about = "go by times and anchors alone, although OUT keeps embeddings"
    group.add_argument("--anchors-only", **SWITCH, help=about)
    about = "checkpoint that made OUT (default: the shipped one of its name)"
    add_flags(group, "--checkpoint", help=about)
    add_flags(group, "--device")
    add_job_flags(parser)
    return parser


def _flags_of_check() -> str:
    """The flags of `check` and `fit`, which are another parser's."""
    flags = {flag for action in check_parser()._actions for flag in action.option_strings}
    line = ", ".join(sorted(flag for flag in flags - {"--help"} if flag.startswith("--")))
    return textwrap.fill(line, 76, initial_indent="    ", subsequent_indent="    ")


def parse(arguments: Sequence[str] | None = None) -> AlbumsOptions:
    """Parses words, by default those of `sys.argv`.

    Raises:
        UsageError: A flag is known neither here nor to Beam, or a value is out of range.
    """
    ours = albums_parser().parse_job(arguments)
    of_output = bool(ours.summarise and ours.output and not ours.input)  # which is all it takes
    if (bool(ours.input) == bool(ours.table) and not of_output) or len(ours.input) > 1:
        given = f"{len(ours.input)} outputs and {len(ours.table)} tables are given"
        raise UsageError(
            f"{given}, wanted one output of `locdiffusion geotag`, or tables: "
            "locdiffusion albums OUT, or locdiffusion albums --table FILE"
        )
    files = [absolute(table) for table in ours.table]
    if twice := [ours.table[row] for row, file in enumerate(files) if file in files[:row]]:
        raise UsageError(f"--table names {twice[0]} twice; name each table once")
    said = {"checkpoint": ours.checkpoint, "anchors_only": ours.anchors_only}
    said["device"] = ours.device != AlbumsOptions.device
    for flag, given in said.items():
        if ours.table and given:
            raise UsageError(
                f"--{flag.replace('_', '-')} is about what photos show, and a table shows none; "
                "leave it out"
            )
    try:
        by = None if ours.album_by is None else AlbumBy.parse(ours.album_by)
    except ValueError as error:
        raise UsageError(f"--album-by {ours.album_by}: {error}") from error
    source = from_home(ours.input[0]) if ours.input else ""
    ours.output = ours.output or source or _default_output(ours.table)
    return AlbumsOptions(
        **job_settings(ours),
        input=source,
        tables=tuple(ours.table),
        gpx=tuple(ours.gpx),
        by=by,
        parameters=ours.parameters,
        anchors_only=ours.anchors_only,
        checkpoint=ours.checkpoint,
        device=ours.device,
    )


def _default_output(tables: Sequence[str]) -> str:
    """Returns a directory named after the one table."""
    if len(tables) > 1 or "://" in tables[0]:
        raise UsageError(
            f"where to? {' '.join(tables)} is not one local table, after which the output could "
            "be named; give --output DIR"
        )
    return f"{os.path.basename(tables[0]).partition('.')[0]}-albums"

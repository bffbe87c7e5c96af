"""The command line of `locdiffusion geotag`."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from locdiffusion.cli.flags import MODEL, add_flags, add_input, add_number, from_home
from locdiffusion.cli.parser import SWITCH, UsageError, fraction, positive, whole
from locdiffusion.geography.areas import SEPARATOR, AreaError, Areas, prior_file, with_sea
from pipelines.beam.flags import JobFlags, JobParser, add_job_flags, job_settings
from pipelines.geotag.area_rows import kind_of
from pipelines.geotag.hints import check_hints
from pipelines.geotag.kept_fields import parse_fields
from pipelines.geotag.model_cache import EmbeddedLoader, GeotaggerLoader
from pipelines.geotag.tables import Extras
from schemas.geotags import HINTS_RIGHT
from schemas.layers import AreaKind

ABOUT = """\
Geotags an archive: reads photos from folders, tars and zips, and writes where each
was taken, how far off that may be, and the alternatives. Every photo becomes one
row of predictions or one row of errors. The same command typed again goes on where
a job was stopped, does again what has changed, and removes the rows of folders and
archives that are gone; other settings want another --output.

examples:
  locdiffusion geotag ~/Pictures --checkpoint geoclip-distilled
                                    # photos; writes Pictures-geotags here
  locdiffusion geotag patches       # satellite views; writes patches-geotags
  locdiffusion geotag ~/Pictures 'takeout-*.zip' old.tar \\
      --checkpoint geoclip-distilled --output out    # everything in one output
  locdiffusion geotag 'patches/{000..099}.tar' more.tar.gz --output out
  locdiffusion geotag patches.csv --output out --prior country:NO
  locdiffusion geotag 'patches/*.tar' --output out --regions --thumbnails 50
  locdiffusion geotag 'patches/*.tar' --output out --mode sampling --samples 32
  locdiffusion geotag 'patches/*.tar' --output out --embeddings
  locdiffusion geotag out --from-embeddings --output norway --prior country:NO
  locdiffusion geotag 'patches/*.tar' --output out \\
      --direct_num_workers 4 --direct_running_mode multi_processing
  locdiffusion geotag 'gs://BUCKET/patches/*.tar' --output gs://BUCKET/out \\
      --runner DataflowRunner --project PROJECT --region europe-west4 \\
      --temp_location gs://BUCKET/tmp --setup_file ./setup.py --no-wait
  locdiffusion geotag 'gs://BUCKET/patches/*.tar' \\
      --output gs://BUCKET/out --summarise
"""

MORE = """\
which checkpoint:
  overhead            satellite views, north up, about 640 km wide; of other
                      photos it says nearly nothing, and tells so
  geoclip-distilled   photos from the ground; needs GeoCLIP's files
                      (pip install --no-deps geoclip) and CLIP ViT-L/14, fetched
                      at the first use, or named with --encoder geoclip:FILE
  a directory         what `locdiffusion train` wrote

input:
  A folder is searched for JPEG, PNG, WebP, HEIC, AVIF, TIFF, GIF, BMP and JPEG
  2000 by their endings, small letters or capitals, its sub-folders too. Files
  of other kinds are counted and left out. So are archives beside photos: to
  read them, name them as well. A folder of archives without a photo stands for
  these.
  Links are followed within a folder; those that lead out of it want
  --follow-links. (A hard link cannot be told from the file.) A path that exists
  is meant literally, whatever its name. The content of a file decides what it
  is; of several pictures in a file the first is taken. HEIC needs
  `pip install pi-heif`. A shard is a tar or zip, or a group of a folder's
  photos. The key of a photo is its path in there:
  with the ending in a folder, without it in an archive. A known position may
  lie beside NAME.jpg in NAME.json: {"latitude": 52.5, "longitude": 13.4}, in
  the documents of Google Takeout (name all parts of an export), or in NAME.xmp.
  A CSV or Parquet file that is named is a table with a row for each photo: a
  column of places (uri, url, path or the like; paths below the folder of the
  table, gs:// or s3://) and, if you like, `key`, `prior` (for this photo alone,
  as --prior says it for all), `latitude`, `longitude` and `captured_at`.
  No known position, in documents, tables or in EXIF, is used for the answer;
  summary and report compare it with them.

output:
  predictions/part-<shard>.parquet   geopandas.read_parquet("out/predictions")
                                     reads them all
  errors/part-<shard>.parquet        key, shard, stage, status, message
  regions/, areas/, thumbnails/      the same way, with --regions, --areas,
                                     --thumbnails
  embeddings/                        the same way, with --embeddings
  albums/                            with --albums, as of `locdiffusion albums`
  map.html, map.png                  the answers on the globe
  report.html                        how good it is where positions are known
  summary.json                       counts, damage, files left out, accuracy
  map.html shows names of photos, when they were taken, and known positions:
  before you share it, see `reveals` in summary.json, and --no-positions.

read more:
  docs/OUTPUT.md (files and columns), docs/RECIPES.md (GeoPandas, DuckDB, QGIS),
  docs/GEOCLIP.md (photos from the ground), deploy/README.md (Google Dataflow)
"""

FAILED = "no photo geotagged, too many failed, a shard damaged, or a disk full"


@dataclass(frozen=True)
class GeotagOptions(JobFlags):
    """The checked settings of a geotag job.

    Attributes:
        input: Folders, and patterns of shards.
        exclude: Patterns of photos and folders that are left out.
        follow_links: Whether links in folders are followed that lead out of them.
        loader: Builds the Geotagger.
        extras: Layers and columns that are written besides points.
        batch_size: Most photos per call of the model.
        max_error_fraction: Share of failed photos above which the exit status is 1.
        accept_damaged: Whether damaged shards leave the exit status at 0.
        retry_failed: Whether photos among the errors are done again.
        from_embeddings: Whether the input is an output whose embeddings are geotagged.
        albums: Whether the photos are placed by the others of their album when all is done.
    """

    input: tuple[str, ...]
    exclude: tuple[str, ...]
    follow_links: bool
    loader: GeotaggerLoader
    extras: Extras
    batch_size: int
    max_error_fraction: float
    accept_damaged: bool
    retry_failed: bool
    from_embeddings: bool = False
    albums: bool = False

    @property
    def again(self) -> list[str]:
        """The words to type for the summary of a job that nobody waited for."""
        accept = ["--accept-damaged"] if self.accept_damaged else []
        words = ["locdiffusion", "geotag", *self.input, "--output", self.output]
        source = ["--from-embeddings"] if self.from_embeddings else []
        return [*words, *source, "--summarise", *accept]


def geotag_parser() -> JobParser:
    """Returns the parser of the command."""
    usage = "PATH ... [--output DIR] [flags]"
    parser = JobParser("geotag", usage, ABOUT, MORE, FAILED)
    group = parser.add_argument_group("input and output")
    add_input(
        group,
        "folders of photos, tars, zips or tables of photos: paths, quoted globs, ranges "
        "{000..009}; local, gs:// or what fsspec opens",
    )
    add_flags(
        group,
        "--output",
        help="directory to create, or to resume (default for one folder or archive: its name and "
        "-geotags, in the current directory; several paths have none)",
    )
    add_flags(group, "--exclude", "--follow-links", "--overwrite")
    group.add_argument(
        "--salvage",
        **SWITCH,
        help="geotag a picture without its last bytes from the rows that are there; without this "
        "it is an error, `incomplete_image`",
    )
    group.add_argument(
        "--from-embeddings",
        **SWITCH,
        help="PATH is the output of a run with --embeddings: geotag what it kept, with another "
        "checkpoint of the same encoder, another prior, regions or a gallery; reads no photo and "
        "loads no encoder",
    )
    group = parser.add_argument_group("the model")
    add_flags(group, *(f"--{name}" for name in MODEL), "--bf16", "--no-bf16")
    about = "most photos per call of the model; changes results only by rounding errors"
    add_number(group, "--batch-size", positive, 32, "N", about)
    _add_extras(parser.add_argument_group("what is written besides points"))
    group = add_job_flags(parser)
    about = "exit with 1 if more than this part of the photos failed"
    add_number(group, "--max-error-fraction", fraction, 1.0, "X", about)
    about = "exit with 0 although a shard is damaged, if all that can be read of it is geotagged"
    group.add_argument("--accept-damaged", **SWITCH, help=about)
    about = "do the photos again that failed before; predictions stay as they are"
    group.add_argument("--retry-failed", **SWITCH, help=about)
    return parser


def _add_extras(group: argparse._ActionsContainer) -> None:
    add = group.add_argument
    add(
        "--regions",
        **SWITCH,
        help="draw the areas that contain the place with probability 50 %% and 90 %%, as "
        "polygons in a layer of their own; about 40 ms of a core per photo",
    )
    add(
        "--areas",
        metavar="KIND,...",
        help="write how likely areas are, down to 1 %%, in a layer of its own; kinds: country, "
        "region (ISO 3166-2), admin (the polygons of --admin), h3:R (cells of H3 of resolution R "
        "or coarser, 4 by default)",
    )
    add(
        "--embeddings",
        **SWITCH,
        help="keep what the encoder makes of each photo, in half precision, for later runs with "
        "--from-embeddings; 2 to 4 kB per photo",
    )
    add(
        "--albums",
        **SWITCH,
        help="keep embeddings, and when all is done place each photo by the others of its camera "
        "and folder, too, as `locdiffusion albums` does; predictions stay as they are",
    )
    about = "keep small pictures of at most N photos of each shard, for the map"
    add_number(group, "--thumbnails", whole, 0, "N", about)
    add(
        "--keep",
        action="append",
        default=[],
        metavar="FIELD,...",
        help="take fields of the .json beside each photo along as columns of text, such as "
        "licence,url,event; a field within another is OUTER.INNER; may be repeated",
    )
    about = "write a hash of each photo's bytes into the column `sha256`"
    add("--sha256", **SWITCH, help=about)
    add(
        "--no-positions",
        **SWITCH,
        help="leave out what is known of positions, in EXIF and in documents, and the zones of "
        "capture times, so that the output, its map and its report may be shared without them; "
        "accuracy is not computed then",
    )
    add(
        "--hints",
        metavar="FILE",
        help="CSV or Parquet that says where photos may be from: photo_id or key; `hint` (an area "
        "as of --prior, or POLYGON((...))), or latitude, longitude and radius_km, or country; and "
        "`weight`, the probability that this is right; see the column `prior_mass`",
    )
    about = "weight of hints where the file has none"
    add_number(group, "--hints-right", fraction, HINTS_RIGHT, "P", about)
    add(
        "--admin",
        metavar="FILE",
        help="polygons of your own (GeoJSON, GeoParquet, GeoPackage or a zipped shapefile), such "
        "as districts: the name of the one around each point goes into the column `admin`",
    )
    about = "column of --admin that holds the names (default: `name`, or the only one of text)"
    add("--admin-name", metavar="COLUMN", help=about)
    about = "column of --admin that holds codes (default: `code`, `iso` or `id`, if it has one)"
    add("--admin-code", metavar="COLUMN", help=about)


def parse(arguments: Sequence[str] | None = None) -> GeotagOptions:
    """Parses words, by default those of `sys.argv`.

    Raises:
        UsageError: A flag is known neither here nor to Beam, or a value is out of range.
    """
    parser = geotag_parser()
    ours = parser.parse_job(arguments)
    if ours.input and not ours.output:
        ours.output = _default_output(ours.input)
    if not (ours.input or ours.summarise):
        raise UsageError(
            "no photos are named; name a folder, a tar or a zip of photos: "
            "locdiffusion geotag FOLDER"
        )
    parser.require(ours, "output")
    for flag, column in (("--admin-name", ours.admin_name), ("--admin-code", ours.admin_code)):
        if column is not None and ours.admin is None:
            raise UsageError(f"{flag} {column} is a column of no file; name the file: --admin FILE")
    _check_prior(ours.prior)
    _check_seen_by_workers(ours)
    ours.keep = parse_fields(ours.keep, ours.no_positions)
    if ours.prior:
        path, sea = prior_file(ours.prior)
        ours.prior = with_sea(_absolute(path), sea)
    check_hints(ours)
    for name in ("gallery", "admin", "hints"):
        setattr(ours, name, getattr(ours, name) and _absolute(getattr(ours, name)))
    ours.checkpoint = _located(ours.checkpoint)
    if ours.from_embeddings:
        _check_embedded(ours)
    named = ["regions", "thumbnails", "admin", "admin_name", "admin_code", "salvage"]
    named += ["no_positions", "embeddings", "sha256", "keep", "hints", "hints_right"]
    loader = EmbeddedLoader if ours.from_embeddings else GeotaggerLoader
    extras = {name: getattr(ours, name) for name in named}
    extras["embeddings"] |= ours.albums
    extras["areas"] = _area_kinds(ours.areas, ours.admin)
    return GeotagOptions(
        **job_settings(ours),
        input=tuple(ours.input),
        exclude=tuple(ours.exclude),
        follow_links=ours.follow_links,
        loader=loader(**{name: getattr(ours, name) for name in (*MODEL, "bf16")}),
        extras=Extras(**extras),
        batch_size=ours.batch_size,
        max_error_fraction=ours.max_error_fraction,
        accept_damaged=ours.accept_damaged,
        retry_failed=ours.retry_failed,
        from_embeddings=ours.from_embeddings,
        albums=ours.albums,
    )


def _area_kinds(text: str | None, admin: str | None) -> tuple[str, ...]:
    """Returns the kinds of areas that a text names; UsageError for another kind."""
    wanted = tuple(kind.strip() for kind in (text or "").split(",") if kind.strip())
    try:
        kinds = [kind_of(kind) for kind in wanted]
    except ValueError as error:
        raise UsageError(f"--areas: {error}") from error
    if len(set(kinds)) < len(kinds):
        raise UsageError(f"--areas {text} names a kind twice; name each once")
    if AreaKind.ADMIN in kinds and admin is None:
        raise UsageError("--areas admin wants polygons; name their file: --admin FILE")
    return wanted


def _check_embedded(ours: argparse.Namespace) -> None:
    """Raises UsageError for flags about photos, and for an output that is the input."""
    about_photos = ("encoder", "bf16", "embeddings", "albums", "thumbnails", "salvage", "exclude")
    for name in (*about_photos, "follow_links", "sha256", "keep"):
        if getattr(ours, name):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{flag} is about photos and their encoder, and --from-embeddings reads none; "
                f"leave one of the two out"
            )
    if len(ours.input) != 1 and not ours.summarise:
        raise UsageError(
            f"--from-embeddings takes the output of one run, and {len(ours.input)} paths are "
            "named; give one"
        )
    if ours.input and os.path.realpath(ours.input[0]) == os.path.realpath(ours.output):
        raise UsageError(
            f"--output {ours.output} is the output that holds the embeddings; give another"
        )


def _default_output(inputs: Sequence[str]) -> str:
    """Returns a directory named after the one folder or archive; UsageError among the photos."""
    given = inputs[0]
    if len(inputs) > 1 or "://" in given or (set("*?[{") & set(given) and not Path(given).exists()):
        raise UsageError(
            f"where to? {shlex.join(inputs)} is not one folder or archive, after which the "
            "output could be named; give --output DIR"
        )
    path = Path(from_home(given)).resolve()
    name = f"{path.name.partition('.')[0] if path.is_file() else path.name}-geotags"
    if path in Path(name).resolve().parents:
        raise UsageError(
            f"the geotags of {given} would lie among its photos; give another place, such as "
            f"--output {path.parent / name}"
        )
    return name


def _check_prior(prior: str | None) -> None:
    """Raises UsageError for an area that is none, and for several files."""
    if prior is None or os.path.exists(prior) or os.path.exists(prior_file(prior)[0]):
        return
    try:
        areas = Areas.parse(prior)
    except AreaError as error:
        raise UsageError(f"--prior {prior!r} cannot be used: {error}") from error
    if areas is None and SEPARATOR in prior:
        raise UsageError(
            f"--prior {prior!r} joins what stands alone; only countries and discs can be given "
            "several at once, so put the polygons into one file"
        )


def _check_seen_by_workers(ours: argparse.Namespace) -> None:
    """Raises UsageError for a file on this machine that workers in the cloud would look for."""
    if "dataflow" not in ours.runner.lower():
        return
    for flag in ("--prior", "--admin", "--gallery", "--hints"):
        path = getattr(ours, flag.removeprefix("--"))
        if path and os.path.isfile(path):
            raise UsageError(
                f"{flag} {path} lies on this machine, which workers of {ours.runner} do not see; "
                f"copy it to a bucket and give {flag} gs://BUCKET/{os.path.basename(path)}"
            )


def _absolute(path: str) -> str:
    """A local file as workers in another directory find it; names and URLs as they are."""
    return os.path.abspath(path) if os.path.isfile(path) else path


def _located(checkpoint: str | None) -> str | None:
    """A path as an absolute one: workers may live in another directory. URLs and names stay."""
    if checkpoint is None or os.sep not in checkpoint or "://" in checkpoint:
        return checkpoint
    return os.path.abspath(checkpoint)

"""The command line of `pipelines.geotag`: every flag is known, or refused with a suggestion."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.beam.flags import (
    SWITCH,
    JobFlags,
    Parser,
    UsageError,
    add_runner,
    add_waiting,
    check_runner,
    check_wait,
    fraction,
    positive,
    refuse_unknown,
    whole,
)
from pipelines.geotag.model_cache import GeotaggerLoader
from pipelines.geotag.tables import Extras

DESCRIPTION = """\
Geotags an archive: reads photos from tar shards or folders and writes where each was taken, how far
off that may be, and the alternatives, as GeoParquet. Every photo becomes a row of predictions or a
row of errors. A job that was stopped goes on where it was when the same command is typed again.
"""

EPILOG = """\
a shard is a tar of <key>.jpg|jpeg|png|webp|heic|heif, with the true position in <key>.json where
known: {"latitude": 52.5, "longitude": 13.4}. A folder is searched for such photos, its sub-folders
too; there the key is the path in the folder. HEIC needs `pip install pi-heif`.

what is written to --output:
  predictions/part-<shard>.parquet   geopandas.read_parquet("OUT/predictions") reads them all
  errors/part-<shard>.parquet        key, shard, stage, status, message
  regions/ thumbnails/               the same way, with --regions and --thumbnails
  summary.json map.png map.html      counts, accuracy where the truth is known, maps
  report.html                        how good it is where positions are known

examples:
  python -m pipelines.geotag --input 'photos/*.tar' --output out
  python -m pipelines.geotag --input ~/Pictures --output out
  python -m pipelines.geotag --input 'photos/{000..099}.tar' more.tar.gz --output out
  python -m pipelines.geotag --input 'photos/*.tar' --output out --mode sampling --samples 32
  python -m pipelines.geotag --input 'photos/*.tar' --output out \\
      --direct_num_workers 4 --direct_running_mode multi_processing
  python -m pipelines.geotag --input 'gs://BUCKET/photos/*.tar' --output gs://BUCKET/out \\
      --runner DataflowRunner --project PROJECT --region europe-west4 \\
      --temp_location gs://BUCKET/tmp --setup_file ./setup.py --no-wait
  python -m pipelines.geotag --input 'gs://BUCKET/photos/*.tar' --output gs://BUCKET/out --summarise

every flag of Apache Beam is understood as well. Exit status: 0 done, also with photos in errors
(with --no-wait: submitted); 1 no photo could be geotagged, too many failed, a shard could not be
read to its end, or a count does not add up; 2 a mistake in the command.
"""


@dataclass(frozen=True)
class GeotagOptions(JobFlags):
    """What was asked for, checked; also where the job runs.

    Attributes:
        input: Patterns of shards.
        output: Directory or URL.
        loader: How to build the Geotagger.
        extras: What to write besides points.
        batch_size: Most photos per call of the model.
        overwrite: Whether to delete an earlier run's files first.
        max_error_fraction: Of photos, above which the exit status is 1.
        summarise: Whether to run no job and only to summarise what is in `output`.
    """

    input: tuple[str, ...]
    output: str
    loader: GeotaggerLoader
    extras: Extras
    batch_size: int
    overwrite: bool
    max_error_fraction: float
    summarise: bool

    @property
    def again(self) -> list[str]:
        """The words to type for the summary of a job that nobody waited for."""
        words = ["python", "-m", "pipelines.geotag", "--input", *self.input]
        return [*words, "--output", self.output, "--summarise"]


def geotag_parser() -> argparse.ArgumentParser:
    """The flags that are ours."""
    parser = Parser(
        prog="python -m pipelines.geotag",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--input",
        nargs="+",
        default=[],
        metavar="PATH",
        help="shards or folders of photos: paths, quoted globs, ranges {000..009}; local, gs:// or "
        "what fsspec opens",
    )
    add("--output", metavar="DIR", help="directory to create, or to resume")
    add("--checkpoint", metavar="PATH", help="trained model; default: the one that is shipped")
    add(
        "--encoder",
        metavar="NAME",
        help="image encoder; default: the checkpoint's own, and any other is refused",
    )
    add(
        "--prior",
        metavar="NAME|FILE",
        help="where the photos may come from: land, uniform, or a file of polygons (GeoJSON or "
        "GeoParquet, with a column `weight` if some are likelier); outside the polygons nothing is "
        "an answer; default: the checkpoint's own",
    )
    add(
        "--gallery",
        metavar="geoclip|FILE",
        help="fill the columns hybrid_latitude and hybrid_longitude with the place of this list "
        "that agrees best with photo and density near the answer: geoclip (its own 100,000), or a "
        "CSV or Parquet file with latitude and longitude; each worker takes about a minute per "
        "100,000 places at its start; only with a checkpoint of the encoder geoclip",
    )
    add(
        "--admin",
        metavar="FILE",
        help="polygons of your own (GeoJSON or GeoParquet), such as districts: the name of the one "
        "around each point goes into the column `admin`",
    )
    add(
        "--admin_name",
        metavar="COLUMN",
        help="which column of --admin holds the names; default: `name`, or the only one of text",
    )
    add(
        "--regions",
        **SWITCH,
        help="draw the regions that hold the photo with 50 %% and 90 %%, as polygons in a layer of "
        "their own; about 50 ms per photo",
    )
    add(
        "--thumbnails",
        type=whole,
        default=0,
        metavar="N",
        help="keep small pictures of at most N photos of each shard, for the map (%(default)s)",
    )
    add(
        "--mode",
        choices=["density", "sampling"],
        default="density",
        help="density: one network call per photo; sampling: mixes reverse diffusions, several "
        "times slower (%(default)s)",
    )
    add(
        "--samples",
        type=positive,
        default=16,
        metavar="N",
        help="samples per photo in sampling mode (%(default)s)",
    )
    add(
        "--steps",
        type=positive,
        default=8,
        metavar="N",
        help="steps of the sampler in sampling mode (%(default)s)",
    )
    add("--seed", type=int, default=0, help="same seed, same rows (%(default)s)")
    add("--device", default="cpu", help="torch device on each worker (%(default)s)")
    add(
        "--bf16",
        **SWITCH,
        help="embed in bfloat16: faster on a GPU, a little less exact; needs --device cuda",
    )
    add(
        "--batch_size",
        type=positive,
        default=32,
        metavar="N",
        help="most photos per call of the model; moves rows only by rounding (%(default)s)",
    )
    add_runner(parser)
    add(
        "--overwrite",
        **SWITCH,
        help="delete what an earlier run wrote to --output, and nothing else, then start anew",
    )
    add(
        "--max_error_fraction",
        type=fraction,
        default=1.0,
        metavar="X",
        help="exit with 1 if more than this part of the photos ended as errors (%(default)s)",
    )
    add_waiting(parser)
    add(
        "--summarise",
        **SWITCH,
        help="run no job: write the summary, the maps and the report of what is in --output by "
        "now; with --input, say which shards are missing",
    )
    return parser


def parse(arguments: Sequence[str] | None = None) -> GeotagOptions:
    """Parses a command line.

    Args:
        arguments: Without the program's name; None takes `sys.argv`.

    Raises:
        UsageError: For a flag that neither we nor Beam know, or a value out of range.
    """
    parser = geotag_parser()
    ours, rest = parser.parse_known_args(arguments)
    refuse_unknown(rest, parser)
    check_runner(ours.runner)
    _check_required(ours)
    if ours.admin_name is not None and ours.admin is None:
        raise UsageError(
            f"--admin_name {ours.admin_name} is a column of no file; name the file: --admin FILE"
        )
    _check_seen_by_workers(ours)
    loader = GeotaggerLoader(
        checkpoint=_located(ours.checkpoint),
        encoder=ours.encoder,
        device=ours.device,
        mode=ours.mode,
        samples=ours.samples,
        steps=ours.steps,
        seed=ours.seed,
        bf16=ours.bf16,
        prior=ours.prior and _absolute(ours.prior),
        gallery=ours.gallery and _absolute(ours.gallery),
    )
    return GeotagOptions(
        input=tuple(ours.input),
        output=ours.output,
        loader=loader,
        extras=Extras(
            regions=ours.regions,
            thumbnails=ours.thumbnails,
            admin=ours.admin and _absolute(ours.admin),
            admin_name=ours.admin_name,
            hybrid=bool(ours.gallery),
        ),
        runner=ours.runner,
        batch_size=ours.batch_size,
        overwrite=ours.overwrite,
        max_error_fraction=ours.max_error_fraction,
        wait=check_wait(ours.wait, ours.runner, rest),
        summarise=ours.summarise,
        beam_flags=tuple(rest),
    )


def _check_seen_by_workers(ours: argparse.Namespace) -> None:
    """Raises UsageError for a file on this machine that workers in the cloud would look for."""
    if "dataflow" not in ours.runner.lower():
        return
    for flag in ("--prior", "--admin", "--gallery"):
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


def _check_required(ours: argparse.Namespace) -> None:
    wanted = ("output",) if ours.summarise else ("input", "output")
    missing = [f"--{name}" for name in wanted if not getattr(ours, name)]
    if missing:
        raise UsageError(f"the following arguments are required: {', '.join(missing)}; see --help")

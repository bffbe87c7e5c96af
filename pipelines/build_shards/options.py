"""The command line of `pipelines.build_shards`."""

from __future__ import annotations

import argparse
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
from pipelines.build_shards.candidates import Workers
from pipelines.build_shards.encoding import Encoding
from pipelines.build_shards.filters import LICENCES, UNKNOWN, Filters
from pipelines.build_shards.settings import Route, Rules, Source
from pipelines.sources.download import FetchSettings

DESCRIPTION = """\
Builds training shards: reads lists of geotagged photos, leaves out what is broken, unwanted or part
of a benchmark, fetches the photos, scales them, takes out duplicates and writes webdataset tars.
All photos of a photographer are for training or all for validation. Every record is kept or dropped
with a reason. A build that was stopped goes on when the same command is typed again.
"""

EPILOG = f"""\
sources, and where their images may come from:
  mp16        *_places365.csv      --images ROOT                    ROOT/45/77/3228511372.jpg
                                   --images ROOT --messages GLOB    ROOT/shard_0.msg ...
                                   --urls mp16_urls.csv             downloaded
  yfcc100m    yfcc100m_dataset     --images ROOT [--hashes FILE]    ROOT/HHH/HHH/HASH.jpg
              (plain or .bz2)      --download                       each row's own address
  webdataset  tars with .json      in the tars

what is written to --output:
  train/train-00000.tar val/...    <key>.jpg, <key>.json, with --embed <key>.npy (float16)
  index/part-<shard>.parquet       GeoParquet, a row per photo; has the photographers' ids
  dropped/part-<piece>.parquet     key, reason, detail, line
  summary.json datasheet.md density.png

licences, for --licences: {", ".join([*LICENCES, UNKNOWN])}

examples:
  python -m pipelines.build_shards --source mp16 --metadata mp16_places365.csv \\
      --images images --messages 'shard_*.msg' --output mp16 \\
      --exclude im2gps3k_places365.csv yfcc25600_places365.csv
  python -m pipelines.build_shards --source yfcc100m --metadata 'yfcc100m_dataset-*.bz2' \\
      --hashes yfcc100m_hash.bz2 --images s3://multimedia-commons/data/images --output yfcc \\
      --min-accuracy 14 --licences by by-sa --author-cap 200 --cell-cap 2000
  python -m pipelines.build_shards --source webdataset --metadata 'old/*.tar' --output new \\
      --embed efficientnet_lite0 --direct_num_workers 4 --direct_running_mode multi_processing
  python -m pipelines.build_shards --source mp16 --metadata gs://BUCKET/mp16_places365.csv \\
      --images gs://BUCKET/mp16 --output gs://BUCKET/shards --runner DataflowRunner \\
      --project PROJECT --region europe-west4 --temp_location gs://BUCKET/tmp \\
      --setup_file ./setup.py --no-wait

every flag of Apache Beam is understood as well. Exit status: 0 done (with --no-wait: submitted);
1 no photo is kept, images could not be fetched, or a count does not add up; 2 a mistake in the
command.
"""


@dataclass(frozen=True)
class BuildOptions(JobFlags):
    """What was asked for, checked; also where the job runs.

    Attributes:
        source: Of the records.
        route: To the images.
        metadata: Patterns of lists, or of tars.
        links: Patterns of lists that tell where images are.
        images: Root of the images; empty where they have none in common.
        exclude: Patterns of lists of what must not be learnt.
        rules: What is kept.
        workers: How images are worked on.
        output: Directory or URL.
        overwrite: Whether to delete an earlier build's files first.
        summarise: Whether to run no job and only to summarise what is in `output`.
    """

    source: Source
    route: Route
    metadata: tuple[str, ...]
    links: tuple[str, ...]
    images: str
    exclude: tuple[str, ...]
    rules: Rules
    workers: Workers
    output: str
    overwrite: bool
    summarise: bool

    @property
    def again(self) -> list[str]:
        """The words to type for the summary of a job that nobody waited for."""
        return ["python", "-m", "pipelines.build_shards", "--output", self.output, "--summarise"]


def build_shards_parser() -> argparse.ArgumentParser:
    """The flags that are ours."""
    parser = Parser(
        prog="python -m pipelines.build_shards",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_inputs(parser)
    _add_rules(parser)
    _add_work(parser)
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--source", choices=[source.value for source in Source], help="format of the records")
    add(
        "--metadata",
        nargs="+",
        default=[],
        metavar="FILE",
        help="lists of records, or tars: paths, quoted globs, ranges {000..009}; local, gs:// or "
        "what fsspec opens",
    )
    add("--images", default="", metavar="ROOT", help="folder or bucket of the images")
    add("--messages", default="", metavar="GLOB", help="mp16: msgpack shards under --images")
    add("--hashes", nargs="+", default=[], metavar="FILE", help="yfcc100m_hash, for 23 columns")
    add("--urls", nargs="+", default=[], metavar="FILE", help="mp16_urls.csv: download from there")
    add("--download", **SWITCH, help="yfcc100m: download from the address in each row")
    add("--output", metavar="DIR", help="directory to create, or to resume")
    add(
        "--exclude",
        nargs="+",
        default=[],
        metavar="LIST",
        help="benchmarks' lists: their photos, and all photos by their photographers, are left out",
    )


def _add_rules(parser: argparse.ArgumentParser) -> None:
    rules = Rules()
    add = parser.add_argument
    add(
        "--val-fraction",
        type=fraction,
        default=rules.val_fraction,
        metavar="X",
        help="of the photographers, whose photos are for validation (%(default)s)",
    )
    add(
        "--min-accuracy",
        type=whole,
        default=0,
        metavar="N",
        help="yfcc100m: 1 (world) to 16 (street) (any)",
    )
    add(
        "--licences",
        nargs="+",
        default=[],
        choices=[*LICENCES, UNKNOWN],
        metavar="CODE",
        help="yfcc100m, webdataset: licences that are kept (all)",
    )
    add(
        "--author-cap",
        type=whole,
        default=0,
        metavar="N",
        help="most photos per photographer; 0: any number (%(default)s)",
    )
    add(
        "--cell-cap",
        type=whole,
        default=0,
        metavar="N",
        help="most photos per cell; 0: any number (%(default)s)",
    )
    add(
        "--cell-degrees",
        type=float,
        default=rules.cell_degrees,
        metavar="X",
        help="height and width of a cell; 1 degree is 111 km (%(default)s)",
    )
    add(
        "--min-size",
        type=positive,
        default=rules.encoding.min_size,
        metavar="PX",
        help="shorter side below which a photo is dropped (%(default)s)",
    )
    add(
        "--image-size",
        type=positive,
        default=rules.encoding.image_size,
        metavar="PX",
        help="shorter side of the photos in the shards; none is enlarged (%(default)s)",
    )
    add(
        "--jpeg-quality",
        type=positive,
        default=rules.encoding.quality,
        metavar="N",
        help="1 to 95 (%(default)s)",
    )
    add(
        "--shard-size",
        type=positive,
        default=rules.shard_size,
        metavar="N",
        help="photos per shard, about (%(default)s)",
    )
    add("--embed", metavar="ENCODER", help="store embeddings, such as of efficientnet_lite0 (none)")
    add("--seed", type=int, default=0, help="same input and seed, same bytes (%(default)s)")


def _add_work(parser: argparse.ArgumentParser) -> None:
    fetch, workers = FetchSettings(), Workers()
    add = parser.add_argument
    add("--device", default=workers.device, help="torch device of the encoder (%(default)s)")
    add(
        "--connections",
        type=positive,
        default=fetch.connections,
        metavar="N",
        help="images fetched at a time by each worker process (%(default)s)",
    )
    add(
        "--per-host",
        type=positive,
        default=fetch.per_host,
        metavar="N",
        help="downloads at a time from one host by each worker process (%(default)s)",
    )
    add(
        "--attempts",
        type=positive,
        default=fetch.attempts,
        metavar="N",
        help="tries per download, with growing waits between them (%(default)s)",
    )
    add(
        "--user-agent",
        default=fetch.user_agent,
        metavar="TEXT",
        help="who asks; name an address where you can be reached (%(default)s)",
    )
    add(
        "--max-fetch-failures",
        type=fraction,
        default=workers.max_fetch_failures,
        metavar="X",
        help="part of a shard's images that may fail to be fetched, beyond those that are gone; "
        "above it the job stops, to be continued (%(default)s)",
    )
    add_runner(parser)
    add(
        "--overwrite",
        **SWITCH,
        help="delete what an earlier build wrote to --output, and nothing else, then start anew",
    )
    add_waiting(parser)
    add("--summarise", **SWITCH, help="run no job: summarise what is in --output by now")


def parse(arguments: Sequence[str] | None = None) -> BuildOptions:
    """Parses a command line.

    Args:
        arguments: Without the program's name; None takes `sys.argv`.

    Raises:
        UsageError: For a flag that neither we nor Beam know, a value out of range, or flags that do
            not go together.
    """
    parser = build_shards_parser()
    ours, rest = parser.parse_known_args(arguments)
    refuse_unknown(rest, parser)
    check_runner(ours.runner)
    _check_required(ours)
    source = Source(ours.source or Source.WEBDATASET.value)  # of a summary: not looked at
    links = [*ours.hashes, *ours.urls]
    if ours.messages:
        links.append(f"{ours.images.rstrip('/')}/{ours.messages}")
    return BuildOptions(
        runner=ours.runner,
        wait=check_wait(ours.wait, ours.runner, rest),
        beam_flags=tuple(rest),
        source=source,
        route=Route.TAR if ours.summarise else _route(ours, source),
        metadata=tuple(ours.metadata),
        links=tuple(links),
        images=ours.images,
        exclude=tuple(ours.exclude),
        rules=_rules(ours, source),
        workers=_workers(ours),
        output=ours.output,
        overwrite=ours.overwrite,
        summarise=ours.summarise,
    )


def _check_required(ours: argparse.Namespace) -> None:
    wanted = ("output",) if ours.summarise else ("source", "metadata", "output")
    missing = [f"--{name}" for name in wanted if not getattr(ours, name)]
    if missing:
        raise UsageError(f"the following arguments are required: {', '.join(missing)}; see --help")


_ROUTES: dict[Source, dict[tuple[str, ...], Route]] = {
    Source.MP16: {
        ("images",): Route.FOLDER,
        ("images", "messages"): Route.MESSAGES,
        ("urls",): Route.DOWNLOAD,
    },
    Source.YFCC100M: {
        ("images",): Route.HASH,
        ("images", "hashes"): Route.HASH,
        ("download",): Route.DOWNLOAD,
    },
    Source.WEBDATASET: {(): Route.TAR},
}


def _route(ours: argparse.Namespace, source: Source) -> Route:
    """Where images come from, by the flags that are there."""
    flags = ("images", "messages", "hashes", "urls", "download")
    given = tuple(name for name in flags if getattr(ours, name))
    known = _ROUTES[source]
    if given in known:
        return known[given]
    ways = [" ".join(f"--{name}" for name in way) or "none of them" for way in known]
    found = " ".join(f"--{name}" for name in given) or "none of them"
    raise UsageError(
        f"--source {source.value} finds its images by {' or '.join(ways)}; found {found}; see "
        "--help"
    )


def _rules(ours: argparse.Namespace, source: Source) -> Rules:
    if ours.min_accuracy and source is not Source.YFCC100M:
        raise UsageError(f"--min-accuracy: the records of {source.value} tell no accuracy")
    if ours.licences and source is Source.MP16:
        raise UsageError("--licences: the records of mp16 tell no licence; take it from yfcc100m")
    for name, low, high in (("jpeg_quality", 1, 95), ("min_accuracy", 0, 16)):
        if not low <= getattr(ours, name) <= high:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is {getattr(ours, name)}, wanted {low} to {high}")
    if not 0.01 <= ours.cell_degrees <= 90:
        raise UsageError(f"--cell-degrees is {ours.cell_degrees:g}, wanted 0.01 to 90")
    return Rules(
        filters=Filters(ours.min_accuracy, tuple(sorted(set(ours.licences)))),
        encoding=Encoding(ours.image_size, ours.jpeg_quality, ours.min_size),
        author_cap=ours.author_cap,
        cell_cap=ours.cell_cap,
        cell_degrees=ours.cell_degrees,
        val_fraction=ours.val_fraction,
        shard_size=ours.shard_size,
        encoder=ours.embed,
        seed=ours.seed,
    )


def _workers(ours: argparse.Namespace) -> Workers:
    fetch = FetchSettings(
        connections=ours.connections,
        per_host=ours.per_host,
        attempts=ours.attempts,
        seed=ours.seed,
        user_agent=ours.user_agent,
    )
    return Workers(fetch, ours.device, ours.max_fetch_failures)

"""The command line of `locdiffusion build-shards`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from locdiffusion.cli.flags import add_flags, add_input, add_number
from locdiffusion.cli.parser import SWITCH, UsageError, fraction, positive, whole
from locdiffusion.files import absolute
from pipelines.beam.flags import JobFlags, JobParser, add_job_flags, job_settings
from pipelines.build_shards.candidates import Workers
from pipelines.build_shards.encoding import Encoding
from pipelines.build_shards.filters import LICENCES, UNKNOWN, Filters
from pipelines.build_shards.settings import Route, Rules, Source
from pipelines.sources.download import FetchSettings

ABOUT = """\
Builds training shards: reads lists of geotagged photos, leaves out what is broken,
unwanted or part of a benchmark, fetches the photos, scales them, takes out
duplicates and writes webdataset tars. All photos of a photographer are for training
or all for validation. Every record is kept or dropped with a reason. A build that
was stopped goes on where it was when the same command is typed again.

examples:
  locdiffusion build-shards --source mp16 --input mp16_places365.csv \\
      --images images --messages 'shard_*.msg' --output mp16 \\
      --exclude im2gps3k_places365.csv yfcc25600_places365.csv
  locdiffusion build-shards --source yfcc100m --input 'yfcc100m_dataset-*.bz2' \\
      --hashes yfcc100m_hash.bz2 --images s3://multimedia-commons/data/images \\
      --output yfcc --min-accuracy 14 --licences by by-sa --author-cap 200
  locdiffusion build-shards --source webdataset --input 'old/*.tar' \\
      --output new --embed efficientnet_lite0 \\
      --direct_num_workers 4 --direct_running_mode multi_processing
  locdiffusion build-shards --source mp16 \\
      --input gs://BUCKET/mp16_places365.csv --images gs://BUCKET/mp16 \\
      --output gs://BUCKET/shards --runner DataflowRunner --project PROJECT \\
      --region europe-west4 --temp_location gs://BUCKET/tmp \\
      --setup_file ./setup.py --no-wait
"""

MORE = f"""\
sources, and where their images may come from:
  mp16        *_places365.csv,
              MP16-Pro          --images ROOT            ROOT/45/77/322.jpg
                                --images ROOT --messages GLOB
                                                         ROOT/shard_0.msg ...
                                --images ROOT --tars GLOB
                                                         tars: 45_77_322.jpg
                                --urls mp16_urls.csv     downloaded
  yfcc100m    yfcc100m_dataset  --images ROOT [--hashes FILE]
              (plain or .bz2)                            ROOT/HHH/HHH/HASH.jpg
                                --download               each row's address
  webdataset  tars with .json   in the tars

output:
  train/train-00000.tar, val/    <key>.jpg, <key>.json; <key>.npy with --embed
  index/part-<shard>.parquet     GeoParquet, a row per photo, has photographers
  dropped/part-<piece>.parquet   key, reason, detail, line
  summary.json, datasheet.md, density.png

licences:
  {", ".join([*LICENCES, UNKNOWN])}

read more:
  docs/MP16.md (the two data sets), docs/TRAINING.md,
  deploy/README.md (Google Dataflow)
"""

FAILED = "no photo is kept, images could not be fetched, or a count does not add up"


@dataclass(frozen=True)
class BuildOptions(JobFlags):
    """The checked settings of a build.

    Attributes:
        source: Format of the records.
        route: Way to the images.
        metadata: Patterns of lists of photos, or of tars.
        links: Patterns of lists that tell where images are.
        images: Root of the images; empty where they have none in common.
        exclude: Patterns of lists of what must not be learnt.
        rules: Rules that decide what is kept.
        workers: Settings of fetching and encoding.
    """

    source: Source
    route: Route
    metadata: tuple[str, ...]
    links: tuple[str, ...]
    images: str
    exclude: tuple[str, ...]
    rules: Rules
    workers: Workers

    @property
    def again(self) -> list[str]:
        """The words to type for the summary of a job that nobody waited for."""
        return ["locdiffusion", "build-shards", "--output", self.output, "--summarise"]


def build_shards_parser() -> JobParser:
    """Returns the parser of the command."""
    usage = "--source FORMAT FILE ... --output DIR [flags]"
    old = {"--metadata": "--input"}
    parser = JobParser("build-shards", usage, ABOUT, MORE, FAILED, old)
    _add_inputs(parser.add_argument_group("input and output"))
    _add_rules(parser.add_argument_group("what is kept, and how"))
    _add_work(parser.add_argument_group("fetching and encoding"))
    add_job_flags(parser)
    return parser


def _add_inputs(group: argparse._ActionsContainer) -> None:
    add = group.add_argument
    add("--source", choices=[source.value for source in Source], help="format of the lists")
    add_input(
        group,
        "lists of photos, or tars: paths, quoted globs, ranges {000..009}; local, gs:// or what "
        "fsspec opens",
        "FILE",
    )
    add_flags(group, "--output", "--overwrite")
    add("--images", default="", metavar="ROOT", help="folder or bucket of the images")
    add("--messages", default="", metavar="GLOB", help="mp16: msgpack shards under --images")
    about = "mp16: plain tars under --images, of pictures named 45_77_322.jpg or 45/77/322.jpg"
    add("--tars", default="", metavar="GLOB", help=about)
    add(
        "--hashes",
        nargs="+",
        default=[],
        metavar="FILE",
        help="yfcc100m_hash; needed where the lists have 23 columns",
    )
    add("--urls", nargs="+", default=[], metavar="FILE", help="mp16_urls.csv: download from there")
    add("--download", **SWITCH, help="yfcc100m: download from the address in each row")
    add(
        "--exclude",
        nargs="+",
        default=[],
        metavar="LIST",
        help="benchmarks' lists: their photos, and all photos by their photographers, are left out",
    )


def _add_rules(group: argparse._ActionsContainer) -> None:
    rules, add = Rules(), group.add_argument
    encoding = rules.encoding
    about = "yfcc100m, webdataset: licences that are kept (default all)"
    codes = [*LICENCES, UNKNOWN]
    add("--licences", nargs="+", default=[], choices=codes, metavar="CODE", help=about)
    about = "share of the photographers whose photos are for validation"
    add_number(group, "--val-fraction", fraction, rules.val_fraction, "X", about)
    about = "yfcc100m: 1 (world) to 16 (street); 0: any"
    add_number(group, "--min-accuracy", whole, 0, "N", about)
    about = "most photos per photographer; 0: any number"
    add_number(group, "--author-cap", whole, 0, "N", about)
    add_number(group, "--cell-cap", whole, 0, "N", "most photos per cell; 0: any number")
    about = "height and width of a cell; 1 degree is 111 km"
    add_number(group, "--cell-degrees", float, rules.cell_degrees, "X", about)
    about = "shorter side below which a photo is dropped"
    add_number(group, "--min-size", positive, encoding.min_size, "PX", about)
    about = "shorter side of the photos in the shards; none is enlarged"
    add_number(group, "--image-size", positive, encoding.image_size, "PX", about)
    add_number(group, "--jpeg-quality", positive, encoding.quality, "N", "1 to 95")
    add_number(group, "--shard-size", positive, rules.shard_size, "N", "photos per shard, about")
    about = "keys are hashes of the names, without a salt; index/ keeps the names as source_key"
    add("--hash-keys", **SWITCH, help=about)
    about = "store embeddings, such as of efficientnet_lite0 (default none)"
    add("--embed", metavar="ENCODER", help=about)
    add_flags(group, "--seed")


def _add_work(group: argparse._ActionsContainer) -> None:
    fetch, workers = FetchSettings(), Workers()
    add_flags(group, "--device")
    about = "images fetched at a time by each worker process"
    add_number(group, "--connections", positive, fetch.connections, "N", about)
    about = "downloads at a time from one host by each worker process"
    add_number(group, "--per-host", positive, fetch.per_host, "N", about)
    about = "tries per download, with growing waits between them"
    add_number(group, "--attempts", positive, fetch.attempts, "N", about)
    about = "part of a shard's images that may fail, besides those that are gone; above, it stops"
    add_number(group, "--max-fetch-failures", fraction, workers.max_fetch_failures, "X", about)
    about = "who asks; name an address where you can be reached (default %(default)s)"
    group.add_argument("--user-agent", default=fetch.user_agent, metavar="TEXT", help=about)
    about = "download also from this machine and private networks; for lists that you trust"
    group.add_argument("--allow-private-addresses", **SWITCH, help=about)
    about = "take images also by links that lead out of --images; for folders that you trust"
    group.add_argument("--follow-links", **SWITCH, help=about)


def parse(arguments: Sequence[str] | None = None) -> BuildOptions:
    """Parses a command line.

    Raises:
        UsageError: A flag is known neither here nor to Beam, a value is out of range, or flags do
            not go together.
    """
    parser = build_shards_parser()
    ours = parser.parse_job(arguments)
    parser.require(ours, *(("output",) if ours.summarise else ("source", "input", "output")))
    source = Source(ours.source or Source.WEBDATASET.value)  # of a summary: not looked at
    links = [*ours.hashes, *ours.urls]
    for packed in filter(None, (ours.messages, ours.tars)):
        links.append(f"{ours.images.rstrip('/')}/{packed}")
    return BuildOptions(
        **job_settings(ours),
        source=source,
        route=Route.TAR if ours.summarise else _route(ours, source),
        metadata=tuple(ours.input),
        links=tuple(links),
        images=ours.images,
        exclude=tuple(ours.exclude),
        rules=_rules(ours, source),
        workers=_workers(ours),
    )


_ROUTES: dict[Source, dict[tuple[str, ...], Route]] = {
    Source.MP16: {
        ("images",): Route.FOLDER,
        ("images", "messages"): Route.MESSAGES,
        ("images", "tars"): Route.TARS,
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
    flags = ("images", "messages", "tars", "hashes", "urls", "download")
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
        hash_keys=ours.hash_keys,
    )


def _workers(ours: argparse.Namespace) -> Workers:
    fetch = FetchSettings(
        connections=ours.connections,
        per_host=ours.per_host,
        attempts=ours.attempts,
        seed=ours.seed,
        user_agent=ours.user_agent,
        allow_private=ours.allow_private_addresses,
        within="" if ours.follow_links else absolute(ours.images),
    )
    return Workers(fetch, ours.device, ours.max_fetch_failures)

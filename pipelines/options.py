"""The command line of `pipelines.geotag`: every flag is known, or refused with a suggestion."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pipelines.loading import GeotaggerLoader

DEFAULT_RUNNER = "DirectRunner"
LOCAL_RUNNERS = ("directrunner", "fnapirunner", "bundlebaseddirectrunner")

DESCRIPTION = """\
Geotags an archive: reads photos from tar shards and writes where each was taken, how far off that
may be, and the alternatives, as GeoParquet. Every photo becomes a row of predictions or a row of
errors. A job that was stopped goes on where it was when the same command is typed again.
"""

EPILOG = """\
a shard is a tar of <key>.jpg|jpeg|png|webp, with the true position in <key>.json where known:
  {"latitude": 52.5, "longitude": 13.4}

what is written to --output:
  predictions/part-<shard>.parquet   geopandas.read_parquet("OUT/predictions") reads them all
  errors/part-<shard>.parquet        key, shard, stage, status, message
  summary.json map.png map.html      counts, accuracy where the truth is known, a map

examples:
  python -m pipelines.geotag --input 'photos/*.tar' --output out
  python -m pipelines.geotag --input 'photos/{000..099}.tar' more.tar.gz --output out
  python -m pipelines.geotag --input 'photos/*.tar' --output out --mode sampling --samples 32
  python -m pipelines.geotag --input 'photos/*.tar' --output out \\
      --direct_num_workers 4 --direct_running_mode multi_processing
  python -m pipelines.geotag --input 'gs://BUCKET/photos/*.tar' --output gs://BUCKET/out \\
      --runner DataflowRunner --project PROJECT --region europe-west4 \\
      --temp_location gs://BUCKET/tmp --setup_file ./setup.py

every flag of Apache Beam is understood as well. Exit status: 0 done, also with photos in errors;
1 no photo could be geotagged, too many failed, or a count does not add up; 2 a mistake in the
command.
"""


class UsageError(ValueError):
    """A mistake in the command; the message names the remedy."""


@dataclass(frozen=True)
class GeotagOptions:
    """What was asked for, checked.

    Attributes:
        input: patterns of shards.
        output: directory or URL.
        loader: how to build the Geotagger.
        runner: a name that Beam knows.
        batch_size: most photos per call of the model.
        overwrite: whether to delete an earlier run's files first.
        max_error_fraction: of photos, above which the exit status is 1.
        beam_flags: the rest of the command, all known to Beam.
    """

    input: tuple[str, ...]
    output: str
    loader: GeotaggerLoader
    runner: str
    batch_size: int
    overwrite: bool
    max_error_fraction: float
    beam_flags: tuple[str, ...]

    @property
    def is_local(self) -> bool:
        """Whether the job runs in Beam's own FnApiRunner on this machine."""
        return self.runner.lower() in LOCAL_RUNNERS


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def geotag_parser() -> argparse.ArgumentParser:
    """The flags that are ours."""
    parser = _Parser(
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
        required=True,
        metavar="TAR",
        help="shards: paths, quoted globs, ranges {000..009}; local, gs:// or what fsspec opens",
    )
    add("--output", required=True, metavar="DIR", help="directory to create, or to resume")
    add("--checkpoint", metavar="PATH", help="trained model; default: the one that is shipped")
    add(
        "--encoder",
        metavar="NAME",
        help="image encoder; default: the checkpoint's own, and any other is refused",
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
        type=_positive,
        default=16,
        metavar="N",
        help="samples per photo in sampling mode (%(default)s)",
    )
    add(
        "--steps",
        type=_positive,
        default=8,
        metavar="N",
        help="steps of the sampler in sampling mode (%(default)s)",
    )
    add("--seed", type=int, default=0, help="same seed, same rows (%(default)s)")
    add("--device", default="cpu", help="torch device on each worker (%(default)s)")
    add(
        "--batch_size",
        type=_positive,
        default=32,
        metavar="N",
        help="most photos per call of the model; moves rows only by rounding (%(default)s)",
    )
    add(
        "--runner",
        default=DEFAULT_RUNNER,
        help="where the job runs: DirectRunner is this machine (%(default)s)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="delete what an earlier run wrote to --output, and nothing else, then start anew",
    )
    add(
        "--max_error_fraction",
        type=_fraction,
        default=1.0,
        metavar="X",
        help="exit with 1 if more than this part of the photos ended as errors (%(default)s)",
    )
    return parser


def parse(arguments: Sequence[str] | None = None) -> GeotagOptions:
    """Parses a command line.

    Args:
        arguments: without the program's name; None takes `sys.argv`.

    Raises:
        UsageError: for a flag that neither we nor Beam know, or a value out of range.
    """
    parser = geotag_parser()
    ours, rest = parser.parse_known_args(arguments)
    _refuse_unknown(rest, parser)
    _check_runner(ours.runner)
    loader = GeotaggerLoader(
        checkpoint=ours.checkpoint,
        encoder=ours.encoder,
        device=ours.device,
        mode=ours.mode,
        samples=ours.samples,
        steps=ours.steps,
        seed=ours.seed,
    )
    return GeotagOptions(
        input=tuple(ours.input),
        output=ours.output,
        loader=loader,
        runner=ours.runner,
        batch_size=ours.batch_size,
        overwrite=ours.overwrite,
        max_error_fraction=ours.max_error_fraction,
        beam_flags=tuple(rest),
    )


def _refuse_unknown(rest: Sequence[str], ours: argparse.ArgumentParser) -> None:
    """Beam itself only warns of a misspelt flag, or not even that."""
    if not rest:
        return
    from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

    class BeamParser(_BeamArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(message)

    beam = BeamParser(add_help=False, allow_abbrev=False)
    for options in {str(cls): cls for cls in PipelineOptions.__subclasses__()}.values():
        options._add_argparse_args(beam)
    unknown = beam.parse_known_args(list(rest))[1]
    if not unknown:
        return
    flag = unknown[0].split("=")[0]
    known = [*ours._option_string_actions, *beam._option_string_actions]
    near = difflib.get_close_matches(flag, known, 1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "see --help"
    raise UsageError(f"{unknown[0]!r} is no flag of this command, nor of Beam; {hint}")


def _check_runner(name: str) -> None:
    if name.lower() == "daskrunner":
        raise UsageError(
            "DaskRunner mixes tagged outputs and drops branches without an error (Beam 2.77); "
            "use --direct_num_workers N --direct_running_mode multi_processing on one machine"
        )
    if name.lower() in LOCAL_RUNNERS:
        return
    from apache_beam.options.pipeline_options import StandardOptions

    known = list(StandardOptions.KNOWN_RUNNER_NAMES)
    if name.lower() not in {runner.lower() for runner in known} and "." not in name:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise UsageError(f"--runner {name!r} is unknown to Beam; {hint}")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}, wanted a whole number of at least 1")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value}, wanted a number between 0 and 1")
    return value


def beam_options(options: GeotagOptions) -> Any:
    """The PipelineOptions of the job."""
    from apache_beam.options.pipeline_options import PipelineOptions

    runner = [] if options.is_local else [f"--runner={options.runner}"]
    return PipelineOptions([*options.beam_flags, *runner])

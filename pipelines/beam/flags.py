"""What all commands that run on Beam share: every flag is known, or refused with a suggestion."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

DEFAULT_RUNNER = "DirectRunner"
LOCAL_RUNNERS = ("directrunner", "fnapirunner", "bundlebaseddirectrunner")


class UsageError(ValueError):
    """A mistake in the command; the message names the remedy."""


@dataclass(frozen=True)
class JobFlags:
    """Where a job runs.

    Attributes:
        runner: A name that Beam knows.
        wait: Whether to stay until the job is over, and then to summarise it.
        beam_flags: The rest of the command, all known to Beam.
    """

    runner: str
    wait: bool
    beam_flags: tuple[str, ...]

    @property
    def is_local(self) -> bool:
        """Whether the job runs in Beam's own FnApiRunner on this machine."""
        return self.runner.lower() in LOCAL_RUNNERS

    @property
    def runs_elsewhere(self) -> bool:
        """Whether the job goes on when this process ends."""
        return _runs_elsewhere(self.runner, self.beam_flags)

    @property
    def again(self) -> list[str]:
        """The words to type for the summary of a job that nobody waited for."""
        raise NotImplementedError


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(message)


def boolean(text: str) -> bool:
    """The type of a SWITCH."""
    known = {"true": True, "false": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r}, wanted true or false, or nothing at all")
    return known[text.lower()]


# On where it stands alone; a launcher that hands out NAME=VALUE only can say =true and =false.
SWITCH: dict[str, Any] = {
    "nargs": "?",
    "const": True,
    "default": False,
    "type": boolean,
    "metavar": "true|false",
}


def add_runner(parser: argparse.ArgumentParser) -> None:
    """Adds `--runner`."""
    parser.add_argument(
        "--runner",
        default=DEFAULT_RUNNER,
        help="where the job runs: DirectRunner is this machine (%(default)s)",
    )


def add_waiting(parser: argparse.ArgumentParser) -> None:
    """Adds `--wait` and `--no-wait`."""
    parser.add_argument(
        "--wait",
        **{**SWITCH, "default": True},
        help="stay until the job is over, then write the summary and the maps (the default)",
    )
    parser.add_argument(
        "--no-wait",
        "--no_wait",
        dest="wait",
        action="store_false",
        help="return when the job is submitted, and say how to follow it; for jobs that run "
        "without this process",
    )


def refuse_unknown(rest: Sequence[str], ours: argparse.ArgumentParser) -> None:
    """Raises for a flag that nobody knows: Beam itself only warns of it, or not even that.

    Args:
        rest: What our own parser has left over.
        ours: That parser, for suggestions.

    Raises:
        UsageError: With the flag, and the nearest one that is known.
    """
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


def check_runner(name: str) -> None:
    """Raises UsageError for a runner that Beam does not know, or that loses data."""
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


def check_wait(wait: bool, runner: str, beam_flags: Sequence[str]) -> bool:
    """Whether there will be a job to wait for.

    Raises:
        UsageError: If nobody is to wait for a job that ends with this process.
    """
    if not wait and not _runs_elsewhere(runner, beam_flags):
        raise UsageError(
            f"--no-wait with --runner {runner}: nothing would run once this command is over; leave "
            "--no-wait out, or name a place where the job goes on: --runner DataflowRunner, or a "
            "--job_endpoint and an --environment_type other than LOOPBACK"
        )
    return wait and not _starts_nothing(beam_flags)


def _runs_elsewhere(runner: str, beam_flags: Sequence[str]) -> bool:
    if "dataflow" in runner.lower():
        return True
    if not beam_flags:
        return False
    from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions

    portable = PipelineOptions(list(beam_flags)).view_as(PortableOptions)
    # Without a type, some runners with a local master take LOOPBACK: their workers live in here.
    here = (None, "LOOPBACK")
    return portable.job_endpoint not in (None, "embed") and portable.environment_type not in here


def _starts_nothing(beam_flags: Sequence[str]) -> bool:
    """Whether Dataflow gets only a template, as in a Flex Template's launcher, or a dry run."""
    if not beam_flags:
        return False
    from apache_beam.options.pipeline_options import (
        GoogleCloudOptions,
        PipelineOptions,
        TestOptions,
    )

    options = PipelineOptions(list(beam_flags))
    template = options.view_as(GoogleCloudOptions).template_location
    return template is not None or options.view_as(TestOptions).dry_run


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}, wanted a whole number of at least 1")
    return value


def whole(text: str) -> int:
    """A whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value}, wanted a whole number of at least 0")
    return value


def fraction(text: str) -> float:
    """A number between 0 and 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value}, wanted a number between 0 and 1")
    return value


def beam_options(options: JobFlags) -> Any:
    """The PipelineOptions of the job."""
    from apache_beam.options.pipeline_options import PipelineOptions

    runner = [] if options.is_local else [f"--runner={options.runner}"]
    return PipelineOptions([*options.beam_flags, *runner])

"""The flags that all commands on Beam share: where a job runs, and who waits for it."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from locdiffusion.cli.parser import SWITCH, Parser, UsageError

DEFAULT_RUNNER = "DirectRunner"
LOCAL_RUNNERS = ("directrunner", "fnapirunner", "bundlebaseddirectrunner")


@dataclass(frozen=True)
class JobFlags:
    """The settings that all jobs have.

    Attributes:
        runner: Name of a runner of Beam.
        wait: Whether to stay until the job is over, and then to summarise it.
        summarise: Whether to run no job and only to summarise what is in `output`.
        output: Directory or URL of the results.
        overwrite: Whether to delete an earlier run's files first.
        beam_flags: Words of the command line that are flags of Beam.
    """

    runner: str
    wait: bool
    summarise: bool
    output: str
    overwrite: bool
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


class JobParser(Parser):
    """The parser of a command that runs on Beam: Beam's own flags are understood as well."""

    def parse_job(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Parses a command line; the settings that are not our own are in `beam_flags`.

        Raises:
            UsageError: A flag is unknown to this parser and to Beam, a value is wrong, or nobody
                is to wait for a job that ends with this process.
        """
        words = self.words(arguments)
        of_beam: list[str] = []
        if any(map(self.is_unknown, words)):
            words, of_beam = self._without_beam(words)
        options: argparse.Namespace = self.parse_args(words)
        check_runner(options.runner)
        options.wait = check_wait(options.wait, options.runner, of_beam)
        options.beam_flags = tuple(of_beam)
        return options

    def _without_beam(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Splits words into ours and those of Beam's flags, which Beam reads to check them."""
        beam = _beam_parser()
        ours: list[str] = []
        theirs: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                ours += [word, *rest]
                break
            if not self.is_unknown(word):
                ours.append(word)
                continue
            action = beam._option_string_actions.get(word.partition("=")[0])
            if action is None:
                self.refuse(word, beam._option_string_actions, ", nor of Beam")
            theirs.append(word)
            takes_value = action.nargs is None or (rest and not rest[0].startswith("-"))
            if action.nargs != 0 and "=" not in word and rest and takes_value:
                theirs.append(rest.pop(0))
        beam.parse_args(theirs)
        return ours, theirs


def _beam_parser() -> argparse.ArgumentParser:
    """Returns a parser that knows every flag of Beam, and raises UsageError for a wrong value."""
    from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

    class BeamParser(_BeamArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(message)

    beam = BeamParser(add_help=False, allow_abbrev=False)
    for options in {str(cls): cls for cls in PipelineOptions.__subclasses__()}.values():
        options._add_argparse_args(beam)
    return beam


def job_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings of JobFlags from a parsed command line."""
    return {one.name: getattr(options, one.name) for one in fields(JobFlags)}


def add_job_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds the flags that say where a job runs and who waits for it; returns their group."""
    about = "every flag of Apache Beam is understood as well, spelled as Beam spells it"
    group = parser.add_argument_group("the job", about)
    add = group.add_argument
    about = "where the job runs: DirectRunner is this machine (default %(default)s)"
    add("--runner", default=DEFAULT_RUNNER, help=about)
    about = "stay until the job is over, then write the summary and the pages (the default)"
    add("--wait", **{**SWITCH, "default": True}, help=about)
    about = "return when the job is submitted, and say how to follow it; for jobs that run without "
    add("--no-wait", dest="wait", action="store_false", help=about + "this process")
    about = "run no job: write the summary and the pages of what is in --output by now"
    add("--summarise", **SWITCH, help=about)
    return group


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


def beam_options(options: JobFlags) -> Any:
    """The PipelineOptions of the job."""
    from apache_beam.options.pipeline_options import PipelineOptions

    runner = [] if options.is_local else [f"--runner={options.runner}"]
    return PipelineOptions([*options.beam_flags, *runner])

"""Builds training shards from MP-16, YFCC100M or other shards; `locdiffusion build-shards`.

`parse` reads the command line, `build` reads the lists of what must not be learnt and claims the
output directory, `run` runs the job, and `report` writes the summary, the datasheet and the map.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from locdiffusion.cli.parser import DONE, RunFailed, UsageError, run_command
from locdiffusion.cli.terminal import tell
from locdiffusion.files import absolute
from locdiffusion.photos.patterns import expand_patterns
from locdiffusion.photos.storage import DataError
from pipelines.beam.stopping import AGAIN, terminable, told_in_one_line
from pipelines.build_shards.candidates import FetchTrouble
from pipelines.build_shards.datasheet import datasheet
from pipelines.build_shards.density_map import draw_density
from pipelines.build_shards.embedding import Embedder
from pipelines.build_shards.exclusions import read_exclusions
from pipelines.build_shards.file_ranges import FileRange, file_bytes, line_ranges, whole_files
from pipelines.build_shards.metadata import parser_of
from pipelines.build_shards.options import BuildOptions, parse
from pipelines.build_shards.options import build_shards_parser as parser
from pipelines.build_shards.output import CANDIDATES, DATASHEET, DENSITY, METADATA, BuildOutput
from pipelines.build_shards.settings import InputFile, Inputs, Route, Settings, Source
from pipelines.build_shards.summary import BuildProgress, summarise, summary_table
from pipelines.writing.directory import RUN, SUMMARY, OutputError, to_json
from pipelines.writing.progress import Ticker

__all__ = ["build", "main", "parser", "run"]


WITHOUT_AUTHORS = (
    "photos of one person may be for training and for validation, no cap per photographer holds, "
    "and --exclude knows photos by their ids alone"
)


@dataclass(frozen=True)
class Job:
    """A build that is ready to run.

    Attributes:
        options: Checked settings of the command.
        settings: Settings that decide what is written.
        output: Prepared output directory.
        records: Ranges of the lists of photos.
        links: Ranges of the lists that tell where images are.
        planned: Names of the shards, if an earlier build has planned them.
    """

    options: BuildOptions
    settings: Settings
    output: BuildOutput
    records: tuple[FileRange, ...]
    links: tuple[FileRange, ...]
    planned: tuple[str, ...] | None


def build(options: BuildOptions) -> Job:
    """Looks at the input, reads the lists to exclude, and claims the output directory.

    Raises:
        DataError: A list of photos, or of what must not be learnt, is missing or not such a list.
        UsageError: The encoder cannot be loaded.
        OutputError: The output directory belongs to something else.
    """
    settings = Settings(
        _inputs(options), options.rules, read_exclusions(sorted(expand_patterns(options.exclude)))
    )
    _check_encoder(options)
    output = BuildOutput(absolute(options.output))
    lists = [file.url for file in settings.inputs.metadata]
    if settings.inputs.source is Source.WEBDATASET:
        records = whole_files("records", lists)
    else:
        records = line_ranges("records", lists, first_lines=True)
        for span in records:  # refuses an unknown header before the job
            if not parser_of(span, settings.inputs.source).tells_authors and span.start == 0:
                tell(f"{span.url} names no photographers: {WITHOUT_AUTHORS}")
    packed = settings.inputs.route in (Route.MESSAGES, Route.TARS)
    cut = whole_files if packed else line_ranges
    links = cut("links", [file.url for file in settings.inputs.links])
    with output.usable():
        output.claim(settings.to_dict(), options.overwrite)
    plan = output.manifest(METADATA)
    planned = tuple(plan["shards"]) if plan and plan["config_hash"] == settings.hash else None
    if planned is not None and not output.finished(planned) and not output.has_plans(planned):
        planned = None  # somebody deleted something of a build that was done
    return Job(options, settings, output, tuple(records), tuple(links), planned)


def _inputs(options: BuildOptions) -> Inputs:
    metadata, links = (
        tuple(InputFile(url, file_bytes(url)) for url in sorted(expand_patterns(patterns)))
        for patterns in (options.metadata, options.links)
    )
    for file in metadata + links:
        if file.url.endswith("/"):
            raise DataError(f"{file.url} is a folder, wanted files; pass '{file.url}*' or the like")
    return Inputs(options.source, options.route, metadata, links, absolute(options.images))


def _check_encoder(options: BuildOptions) -> None:
    """Loads the encoder of `--embed` once, so that a mistake shows before the job."""
    if options.rules.encoder is None:
        return
    # A machine that only submits may have no GPU.
    device = options.workers.device if options.is_local else "cpu"
    try:
        Embedder(options.rules.encoder, device).load()
    except (ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"--embed {options.rules.encoder}: {error}") from error


def run(job: Job) -> None:
    """Runs the job and reports it; of a job that nobody waits for, says how to follow it.

    Raises:
        RunFailed: Images could not be fetched, or the result is not complete.
    """
    _tell_start(job)
    if job.planned is None or not job.output.finished(job.planned):
        from pipelines.beam.jobs import how_to_follow

        start = time.monotonic()
        try:
            with told_in_one_line(job.options.is_local), Ticker(BuildProgress(job.output).line):
                result = _launch(job)
        except RunFailed as error:  # what a worker raised may arrive as text
            if (trouble := told_by_worker(str(error))) is None:
                raise
            raise RunFailed(trouble) from error
        if not job.options.wait:
            print(how_to_follow(result, job.options))
            return
        print(f"{time.monotonic() - start:,.1f} seconds", file=sys.stderr)
    report(job.output)


def _tell_start(job: Job) -> None:
    inputs = job.settings.inputs
    print(
        f"{len(inputs.metadata):,} files of {inputs.source.value} -> {job.output.root}, images by "
        f"{inputs.route.value}",
        file=sys.stderr,
    )
    for one in job.settings.exclusions.lists:
        what = f"{len(one.ids):,} photos and {len(one.authors):,} photographers"
        hint = "" if one.authors else ": the list names none, so other photos of theirs stay"
        tell(f"{one.name} excludes {what}{hint}")
    if not job.settings.exclusions.lists:
        print("no benchmark is excluded: give its list to --exclude", file=sys.stderr)
    if job.planned is not None and not job.output.finished(job.planned):
        done = job.output.names(CANDIDATES, "*.json")
        print(
            f"planned before: {len(job.planned):,} shards, of which {len(done):,} were fetched",
            file=sys.stderr,
        )


def _launch(job: Job) -> Any:
    from pipelines.beam.jobs import run_job
    from pipelines.build_shards.transforms import BuildShards

    graph = BuildShards(
        job.settings, job.output, job.options.workers, job.records, job.links, job.planned
    )
    return run_job(job.options, lambda pipeline: pipeline | "BuildShards" >> graph)


def told_by_worker(text: str) -> str | None:
    """Returns the message of a FetchTrouble in the traceback of a runner, or None."""
    found = re.search(rf"{FetchTrouble.__name__}: (.*?)(?: \[while running|\n|\Z)", text)
    return found[1] if found else None


def report(output: BuildOutput) -> None:
    """Writes and prints a summary, the datasheet and the map, and checks the result.

    Raises:
        RunFailed: The result is not complete, or nothing is kept.
    """
    summary, density = summarise(output)
    output.write(SUMMARY, data=to_json(summary))
    output.write(DATASHEET, data=datasheet(summary).encode())
    output.write(DENSITY, data=draw_density(density, "Training photos"))
    print(summary_table(summary))
    if summary["finished"] and not summary["mismatches"]:
        output.remove_work()
    if reason := _failure(summary, output):
        raise RunFailed(reason)


def _failure(summary: Mapping[str, Any], output: BuildOutput) -> str | None:
    if summary["mismatches"]:
        return "the counts do not add up"
    if not summary["finished"]:
        return "the build is not finished; type its command again"
    if summary["read"] == 0:
        return "no record was read; check --input"
    if summary["kept"] == 0:
        return f"none of {summary['read']:,} records is kept; look at {output.path('dropped')}"
    return None


def summarise_only(options: BuildOptions) -> None:
    """Reports an output directory as it stands, whoever filled it.

    Raises:
        OutputError: No build has been started there.
        RunFailed: The result is not complete, or nothing is kept.
    """
    output = BuildOutput(absolute(options.output))
    if output.read_json(RUN) is None:
        raise OutputError(
            f"--output {output.root} holds no {RUN}: no build was started there; check the path"
        )
    report(output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""

    def body() -> int:
        options = parse(arguments)
        if options.summarise:
            summarise_only(options)
        else:
            run(build(options))
        return DONE

    with terminable():
        return run_command(body, DataError, OutputError, stopped=AGAIN)

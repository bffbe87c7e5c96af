r"""Builds training shards from MP-16, YFCC100M or other shards.

    python -m pipelines.build_shards --source mp16 --metadata mp16_places365.csv \
        --images images --messages 'shard_*.msg' --output shards --exclude im2gps3k_places365.csv

reads the list, leaves out what must not be learnt, fetches, scales and packs the photos, and writes
shards, an index, a reason for every record that was dropped, and a datasheet to `shards`. Typed
again, it goes on where it was stopped. `--help` tells the rest. Parse, build, run, report: four
functions.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.beam.flags import UsageError
from pipelines.build_shards.candidates import FetchTrouble
from pipelines.build_shards.datasheet import datasheet
from pipelines.build_shards.density_map import draw_density
from pipelines.build_shards.embedding import Embedder
from pipelines.build_shards.guards import GuardError, read_guard
from pipelines.build_shards.options import BuildOptions, build_shards_parser, parse
from pipelines.build_shards.output import (
    CANDIDATES,
    DATASHEET,
    DENSITY,
    METADATA,
    BuildOutput,
)
from pipelines.build_shards.pieces import (
    Piece,
    PieceError,
    absolute,
    cut_lines,
    expand,
    file_bytes,
    whole_files,
)
from pipelines.build_shards.settings import InputFile, Inputs, Route, Settings, Source
from pipelines.build_shards.summary import summarise, summary_table
from pipelines.build_shards.watch import BuildWatch
from pipelines.writing.directory import RUN, SUMMARY, OutputError, to_json
from pipelines.writing.progress import Ticker

__all__ = ["build", "build_shards_parser", "main", "run"]

DONE, FAILED, USAGE, STOPPED = 0, 1, 2, 130


@dataclass(frozen=True)
class Job:
    """Everything that is settled before the first record is read.

    Attributes:
        options: Parsed.
        settings: All that decides what is written.
        output: Prepared.
        records, links: Pieces of the input.
        planned: Names of the shards, if an earlier build has planned them.
    """

    options: BuildOptions
    settings: Settings
    output: BuildOutput
    records: tuple[Piece, ...]
    links: tuple[Piece, ...]
    planned: tuple[str, ...] | None


def build(options: BuildOptions) -> Job:
    """Looks at the input, reads the guards, and claims the output directory.

    Args:
        options: Parsed.

    Raises:
        PieceError: If a file of metadata is missing or of the wrong kind.
        GuardError: If a list of what must not be learnt cannot be relied on.
        UsageError: If the encoder cannot be had.
        OutputError: If the output directory belongs to something else.
    """
    settings = Settings(_inputs(options), options.rules, read_guard(expand(options.exclude)))
    _check_encoder(options)
    output = BuildOutput(absolute(options.output))
    cut = whole_files if settings.inputs.source is Source.WEBDATASET else cut_lines
    records = cut("records", [file.url for file in settings.inputs.metadata])
    cut = whole_files if settings.inputs.route is Route.MESSAGES else cut_lines
    links = cut("links", [file.url for file in settings.inputs.links])
    try:
        output.claim(settings.to_dict(), options.overwrite)
    except OutputError:
        raise
    except Exception as error:  # each file system has its own; all mean that we may not go on
        raise OutputError(
            f"--output {output.root} cannot be used ({type(error).__name__}: {error}); check that "
            "the bucket or disk is there, and that you may list and write it"
        ) from error
    plan = output.manifest(METADATA)
    planned = tuple(plan["shards"]) if plan and plan["config_hash"] == settings.hash else None
    if planned is not None and not output.finished(planned) and not output.has_plans(planned):
        planned = None  # somebody deleted something of a build that was done
    return Job(options, settings, output, tuple(records), tuple(links), planned)


def _inputs(options: BuildOptions) -> Inputs:
    metadata, links = (
        tuple(InputFile(url, file_bytes(url)) for url in expand(patterns))
        for patterns in (options.metadata, options.links)
    )
    return Inputs(options.source, options.route, metadata, links, absolute(options.images))


def _check_encoder(options: BuildOptions) -> None:
    """Loads it once to see that it can be had."""
    if options.rules.encoder is None:
        return
    # A machine that only submits may have no GPU.
    device = options.workers.device if options.is_local else "cpu"
    try:
        Embedder(options.rules.encoder, device).load()
    except (ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"--embed {options.rules.encoder}: {error}") from error


def run(job: Job) -> int:
    """Runs the job and reports it, or, where nobody waits for it, says how to follow it.

    Returns:
        The exit status.
    """
    _tell_start(job)
    if job.planned is None or not job.output.finished(job.planned):
        from pipelines.beam.jobs import how_to_follow

        start = time.monotonic()
        try:
            with Ticker(BuildWatch(job.output).line):
                result = _launch(job)
        except RuntimeError as error:  # what a worker raised may arrive as text
            if (trouble := told_by_worker(f"{type(error).__name__}: {error}")) is None:
                raise
            print(f"error: {trouble}", file=sys.stderr)
            return FAILED
        if not job.options.wait:
            print(how_to_follow(result, job.options))
            return DONE
        print(f"{time.monotonic() - start:,.1f} seconds", file=sys.stderr)
    return report(job.output)


def _tell_start(job: Job) -> None:
    inputs = job.settings.inputs
    print(
        f"{len(inputs.metadata):,} files of {inputs.source.value} -> {job.output.root}, images by "
        f"{inputs.route.value}",
        file=sys.stderr,
    )
    for guard in job.settings.guard.lists:
        what = f"{len(guard.ids):,} photos and {len(guard.authors):,} photographers"
        hint = "" if guard.authors else ": the list names none, so other photos of theirs stay"
        print(f"guarded by {guard.name}: {what}{hint}", file=sys.stderr)
    if not job.settings.guard.lists:
        print("no benchmark is guarded: --exclude its list", file=sys.stderr)
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
    """The message of a FetchTrouble in the traceback that a runner hands on; None without one."""
    found = re.search(rf"{FetchTrouble.__name__}: (.*?)(?: \[while running|\n|\Z)", text)
    return found[1] if found else None


def report(output: BuildOutput) -> int:
    """Writes and prints a summary, the datasheet and the map, and says whether all went well.

    Args:
        output: Of a build, finished or not.

    Returns:
        The exit status, with the reason on stderr where it is not 0.
    """
    summary, density = summarise(output)
    output.write(SUMMARY, data=to_json(summary))
    output.write(DATASHEET, data=datasheet(summary).encode())
    output.write(DENSITY, data=draw_density(density, "Training photos"))
    print(summary_table(summary))
    status = _verdict(summary, output)
    if summary["finished"] and not summary["mismatches"]:
        output.remove_work()
    return status


def _verdict(summary: Mapping[str, Any], output: BuildOutput) -> int:
    look = f"look at {output.path('dropped')}"
    if summary["mismatches"]:
        reason = "the counts do not add up"
    elif not summary["finished"]:
        reason = "the build is not finished; type its command again"
    elif summary["read"] == 0:
        reason = "no record was read; check --metadata"
    elif summary["kept"] == 0:
        reason = f"none of {summary['read']:,} records is kept; {look}"
    else:
        return DONE
    print(f"error: {reason}", file=sys.stderr)
    return FAILED


def summarise_only(options: BuildOptions) -> int:
    """Reports an output directory as it stands, whoever filled it.

    Returns:
        The exit status.

    Raises:
        OutputError: If no build has been started there.
    """
    output = BuildOutput(absolute(options.output))
    if output.read_json(RUN) is None:
        raise OutputError(
            f"--output {output.root} holds no {RUN}: no build was started there; check the path"
        )
    return report(output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses, builds, runs; a mistake in the command is told in one line.

    Args:
        arguments: Without the program's name; None takes `sys.argv`.

    Returns:
        The exit status; see `--help`.
    """
    try:
        options = parse(arguments)
        return summarise_only(options) if options.summarise else run(build(options))
    except (UsageError, PieceError, GuardError, OutputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt as stop:
        again = "stopped; type the same command again to go on from here"
        print(str(stop) or again, file=sys.stderr)
        return STOPPED

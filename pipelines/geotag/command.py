"""Geotags an archive of photos.

    python -m pipelines.geotag --input 'photos/*.tar' --output out

reads every shard, embeds each photo, runs conditional diffusion over locations, decodes, and writes
GeoParquet, a summary, two maps and a report to `out`. Typed again, it goes on where it was stopped.
`--help` tells the rest. Parse, build, run, report: four functions. A job that nobody waits for is
reported by another call, with `--summarise`.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any

from locdiffusion.geography.polygons import PolygonError
from locdiffusion.photos.listing import InputError, Shard, list_shards
from pipelines.geotag.model_cache import GeotaggerLike, Loader, loaded
from pipelines.geotag.options import GeotagOptions, UsageError, parse
from pipelines.geotag.output import (
    MAP_HTML,
    MAP_PNG,
    REPORT_HTML,
    Output,
    RunConfiguration,
)
from pipelines.geotag.progress import Progress
from pipelines.geotag.summary import summarise, summary_table
from pipelines.writing.directory import RUN, SUMMARY, OutputError, to_json

DONE, FAILED, USAGE, STOPPED = 0, 1, 2, 130
TIMES = ("seconds", "images_per_second", "stage_seconds")


@dataclass(frozen=True)
class Job:
    """Everything that is settled before the first photo is read."""

    options: GeotagOptions
    shards: tuple[Shard, ...]
    output: Output
    configuration: RunConfiguration
    load: Loader


def build(options: GeotagOptions, load: Loader | None = None) -> Job:
    """Lists the shards, loads the model once to see that it fits, and claims the output directory.

    Args:
        options: Parsed.
        load: Replaces `options.loader`, for tests.

    Raises:
        InputError: If no shard can be found.
        UsageError: If the model cannot be had, or not with this encoder, or not the polygons.
        OutputError: If the output directory belongs to something else.
    """
    # A machine that only submits may have no GPU; rows do not depend on where it looked.
    here = replace(options.loader, device="cpu", bf16=False)
    check = load or (options.loader if options.is_local else here)
    load = load or options.loader
    shards = _shards(options)
    # RuntimeError: the encoder's weights are missing. All three carry their own remedy.
    try:
        geotagger = loaded(check).geotagger
    except (ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"the model cannot be loaded: {error}") from error
    configuration = _configuration(options, geotagger)
    output = _output(options)
    try:
        output.prepare(configuration, shards, options.overwrite)
    except OutputError:
        raise
    except Exception as error:  # each file system has its own; all mean that we may not go on
        raise OutputError(
            f"--output {output.root} cannot be used ({type(error).__name__}: {error}); check that "
            "the bucket or disk is there, and that you may list and write it"
        ) from error
    return Job(options, shards, output, configuration, load)


def _shards(options: GeotagOptions) -> tuple[Shard, ...]:
    try:
        return tuple(list_shards(options.input, _tell))
    except InputError:
        raise
    except Exception as error:  # each file system has its own; none can be listed
        raise InputError(
            f"--input {shlex.join(options.input)} cannot be listed ({type(error).__name__}: "
            f"{error}); check the name of the bucket, your rights and, for gs://, that you are "
            "logged in: gcloud auth application-default login"
        ) from error


def _output(options: GeotagOptions) -> Output:
    """Absolute if local: workers may live in another directory."""
    root = options.output
    return Output(root if "://" in root else os.path.abspath(root))


def _configuration(options: GeotagOptions, geotagger: GeotaggerLike) -> RunConfiguration:
    settings = options.loader.recorded()
    spec: Any = getattr(geotagger, "encoder_spec", None)
    if is_dataclass(spec) and not isinstance(spec, type):
        settings["encoder"] = asdict(spec)
    settings |= _extra_settings(options)
    return RunConfiguration(
        geotagger.model_id, geotagger.checkpoint_hash, options.loader.seed, settings
    )


def _extra_settings(options: GeotagOptions) -> dict[str, Any]:
    """What the run records of its extras, after a look at whether they can be had."""
    try:
        options.extras.admin_units()
        return options.extras.settings()
    except PolygonError as error:
        raise UsageError(f"--admin cannot be used: {error}") from error


def run(job: Job) -> int:
    """Runs the job and reports it, or, where nobody waits for it, says how to follow it.

    Returns:
        The exit status.
    """
    from pipelines.geotag.launch import how_to_follow, launch, stage_seconds

    before = job.output.photos_kept(job.shards, job.configuration)
    print(
        f"{len(job.shards):,} shards -> {job.output.root}, model {job.configuration.model_id}, "
        f"{before:,} photos done before",
        file=sys.stderr,
    )
    start = time.monotonic()
    with Progress(job.output, [shard.id for shard in job.shards]):
        result = launch(job.options, job.load, job.configuration, job.output, job.shards)
    if not job.options.wait:
        print(how_to_follow(result, job.options))
        return DONE
    seconds = round(time.monotonic() - start, 2)
    summary = summarise(job.output)
    photos = summary["photos"] - before
    now = zip(TIMES, (seconds, round(photos / seconds, 2), stage_seconds(result)), strict=True)
    # Where nothing was left to do, what is known about the time is in the earlier summary.
    earlier = {} if photos else _earlier_times(job.output, summary["photos"])
    summary |= {**dict(now), **earlier, "configuration": job.configuration.to_dict()}
    return report(job.options, job.output, summary, job.shards)


def _earlier_times(output: Output, photos: int) -> dict[str, Any]:
    """How long it took, from the summary that stands there, if it tells of the same photos."""
    earlier = output.read_json(SUMMARY) or {}
    if earlier.get("photos") != photos:
        return {}
    return {name: earlier[name] for name in TIMES if name in earlier}


def summarise_only(options: GeotagOptions) -> int:
    """Reports an output directory as it stands, whoever filled it, finished or not.

    Returns:
        The exit status.

    Raises:
        InputError: If no shard can be found.
        OutputError: If no job has been started there.
    """
    output = _output(options)
    configuration = output.read_json(RUN)
    if configuration is None:
        raise OutputError(
            f"--output {output.root} holds no {RUN}: no job of this command was started there; "
            "check the path"
        )
    shards = _shards(options)
    summary = summarise(output)
    summary |= {**_earlier_times(output, summary["photos"]), "configuration": configuration}
    if not shards:
        done = sum(summary["shards"].values())
        _tell(f"{done:,} shards are finished; with --input, missing ones are named")
    return report(options, output, summary, shards)


def report(
    options: GeotagOptions, output: Output, summary: Mapping[str, Any], shards: Sequence[Shard]
) -> int:
    """Writes and prints a summary, draws the maps, and says whether it went well.

    Args:
        options: For `max_error_fraction`.
        output: That was summarised.
        summary: What `summarise` gave, and how long it took, and the configuration.
        shards: That must have a result.

    Returns:
        The exit status, with the reason on stderr where it is not 0.
    """
    output.write(SUMMARY, data=to_json(summary))
    print(summary_table(summary))
    _draw_maps(output)
    return _verdict(summary, output, shards, options.max_error_fraction)


def _tell(note: str) -> None:
    print(note, file=sys.stderr)


def _draw_maps(output: Output) -> None:
    """Pages are for looking at: what goes wrong here is told, and the results stay."""
    try:
        from pipelines.geotag.pages import write_map_html, write_map_png, write_report_html

        write_map_png(output.root, output.path(MAP_PNG))
        write_map_html(output.root, output.path(MAP_HTML))
        write_report_html(output.root, output.path(REPORT_HTML))
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        print(f"a map or the report is missing ({why}); all results are complete", file=sys.stderr)


def _verdict(
    summary: Mapping[str, Any], output: Output, shards: Sequence[Shard], limit: float
) -> int:
    """The exit status, with the reason on stderr where it is not 0."""
    photos, failed = summary["photos"], summary["photo_errors"]
    look = f"look at {output.path('errors')}"
    unread = {shard.id for shard in shards}.difference(output.manifest_names())
    if summary["mismatches"] or unread:
        reason = f"the counts do not add up; shards without a result: {sorted(unread) or 'none'}"
    elif again := summary["read_again"]:
        more = f" and {len(again) - 5:,} more" if len(again) > 5 else ""
        reason = (
            f"not everything in {', '.join(again[:5])}{more} could be read; {look}, then type the "
            "same command again: it reads them anew"
        )
    elif photos == 0:
        reason = f"no photo was found in {len(shards) or 'all'} shards; {look}"
    elif failed == photos:
        reason = f"all {photos:,} photos failed; {look}"
    elif failed > limit * photos:
        reason = (
            f"{failed:,} of {photos:,} photos failed, above --max_error_fraction {limit:g}; {look}"
        )
    else:
        return DONE
    print(f"error: {reason}", file=sys.stderr)
    return FAILED


def main(arguments: Sequence[str] | None = None, load: Loader | None = None) -> int:
    """Parses, builds, runs; a mistake in the command is told in one line.

    Args:
        arguments: Without the program's name; None takes `sys.argv`.
        load: Replaces the loader made from the arguments, for tests.

    Returns:
        The exit status; see `--help`.
    """
    try:
        options = parse(arguments)
        return summarise_only(options) if options.summarise else run(build(options, load))
    except (UsageError, InputError, OutputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt as stop:
        again = "stopped; type the same command again to go on from here"
        print(str(stop) or again, file=sys.stderr)
        return STOPPED

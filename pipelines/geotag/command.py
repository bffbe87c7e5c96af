"""Geotags an archive of photos; `locdiffusion geotag`.

`parse` reads the command line, `build` settles everything before the first photo is read, `run`
runs the job, and `report` writes the summary and the pages. A job that nobody waits for is reported
by another call, with `--summarise`.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, is_dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from locdiffusion.cli.parser import DONE, RunFailed, UsageError, run_command
from locdiffusion.cli.terminal import printable, tell
from locdiffusion.files import absolute
from locdiffusion.geography.polygons import PolygonError
from locdiffusion.photos.image_formats import unreadable_endings
from locdiffusion.photos.left_out import LeftOut, number
from locdiffusion.photos.listing import Shard, list_shards
from locdiffusion.photos.names import extension
from locdiffusion.photos.storage import DataError
from pipelines.beam.stopping import AGAIN, terminable, told_in_one_line
from pipelines.geotag import provenance
from pipelines.geotag.attempts import forgotten_if_stopped
from pipelines.geotag.console import last_line, shown, summary_table, tell_others, whole
from pipelines.geotag.digest import RunDigest
from pipelines.geotag.embeddings import (
    kept_embeddings,
    kept_fields,
    recorded_embeddings,
    refuse_embeddings,
)
from pipelines.geotag.hints import read_hints
from pipelines.geotag.model_cache import GeotaggerLike, Loader, loaded
from pipelines.geotag.options import GeotagOptions, parse
from pipelines.geotag.options import geotag_parser as parser
from pipelines.geotag.output import DIGEST, MAP_HTML, MAP_PNG, REPORT_HTML, Output, RunConfiguration
from pipelines.geotag.plain_loop import run_plain_loop
from pipelines.geotag.progress import TALLY, Progress
from pipelines.geotag.sample import Sample
from pipelines.geotag.summary import TIMES, run_digest, summarise, with_earlier
from pipelines.writing.directory import RUN, SUMMARY, OutputError, to_json

__all__ = ["build", "geotag", "main", "parser", "run", "summarise_only"]


@dataclass(frozen=True)
class Job:
    """Everything that is settled before the first photo is read.

    Attributes:
        options: Checked settings.
        shards: Shards and parts of folders that are geotagged.
        unfinished: Those that are left to do.
        output: Prepared output directory.
        configuration: What decides the rows; kept in the output directory.
        load: Builds the Geotagger on a worker.
        left_out: Files in folders that are no photos.
    """

    options: GeotagOptions
    shards: tuple[Shard, ...]
    unfinished: tuple[Shard, ...]
    output: Output
    configuration: RunConfiguration
    load: Loader
    left_out: LeftOut


def build(options: GeotagOptions, load: Loader | None = None) -> Job:
    """Lists the shards, loads the model once to see that it fits, and claims the output directory.

    Args:
        options: Checked settings.
        load: Loader that replaces `options.loader`, for tests.

    Raises:
        DataError: No shard is found.
        UsageError: The model cannot be loaded with this encoder, or the polygons cannot be read.
        OutputError: The output directory belongs to something else.
    """
    options = _decided(options)
    # A machine that only submits may have no GPU; rows do not depend on where it looked.
    here = replace(options.loader, device="cpu", bf16=False)
    check = load or (options.loader if options.is_local else here)
    load = load or options.loader
    left_out = LeftOut()
    shards = tuple(_shards(options, left_out))
    # RuntimeError: the encoder's weights are missing. All three carry their own remedy.
    try:
        geotagger = loaded(check).geotagger
    except (ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"the model cannot be loaded: {error}") from error
    configuration = _configuration(options, geotagger)
    output = _output(options, shards)
    _tell_unreadable(shards)
    with output.usable():
        kept = output.prepare(configuration, shards, options.overwrite, options.retry_failed)
    if kept.unfinished or kept.gone:
        output.remove(DIGEST)  # it will be out of date
    gone = (f"{source} ({number(photos, 'photo')})" for source, photos in kept.gone.items())
    for line in shown(gone):
        tell(f"gone since the last run, its rows are removed: {line}")
    tell_others(kept.others, "their rows stay")
    return Job(options, shards, kept.unfinished, output, configuration, load, left_out)


def _decided(options: GeotagOptions) -> GeotagOptions:
    """Returns the options with the arithmetic of the encoder decided, once for the whole run.

    Raises:
        UsageError: bfloat16 was asked for, and this machine is to compute and has no GPU for it.
    """
    if options.from_embeddings:  # the encoder has computed already
        extras = replace(options.extras, keep=kept_fields(absolute(options.input[0])))
        return replace(options, loader=replace(options.loader, bf16=False), extras=extras)
    wanted = options.loader.bf16
    begun = None if options.overwrite else _output(options).read_json(RUN)
    if wanted is None and begun is not None:
        wanted = bool(begun.get("bf16"))
    if options.is_local:
        from locdiffusion.model.cuda import uses_bf16

        try:
            wanted = uses_bf16(options.loader.device, wanted)
        except ValueError as error:
            asked = options.loader.bf16 is not None
            begun_so = f"--output {options.output} was begun in bfloat16, and goes on in it: "
            raise UsageError(f"{'' if asked else begun_so}{error}") from error
    # Of the GPU of another machine nothing is known: it is told.
    return replace(options, loader=replace(options.loader, bf16=bool(wanted)))


def _output(options: GeotagOptions, shards: Sequence[Shard] = ()) -> Output:
    """Returns the output directory, absolute if local: workers may live in another directory.

    Raises:
        UsageError: It is a folder of the input.
    """
    root = absolute(options.output)
    here = os.path.realpath(root)
    folders = {shard.folder for shard in shards if shard.folder}
    if any(os.path.realpath(folder) == here for folder in folders):
        raise UsageError(
            f"--output {options.output} is the folder of the photos; give a folder of its own, "
            f"such as --output {os.path.join(options.output, 'geotags')}"
        )
    return Output(root)


def _configuration(options: GeotagOptions, geotagger: GeotaggerLike) -> RunConfiguration:
    settings = options.loader.recorded()
    spec: Any = getattr(geotagger, "encoder_spec", None)
    if is_dataclass(spec) and not isinstance(spec, type):
        settings["encoder"] = asdict(spec)
    settings |= _extra_settings(options) | getattr(geotagger, "told", {})
    fingerprint = getattr(geotagger, "encoder_fingerprint", "")
    if options.from_embeddings:
        settings |= recorded_embeddings(absolute(options.input[0]), settings, fingerprint)
    elif options.extras.embeddings and fingerprint:
        settings["fingerprint"] = fingerprint
    return RunConfiguration(
        geotagger.model_id, geotagger.checkpoint_hash, options.loader.seed, settings
    )


def _shards(options: GeotagOptions, left_out: LeftOut) -> Sequence[Shard]:
    """Lists the shards of photos, or those whose embeddings an earlier run kept."""
    if options.from_embeddings and options.input:
        return kept_embeddings(absolute(options.input[0]), tell)
    refuse_embeddings(options.input)
    return list_shards(options.input, tell, options.exclude, left_out, options.follow_links, True)


def _extra_settings(options: GeotagOptions) -> dict[str, Any]:
    """What the run records of its extras, after a look at whether they can be had."""
    try:
        options.extras.admin_units()
        if options.extras.hints is not None:
            read_hints(options.extras.hints)
        return options.extras.settings()
    except PolygonError as error:
        raise UsageError(f"--admin cannot be used: {error}") from error
    except DataError as error:
        raise UsageError(f"--hints cannot be used: {error}") from error


def run(job: Job) -> dict[str, Any] | None:
    """Runs the job and reports it, or, where nobody waits for it, says how to follow it.

    Returns:
        The summary; None where nobody waits.

    Raises:
        RunFailed: The job is done, and its result is not complete or not good enough.
    """
    tell(
        f"{number(len(job.shards), 'shard')} -> {job.output.root}, model "
        f"{job.configuration.model_id}, "
        f"{number(len(job.shards) - len(job.unfinished), 'shard')} kept from before"
    )
    if purpose := job.configuration.settings.get("purpose"):
        remedy = job.configuration.settings.get("unlike")
        tell(f"this checkpoint is for {purpose}{f'; {remedy}' if remedy else ''}")
    start = time.monotonic()
    work = (job.options, job.load, job.configuration, job.output, job.unfinished)
    stages: dict[str, float] = {}
    photos, before = 0, TALLY.photos
    shards = [shard.id for shard in job.shards]
    stopped = forgotten_if_stopped(job.output) if job.options.is_local else nullcontext()
    with stopped, told_in_one_line(job.options.is_local), Progress(job.output, shards):
        if job.options.is_local and (not job.unfinished or find_spec("apache_beam") is None):
            photos = run_plain_loop(*work)
        else:
            from pipelines.geotag.counters import photos_done, stage_seconds
            from pipelines.geotag.transforms import launch

            result = launch(*work)
            if job.options.wait:
                stages = stage_seconds(result)
                # Of a bundle that was repeated, a runner counts the last time alone.
                photos = max(photos_done(result), TALLY.photos - before)
    if not job.options.wait:
        from pipelines.beam.jobs import how_to_follow

        print(how_to_follow(result, job.options))
        return None
    seconds = max(0.01, round(time.monotonic() - start, 2))
    digest = run_digest(job.output)
    summary = summarise(job.output, job.left_out, digest)
    now = zip(TIMES, (seconds, round(photos / seconds, 2), stages), strict=True)
    summary |= {**dict(now), "configuration": job.configuration.to_dict()}
    if not photos:  # what is known about the time is in the earlier summary
        summary = with_earlier(job.output, summary)
    provenance.end(job.output, summary)
    return report(job.options, job.output, digest, summary, job.shards)


def summarise_only(options: GeotagOptions) -> dict[str, Any]:
    """Reports an output directory as it stands, whoever filled it, finished or not.

    Returns:
        The summary.

    Raises:
        DataError: No shard is found.
        OutputError: No job has been started there.
        RunFailed: The result is not complete or not good enough.
    """
    output = _output(options)
    configuration = output.read_json(RUN)
    if configuration is None:
        raise OutputError(
            f"--output {output.root} holds no {RUN}: no job of this command was started there; "
            "check the path"
        )
    left_out = LeftOut()
    shards = _shards(options, left_out)
    digest = run_digest(output)
    summary = summarise(output, left_out, digest)
    # Without --input, the earlier summary knew the folders.
    summary = with_earlier(output, summary, left_out=not shards) | {"configuration": configuration}
    if shards:
        tell_others(output.not_in(shards), "the rows of those that are gone go with the next run")
    else:
        done = number(sum(summary["shards"].values()), "shard")
        tell(f"{done} finished; with --input, missing ones are named")
    return report(options, output, digest, summary, shards)


def report(
    options: GeotagOptions,
    output: Output,
    digest: RunDigest,
    summary: dict[str, Any],
    shards: Sequence[Shard],
) -> dict[str, Any]:
    """Writes and prints a summary, draws the pages, and checks the result.

    Raises:
        RunFailed: A shard has no result, or the result is not good enough.
    """
    output.write(SUMMARY, data=to_json(summary))
    print(summary_table(summary))
    pages = (
        f", with {MAP_HTML} and {REPORT_HTML}" if draw_pages(output, digest.sample, summary) else ""
    )
    print(printable(f"written      {output.root}{pages}"))
    print(last_line(summary))
    if reason := _failure(summary, output, shards, options):
        raise RunFailed(reason)
    return summary


def _tell_unreadable(shards: Sequence[Shard]) -> None:
    """Tells of photos in folders that no installed package reads, and how to install one."""
    endings = unreadable_endings()
    found = Counter(extension(photo.key) for shard in shards for photo in shard.photos)
    for remedy in dict.fromkeys(endings.values()):
        kinds = {one: found[one] for one in endings if endings[one] == remedy and found[one]}
        if kinds:
            names = ", ".join(f".{kind}" for kind in kinds)
            tell(
                f"{number(sum(kinds.values()), 'photo')} ({names}) cannot be read here; stop, "
                f"then `{remedy}`, or do these later: the same command reads them then"
            )


def draw_pages(output: Output, sample: Sample, summary: Mapping[str, Any]) -> bool:
    """Draws the pages and returns whether it could; an error is told and loses no result."""
    try:
        from pipelines.geotag.pages import write_map_html, write_map_png, write_report_html

        told = summary.get("configuration")
        write_map_png(sample, output.path(MAP_PNG), told)
        write_map_html(sample, output.path(MAP_HTML), told)
        write_report_html(sample, summary, output.path(REPORT_HTML))
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        tell(f"a map or the report is missing ({why}); all results are complete")
        return False
    return True


def _failure(
    summary: Mapping[str, Any], output: Output, shards: Sequence[Shard], options: GeotagOptions
) -> str | None:
    """Returns the reason why a result is not as it should be; None if it is."""
    photos, failed, limit = summary["photos"], summary["photo_errors"], options.max_error_fraction
    look = f"look at {output.path('errors')}"
    finished = set(output.manifest_names())
    if summary["mismatches"]:
        return "the counts do not add up; delete what is named, and type the same command again"
    if unread := [shard.url for shard in shards if shard.id not in finished]:
        how = ", without --summarise" if options.summarise else ""
        return (
            f"{number(len(unread), 'shard')} without a result: {', '.join(shown(unread))}; type "
            f"the same command again{how}"
        )
    if again := summary["read_again"]:
        return (
            f"not everything in {', '.join(shown(again, whole(summary, 'read_again')))} could be "
            f"read; {look}, then type the same command again: it reads them anew"
        )
    if photos == 0:
        return f"no photo was found in {number(sum(summary['shards'].values()), 'shard')}; {look}"
    if failed == photos:
        return f"all of {number(photos, 'photo')} failed; {look}"
    if failed > limit * photos:
        what = f"{failed:,} of {number(photos, 'photo')} failed"
        return f"{what}, above --max-error-fraction {limit:g}; {look}"
    if summary["damaged"] and not options.accept_damaged:
        return (
            f"{number(whole(summary, 'damaged'), 'shard')} damaged, see above: all that could be "
            "read is geotagged; copy the damaged anew and type the same command, or accept what "
            "was read with --accept-damaged"
        )
    return None


def geotag(arguments: Sequence[str] | None, load: Loader | None = None) -> dict[str, Any] | None:
    """Does what a command line says; returns the summary, or None where nobody waits for it."""
    options = parse(arguments)
    if options.summarise:
        return summarise_only(options)
    job = build(options, load)
    words = ["locdiffusion", "geotag", *(sys.argv[1:] if arguments is None else arguments)]
    provenance.begin(job.output, job.configuration, job.shards, len(job.unfinished), words)
    summary = run(job)
    if options.albums:
        again = f"locdiffusion albums {shlex.quote(options.output)}"
        if summary is None:
            print(f"for its albums, when it has ended: {again}")
        else:
            # The room of albums stands upon this one.
            import_module("pipelines.albums.command").behind_geotag(options, again)
    return summary


def main(arguments: Sequence[str] | None = None, load: Loader | None = None) -> int:
    """Runs the command, in tests with a loader of their own; returns its exit status."""

    def body() -> int:
        geotag(arguments, load)
        return DONE

    with terminable():
        return run_command(body, DataError, OutputError, stopped=AGAIN)

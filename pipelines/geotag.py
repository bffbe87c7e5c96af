"""Geotags an archive of photos.

    python -m pipelines.geotag --input 'photos/*.tar' --output out

reads every shard, embeds each photo, runs conditional diffusion over locations, decodes, and writes
GeoParquet, a summary and two maps to `out`. Typed again, it goes on where it was stopped.
`--help` tells the rest. Parse, build, run: three functions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from pipelines.listing import InputError, Shard, list_shards
from pipelines.loading import GeotaggerLike, Loader, loaded
from pipelines.options import GeotagOptions, UsageError, beam_options, parse
from pipelines.progress import Progress
from pipelines.sink import (
    MAP_HTML,
    MAP_PNG,
    SUMMARY,
    Output,
    OutputError,
    RunConfiguration,
    to_json,
)
from pipelines.summary import summarise, summary_table

DONE, FAILED, USAGE, STOPPED = 0, 1, 2, 130


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
        options: parsed.
        load: replaces `options.loader`, for tests.

    Raises:
        InputError: if no shard can be found.
        UsageError: if the model cannot be had, or not with this encoder.
        OutputError: if the output directory belongs to something else.
    """
    load = load or options.loader
    shards = tuple(list_shards(options.input))
    # RuntimeError: the encoder's weights are missing. All three carry their own remedy.
    try:
        geotagger = loaded(load).geotagger
    except (ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"the model cannot be loaded: {error}") from error
    configuration = _configuration(options, geotagger)
    output = Output(options.output)
    output.prepare(configuration, shards, options.overwrite)
    return Job(options, shards, output, configuration, load)


def _configuration(options: GeotagOptions, geotagger: GeotaggerLike) -> RunConfiguration:
    loader = options.loader
    settings: dict[str, Any] = {"mode": loader.mode}
    if loader.mode == "sampling":
        settings |= {"samples": loader.samples, "steps": loader.steps}
    spec: Any = getattr(geotagger, "encoder_spec", None)
    if is_dataclass(spec) and not isinstance(spec, type):
        settings["encoder"] = asdict(spec)
    return RunConfiguration(geotagger.model_id, geotagger.checkpoint_hash, loader.seed, settings)


def run(job: Job) -> int:
    """Runs the job, then writes and prints the summary and draws the maps.

    Returns:
        The exit status.
    """
    before = sum(manifest["photos"] for manifest in job.output.manifests())
    print(
        f"{len(job.shards):,} shards -> {job.output.root}, model {job.configuration.model_id}, "
        f"{before:,} photos done before",
        file=sys.stderr,
    )
    timing = _run_pipeline(job)
    summary = summarise(job.output)
    photos = summary["photos"] - before
    if photos:
        timing["images_per_second"] = round(photos / timing["seconds"], 2)
    else:  # nothing was left to do: what is known about the time is in the earlier summary
        earlier = job.output.read_json(job.output.path(SUMMARY)) or {}
        timing = {name: earlier.get(name, value) for name, value in timing.items()}
    summary |= {**timing, "configuration": job.configuration.to_dict()}
    job.output.write(SUMMARY, data=to_json(summary))
    print(summary_table(summary))
    _draw_maps(job.output)
    return _verdict(summary, job)


def _run_pipeline(job: Job) -> dict[str, Any]:
    """The Beam job itself; `seconds`, `images_per_second` (0 as yet) and `stage_seconds`."""
    import apache_beam as beam
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from pipelines.transforms import Geotag, stage_seconds

    options = job.options
    # Given the name DirectRunner, Beam would look for another engine on the network first.
    runner: Any = FnApiRunner() if options.is_local else options.runner
    start = time.monotonic()
    pipeline = beam.Pipeline(runner=runner, options=beam_options(options))
    geotag = Geotag(job.load, job.configuration, job.output, options.batch_size)
    _ = pipeline | "ListShards" >> beam.Create(job.shards) | "Geotag" >> geotag
    with Progress(len(job.shards), job.output.count_finished):
        result = pipeline.run()
        result.wait_until_finish()
    seconds = time.monotonic() - start
    stages = {name: round(value, 2) for name, value in stage_seconds(result).items()}
    return {"seconds": round(seconds, 2), "images_per_second": 0.0, "stage_seconds": stages}


def _draw_maps(output: Output) -> None:
    """Maps are for looking at: what goes wrong here is told, and the results stay."""
    try:
        from pipelines.maps import write_map_html, write_map_png

        write_map_png(output.root, output.path(MAP_PNG))
        write_map_html(output.root, output.path(MAP_HTML))
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        print(f"no map was drawn ({why}); all results are complete", file=sys.stderr)


def _verdict(summary: dict[str, Any], job: Job) -> int:
    """The exit status, with the reason on stderr where it is not 0."""
    photos, failed = summary["photos"], summary["photo_errors"]
    limit = job.options.max_error_fraction
    look = f"look at {job.output.path('errors')}"
    unread = {shard.id for shard in job.shards} - {
        manifest["shard"] for manifest in job.output.manifests()
    }
    if summary["mismatches"] or unread:
        reason = f"the counts do not add up; shards without a result: {sorted(unread) or 'none'}"
    elif photos == 0:
        reason = f"no photo was found in {len(job.shards)} shards; {look}"
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
        arguments: without the program's name; None takes `sys.argv`.
        load: replaces the loader made from the arguments, for tests.

    Returns:
        The exit status; see `--help`.
    """
    try:
        return run(build(parse(arguments), load))
    except (UsageError, InputError, OutputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("stopped; type the same command again to go on from here", file=sys.stderr)
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())

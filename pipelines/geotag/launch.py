"""The geotag job, handed to Beam's runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from locdiffusion.photos.listing import Shard
from pipelines.beam.jobs import how_to_follow, run_job
from pipelines.geotag import transforms
from pipelines.geotag.model_cache import Loader
from pipelines.geotag.options import GeotagOptions
from pipelines.geotag.output import Output, RunConfiguration

__all__ = ["how_to_follow", "launch", "stage_seconds"]


def launch(
    options: GeotagOptions,
    load: Loader,
    configuration: RunConfiguration,
    output: Output,
    shards: Sequence[Shard],
) -> Any:
    """Runs the geotag job, or only submits it if `options.wait` is false.

    Args:
        options: Where the job runs, and how many photos go into a batch.
        load: Builds the Geotagger on a worker.
        configuration: Configuration of the run.
        output: Output directory, prepared for the run.
        shards: Shards to geotag.

    Returns:
        Result of Beam's `Pipeline.run`.

    Raises:
        UsageError: No job service answers where one was named.
        KeyboardInterrupt: The job goes on, although nobody waits for it any more.
    """
    geotag = transforms.Geotag(load, configuration, output, options.batch_size, options.extras)

    def build(pipeline: beam.Pipeline) -> None:
        _ = pipeline | "ListShards" >> beam.Create(shards) | "Geotag" >> geotag

    return run_job(options, build)


def stage_seconds(result: Any) -> dict[str, float]:
    """Seconds in each step over all workers, rounded; see `transforms.stage_seconds`."""
    return {name: round(value, 2) for name, value in transforms.stage_seconds(result).items()}

"""The geotag job as a Beam graph, of the steps in `reading`, `stages` and `writing`.

Pixels never cross a shuffle: everything from reading to decoding is fused into one stage. A shard's
batches therefore reach `GatherShard` on the worker that read the shard, and the shard is written as
soon as its last batch is there, so that a stopped job has something to resume from. (After a
GroupByKey nothing would be written before the last photo has been seen.) If a runner breaks the
fusion nothing is lost: a GroupByKey regroups the shards that a bundle leaves incomplete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from locdiffusion.photos.listing import Shard
from pipelines.beam.jobs import run_job
from pipelines.geotag.batches import STAGES
from pipelines.geotag.combining import DigestRun
from pipelines.geotag.model_cache import Loader
from pipelines.geotag.options import GeotagOptions
from pipelines.geotag.output import Output, RunConfiguration
from pipelines.geotag.reading import KEPT, ReadShard
from pipelines.geotag.shard_lists import few, read_list, remove_lists, write_lists
from pipelines.geotag.stages import StageHandler
from pipelines.geotag.tables import Extras
from pipelines.geotag.writing import WriteShards


class Geotag(beam.PTransform):
    """Turns shards into manifests, and writes the files of each shard.

    Workers build the Geotagger with `load`, which must be hashable and picklable.
    """

    def __init__(
        self,
        load: Loader,
        configuration: RunConfiguration,
        output: Output,
        batch_size: int,
        extras: Extras | None = None,
    ) -> None:
        super().__init__()
        self.load = load
        self.configuration = configuration
        self.output = output
        self.batch_size = batch_size
        self.extras = extras or Extras()

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[dict[str, Any]]:
        """Chains the steps of the job."""
        step = ReadShard(self.load, self.configuration, self.output, self.batch_size, self.extras)
        reading = beam.ParDo(step).with_outputs(KEPT, main="photos")
        read = shards | "Reshuffle" >> beam.Reshuffle() | "ReadShards" >> reading
        photos = read["photos"]
        for stage in STAGES:
            handler = StageHandler(self.load, stage, self.extras).with_no_batching()
            photos = photos | stage.value.capitalize() >> RunInference(handler)
        write = WriteShards(self.output, self.configuration, self.extras)
        written = photos | "WriteShards" >> write
        return (read[KEPT], written) | "KeptAndWritten" >> beam.Flatten()


class ListShards(beam.PTransform):
    """Gives the shards of a job; many of them from lists in the output directory."""

    def __init__(self, output: Output, shards: Sequence[Shard]) -> None:
        super().__init__()
        self.output = output
        self.names = [] if few(shards) else write_lists(output, shards)
        self.shards = () if self.names else shards

    def expand(self, start: beam.Pipeline) -> beam.PCollection[Shard]:
        """Puts the shards, or the names of their lists, into the graph."""
        if not self.names:
            return start | "Shards" >> beam.Create(self.shards)
        files = start | "Lists" >> beam.Create(self.names) | "Spread" >> beam.Reshuffle()
        return files | "ReadLists" >> beam.FlatMap(read_list, self.output)


def launch(
    options: GeotagOptions,
    load: Loader,
    configuration: RunConfiguration,
    output: Output,
    shards: Sequence[Shard],
) -> Any:
    """Runs the geotag job, or only submits it if `options.wait` is false.

    Returns:
        Result of Beam's `Pipeline.run`.

    Raises:
        UsageError: No job service answers where one was named.
        KeyboardInterrupt: The job goes on, although nobody waits for it any more.
    """
    geotag = Geotag(load, configuration, output, options.batch_size, options.extras)
    lists = ListShards(output, shards)

    def build(pipeline: beam.Pipeline) -> None:
        _ = pipeline | "ListShards" >> lists | "Geotag" >> geotag | "DigestRun" >> DigestRun(output)

    done = options.is_local  # or else workers may still need the lists
    try:
        result = run_job(options, build)
        done = done or options.wait
    finally:
        if done:
            remove_lists(output, lists.names)
    return result

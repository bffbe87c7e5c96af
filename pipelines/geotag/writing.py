"""Brings the batches of each shard together and writes it, in a Beam job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.geotag.batches import PhotoBatch
from pipelines.geotag.counters import (
    LATE_RESULTS,
    MICROSECONDS,
    PHOTOS,
    WAIT_FOR_LATE,
    WRITE,
    counted,
)
from pipelines.geotag.late_results import LATE_THREADS
from pipelines.geotag.output import Output, RunConfiguration, write_shard
from pipelines.geotag.progress import TALLY
from pipelines.geotag.tables import Extras

SCATTERED = "scattered"


class WriteShards(beam.PTransform):
    """Brings each shard's batches together and writes it."""

    def __init__(
        self, output: Output, configuration: RunConfiguration, extras: Extras | None = None
    ) -> None:
        super().__init__()
        self.write = ShardWriter(output, configuration, extras or Extras())

    def expand(self, photos: beam.PCollection[PhotoBatch]) -> beam.PCollection[dict[str, Any]]:
        """Writes whole shards directly, and scattered ones after a GroupByKey."""
        gathered = photos | "Gather" >> beam.ParDo(GatherShard()).with_outputs(
            SCATTERED, main="whole"
        )
        whole = gathered["whole"] | "Write" >> beam.Map(self.write)
        scattered = (
            gathered[SCATTERED]
            | "RegroupByShard" >> beam.GroupByKey()
            | "DropShardId" >> beam.Values()
            | "WriteRegrouped" >> beam.Map(self.write)
        )
        return (whole, scattered) | "Manifests" >> beam.Flatten()


class ShardWriter:
    """Writes shards with `output.write_shard`, and counts the time."""

    def __init__(self, output: Output, configuration: RunConfiguration, extras: Extras) -> None:
        self.output = output
        self.configuration = configuration
        self.extras = extras
        self.microseconds = Metrics.counter(WRITE, MICROSECONDS)
        self.late = Metrics.counter(LATE_RESULTS, MICROSECONDS)
        self.waiting_late = Metrics.counter(WAIT_FOR_LATE, MICROSECONDS)

    def __call__(self, batches: Iterable[PhotoBatch]) -> dict[str, Any]:
        """Writes one shard and returns its manifest."""
        with counted(self.waiting_late):
            whole = [batch.settled() for batch in batches]
        with counted(self.microseconds):
            manifest = write_shard(self.output, self.configuration, whole, self.extras)
        self.late.inc(round(LATE_THREADS.seconds() * 1e6))
        return manifest


class GatherShard(beam.DoFn):
    """Holds the batches of a shard until all are there; a worker has one shard at a time."""

    def __init__(self) -> None:
        self.photos = Metrics.counter(WRITE, PHOTOS)

    def start_bundle(self) -> None:
        """Starts without batches."""
        self.held: dict[str, list[PhotoBatch]] = {}

    def process(self, batch: PhotoBatch) -> Iterator[Sequence[PhotoBatch]]:
        """Yields the batches of a shard once they are complete."""
        TALLY.add(batch.rows)
        self.photos.inc(batch.rows)
        held = self.held.setdefault(batch.shard.id, [])
        held.append(batch)
        ending = next((one.ending for one in held if one.ending is not None), None)
        if ending is not None and len(held) == ending.batches:
            yield self.held.pop(batch.shard.id)

    def finish_bundle(self) -> Iterator[beam.pvalue.TaggedOutput]:
        """Yields the batches of shards that another bundle must complete."""
        for shard_id, batches in self.held.items():
            for batch in batches:
                value = WindowedValue(
                    (shard_id, batch), GlobalWindow().max_timestamp(), (GlobalWindow(),)
                )
                yield beam.pvalue.TaggedOutput(SCATTERED, value)
        self.held = {}

"""The aggregate as a Beam graph: sums of shards, added up by place, and by group where wanted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam

from pipelines.aggregate.job import AggregateJob
from pipelines.aggregate.partial_sums import ROWS_AT_ONCE, PartialSums, added
from pipelines.beam.flags import JobFlags
from pipelines.beam.jobs import run_job
from schemas.albums import ALBUMS


class AddSums(beam.CombineFn):
    """Adds up partial sums, on the worker that made them before they travel."""

    def create_accumulator(self) -> list[PartialSums]:
        """Begins without any."""
        return []

    def add_input(self, kept: list[PartialSums], one: PartialSums) -> list[PartialSums]:
        """Adds one, now or later."""
        kept.append(one)
        return kept if sum(sums.rows for sums in kept) < ROWS_AT_ONCE else [added(kept)]

    def merge_accumulators(self, parts: Iterable[list[PartialSums]]) -> list[PartialSums]:
        """Adds up what several workers have."""
        return self.compact([one for kept in parts for one in kept])

    def compact(self, kept: list[PartialSums]) -> list[PartialSums]:
        """Adds up before the sums travel."""
        return [added(kept)]

    def extract_output(self, kept: list[PartialSums]) -> PartialSums:
        """Returns the sums."""
        return added(kept)


class AggregatePhotos(beam.PTransform):
    """Turns names of shards into the summary of an aggregate, and writes its files."""

    def __init__(self, job: AggregateJob) -> None:
        super().__init__()
        self.job = job

    def expand(self, names: beam.PCollection[str]) -> beam.PCollection[dict[str, Any]]:
        """Chains the steps of the job."""
        return (
            self._with_albums(names)
            | "AddUpShards" >> beam.FlatMap(self.job.sums_of)
            | "AddUpGroups" >> beam.CombinePerKey(AddSums())
            | "DrawGroups" >> beam.FlatMap(self.job.drawn)
            | "AddUpPlaces" >> beam.CombinePerKey(AddSums())
            | "DropKeys" >> beam.Values()
            | "AllPlaces" >> beam.combiners.ToList()
            | "Finish" >> beam.Map(self.job.finish)
        )

    def _with_albums(self, names: beam.PCollection[str]) -> beam.PCollection[Any]:
        """Brings each shard together with the labels of its albums, if those are needed."""
        source = self.job.source
        if not source.labels_in(ALBUMS):
            alone = "Alone" >> beam.Map(lambda name: (name, ()))
            return names | "SpreadShards" >> beam.Reshuffle() | alone
        albums = (
            names.pipeline
            | "Albums" >> beam.Create(source.albums())
            | "ReadAlbums" >> beam.FlatMap(source.album_labels)
        )
        shards = names | "Shards" >> beam.Map(lambda name: (name, None))
        return (
            {"shards": shards, "albums": albums}
            | "ByShard" >> beam.CoGroupByKey()
            | "KnownShards" >> beam.Filter(lambda element: element[1]["shards"])
            | "Labels" >> beam.Map(lambda element: (element[0], tuple(element[1]["albums"])))
        )


def launch(options: JobFlags, names: Sequence[str], job: AggregateJob) -> Any:
    """Runs the job, or only submits it if `options.wait` is false; returns Beam's result.

    Raises:
        UsageError: No job service answers where one was named.
        KeyboardInterrupt: The job goes on, although nobody waits for it any more.
    """
    return run_job(
        options, lambda pipeline: pipeline | "Names" >> beam.Create(names) | AggregatePhotos(job)
    )

"""Runs `planning`, `candidates` and `finishing` as a Beam graph.

Records travel as tables: an element is (partition, rows in bytes), and a GroupByKey brings a
partition together, whose rows then fit into memory. Images never cross a shuffle: a shard is
fetched, encoded and written by one worker, and only its fingerprints go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from pipelines.build_shards import fingerprints, planning, tables
from pipelines.build_shards.candidates import Workers, make_candidate
from pipelines.build_shards.file_ranges import FileRange
from pipelines.build_shards.fingerprints import Alike, Key, partitions
from pipelines.build_shards.finishing import Duplicate, finish_shard, named
from pipelines.build_shards.metadata import cap_authors, cap_cells
from pipelines.build_shards.output import BuildOutput, split_of
from pipelines.build_shards.planning import Step
from pipelines.build_shards.settings import Settings

COUNTS, ROWS = "counts", "rows"

CAPS = (
    ("Author", "author_cap", planning.by_author, cap_authors),
    ("Cell", "cell_cap", planning.by_cell, cap_cells),
)


class BuildShards(beam.PTransform):
    """The whole job, without the plan if an earlier build has made it."""

    def __init__(
        self,
        settings: Settings,
        output: BuildOutput,
        workers: Workers,
        records: Sequence[FileRange],
        links: Sequence[FileRange],
        planned: Sequence[str] | None,
    ) -> None:
        super().__init__()
        self.settings, self.output, self.workers = settings, output, workers
        self.records, self.links, self.planned = records, links, planned

    def expand(self, pipeline: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Plans, then makes the shards; the plan lies on disk between the two."""
        if self.planned is None:
            ranges = pipeline | "ListMetadata" >> beam.Create(self.records)
            plan = PlanShards(self.settings, self.output, self.links)
            shards = ranges | "PlanShards" >> plan
        else:
            shards = pipeline | "ListShards" >> beam.Create(self.planned)
        return shards | "MakeShards" >> MakeShards(self.settings, self.output, self.workers)


class PlanShards(beam.PTransform):
    """Plans the shards: from ranges of metadata to the names of shards with a plan on disk."""

    def __init__(self, settings: Settings, output: BuildOutput, links: Sequence[FileRange]) -> None:
        super().__init__()
        self.settings, self.output, self.links = settings, output, links

    def expand(self, ranges: beam.PCollection[FileRange]) -> beam.PCollection[str]:
        """Builds the first half of the graph."""
        settings, output = self.settings, self.output
        records = (
            ranges
            | "SpreadRecords" >> beam.Reshuffle()
            | "ReadRecords" >> _counted(_read_range, planning.read_records, settings, output)
        )
        links = (
            ranges.pipeline
            | "ListLinks" >> beam.Create(self.links)
            | "SpreadLinks" >> beam.Reshuffle()
            | "ReadLinks" >> _counted(_read_range, planning.read_links, settings)
        )
        linked = (
            {"records": records[ROWS], "links": links[ROWS]}
            | "ByPhoto" >> beam.CoGroupByKey()
            | "LinkImages" >> _counted(_link_images, settings, output)
        )
        counts, rows = [records[COUNTS], links[COUNTS], linked[COUNTS]], linked[ROWS]
        for name, cap, group, keep in CAPS:
            if getattr(settings.rules, cap):
                capped = (
                    rows
                    | f"SpreadBy{name}" >> beam.FlatMap(planning.spread, group, settings)
                    | f"By{name}" >> beam.GroupByKey()
                    | f"Cap{name}" >> _counted(_cap_rows, name.lower(), keep, settings, output)
                )
                counts, rows = [*counts, capped[COUNTS]], capped[ROWS]
        packed = rows | "Pack" >> beam.Map(tables.to_bytes)  # held until they are counted
        # The number of shards follows from the number of photos.
        photos = beam.pvalue.AsSingleton(
            packed
            | "CountSplits" >> beam.Map(planning.count_splits, settings)
            | "AddUpSplits" >> beam.CombineGlobally(planning.total)
        )
        planned = (
            packed
            | "SpreadByShard" >> beam.FlatMap(planning.spread_shards, photos, settings)
            | "ByShard" >> beam.GroupByKey()
            | "Rows" >> beam.Values()
            | "WritePlans" >> beam.Map(planning.write_plans, photos, settings, output)
        )
        return (
            (*counts, planned)
            | "AllCounts" >> beam.Flatten()
            | "AddUp" >> beam.CombineGlobally(planning.total)
            | "WriteManifest" >> beam.FlatMap(planning.write_metadata_manifest, settings, output)
        )


def _counted(step: Callable[..., Iterator[Any]], *arguments: Any) -> Any:
    """Applies a step that yields rows under ROWS and Counters under COUNTS."""
    return beam.FlatMap(step, *arguments).with_outputs(COUNTS, main=ROWS)


def _read_range(
    span: FileRange, read: Callable[..., Iterator[Step]], *arguments: Any
) -> Iterator[Any]:
    for step in read(span, *arguments):
        yield beam.pvalue.TaggedOutput(COUNTS, step.counts)
        yield from step.elements


def _link_images(
    element: tuple[int, dict[str, Iterable[bytes]]], settings: Settings, output: BuildOutput
) -> Iterator[Any]:
    part, found = element
    table, counts = planning.link_images(part, found["records"], found["links"], settings, output)
    yield beam.pvalue.TaggedOutput(COUNTS, counts)
    yield table


def _cap_rows(
    element: tuple[int, Iterable[bytes]],
    name: str,
    keep: planning.Keep,
    settings: Settings,
    output: BuildOutput,
) -> Iterator[Any]:
    part, rows = element
    table, counts = planning.cap_rows(name, part, rows, keep, settings, output)
    yield beam.pvalue.TaggedOutput(COUNTS, counts)
    yield table


class MakeShards(beam.PTransform):
    """Writes planned shards: from their names to their manifests."""

    def __init__(self, settings: Settings, output: BuildOutput, workers: Workers) -> None:
        super().__init__()
        self.settings, self.output, self.workers = settings, output, workers

    def expand(self, shards: beam.PCollection[str]) -> beam.PCollection[dict[str, Any]]:
        """Builds the second half of the graph."""
        settings, output = self.settings, self.output
        counts = beam.pvalue.AsDict(
            shards | "Splits" >> beam.Map(split_of) | beam.combiners.Count.PerElement()
        )
        duplicates = (
            shards
            | "SpreadShards" >> beam.Reshuffle()
            | "FetchShards" >> beam.FlatMap(_fetch, counts, settings, output, self.workers)
            | "ByFingerprint" >> beam.GroupByKey()
            | "FindDuplicates" >> beam.FlatMap(_find_duplicates, counts)
            | "ByPhotoThatStays" >> beam.GroupByKey()
            | "NameThatPhoto" >> beam.FlatMap(_name, output)
        )
        names = shards | "KeyByName" >> beam.Map(_with_nothing)
        return (
            {"duplicates": duplicates, "shard": names}
            | "ByShard" >> beam.CoGroupByKey()
            | "FinishShards" >> beam.Map(_finish_shard, settings, output)
        )


def _fetch(
    shard: str, shards: dict[str, int], settings: Settings, output: BuildOutput, workers: Workers
) -> Iterator[tuple[Key, bytes]]:
    table = make_candidate(shard, settings, output, workers)
    return fingerprints.spread(shard, table, partitions(shards, settings.rules.shard_size))


def _find_duplicates(
    element: tuple[Key, Iterable[bytes]], shards: dict[str, int]
) -> Iterator[tuple[str, Alike]]:
    (by, _), rows = element
    return fingerprints.find_duplicates(by, rows, shards)


def _name(
    element: tuple[str, Iterable[Alike]], output: BuildOutput
) -> Iterator[tuple[str, Duplicate]]:
    return named(*element, output)


def _with_nothing(shard: str) -> tuple[str, None]:
    return shard, None


def _finish_shard(
    element: tuple[str, dict[str, Iterable[Any]]], settings: Settings, output: BuildOutput
) -> dict[str, Any]:
    shard, found = element
    return finish_shard(shard, found["duplicates"], settings, output)

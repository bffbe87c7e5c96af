"""An aggregate that is ready to run: steps that the plain loop and Beam share. Knows no Beam."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from locdiffusion.cpu import usable_cores
from pipelines.aggregate.borders import Borders
from pipelines.aggregate.output import AggregateOutput
from pipelines.aggregate.partial_sums import ROWS_AT_ONCE, PartialSums, added, split, with_groups
from pipelines.aggregate.source import Source
from pipelines.aggregate.targets import Target
from schemas.albums import ALBUMS

BUCKETS = 64
"""Parts in which places, and groups, are added up on Beam, each by one worker."""


@dataclass(frozen=True)
class AggregateJob:
    """What is common to all shards of a job.

    Attributes:
        source: The output of `geotag`.
        target: What photos are counted in.
        output: Claimed output directory.
        settings: What is recorded of the job.
        borders: The polygons of areas with names.
        pixel_deg: Size of a pixel of the raster in degrees.
    """

    source: Source
    target: Target
    output: AggregateOutput
    settings: dict[str, Any]
    borders: Borders
    pixel_deg: float

    def sums_of(self, shard: tuple[str, Iterable[pa.Table]]) -> Iterator[tuple[int, PartialSums]]:
        """Adds up the photos of a shard, from its name and the labels of its albums.

        Yields:
            Numbers of buckets, those of groups negative, and the sums of each.
        """
        return split(self.source.sums(shard[0], self.target, shard[1]), BUCKETS)

    def drawn(self, bucket: tuple[int, PartialSums]) -> Iterator[tuple[int, PartialSums]]:
        """Takes the groups of a bucket as one draw each, and yields the buckets of their places."""
        return split(with_groups(bucket[1], self.target.resolution), BUCKETS)

    def finish(self, parts: Sequence[PartialSums]) -> dict[str, Any]:
        """Writes the files of the aggregate from all buckets; returns its summary."""
        return self.output.finish(
            added([PartialSums.nothing(), *parts]),
            self.settings,
            self.target.leaves,
            self.borders,
            self.pixel_deg,
        )


def run_plain_loop(
    job: AggregateJob, names: Sequence[str], done: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Runs a job in this process, and returns its summary.

    Args:
        job: The job.
        names: Names of the parts of its shards.
        done: Called after each shard.
    """
    return job.finish([add_shards(job.source, names, job.target, done)])


def add_shards(
    source: Source, names: Sequence[str], target: Target, done: Callable[[], None] = lambda: None
) -> PartialSums:
    """Adds up shards.

    Args:
        source: The output of `geotag`.
        names: Names of the parts of its shards.
        target: What photos are counted in.
        done: Called after each shard.

    Returns:
        The sums, with those of groups in them.
    """
    albums: defaultdict[str, list[pa.Table]] = defaultdict(list)
    if source.labels_in(ALBUMS):
        for part in source.albums():
            for name, table in source.album_labels(part):
                albums[name].append(table)
    kept = [PartialSums.nothing()]
    with ThreadPoolExecutor(usable_cores()) as pool:  # NumPy and Arrow let each other work
        for one in pool.map(lambda name: source.sums(name, target, albums.pop(name, ())), names):
            kept.append(one)
            if sum(sums.rows for sums in kept[1:]) > ROWS_AT_ONCE:
                kept = [added(kept)]
            done()
    return with_groups(added(kept), target.resolution)

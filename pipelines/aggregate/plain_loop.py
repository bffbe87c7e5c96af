"""Adds up the photos of all shards in this process; the job on Beam gives the same sums."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import pyarrow as pa

from pipelines.aggregate.partial_sums import SUMS, PartialSums, added, added_tables, of_groups
from pipelines.aggregate.source import Source
from pipelines.aggregate.targets import Target
from schemas.albums import ALBUMS

ROWS_AT_ONCE = 4_000_000
"""Rows of partial sums that are kept before they are added up."""


def add_shards(
    source: Source, names: Sequence[str], target: Target, done: Callable[[], None] = lambda: None
) -> PartialSums:
    """Adds up shards, one after the other.

    Args:
        source: The output of `geotag`.
        names: Names of the parts of its shards.
        target: What photos are counted in.
        done: Called after each shard.

    Returns:
        The sums, those of groups too.
    """
    albums: defaultdict[str, list[pa.Table]] = defaultdict(list)
    if source.labels_in(ALBUMS):
        for part in source.albums():
            for name, table in source.album_labels(part):
                albums[name].append(table)
    kept = [PartialSums.nothing()]
    for name in names:
        kept.append(source.sums(name, target, albums.pop(name, ())))
        if sum(one.rows for one in kept[1:]) > ROWS_AT_ONCE:
            kept = [added(kept)]
        done()
    return with_groups(added(kept), target.resolution)


def with_groups(sums: PartialSums, resolution: int) -> PartialSums:
    """Turns the masses of whole groups into sums."""
    if not sums.group_counts.num_rows:
        return sums
    nothing = PartialSums.nothing()
    groups = of_groups(sums.group_masses, sums.group_counts, resolution)
    return PartialSums(
        added_tables([sums.sums, groups], SUMS), sums.counts, nothing.group_masses, nothing.group_counts
    )

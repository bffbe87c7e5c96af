"""The steps between lists and plan, each with its rows, its drops on disk, and its counts. No Beam.

A step takes rows that belong together and returns what it made of them: rows for the next step,
spread over its partitions, and a Counter. The Counters of all steps, added up, must balance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.build_shards import metadata, tables
from pipelines.build_shards.file_ranges import FileRange
from pipelines.build_shards.metadata import Chunk
from pipelines.build_shards.output import DROPPED, METADATA, PLAN, BuildOutput
from pipelines.build_shards.settings import Rules, Settings
from pipelines.build_shards.stable_hash import stable_hashes
from pipelines.writing.directory import MANIFESTS, to_json
from schemas.training import DropRow, drop_table

Element = tuple[int, bytes]
"""A partition, and rows that belong to it."""

READ, DROPPED_AS, PLANNED = "read", "dropped/", "planned/"
LINKS_READ, LINKS_UNUSABLE = "links_read", "links_unusable"


class CountError(AssertionError):
    """Records got lost or came twice: a mistake in this program."""


@dataclass(frozen=True)
class Step:
    """What one step made of its rows.

    Attributes:
        elements: Rows for the next step.
        counts: Of records read, dropped by reason, and planned.
    """

    elements: list[Element]
    counts: Counter[str]


Group = Callable[[pa.Table, Rules], np.ndarray]
"""From rows to a number per row; rows of one number must come together."""


def by_photo(table: pa.Table, rules: Rules) -> np.ndarray:
    """Rows of one photo together: records, and links without rank."""
    if "rank" in table.column_names:
        return _whole(table["rank"].to_numpy())
    return _whole(stable_hashes(table["photo"].to_pylist(), rules.seed))


def by_author(table: pa.Table, rules: Rules) -> np.ndarray:
    """Rows of one photographer together."""
    groups, authors = tables.codes(table["author"])
    return _whole(stable_hashes(authors, rules.seed))[groups] if len(groups) else groups


def by_cell(table: pa.Table, rules: Rules) -> np.ndarray:
    """Rows of one cell together."""
    return metadata.cells_of(table, rules)


def _whole(numbers: np.ndarray) -> np.ndarray:
    """Ranks as numbers that are not negative, int64 (N,)."""
    return (numbers >> np.uint64(1)).astype(np.int64)


def spread(table: pa.Table, group: Group, settings: Settings) -> list[Element]:
    """The rows by partition, in bytes."""
    parts = group(table, settings.rules) % settings.partitions
    return [(part, tables.to_bytes(rows)) for part, rows in tables.split_rows(table, parts)]


def read_records(span: FileRange, settings: Settings, output: BuildOutput) -> Iterator[Step]:
    """A piece of metadata, for `link_images`."""
    for chunk in metadata.read_records(span, settings):
        counts = record_drops(chunk.id, chunk.drops, output)
        counts[READ] = chunk.read
        yield Step(spread(chunk.table, by_photo, settings), counts)


def read_links(span: FileRange, settings: Settings) -> Iterator[Step]:
    """A piece of a list that tells where images are, for `link_images`."""
    chunk: Chunk
    for chunk in metadata.read_links(span, settings.inputs):
        counts = Counter({LINKS_READ: chunk.read, LINKS_UNUSABLE: len(chunk.drops)})
        yield Step(spread(chunk.table, by_photo, settings), counts)


def link_images(
    part: int,
    records: Iterable[bytes],
    links: Iterable[bytes],
    settings: Settings,
    output: BuildOutput,
) -> tuple[pa.Table, Counter[str]]:
    """All records and links of a partition by photo: one record per photo, with its image."""
    table, drops = metadata.link(
        tables.from_bytes(records, tables.RECORDS),
        tables.from_bytes(links, tables.LINKS),
        settings.inputs,
    )
    return table, record_drops(f"link-{part:05d}", drops, output)


Keep = Callable[[pa.Table, Rules], tuple[pa.Table, list[DropRow]]]


def cap_rows(
    name: str, part: int, rows: Iterable[bytes], keep: Keep, settings: Settings, output: BuildOutput
) -> tuple[pa.Table, Counter[str]]:
    """All records of a partition by author, or by cell: at most so many of each."""
    table, drops = keep(tables.from_bytes(rows, tables.RECORDS), settings.rules)
    return table, record_drops(f"{name}-{part:05d}", drops, output)


def record_drops(name: str, drops: list[DropRow], output: BuildOutput) -> Counter[str]:
    """Writes drops to a part of this name, if there are any, and counts them by reason."""
    if drops:
        output.write_table(drop_table(drops), DROPPED, f"part-{name}.parquet")
    return Counter(f"{DROPPED_AS}{drop.reason.value}" for drop in drops)


def count_splits(rows: bytes, settings: Settings) -> Counter[str]:
    """How many records are for what."""
    return metadata.count_splits(tables.from_bytes([rows], tables.RECORDS), settings.rules)


def spread_shards(rows: bytes, photos: Counter[str], settings: Settings) -> list[Element]:
    """The rows by partition of shards, in bytes; a partition holds whole shards.

    Args:
        rows: Of RECORDS.
        photos: Of each split, in the whole build.
        settings: Of the build.
    """
    table = tables.from_bytes([rows], tables.RECORDS)
    shards = metadata.shard_counts(photos, settings.rules)
    numbers, names = metadata.assign(table, shards, settings.rules)
    parts = numbers * min(settings.partitions, len(names)) // max(len(names), 1)
    return [(part, tables.to_bytes(some)) for part, some in tables.split_rows(table, parts)]


def write_plans(
    rows: Iterable[bytes], photos: Counter[str], settings: Settings, output: BuildOutput
) -> Counter[str]:
    """Writes the plans of the shards of a partition; counts their records."""
    table = tables.from_bytes(rows, tables.RECORDS)
    shards = metadata.shard_counts(photos, settings.rules)
    counts: Counter[str] = Counter()
    for shard, part in metadata.plan_tables(table, shards, settings.rules):
        output.write_table(part, PLAN, f"{shard}.parquet")
        counts[f"{PLANNED}{shard}"] = len(part)
    return counts


def write_metadata_manifest(
    counts: Counter[str], settings: Settings, output: BuildOutput
) -> list[str]:
    """Checks that no record got lost, and writes what the lists held.

    Args:
        counts: Of all steps together.
        settings: Of the build.
        output: Where to write.

    Returns:
        The names of the shards that are planned.

    Raises:
        CountError: If the counts do not balance.
    """
    dropped, planned = (_under(counts, prefix) for prefix in (DROPPED_AS, PLANNED))
    if counts[READ] != sum(dropped.values()) + sum(planned.values()):
        raise CountError(
            f"{counts[READ]:,} records were read, {sum(dropped.values()):,} dropped and "
            f"{sum(planned.values()):,} planned"
        )
    document = {
        "read": counts[READ],
        "dropped": dropped,
        "links_read": counts[LINKS_READ],
        "links_unusable": counts[LINKS_UNUSABLE],
        "shards": planned,
        "config_hash": settings.hash,
    }
    output.write(MANIFESTS, f"{METADATA}.json", data=to_json(document))
    return list(planned)


def _under(counts: Counter[str], prefix: str) -> dict[str, int]:
    found = {name: number for name, number in sorted(counts.items()) if name.startswith(prefix)}
    return {name.removeprefix(prefix): number for name, number in found.items()}


def total(counters: Iterable[Counter[str]]) -> Counter[str]:
    """The sum of Counters."""
    summed: Counter[str] = Counter()
    for one in counters:
        summed.update(one)
    return summed

"""Runs the steps from lists to the plan of each shard, and counts what each step does.

A step takes rows that belong together. It returns rows for the next step, spread over partitions,
and a Counter. The sum of all Counters must balance.
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
"""Number of a partition, and rows that belong to it."""

READ, DROPPED_AS, PLANNED = "read", "dropped/", "planned/"
LINKS_READ, LINKS_UNUSABLE = "links_read", "links_unusable"


class CountError(AssertionError):
    """Records were lost or counted twice: a mistake in this program."""


@dataclass(frozen=True)
class Step:
    """Result of one step.

    Attributes:
        elements: Rows for the next step.
        counts: Numbers of records read, dropped by reason, and planned.
    """

    elements: list[Element]
    counts: Counter[str]


Group = Callable[[pa.Table, Rules], np.ndarray]
"""Function from rows to a number per row; rows of equal number must come together."""


def by_photo(table: pa.Table, rules: Rules) -> np.ndarray:
    """Numbers rows by photo; links have no rank."""
    if "rank" in table.column_names:
        return _whole(table["rank"].to_numpy())
    return _whole(stable_hashes(table["photo"].to_pylist(), rules.seed))


def by_author(table: pa.Table, rules: Rules) -> np.ndarray:
    """Numbers rows by photographer."""
    groups, authors = tables.codes(table["author"])
    return _whole(stable_hashes(authors, rules.seed))[groups] if len(groups) else groups


def by_cell(table: pa.Table, rules: Rules) -> np.ndarray:
    """Numbers rows by cell."""
    return metadata.cells_of(table, rules)


def _whole(numbers: np.ndarray) -> np.ndarray:
    """Converts ranks to numbers that are not negative, int64 ``(N,)``."""
    return (numbers >> np.uint64(1)).astype(np.int64)


def spread(table: pa.Table, group: Group, settings: Settings) -> list[Element]:
    """Divides rows by partition; returns them in bytes."""
    parts = group(table, settings.rules) % settings.partitions
    return [(part, tables.to_bytes(rows)) for part, rows in tables.split_rows(table, parts)]


def read_records(span: FileRange, settings: Settings, output: BuildOutput) -> Iterator[Step]:
    """Reads the records of a range, for `link_images`."""
    for chunk in metadata.read_records(span, settings):
        counts = record_drops(chunk.id, chunk.drops, output)
        counts[READ] = chunk.read
        yield Step(spread(chunk.table, by_photo, settings), counts)


def read_links(span: FileRange, settings: Settings) -> Iterator[Step]:
    """Reads the places of images from a range, for `link_images`."""
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
    """Keeps one record per photo of a partition and adds the place of its image."""
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
    """Caps the photos per author, or per cell, of a partition."""
    table, drops = keep(tables.from_bytes(rows, tables.RECORDS), settings.rules)
    return table, record_drops(f"{name}-{part:05d}", drops, output)


def record_drops(name: str, drops: list[DropRow], output: BuildOutput) -> Counter[str]:
    """Writes drops to a file, if there are any, and counts them by reason."""
    if drops:
        output.write_table(drop_table(drops), DROPPED, f"part-{name}.parquet")
    return Counter(f"{DROPPED_AS}{drop.reason.value}" for drop in drops)


def count_splits(rows: bytes, settings: Settings) -> Counter[str]:
    """Counts the records of each split."""
    return metadata.count_splits(tables.from_bytes([rows], tables.RECORDS), settings.rules)


def spread_shards(rows: bytes, photos: Counter[str], settings: Settings) -> list[Element]:
    """Divides rows by partition, in bytes; a partition holds whole shards."""
    table = tables.from_bytes([rows], tables.RECORDS)
    shards = metadata.shard_counts(photos, settings.rules)
    numbers, names = metadata.assign(table, shards, settings.rules)
    parts = numbers * min(settings.partitions, len(names)) // max(len(names), 1)
    return [(part, tables.to_bytes(some)) for part, some in tables.split_rows(table, parts)]


def write_plans(
    rows: Iterable[bytes], photos: Counter[str], settings: Settings, output: BuildOutput
) -> Counter[str]:
    """Writes the plans of the shards of a partition and counts their records."""
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
    """Checks that no record was lost, and writes the manifest of the lists.

    Returns:
        Names of the planned shards.

    Raises:
        CountError: The counts do not balance.
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
    """Adds Counters."""
    summed: Counter[str] = Counter()
    for one in counters:
        summed.update(one)
    return summed

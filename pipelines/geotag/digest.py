"""What a run's summary and pages need of it, bounded in size: digests of parts add up to a digest.

A digest of two parts is the same in whatever order they come, to the last bit: all numbers are
whole, and of long lists the first are kept in a fixed order. Knows no Beam.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from locdiffusion.evaluate.metrics import within_thresholds
from locdiffusion.photos.left_out import MOST_KINDS, MOST_NAMED
from locdiffusion.photos.names import OTHER_KINDS
from pipelines.geotag.manifests import is_counts
from pipelines.geotag.sample import SCHEMA, Sample, check_rows
from pipelines.geotag.tables import UNREADABLE
from schemas.geotags import SCHEMA_VERSION, THRESHOLDS_KM

CREDIBLE = {"radius_50_km": "coverage_50", "radius_90_km": "coverage_90"}
NEAREST_KM, BIN_RATIO = 1e-3, 1.005
"""Upper end of the first bin of errors, and the ratio of the ends of each other one."""
MOST_GROUPS, OTHER_GROUPS = 250, "all others"
"""Most groups of shards that are told apart, and the name of the others together."""
LEFT_OUT = "left_out"
MOST_TOLD = {"problems": MOST_NAMED, LEFT_OUT: MOST_NAMED}
MOST_TOLD_OF_OTHERS = 1_000
"""Most entries that are kept of a list; the first by shard."""

Told = tuple[str, int, list[str]]
"""An entry of a list: shard, number of the entry within the shard, texts."""


@dataclass
class RunDigest:
    """What is known of some shards of a run.

    Attributes:
        counts: Tables of counts by name.
        told: Lists by name; `counts["told"]` has their whole lengths.
        accuracy: `error_counts` by kind of known position and group of shards.
        sample: An even sample of the predictions.
        files: Number of files of the output that the digest covers.
        cover: Sum of the hashes of their names and sizes, modulo 2**128.
    """

    counts: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    told: defaultdict[str, list[Told]] = field(default_factory=lambda: defaultdict(list))
    accuracy: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)
    sample: Sample = field(default_factory=Sample)
    files: int = 0
    cover: int = 0

    def cover_file(self, folder: str, name: str, size: int) -> None:
        """Notes that the digest covers a file of so many bytes."""
        one = hashlib.blake2b(f"{folder}/{name} {size}".encode("utf-8", "replace"), digest_size=16)
        self.cover = (self.cover + int.from_bytes(one.digest(), "big")) % 2**128
        self.files += 1

    def covers(self, sizes: Mapping[str, Mapping[str, int]]) -> bool:
        """Whether the digest covers exactly these files, sizes in bytes by folder and name."""
        there = RunDigest()
        for folder, names in sizes.items():
            for name, size in names.items():
                there.cover_file(folder, name, size)
        return (self.files, self.cover) == (there.files, there.cover)

    def tell(self, name: str, shard: str, *texts: str) -> None:
        """Adds an entry about a shard to a list."""
        before = itertools.takewhile(lambda told: told[0] == shard, reversed(self.told[name]))
        self.told[name].append((shard, sum(1 for _ in before), [*texts]))
        self.counts["told"][name] += 1

    def update(self, other: RunDigest) -> None:
        """Adds the digest of other shards."""
        for name, counts in other.counts.items():
            self.counts[name].update(counts)
        for name, entries in other.told.items():
            self.told[name] += entries
        for kind, groups in other.accuracy.items():
            for group, counts in groups.items():
                self.accuracy.setdefault(kind, {}).setdefault(group, Counter()).update(counts)
        self.sample.update(other.sample)
        self.files += other.files
        self.cover = (self.cover + other.cover) % 2**128
        self.bound()

    def bound(self) -> None:
        """Cuts tables and lists to what a digest keeps of them."""
        _spill(self.counts[LEFT_OUT], MOST_KINDS, OTHER_KINDS)
        for name, entries in self.told.items():
            entries.sort()
            del entries[MOST_TOLD.get(name, MOST_TOLD_OF_OTHERS) :]
        for groups in self.accuracy.values():
            _spill(groups, MOST_GROUPS, OTHER_GROUPS)

    def to_bytes(self) -> bytes:
        """The digest as a Parquet file: the sample, and the rest as JSON in its metadata."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "counts": {name: counts for name, counts in self.counts.items() if counts},
            "told": {name: told for name, told in self.told.items() if told},
            "accuracy": {
                kind: {group: +counts for group, counts in groups.items()}  # without zeros
                for kind, groups in self.accuracy.items()
            },
            "rows": [self.sample.rows, self.sample.known],
            "files": self.files,
            "cover": f"{self.cover:032x}",
        }
        text = json.dumps(document, sort_keys=True)
        buffer = pa.BufferOutputStream()
        table = self.sample.table.replace_schema_metadata({b"digest": text.encode()})
        pq.write_table(table, buffer, compression="zstd")
        return bytes(buffer.getvalue())

    @classmethod
    def from_bytes(cls, data: bytes) -> RunDigest:
        """Reads what `to_bytes` returned.

        Raises:
            ValueError: It is something else.
        """
        try:
            table = pq.read_table(pa.BufferReader(data))
            document = json.loads((table.schema.metadata or {})[b"digest"])
            if document["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"version {document['schema_version']}")
            digest = cls(files=document["files"], cover=int(document["cover"], 16))
            for name, counts in document["counts"].items():
                digest.counts[name] = Counter({**counts})
            for name, told in document["told"].items():
                digest.told[name] = [(str(s), int(i), [*map(str, t)]) for s, i, t in told]
            for kind, groups in document["accuracy"].items():
                digest.accuracy[kind] = {group: Counter({**one}) for group, one in groups.items()}
            rows, known = document["rows"]
            tables = [one for groups in digest.accuracy.values() for one in groups.values()]
            whole = {"rows": rows, "known": known, "files": digest.files}
            for table_of_counts in (*tables, *digest.counts.values(), whole):
                if not is_counts(table_of_counts):
                    raise ValueError(f"the counts {dict(table_of_counts)!r:.200}")
            sample = check_rows(table.select(SCHEMA.names).cast(SCHEMA))
            digest.sample = Sample(rows, known, [sample], _held=len(sample))
        except UNREADABLE as error:
            raise ValueError(f"found {error!r}, wanted what a run writes there") from error
        return digest


def _spill(table: dict[str, Any], most: int, others: str) -> None:
    """Joins all but the first names of a table as others.

    A name is among the first of the whole only if it is so in every part: its sums are complete.
    """
    if len(table) <= most:
        return
    for name in sorted(set(table) - {others})[most:]:
        spilled = table.pop(name)
        table[others] = table[others] + spilled if others in table else spilled


def error_counts(rows: NDArray[np.float64]) -> Counter[str]:
    """Counts errors by threshold, by radius and in bins of equal ratio.

    Args:
        rows: Distance to the truth, 50 % and 90 % radius in km, ``(N, 3)``.

    Returns:
        `n`; `within_` each of THRESHOLDS_KM; `coverage_50` and `coverage_90`; of each bin of errors
        its number of errors under its number, and their sum in mm under its number and ` mm`.
    """
    distance = rows[:, 0]
    counts = Counter(n=len(rows))
    hits = within_thresholds(distance).sum(0).tolist()
    counts.update({f"within_{km:g}": n for km, n in zip(THRESHOLDS_KM, hits, strict=True)})
    for column, name in enumerate(CREDIBLE.values(), start=1):
        counts[name] = int(np.sum(distance <= rows[:, column]))
    steps = np.log(np.maximum(distance, NEAREST_KM) / NEAREST_KM) / np.log(BIN_RATIO)
    bins, of_row = np.unique(np.ceil(steps).astype(np.int64), return_inverse=True)
    sums = np.zeros(len(bins), np.int64)
    np.add.at(sums, of_row, np.rint(distance * 1e6).astype(np.int64))
    names = list(map(str, bins.tolist()))
    counts.update(dict(zip(names, np.bincount(of_row).tolist(), strict=True)))
    counts.update(dict(zip([f"{name} mm" for name in names], sums.tolist(), strict=True)))
    return counts


def accuracy_row(counts: Mapping[str, int]) -> dict[str, Any]:
    """Computes accuracy and coverage of photos with a prediction and a known position.

    Args:
        counts: Of `error_counts`, of at least one photo.

    Returns:
        `n`, `median_km` (within 0.5 %; exact to 1 mm where its bin holds one error), `within`
        (share of photos, by threshold in km), `coverage_50` and `coverage_90` (share of photos
        whose truth lies within the radius).
    """
    n = counts["n"]
    bins = sorted(int(name) for name in counts if name.isdecimal())
    rank = np.cumsum([counts[str(one)] for one in bins])
    middle = [bins[np.searchsorted(rank, at, "right")] for at in ((n - 1) // 2, n // 2)]
    means = [counts[f"{one} mm"] / counts[str(one)] / 1e6 for one in middle]
    return {
        "n": n,
        "median_km": sum(means) / 2,
        "within": {f"{km:g}": counts[f"within_{km:g}"] / n for km in THRESHOLDS_KM},
        **{name: counts[name] / n for name in CREDIBLE.values()},
    }

"""Finds the photos of an output that the rows of a catalogue name, shard by shard.

Of the output only the rows that are named are held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from locdiffusion.files import file_system
from locdiffusion.photos.storage import DataError
from pipelines.geotag.output import Output
from pipelines.geotag.tables import ERRORS, PREDICTIONS, UNREADABLE
from pipelines.join.catalogue import Catalogue, Key, photo_keys
from pipelines.writing.directory import RUN
from schemas.geotags import SCHEMA_VERSION

ANSWER_COLUMNS = (
    *("photo_id", "shard", "key", "path"),
    *("best_latitude", "best_longitude", "best_source", "radius_50_km", "radius_90_km"),
    *("country_code", "country_probability", "region", "region_probability", "admin"),
)
"""Columns of the predictions that a row of the catalogue gets, as far as they are there."""
KEY_COLUMNS = ("key", "shard", "photo_id", "path", "stem", "sha256")
ROWS_AT_ONCE = 2**17
"""Rows of an output that are compared at once: the names of a catalogue are hashed anew each time.
"""
MOST_SHOWN = 5
"""Most examples of each kind that are kept."""


@dataclass
class Matching:
    """Which photos the rows of a catalogue name.

    Attributes:
        value: Number of the name of each of the N rows, among the distinct names; -1 for none.
        names: The distinct names.
        counts: Number of photos with an answer that have each name.
        failed: Number of photos in errors that have each name.
        photos: Rows of ANSWER_COLUMNS of the photos that are named, in the order of their names.
        of_name: Number of the name of each of these, ascending.
        seen: Number of all photos with an answer.
        photo_examples: Keys of some of the photos that no row names.
        other_keys: Number of rows that would name one photo under each other key.
    """

    value: NDArray[np.int64]
    names: list[str]
    counts: NDArray[np.int64]
    failed: NDArray[np.int64]
    photos: pa.Table
    of_name: NDArray[np.int64]
    seen: int
    photo_examples: list[str] = field(default_factory=list)
    other_keys: dict[Key, int] = field(default_factory=dict)

    @property
    def photos_of_row(self) -> NDArray[np.int64]:
        """Number of photos with an answer that each row names, ``(N,)``."""
        return self._of_row(self.counts)

    @property
    def failed_of_row(self) -> NDArray[np.int64]:
        """Number of photos in errors that each row names, ``(N,)``."""
        return self._of_row(self.failed)

    def _of_row(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(self.value >= 0, np.append(counts, 0)[self.value], 0)

    def photos_named(self, row: int) -> list[str]:
        """Shard and path of the first photos that a row names."""
        first, last = np.searchsorted(self.of_name, [self.value[row], self.value[row] + 1])
        some = self.photos.slice(first, min(last - first, MOST_SHOWN))
        pairs = zip(some["shard"].to_pylist(), some["path"].to_pylist(), strict=True)
        return [f"{shard}: {path}" for shard, path in pairs]


class _Names:
    """The distinct names under one key, and how many photos have each."""

    def __init__(self, catalogue: Catalogue, key: Key, ignore_case: bool) -> None:
        self.key, self.ignore_case = key, ignore_case
        keys = catalogue.keys(key, ignore_case)
        self.values = pc.unique(keys.drop_null())
        self.rows = self.numbers(keys)
        self.counts = np.zeros(len(self.values), np.int64)
        self.failed = np.zeros(len(self.values), np.int64)

    def numbers(self, keys: pa.Array) -> NDArray[np.int64]:
        """Numbers of names; -1 for what is none."""
        found = pc.index_in(keys, value_set=self.values, skip_nulls=True)
        return found.fill_null(-1).to_numpy().astype(np.int64)

    def of(self, photos: pa.Table) -> NDArray[np.int64]:
        """Numbers of the names of photos; -1 where the catalogue has none of that name."""
        return self.numbers(photo_keys(photos, self.key, self.ignore_case))

    @property
    def matched(self) -> int:
        """Number of rows that name one photo with an answer."""
        return int(np.sum(self.counts[self.rows[self.rows >= 0]] == 1))


def match(catalogue: Catalogue, root: str, key: Key, ignore_case: bool = False) -> Matching:
    """Finds the photos that the rows of a catalogue name.

    Args:
        catalogue: The catalogue.
        root: Output directory of `geotag`.
        key: What rows and photos have in common.
        ignore_case: Whether small letters and capitals are the same.

    Raises:
        DataError: The directory is no such output, or its files are damaged.
    """
    output = _output(root)
    every = {one: _Names(catalogue, one, ignore_case) for one in Key}
    names = every[key]
    parts, of_name, examples, seen = [], [], list[str](), 0
    for table in _tables(output, PREDICTIONS, (*KEY_COLUMNS, *ANSWER_COLUMNS)):
        seen += len(table)
        for one in every.values():
            found = one.of(table)
            np.add.at(one.counts, found[found >= 0], 1)
        found = names.of(table)
        parts.append(table.filter(pa.array(found >= 0)))
        of_name.append(found[found >= 0])
        if len(examples) < MOST_SHOWN:
            others = table.filter(pa.array(found < 0)).slice(0, MOST_SHOWN)
            shown = photo_keys(others, key).to_pylist()
            examples += [one for one in shown if one is not None]
    for table in _tables(output, ERRORS, KEY_COLUMNS):
        photos = table.filter(table["key"].is_valid())
        found = names.of(photos)
        np.add.at(names.failed, found[found >= 0], 1)
    photos = pa.concat_tables(parts)
    number = np.concatenate(of_name)
    places = zip(
        number.tolist(), photos["shard"].to_pylist(), photos["key"].to_pylist(), strict=True
    )
    ordered = sorted(range(len(number)), key=list(places).__getitem__)
    photos = photos.select([name for name in ANSWER_COLUMNS if name in photos.column_names])
    return Matching(
        names.rows,
        names.values.to_pylist(),
        names.counts,
        names.failed,
        photos.take(pa.array(ordered, pa.int64())).combine_chunks(),
        number[ordered],
        seen,
        examples[:MOST_SHOWN],
        {one: found.matched for one, found in every.items() if one is not key},
    )


def _output(root: str) -> Output:
    output = Output(root)
    run = output.read_json(RUN)
    if run is None or "model_id" not in run:
        raise DataError(
            f"{root} is no output of `locdiffusion geotag`, as it holds no {RUN} of it; geotag the "
            "photos first"
        )
    if run.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{root} holds files of schema version {run.get('schema_version')}, and this release "
            f"reads version {SCHEMA_VERSION}; geotag the photos anew"
        )
    if not output.manifest_names():
        raise DataError(f"{root} holds no finished shard; let `locdiffusion geotag` end first")
    return output


def _tables(output: Output, layer: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yields what is there of the columns of a layer, the shards in their order, some at once."""
    waiting: list[pa.Table] = []
    for table in _parts(output, layer, columns):
        waiting.append(table)
        if sum(map(len, waiting)) >= ROWS_AT_ONCE:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _parts(output: Output, layer: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    for shard in output.manifest_names():
        place = output.part(layer, shard)
        try:
            filesystem, path = file_system(place)
            file = pq.ParquetFile(pa.BufferReader(filesystem.cat_file(path)))
            there = set(file.schema_arrow.names)
            wanted = [name for name in dict.fromkeys(columns) if name in there]
            part = file.read(wanted, use_threads=False).replace_schema_metadata(None)
        except UNREADABLE as error:
            raise DataError(
                f"{place} cannot be read ({error}); geotag the photos of its shard again"
            ) from None
        yield part

"""Reads and writes the directory of a build.

    run.json                        written first: whose directory this is
    train/train-00000.tar val/...   the shards
    index/part-<shard>.parquet      a row per photo in the shard (GeoParquet)
    dropped/part-<chunk>.parquet    a row per record that is in no shard
    _manifest/metadata.json         what the lists held, and how many photos each shard will have
    _manifest/<shard>.json          written last: a shard without one is not done
    _work/plan/<shard>.parquet      the records of a shard
    _work/candidates/<shard>.*      the shard before duplicates are taken out
    summary.json datasheet.md density.png

The bytes depend on the input and the settings alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from locdiffusion.files import atomic_path, file_system
from locdiffusion.photos.storage import open_stream
from pipelines.writing.directory import MANIFESTS, SUMMARY, OutputDirectory
from schemas.training import Split

INDEX, DROPPED, WORK = "index", "dropped", "_work"
PLAN, CANDIDATES = f"{WORK}/plan", f"{WORK}/candidates"
DATASHEET, DENSITY = "datasheet.md", "density.png"
METADATA = "metadata"
ROW_GROUP_ROWS = 10_000


@dataclass(frozen=True)
class BuildOutput(OutputDirectory):
    """The output directory of a build."""

    FOLDERS: ClassVar[Mapping[str, str]] = {
        MANIFESTS: "*.json",
        **{split.value: "*.tar" for split in Split},
        INDEX: "*.parquet",
        DROPPED: "*.parquet",
        PLAN: "*.parquet",
        CANDIDATES: "*",
    }
    FILES: ClassVar[tuple[str, ...]] = (SUMMARY, DATASHEET, DENSITY)
    KIND: ClassVar[str] = "build"

    def read_table(self, *names: str, columns: list[str] | None = None) -> pa.Table:
        """Reads a Parquet file, or some of its columns."""
        with open_stream(self.path(*names)) as file:
            return pq.read_table(pa.BufferReader(file.read()), columns=columns)

    def finished(self, shards: Iterable[str]) -> bool:
        """Returns whether all of these shards are done."""
        return set(self.manifest_names()).issuperset(shards)

    def has_plans(self, shards: Iterable[str]) -> bool:
        """Returns whether all of these shards have a plan."""
        known = set(self.names(PLAN, "*.parquet"))
        return all(f"{shard}.parquet" in known for shard in shards)

    def write_table(self, table: pa.Table, *names: str) -> None:
        """Writes a Parquet file."""
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, row_group_size=ROW_GROUP_ROWS, compression="zstd")
        self.write(*names, data=bytes(buffer.getvalue()))

    @contextlib.contextmanager
    def writing(self, *names: str) -> Iterator[BinaryIO]:
        """Opens a file for writing that appears when the block ends without an error."""
        self._refuse_link(*names[:-1])
        with atomic_path(self.path(*names)) as temporary, temporary.open("wb") as file:
            yield file

    def remove_work(self) -> None:
        """Deletes the files that only an unfinished build needs."""
        self._refuse_link(WORK)
        filesystem, path = file_system(self.path(WORK))
        filesystem.invalidate_cache()
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)

    def _clear(self) -> None:
        super()._clear()
        self.remove_work()


def split_of(shard: str) -> str:
    """Returns the folder of a shard: `train` of `train-00012`."""
    return shard.rpartition("-")[0]

"""The directory of a build: what lies where, and how it gets there whole or not at all.

    run.json                        written first: whose directory this is
    train/train-00000.tar val/...   the shards
    index/part-<shard>.parquet      a row per photo in the shard (GeoParquet)
    dropped/part-<piece>.parquet    a row per record that is in no shard
    _manifest/metadata.json         what the lists held, and how many photos each shard will have
    _manifest/<shard>.json          written last: a shard without one is not done
    _work/plan/<shard>.parquet      the records of a shard
    _work/candidates/<shard>.*      the shard before duplicates are taken out
    summary.json datasheet.md density.png

Bytes depend on the input and the settings, and on nothing else. Knows no Beam.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from locdiffusion.files import LEFT_OVER, atomic_path, write_atomically
from locdiffusion.photos.storage import open_stream
from pipelines.build_shards.settings import Settings
from pipelines.geotag.output import OutputError, to_json
from schemas.training import Split

INDEX, DROPPED, MANIFESTS, WORK = "index", "dropped", "_manifest", "_work"
PLAN, CANDIDATES = f"{WORK}/plan", f"{WORK}/candidates"
RUN, SUMMARY, DATASHEET, DENSITY = "run.json", "summary.json", "datasheet.md", "density.png"
METADATA = "metadata"
ROW_GROUP_ROWS = 10_000

# Our folders, and how our files in them end.
_FOLDERS = {
    MANIFESTS: ".json",
    **{split.value: ".tar" for split in Split},
    INDEX: ".parquet",
    DROPPED: ".parquet",
    PLAN: ".parquet",
    CANDIDATES: "",
}


@dataclass(frozen=True)
class BuildOutput:
    """A directory, local or wherever fsspec can write.

    Attributes:
        root: Path or URL.
    """

    root: str

    def path(self, *names: str) -> str:
        """Joins names to the root."""
        return "/".join([self.root.rstrip("/"), *names])

    def prepare(self, settings: Settings, overwrite: bool = False) -> None:
        """Makes the directory this build's own, keeping what the same build finished.

        Args:
            settings: Of the build.
            overwrite: Whether to delete first what earlier builds wrote here.

        Raises:
            OutputError: If the directory holds another build, or files of somebody else.
        """
        run = self.read_json(RUN)
        if run is None:
            self._refuse_foreign()
        elif overwrite:
            self._clear()
        else:
            self._refuse_other_build(run, settings)
        if run is not None:
            self._remove_temporary()
        self.write(RUN, data=to_json(settings.to_dict()))

    # Reading

    def exists(self, *names: str) -> bool:
        """Whether there is such a file."""
        filesystem, path = fsspec.core.url_to_fs(self.path(*names))
        filesystem.invalidate_cache()  # workers write behind the launcher's back
        return bool(filesystem.exists(path))

    def read_json(self, *names: str) -> dict[str, Any] | None:
        """A JSON object, or None if there is no such file or it holds something else."""
        try:
            with open_stream(self.path(*names)) as file:
                document = json.loads(file.read())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    def read_table(self, *names: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file, or some of its columns."""
        with open_stream(self.path(*names)) as file:
            return pq.read_table(pa.BufferReader(file.read()), columns=columns)

    def names(self, folder: str, ending: str) -> list[str]:
        """Names of the files in a folder that end so, sorted; hidden ones left out."""
        filesystem, path = fsspec.core.url_to_fs(self.path(folder))
        filesystem.invalidate_cache()
        if not filesystem.isdir(path):
            return []
        names = (name.rpartition("/")[2] for name in filesystem.ls(path, detail=False))
        return sorted(name for name in names if name.endswith(ending) and name[0] != ".")

    def manifest(self, name: str) -> dict[str, Any] | None:
        """Of a shard, or of METADATA; None if it is not done."""
        return self.read_json(MANIFESTS, f"{name}.json")

    def finished(self, shards: Iterable[str]) -> bool:
        """Whether all of these shards are done."""
        done = set(self.names(MANIFESTS, ".json"))
        return all(f"{shard}.json" in done for shard in shards)

    def has_plans(self, shards: Iterable[str]) -> bool:
        """Whether the records of all of these shards are known."""
        known = set(self.names(PLAN, ".parquet"))
        return all(f"{shard}.parquet" in known for shard in shards)

    # Writing

    def write(self, *names: str, data: bytes) -> None:
        """Writes a file that appears whole or not at all."""
        write_atomically(self.path(*names), data)

    def write_table(self, table: pa.Table, *names: str) -> None:
        """Writes a Parquet file."""
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, row_group_size=ROW_GROUP_ROWS, compression="zstd")
        self.write(*names, data=bytes(buffer.getvalue()))

    @contextlib.contextmanager
    def writing(self, *names: str) -> Iterator[BinaryIO]:
        """A file to write to piece by piece, which appears when the block ends without an error."""
        with atomic_path(self.path(*names)) as temporary, temporary.open("wb") as file:
            yield file

    def remove(self, *names: str) -> None:
        """Deletes a file, if it is there."""
        filesystem, path = fsspec.core.url_to_fs(self.path(*names))
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm_file(path)

    def remove_work(self) -> None:
        """Deletes what only a build that is not done needs."""
        filesystem, path = fsspec.core.url_to_fs(self.path(WORK))
        filesystem.invalidate_cache()
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)

    def _refuse_foreign(self) -> None:
        filesystem, path = fsspec.core.url_to_fs(self.root)
        if filesystem.isfile(path):
            raise OutputError(f"--output {self.root} is a file, wanted a directory to create")
        ours = [split.value for split in Split]
        ours += [INDEX, DROPPED, MANIFESTS, WORK, SUMMARY, DATASHEET, DENSITY]
        found = [name for name in ours if filesystem.exists(f"{path}/{name}")]
        if found:
            raise OutputError(
                f"--output {self.root} already holds {', '.join(found)} but no {RUN}, so this "
                "command did not write it; choose another --output"
            )

    def _refuse_other_build(self, run: Mapping[str, Any], settings: Settings) -> None:
        wanted = settings.to_dict()
        different = [
            f"{name} {run.get(name)!r} there, {wanted.get(name)!r} now"
            for name in sorted({*run, *wanted})
            if run.get(name) != wanted.get(name)
        ]
        if different:
            raise OutputError(
                f"--output {self.root} holds another build: {'; '.join(different)}; choose another "
                "--output, or start anew here with --overwrite"
            )

    def _remove_temporary(self) -> None:
        """Deletes what a build that was killed had half written."""
        filesystem, path = fsspec.core.url_to_fs(self.root)
        if not isinstance(filesystem, LocalFileSystem):
            return
        for folder in ("", *_FOLDERS):
            for name in os.listdir(f"{path}/{folder}") if os.path.isdir(f"{path}/{folder}") else ():
                if fnmatch.fnmatch(name, LEFT_OVER):
                    self.remove(folder, name)

    def _clear(self) -> None:
        """Deletes our own files and no others; run.json stays, to be replaced."""
        self._remove_all(MANIFESTS, ".json")  # first: nothing may look finished
        self.remove_work()
        for folder, ending in _FOLDERS.items():
            self._remove_all(folder, ending)
        for name in (SUMMARY, DATASHEET, DENSITY):
            self.remove(name)

    def _remove_all(self, folder: str, ending: str) -> None:
        for name in self.names(folder, ending):
            self.remove(folder, name)


def split_of(shard: str) -> str:
    """The folder of a shard: `train` of `train-00012`."""
    return shard.rpartition("-")[0]

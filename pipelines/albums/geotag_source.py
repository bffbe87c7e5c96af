"""Reads the photos of a shard that `geotag` has answered: their rows, and embeddings if asked for.

Anchors are photos whose position is known: from a document or table beside the photo, or else from
its own file; what an earlier run wrote there is none. Knows no Beam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from locdiffusion.files import file_system
from locdiffusion.photos.storage import DataError
from locdiffusion.photos.table import is_table
from pipelines.albums.grouping import AlbumBy, labels
from pipelines.albums.photos import PREDICTED, photo_table, positions
from pipelines.geotag.output import Output
from pipelines.geotag.places import folder_of
from pipelines.geotag.tables import EMBEDDINGS, PREDICTIONS, UNREADABLE
from pipelines.writing.directory import RUN
from schemas.geotags import SCHEMA_VERSION
from schemas.layers import EMBEDDING

_MICROSECONDS = 3.6e9
"""Microseconds of an hour."""


@dataclass(frozen=True)
class GeotagSource:
    """A shard of the output of `geotag`.

    Attributes:
        root: The output directory.
        shard: Id of the shard.
        by: How photos are grouped.
        label: Name of the place where the shard lies; the folder of a photo begins with it.
        above: Path above the top folders: the label of the only place, or else what is above it.
        folder: Folder of photos that lie in none.
        embeddings: Whether embeddings are read too.
        keep: Fields of documents that the run took along.
    """

    root: str
    shard: str
    by: AlbumBy
    label: str
    above: str
    folder: str
    embeddings: bool = False
    keep: tuple[str, ...] = ()

    def read(self) -> pa.Table:
        """Reads the photos.

        Raises:
            DataError: The shard's files are damaged or of another version.
        """
        output = Output(self.root)
        try:
            rows = _table(output.part(PREDICTIONS, self.shard), [*PREDICTED.names, *self.keep])
            embeddings = self._embeddings(output, rows) if self.embeddings else None
            return photo_table(self._columns(rows), embeddings, self.keep)
        except UNREADABLE as error:
            raise DataError(
                f"the rows of {self.shard} in {self.root} cannot be read ({error}); geotag its "
                "photos again"
            ) from None

    def _columns(self, rows: pa.Table) -> dict[str, Any]:
        folders = [self._folder(key) for key in rows["key"].to_pylist()]
        known = positions(rows)
        offset = rows["captured_utc_offset_min"]
        local = _numbers(rows["captured_at"].cast(pa.int64())) / _MICROSECONDS
        ahead = np.nan_to_num(_numbers(offset)) / 60.0
        return {
            **{name: rows[name] for name in rows.column_names},
            "album": self.by.names(folders, rows["camera"].to_pylist(), self.above),
            "hours": local - ahead,
            "zoned": offset.is_valid(),
            "known_latitude": known.latitude,
            "known_longitude": known.longitude,
        }

    def _folder(self, key: str) -> str:
        inner = key.rpartition("/")[0] or self.folder
        return "/".join(filter(None, (self.label, inner)))

    def _embeddings(self, output: Output, rows: pa.Table) -> pa.Array:
        found = _table(output.part(EMBEDDINGS, self.shard), ["key", EMBEDDING])
        row = pc.index_in(rows["key"], value_set=found["key"].combine_chunks())
        return found[EMBEDDING].combine_chunks().take(row.combine_chunks())


def geotag_sources(
    root: str, by: AlbumBy, embeddings: bool, keep: tuple[str, ...] = ()
) -> tuple[list[GeotagSource], int]:
    """Lists the shards of an output of `geotag`.

    Args:
        root: The output directory.
        by: How photos are grouped.
        embeddings: Whether embeddings are read too.
        keep: Fields of documents that the run took along.

    Returns:
        The shards, and the number of their photos.

    Raises:
        DataError: The directory is no such output, or has no photo.
    """
    output = Output(root)
    manifests = list(output.manifests())
    photos = sum(manifest["predictions"] for manifest in manifests)
    if not photos:
        raise DataError(
            f"{root} holds no photo with an answer; let `locdiffusion geotag` end first"
        )
    roots = {manifest["shard"]: _place(manifest["source"]) for manifest in manifests}
    named = labels({place for place, _ in roots.values()})
    above = {
        label: label if len(named) == 1 else label.rpartition("/")[0] for label in named.values()
    }
    sources = [
        GeotagSource(root, shard, by, named[place], above[named[place]], folder, embeddings, keep)
        for shard, (place, folder) in sorted(roots.items())
    ]
    return sources, photos


def geotag_run(root: str) -> dict[str, Any]:
    """Reads the settings of the run that made an output.

    Raises:
        DataError: The directory holds none, or one of another version.
    """
    run = Output(root).read_json(RUN)
    if run is None or "model_id" not in run:
        raise DataError(
            f"{root} is no output of `locdiffusion geotag`, as it holds no {RUN} of it; geotag the "
            "photos first, or give a table of photos with --table FILE"
        )
    if run.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{root} holds files of schema version {run.get('schema_version')}, and this release "
            f"reads version {SCHEMA_VERSION}; geotag the photos anew"
        )
    return run


def _place(source: str) -> tuple[str, str]:
    """Returns where a shard lies, and the folder of its photos that lie in none.

    Archives of one folder count as one place: an export has its folders in several of them.
    """
    folder = folder_of(source)
    if folder and not is_table(folder):
        return folder, ""
    above, _, name = (folder or source).rpartition("/")
    return above, name.partition(".")[0]


def _table(place: str, columns: list[str]) -> pa.Table:
    filesystem, path = file_system(place)
    return pq.read_table(pa.BufferReader(filesystem.cat_file(path)), columns=columns)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)

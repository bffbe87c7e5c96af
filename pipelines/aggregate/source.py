"""The output of `geotag` whose photos are counted: its shards, and what is known of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from locdiffusion.photos.storage import DataError
from pipelines.aggregate.area_rows import read_area_rows
from pipelines.aggregate.labels import Label, album_labels, labels_of, read_labels
from pipelines.aggregate.partial_sums import PartialSums, sums_of_shard
from pipelines.aggregate.targets import Target
from pipelines.geotag.tables import AREAS, PREDICTIONS
from pipelines.writing.directory import RUN, OutputDirectory
from schemas.albums import ALBUMS

PART, PATTERN = "part-", "part-*.parquet"


@dataclass(frozen=True)
class Source:
    """The output of a `geotag` run.

    Attributes:
        root: Path or URL of the output.
        by: What splits the photos into classes; None to count all together.
        group: What photos of one draw have in common; None to count each alone.
    """

    root: str
    by: Label | None = None
    group: Label | None = None

    @property
    def directory(self) -> OutputDirectory:
        """The output directory."""
        return OutputDirectory(self.root)

    def run(self) -> dict[str, Any]:
        """Reads the configuration of the run.

        Raises:
            DataError: There is none.
        """
        run = self.directory.read_json(RUN)
        if run is None:
            raise DataError(
                f"{self.root} holds no {RUN}, wanted the output of `locdiffusion geotag`"
            )
        return run

    def shards(self) -> list[str]:
        """Lists the names of parts that have areas, sorted.

        Raises:
            DataError: There is none, or some shards have areas and others have not.
        """
        names = self.directory.names(AREAS, PATTERN)
        if not names:
            raise DataError(
                f"{self.root} has no folder {AREAS}/ with the probabilities of areas; geotag again "
                "with --areas country,h3:4 or the like, into another --output"
            )
        if missing := sorted(set(self.directory.names(PREDICTIONS, PATTERN)) ^ set(names)):
            raise DataError(
                f"{missing[0]} is only in one of {AREAS}/ and {PREDICTIONS}/ of {self.root}; let "
                "`locdiffusion geotag` end, then type the same command again"
            )
        return names

    def albums(self) -> list[str]:
        """Lists the names of the parts of albums, sorted."""
        return self.directory.names(ALBUMS, PATTERN)

    @property
    def labels(self) -> list[Label]:
        """The labels that are needed, each once."""
        return list(dict.fromkeys(one for one in (self.by, self.group) if one is not None))

    def labels_in(self, folder: str) -> list[Label]:
        """The labels that are needed of one folder."""
        return [label for label in self.labels if label.folder == folder]

    def album_labels(self, name: str) -> Iterator[tuple[str, pa.Table]]:
        """Reads the labels of albums from one of their parts, by the name of the part of photos."""
        for shard, table in album_labels(self.directory.path(ALBUMS, name), self.labels_in(ALBUMS)):
            if shard is not None:
                yield f"{PART}{shard}.parquet", table

    def sums(self, name: str, target: Target, albums: Iterable[pa.Table] = ()) -> PartialSums:
        """Adds up the photos of one shard.

        Args:
            name: Name of its parts.
            target: What photos are counted in.
            albums: Tables of `album_labels` of the shard.

        Raises:
            DataError: A part cannot be used.
        """
        path = self.directory.path(AREAS, name)
        rows = read_area_rows(path, target.kind)
        predictions = self.directory.path(PREDICTIONS, name)
        found = read_labels(predictions, self.labels_in(PREDICTIONS), rows.keys)
        try:
            if of_albums := self.labels_in(ALBUMS):
                found |= labels_of(pa.concat_tables(albums), of_albums, rows.keys)
            masses, named = target.masses(rows)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        by, group = (label and found[label] for label in (self.by, self.group))
        return sums_of_shard(masses, named, len(rows.keys), by, group)

"""The class and the group of each photo, from columns of predictions or of albums."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from locdiffusion.cli.parser import UsageError
from locdiffusion.photos.storage import DataError
from pipelines.geotag.shard_files import open_part
from pipelines.geotag.tables import PREDICTIONS, UNREADABLE
from pipelines.writing.directory import OutputDirectory
from schemas.albums import ALBUMS
from schemas.geotags import FAMILIARITY, UNFAMILIAR

TIMES = {"year": "%Y", "month": "%Y-%m"}
"""Names of labels that are made of `captured_at`, and how the time is written."""
CAPTURED_AT = "captured_at"
FAMILIAR, STRANGE = f"{UNFAMILIAR:g} and above", f"below {UNFAMILIAR:g}"
"""Classes of familiarity."""


@dataclass(frozen=True)
class Label:
    """A text for each photo.

    Attributes:
        name: What a person calls it: a column, or one of TIMES.
        folder: Folder of the output that has the column.
    """

    name: str
    folder: str = PREDICTIONS

    @property
    def column(self) -> str:
        """The column that is read."""
        return CAPTURED_AT if self.name in TIMES else self.name

    def texts(self, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """Turns the values of the column into texts; null stays null."""
        if self.column == CAPTURED_AT:
            return pc.strftime(values, TIMES.get(self.name, TIMES["year"]))
        if self.column == FAMILIARITY:
            return pc.if_else(pc.less(values, np.float32(UNFAMILIAR)), STRANGE, FAMILIAR)
        return values.cast(pa.string())


def find_label(name: str, flag: str, schemas: Mapping[str, pa.Schema]) -> Label:
    """Finds the column that a person names.

    Args:
        name: Name of a column, or one of TIMES.
        flag: The flag that names it, for messages.
        schemas: Schema of the parts of each folder, those that are asked first at first.

    Raises:
        UsageError: There is no such column, or it cannot be a label.
    """
    for folder, schema in schemas.items():
        label = Label(name, folder)
        if label.column in schema.names:
            kind = schema.field(label.column).type
            if _is_label(kind) or label.column in (CAPTURED_AT, FAMILIARITY):
                return label
            raise UsageError(
                f"{flag} {name}: the column holds {kind}, and each photo would be a class of its "
                "own; give a column of texts or whole numbers, or cut it into classes in SQL"
            )
    usable = [n for s in schemas.values() for n in s.names if _is_label(s.field(n).type)]
    raise UsageError(
        f"{flag} {name}: neither predictions nor albums have such a column; choose year, month, "
        f"{FAMILIARITY}, {', '.join(dict.fromkeys(usable))}"
    )


def _is_label(kind: pa.DataType) -> bool:
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return texts or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def read_labels(path: str, labels: Iterable[Label], keys: pa.Array) -> dict[Label, pa.Array]:
    """Reads the labels of photos from the predictions of their shard.

    Args:
        path: Path or URL of the part.
        labels: Labels of predictions.
        keys: Keys of the photos, P of them.

    Returns:
        P texts of each label.

    Raises:
        DataError: The part cannot be read, or has other photos.
    """
    wanted = list(labels)
    try:
        part, _ = open_part(path)
        if part.metadata.num_rows != len(keys):
            raise ValueError(
                f"it has {part.metadata.num_rows:,} photos, and their areas {len(keys):,}"
            )
        if not wanted:
            return {}
        columns = dict.fromkeys(["key", *(label.column for label in wanted)])
        return labels_of(part.read([*columns]), wanted, keys)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be used ({error}); geotag its photos again") from error


def labels_of(table: pa.Table, labels: Iterable[Label], keys: pa.Array) -> dict[Label, pa.Array]:
    """Takes the labels of photos from a table with their keys.

    Raises:
        ValueError: The table lacks a photo.
    """
    row = pc.index_in(keys, value_set=table["key"].combine_chunks())
    if row.null_count:
        missing = keys.filter(pc.is_null(row))[0].as_py()
        raise ValueError(f"it lacks the photo {missing!r}, which has areas")
    return {label: _one(label.texts(table[label.column]).take(row)) for label in labels}


def _one(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def album_labels(path: str, labels: Iterable[Label]) -> Iterator[tuple[str, pa.Table]]:
    """Reads the labels of albums from one of their parts.

    Args:
        path: Path or URL of the part.
        labels: Labels of albums.

    Yields:
        A shard, and a table of the keys of its photos in the part, and their columns.

    Raises:
        DataError: The part cannot be read.
    """
    columns = list(dict.fromkeys(["key", "shard", *(label.column for label in labels)]))
    try:
        table = open_part(path)[0].read(columns)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read ({error}); run `locdiffusion albums`") from error
    shards = table["shard"].combine_chunks().dictionary_encode()
    encoded = shards.chunk(0) if isinstance(shards, pa.ChunkedArray) else shards
    for number, shard in enumerate(encoded.dictionary.to_pylist()):
        rows = pc.equal(encoded.indices, number)
        yield shard, table.filter(pc.fill_null(rows, False)).drop_columns(["shard"])


def schemas_of(directory: OutputDirectory) -> dict[str, pa.Schema]:
    """Reads the schema of predictions, and that of albums where there are any.

    Raises:
        DataError: A part cannot be read.
    """
    found = {}
    for folder in (PREDICTIONS, ALBUMS):
        for name in directory.names(folder, "part-*.parquet")[:1]:
            path = directory.path(folder, name)
            try:
                found[folder] = open_part(path)[0].schema_arrow
            except UNREADABLE as error:
                raise DataError(f"{path} cannot be read ({error})") from error
    return found

"""The photos of an output of `geotag`, predictions and errors, as one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from locdiffusion.photos.storage import DataError
from pipelines.geotag.shard_files import open_part
from pipelines.geotag.tables import ERRORS, PREDICTIONS, UNREADABLE
from pipelines.writing.directory import RUN, OutputDirectory
from schemas.comparisons import COMPARED

PHOTO_ID, PLACE = "photo_id", ("shard", "key")
SCHEMA = pa.schema([(name, pa.string()) for name in (PHOTO_ID, *PLACE)] + list(COMPARED))


@dataclass(frozen=True)
class Photos:
    """The photos of an output.

    Attributes:
        root: Path or URL of the output.
        table: Table of SCHEMA, a row for each photo.
        has_ids: Whether the output knows identities of photos.
        run: Its configuration.
    """

    root: str
    table: pa.Table
    has_ids: bool
    run: dict[str, Any]


def read_photos(root: str) -> Photos:
    """Reads all predictions and errors of an output.

    Args:
        root: Path or URL of the output.

    Raises:
        DataError: It is no output of `geotag`, or a part cannot be read.
    """
    directory = OutputDirectory(root)
    run = directory.read_json(RUN)
    if run is None:
        raise DataError(f"{root} holds no {RUN}, wanted the output of `locdiffusion geotag`")
    tables, has_ids = [SCHEMA.empty_table()], True
    for folder in (PREDICTIONS, ERRORS):
        for name in directory.names(folder, "part-*.parquet"):
            path = directory.path(folder, name)
            try:
                part, _ = open_part(path)
                there = part.schema_arrow.names
                table = part.read([field.name for field in SCHEMA if field.name in there])
                columns = [
                    table[field.name].cast(field.type)
                    if field.name in there
                    else pa.nulls(len(table), field.type)
                    for field in SCHEMA
                ]
            except UNREADABLE as error:
                raise DataError(f"{path} cannot be read ({error})") from error
            has_ids &= PHOTO_ID in there
            tables.append(pa.table(columns, schema=SCHEMA))
    table = pa.concat_tables(tables)
    return Photos(root, table.filter(pc.is_valid(table["key"])).combine_chunks(), has_ids, run)


def identities(before: Photos, after: Photos) -> tuple[pa.Array, pa.Array]:
    """Gives the photos of two outputs names by which they are joined.

    It is `photo_id`, and `shard` and `key` where an output has none. An error of a photo whose
    bytes could not be read has no identity: it gets that of the photo of its shard and key in the
    other output.

    Raises:
        DataError: A name comes twice in one output.
    """
    places = [_places(photos.table) for photos in (before, after)]
    names = list(places)
    if before.has_ids and after.has_ids:
        own = [_array(photos.table[PHOTO_ID]) for photos in (before, after)]
        names = []
        for mine, other in ((0, 1), (1, 0)):
            there = own[other].take(pc.index_in(places[mine], value_set=places[other]))
            names.append(pc.coalesce(own[mine], there, places[mine]))
    for photos, name in zip((before, after), names, strict=True):
        if len(name.unique()) < len(name):
            counts = name.value_counts().to_pylist()
            twice = next(one["values"] for one in counts if one["counts"] > 1)
            raise DataError(f"{photos.root} has two rows of the photo {twice!r}, wanted one")
    return names[0], names[1]


def _places(table: pa.Table) -> pa.Array:
    return pc.binary_join_element_wise(*(_array(table[name]) for name in PLACE), "\n")


def _array(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array

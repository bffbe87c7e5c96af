"""Reads a catalogue of photos, and what its rows say under each key of a photo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import pyarrow as pa
import pyarrow.compute as pc

from locdiffusion.photos.lists import Column, NamedColumns, read_list
from locdiffusion.photos.names import extension, stem
from locdiffusion.photos.storage import DataError
from schemas.samples import IMAGE_EXTENSIONS


class Key(str, Enum):
    """What a row of a catalogue and a photo may have in common."""

    STEM = "stem"
    NAME = "name"
    PATH = "path"
    KEY = "key"
    PHOTO_ID = "photo_id"
    SHA256 = "sha256"


@dataclass(frozen=True)
class Catalogue:
    """Rows of a catalogue.

    Attributes:
        rows: The file as it was read.
        column: Name of the column that names the photos.
        values: What that column holds, N stripped texts, empty where there is nothing.
    """

    rows: NamedColumns
    column: str
    values: Sequence[str]

    def keys(self, key: Key, ignore_case: bool = False) -> pa.Array:
        """Returns what the rows name under a key, N texts, null where there is nothing.

        For a stem or a name folders are left away, and for a stem the ending of a picture, so that
        `2020/IMG_1.jpg` and `IMG_1` have one stem.
        """
        found = pa.array((plain(value, key) or None for value in self.values), pa.string())
        return pc.utf8_lower(found) if ignore_case else found


def plain(value: str, key: Key) -> str:
    """Returns a cell of a catalogue as a photo would have it under a key."""
    if key is Key.PATH:
        return value.removeprefix("./")
    if key not in (Key.STEM, Key.NAME):
        return value
    name = value.rpartition("/")[2]
    ending = key is Key.STEM and extension(name) in IMAGE_EXTENSIONS
    return stem(name) if ending else name


def photo_keys(photos: pa.Table, key: Key, ignore_case: bool = False) -> pa.Array:
    """Returns the keys of the photos of a table with the columns `key`, `path` and so on."""
    if key is Key.NAME:
        found = pc.replace_substring_regex(photos["path"], r"(?s)^.*/", "")
    elif key is Key.STEM and "stem" not in photos.column_names:  # of errors
        names = (path and stem(path.rpartition("/")[2]) for path in photos["path"].to_pylist())
        found = pa.array(names, pa.string())
    elif key.value in photos.column_names:
        found = photos[key.value]
    else:
        found = pa.nulls(len(photos), pa.string())
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    return pc.utf8_lower(found) if ignore_case else found


def read_catalogue(url: str, key: Key, column: str | None) -> Catalogue:
    """Reads a catalogue.

    Args:
        url: Path or URL of a CSV or Parquet file.
        key: What its rows and photos have in common.
        column: Name of the column that names the photos; None if it is called like the key.

    Raises:
        DataError: The file cannot be read, has no such column, or has a column twice.
    """
    rows = read_list(url)
    names = rows.table.column_names
    wanted = column or key.value
    index = Column("", (wanted.strip().lower(),)).index(names)
    if index is None:
        shown = ", ".join(repr(name[:40]) for name in names[:12])
        raise DataError(
            f"{url} has no column {wanted!r}; it has {shown}; name the one that names the photos "
            "with --column NAME"
        )
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{url} has two columns {repeated[0]!r}; drop or rename one")
    return Catalogue(rows, names[index], rows.text(Column("", (wanted.strip().lower(),))))

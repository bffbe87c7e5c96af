"""Parses MP-16 and every other list of its format, such as the benchmarks': `*_places365.csv`.

    IMG_ID,AUTHOR,LAT,LON,S3_Label,S16_Label,S365_Label,Prob_indoor,Prob_natural,Prob_urban
    45/77/3228511372.jpg,43008843@N00,46.778991,23.611207,0,5,21,0.978698,0.001071,0.020229

The columns are found by their names, in any order and with any others between, as in the list of
MP16-Pro. A list without a header has these ten in this order. One with a header may lack the
photographer.

Its photos lie in a folder or bucket by IMG_ID, in msgpack shards (`msgpack_images`), in plain tars
(`tar_images`), or behind the addresses of `mp16_urls.csv`, which has no header: `image_id,url`.
"""

from __future__ import annotations

import csv
import functools
from collections import Counter
from dataclasses import dataclass

from locdiffusion.photos import lists
from locdiffusion.photos.storage import DataError
from pipelines.sources.record import (
    Drop,
    ImageRef,
    Record,
    RowError,
    check_columns,
    checked_author,
    checked_key,
    file_image,
    is_number,
    line_text,
    parse_row,
    position,
    quoted,
    web_address,
)
from schemas.training import DropReason

SOURCE = "mp16"
HEADER = "IMG_ID,AUTHOR,LAT,LON,S3_Label,S16_Label,S365_Label,Prob_indoor,Prob_natural,Prob_urban"
COLUMNS = HEADER.count(",") + 1

_NEEDED = (lists.PHOTO_ID, lists.LATITUDE, lists.LONGITUDE)


@dataclass(frozen=True)
class Columns:
    """Where the fields of a row stand.

    Attributes:
        names: Names of all columns.
        places: Numbers of the columns of id, latitude and longitude.
        author: Number of the column of the photographer; None if the list has none.
        has_header: Whether the first line of the list is no row.
    """

    names: tuple[str, ...]
    places: tuple[int, int, int]
    author: int | None
    has_header: bool


BY_DEFINITION = Columns(tuple(HEADER.split(",")), (0, 2, 3), 1, False)


def columns_of(line: bytes, url: str = "the list") -> Columns:
    """Finds the columns of a list from its first line.

    Args:
        line: First line of the list; empty if it has none.
        url: Path of the list, for messages.

    Raises:
        DataError: The line is neither a header with the columns that are needed, nor a row of a
            list without one.
    """
    try:
        names = [name.strip() for name in _fields(line_text(line), strict=False)]
    except RowError as error:
        raise DataError(f"{url}: the first line cannot be read ({error})") from None
    places = [column.index(names) for column in _NEEDED]
    found = [place for place in places if place is not None]
    if len(found) == len(_NEEDED):
        counts = Counter(name.strip("'").lower() for name in names)
        if twice := sorted(name for name, count in counts.items() if name and count > 1):
            several = quoted(", ".join(twice), 300)
            raise DataError(f"{url} has several columns {several}; remove all but one")
        author = lists.PHOTOGRAPHER.index(names)
        return Columns(tuple(names), (found[0], found[1], found[2]), author, True)
    if not line or (not found and len(names) == COLUMNS and all(map(is_number, names[2:4]))):
        return BY_DEFINITION
    missing = [
        f"the {column.what} ({', '.join(column.names)})"
        for column, place in zip(_NEEDED, places, strict=True)
        if place is None
    ]
    raise DataError(
        f"{url} begins with {quoted(', '.join(names), 300)}, which names no column of "
        f"{'; '.join(missing)}; give the columns these names, as in {HEADER}"
    )


def parse(line: bytes, columns: Columns = BY_DEFINITION) -> Record | Drop:
    """Parses one row of `*_places365.csv`; never raises for what is in the bytes."""
    return parse_row(line, functools.partial(_record, columns=columns))


def _record(text: str, columns: Columns) -> Record:
    fields = _fields(text)
    if len(fields) != len(columns.names):
        raise check_columns(len(fields), str(len(columns.names)), ",".join(columns.names)[:300])
    key, latitude, longitude = (fields[place] for place in columns.places)
    key = checked_key(key)
    author = ""
    if columns.author is not None:
        author = checked_author(fields[columns.author], key)
    return Record(key, author, *position(latitude, longitude, key), source=SOURCE)


def parse_url(line: bytes) -> tuple[str, str] | Drop:
    """Parses one row of `mp16_urls.csv`; never raises for what is in the bytes.

    Returns:
        The id of the image as spelled there and its http(s) address, or a Drop.
    """
    return parse_row(line, _key_and_url)


def _key_and_url(text: str) -> tuple[str, str]:
    # An address may hold commas, an id never does.
    key, comma, rest = text.partition(",")
    if not comma:
        raise check_columns(1, "2", "image_id,url")
    key = checked_key(key.strip('"'))
    url = web_address(rest[1:-1] if rest[:1] == rest[-1:] == '"' else rest)
    if url is None:
        why = f"{quoted(rest, 80)} is no address, wanted http://... or https://..."
        raise RowError(DropReason.MALFORMED_ROW, why, key)
    return key, url


def image_by_id(root: str, key: str) -> ImageRef:
    """Returns the place of a photo in a folder that is laid out by IMG_ID: ROOT/45/77/322.jpg."""
    return file_image(root, key)


def _fields(text: str, strict: bool = True) -> list[str]:
    if '"' not in text:
        return text.split(",")
    try:
        rows = list(csv.reader([text], strict=strict, skipinitialspace=True))
    except csv.Error as error:
        raise RowError(DropReason.MALFORMED_ROW, f"the quotes do not match ({error})") from None
    return rows[0] if rows else []

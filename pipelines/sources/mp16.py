"""Parses MP-16 and every other list of its format, such as the benchmarks': `*_places365.csv`.

    IMG_ID,AUTHOR,LAT,LON,S3_Label,S16_Label,S365_Label,Prob_indoor,Prob_natural,Prob_urban
    45/77/3228511372.jpg,43008843@N00,46.778991,23.611207,0,5,21,0.978698,0.001071,0.020229

Its photos lie in a folder or bucket by IMG_ID, in msgpack shards (`msgpack_images`), or behind the
addresses of `mp16_urls.csv`, which has no header: `image_id,url`.
"""

from __future__ import annotations

import csv

from pipelines.sources.record import (
    BOM,
    Drop,
    ImageRef,
    Record,
    RowError,
    check_columns,
    checked_author,
    checked_key,
    file_image,
    parse_row,
    position,
    web_address,
)
from schemas.training import DropReason

SOURCE = "mp16"
HEADER = "IMG_ID,AUTHOR,LAT,LON,S3_Label,S16_Label,S365_Label,Prob_indoor,Prob_natural,Prob_urban"
COLUMNS = HEADER.count(",") + 1

_HEADER_START = HEADER.rpartition(",S3_Label")[0].lower().encode()


def is_header(line: bytes) -> bool:
    """Returns whether a line is the header."""
    return line.removeprefix(BOM.encode()).lower().startswith(_HEADER_START)


def parse(line: bytes) -> Record | Drop:
    """Parses one row of `*_places365.csv`; never raises for what is in the bytes."""
    return parse_row(line, _record)


def _record(text: str) -> Record:
    fields = _fields(text)
    if len(fields) != COLUMNS:
        raise check_columns(len(fields), str(COLUMNS), HEADER)
    key = checked_key(fields[0])
    author = checked_author(fields[1], key)
    latitude, longitude = position(fields[2], fields[3], key)
    return Record(key, author, latitude, longitude, SOURCE)


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
        why = f"{rest[:80]!r} is no address, wanted http://... or https://..."
        raise RowError(DropReason.MALFORMED_ROW, why, key)
    return key, url


def image_by_id(root: str, key: str) -> ImageRef:
    """Returns the place of a photo in a folder that is laid out by IMG_ID: ROOT/45/77/322.jpg."""
    return file_image(root, key)


def _fields(text: str) -> list[str]:
    if '"' not in text:
        return text.split(",")
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise RowError(DropReason.MALFORMED_ROW, f"the quotes do not match ({error})") from None
    return rows[0] if rows else []

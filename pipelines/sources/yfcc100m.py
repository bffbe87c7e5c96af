"""Parses YFCC100M: `yfcc100m_dataset`, tab-separated without a header, text fields URL-encoded.

23 columns from the photo's number to the marker that tells photos from videos. Later releases have
25: a line number first, and the hash of the photo behind its number. `yfcc100m_hash` has the hashes
for the earlier one. By its hash, a photo lies at HHH/HHH/HASH.jpg under the root of a mirror, such
as `data/images` of the bucket `multimedia-commons`. A list to which somebody gave a header has its
columns found by their names.
"""

from __future__ import annotations

import functools
import re
from urllib.parse import unquote, unquote_plus

from locdiffusion.photos.storage import DataError
from pipelines.sources.record import (
    BOM,
    Drop,
    ImageRef,
    Record,
    RowError,
    check_columns,
    checked_author,
    file_image,
    licence_text,
    parse_row,
    position,
    quoted,
    web_address,
)
from schemas.training import DropReason

SOURCE = "yfcc100m"
HEADER = (
    "photo id,user NSID,user nickname,date taken,date uploaded,capture device,title,description,"
    "user tags,machine tags,longitude,latitude,accuracy,page URL,download URL,licence name,"
    "licence URL,server id,farm id,secret,original secret,extension,marker"
)
COLUMNS = tuple(HEADER.split(","))
"""Columns of the earlier release; the later one begins line number, photo id, hash, user NSID."""

HIGHEST_ACCURACY = 16

_NEEDED = ("photo id", "user NSID", "longitude", "latitude", "accuracy", "marker")

_ALIASES = {re.sub("[^a-z]", "", name.lower()): name for name in COLUMNS} | {
    "photoidentifier": "photo id",
    "id": "photo id",
    "uid": "user NSID",
    "licensename": "licence name",
    "licenseurl": "licence URL",
    "ext": "extension",
}

_ID = re.compile(r"[0-9]{1,20}")
_HASH = re.compile(r"[0-9a-f]{32}")
_MARKERS = {"0": True, "1": False}


def columns_of(line: bytes, url: str = "the list") -> tuple[str, ...]:
    """Finds the names of the columns of a list from its first line; none if it is a row.

    Args:
        line: First line of the list.
        url: Path of the list, for messages.

    Raises:
        DataError: The line is a header that lacks a column.
    """
    fields = line.decode("utf-8", "replace").removeprefix(BOM).split("\t")
    short = [re.sub("[^a-z]", "", field.lower()) for field in fields]
    if not {"latitude", "longitude"} & set(short):
        return ()
    names = tuple(_ALIASES.get(name, name) for name in short)
    missing = [name for name in _NEEDED if names.count(name) != 1]
    if missing:
        raise DataError(
            f"{url} begins with {quoted(', '.join(fields), 300)}, which does not name {missing} "
            f"once; give the columns these names: {', '.join(COLUMNS)}"
        )
    return names


def parse(line: bytes, columns: tuple[str, ...] = ()) -> Record | Drop:
    """Parses one row of `yfcc100m_dataset`; never raises for what is in the bytes.

    Args:
        line: The row.
        columns: What `columns_of` returns for the list.
    """
    return parse_row(line, functools.partial(_record, columns=columns))


def _record(text: str, columns: tuple[str, ...]) -> Record:
    fields = text.split("\t")
    digest = None
    if columns:
        if len(fields) != len(columns):
            raise check_columns(len(fields), f"{len(columns)} between tabs", ", ".join(columns))
        named = dict(zip(columns, fields, strict=True))
        digest = named.get("hash")
        fields = [named.get(name, "") for name in COLUMNS]
    elif len(fields) == len(COLUMNS) + 2:
        number, key, digest, *rest = fields
        if not _ID.fullmatch(number):
            raise _malformed(f"the line number is {quoted(number)}, wanted digits")
        fields = [key, *rest]
    elif len(fields) != len(COLUMNS):
        wanted = f"{len(COLUMNS)} or {len(COLUMNS) + 2} between tabs"
        raise check_columns(len(fields), wanted, ", ".join(COLUMNS))
    row = dict(zip(COLUMNS, fields, strict=True))
    key = _checked_id(row["photo id"])
    digest = None if digest is None else _checked_hash(digest, key)
    is_photo = _MARKERS.get(row["marker"])
    if is_photo is None:
        raise _malformed(f"the marker is {quoted(row['marker'])}, wanted 0 or 1", key)
    licence = unquote(row["licence URL"]) or unquote_plus(row["licence name"])
    latitude, longitude = position(row["latitude"], row["longitude"], key)
    return Record(
        key=key,
        author=checked_author(_decoded(row["user NSID"], key), key),
        latitude=latitude,
        longitude=longitude,
        source=SOURCE,
        accuracy=_accuracy(row["accuracy"], key),
        licence=licence_text(licence),
        is_photo=is_photo,
        url=web_address(row["download URL"]),
        hash=digest,
    )


def parse_hash(line: bytes) -> tuple[str, str] | Drop:
    """Parses one row of `yfcc100m_hash`; never raises for what is in the bytes.

    Returns:
        The photo's number and its hash of 32 lower-case hexadecimal digits, or a Drop.
    """
    return parse_row(line, _key_and_hash)


def _key_and_hash(text: str) -> tuple[str, str]:
    fields = text.split("\t")
    if len(fields) != 2:
        raise check_columns(len(fields), "2 between tabs", "photo id, hash")
    key = _checked_id(fields[0])
    return key, _checked_hash(fields[1], key)


def image_by_hash(root: str, digest: str) -> ImageRef:
    """Returns the place of a photo under a root: ROOT/HHH/HHH/HASH.jpg, with its first digits."""
    return file_image(root, f"{digest[:3]}/{digest[3:6]}/{digest}.jpg")


def _malformed(why: str, key: str | None = None) -> RowError:
    return RowError(DropReason.MALFORMED_ROW, why, key)


def _checked_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise _malformed(f"the photo id is {quoted(text)}, wanted digits")
    return text


def _checked_hash(text: str, key: str) -> str:
    digest = text.lower()
    if not _HASH.fullmatch(digest):
        raise _malformed(f"the hash is {quoted(text)}, wanted 32 hexadecimal digits", key)
    return digest


def _decoded(text: str, key: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _malformed(f"the user NSID {quoted(text)} does not decode to UTF-8", key) from None


def _accuracy(text: str, key: str) -> int | None:
    if text in ("", "null"):
        return None
    if not (_ID.fullmatch(text) and 1 <= int(text) <= HIGHEST_ACCURACY):
        raise _malformed(f"the accuracy is {quoted(text)}, wanted 1 to {HIGHEST_ACCURACY}", key)
    return int(text)

"""One photo of a source, as far as its metadata tells, or the reason why there is none."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from schemas.training import MAX_LINE_CHARACTERS, DropReason

T = TypeVar("T")

BOM = "\ufeff"

# float() would also take 'nan', 'inf', '1_000', blanks and the digits of other scripts.
_NUMBER = re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]{0,60})?|\.[0-9]{1,60})([eE][+-]?[0-9]{1,3})?")
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_MISSING = ("", "null", r"\N")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# What nearly all rows hold, known to be sound at one look; the rest is looked at part by part.
_USUAL_KEY = re.compile(r"[\w@-]+(?:[./][\w@-]+)*", re.ASCII)
_USUAL_ADDRESS = re.compile(r"https?://[a-z0-9][a-z0-9.-]*/[!-~]*")

# '45_77_3228511372' is '45/77/3228511372' without folders; '1000269685_e60e9cdfb4_...' is a photo
# as Flickr names its download: id, secret, and then size, server or owner.
_FLICKR_NAMES = (
    re.compile(r"([0-9]+)"),
    re.compile(r"[0-9a-f]{2}_[0-9a-f]{2}_([0-9]+)"),
    re.compile(r"([0-9]+)_[0-9a-f]{8,16}(?:_.*)?"),
)


@dataclass(frozen=True)
class ImageRef:
    """Where the bytes of one image lie.

    Attributes:
        kind: "file", "msgpack", "url" or "tar".
        url: A path or URL under any root that fsspec knows, or http(s).
        offset: First byte of the image within `url`; other than 0 only for msgpack and tar.
        length: Bytes of the image; None for all of `url`.
    """

    kind: str
    url: str
    offset: int = 0
    length: int | None = None


@dataclass(frozen=True)
class Record:
    """One photo, or video, that a source lists.

    Attributes:
        key: Its id as the source spells it; `photo_id` is the one to compare.
        author: Photographer, a Flickr NSID; empty where a source does not tell (webdataset only),
            and then no two records may be taken to have the same.
        latitude, longitude: Degrees, finite and on Earth; (0, 0) is possible.
        source: "mp16", "yfcc100m" or "webdataset".
        image: None until it is joined.
        accuracy: YFCC100M's, from 1 (world) to 16 (street).
        licence: Its URL, or its name where there is no URL.
        is_photo: False for a video.
        url: Where it can be downloaded.
        hash: YFCC100M's.
    """

    key: str
    author: str
    latitude: float
    longitude: float
    source: str
    image: ImageRef | None = None
    accuracy: int | None = None
    licence: str | None = None
    is_photo: bool = True
    url: str | None = None
    hash: str | None = None


@dataclass(frozen=True)
class Drop:
    """One record that goes into no shard.

    Attributes:
        key: As in Record; None where it could not be read.
        reason: For counting.
        detail: For people: found, wanted.
        line: The beginning of the raw line, legible whatever its bytes.
    """

    key: str | None
    reason: DropReason
    detail: str
    line: str = ""


def photo_id(key: str) -> str:
    """Flickr's number of a photo from any spelling of the field; other keys as they are.

    '45/77/3228511372.jpg', '3228511372' and '3228511372_e60e9cdfb4_1125_78841376@N00.jpg' are all
    3228511372.
    """
    name = key.rpartition("/")[2]
    stem = name.partition(".")[0] or name
    for pattern in _FLICKR_NAMES:
        # The owner in a Flickr name may hold dots only behind what is matched.
        if match := pattern.fullmatch(stem):
            return match[1]
    return key


class RowError(ValueError):
    """What `parse_row` turns into a Drop.

    Attributes:
        reason: Of the drop.
        key: Of the row, if it is known by then.
    """

    def __init__(self, reason: DropReason, detail: str, key: str | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.key = key


def parse_row(line: bytes, parse: Callable[[str], T]) -> T | Drop:
    """Decodes a line and parses it; whatever is in the bytes, nothing is raised.

    Args:
        line: With or without its end, LF or CRLF; a byte order mark is passed over.
        parse: From text without its end; raises RowError for a row that cannot be used.
    """
    try:
        return parse(line_text(line))
    except RowError as error:
        return Drop(error.key, error.reason, str(error), shown(line))


def line_text(line: bytes) -> str:
    """The text of a line without its end and without a byte order mark.

    Raises:
        RowError: If it is not UTF-8.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        why = f"not UTF-8: byte {line[error.start]:#04x} at {error.start}"
        raise RowError(DropReason.MALFORMED_ROW, why) from None
    return text.removesuffix("\n").removesuffix("\r").removeprefix(BOM)


def shown(line: bytes) -> str:
    """The beginning of a line for the table of drops; bytes that are no UTF-8 in hexadecimal."""
    # A character has at most 4 bytes; the slice may cut one, which then shows as backslashes.
    head = line[: 4 * MAX_LINE_CHARACTERS].rstrip(b"\r\n").decode("utf-8", "backslashreplace")
    return head[:MAX_LINE_CHARACTERS]


def check_columns(found: int, wanted: str, names: str) -> RowError:
    """The error of a row with another number of columns."""
    return RowError(DropReason.MALFORMED_ROW, f"{found} columns, wanted {wanted}: {names}")


def checked_key(text: str) -> str:
    """An id that is safe to put behind a root.

    Raises:
        RowError: If it is empty, has control characters or would lead out of the root.
    """
    if _USUAL_KEY.fullmatch(text):
        return text
    parts = text.split("/")
    if not text or text != text.strip():
        why = f"the id is {text[:40]!r}, wanted text without blanks around it"
    elif _CONTROL.search(text) or "\\" in text or "::" in text or "://" in text:
        why = f"the id {text[:80]!r} has control characters, '\\', '::' or '://'"
    elif any(part in ("", ".", "..") for part in parts):
        why = f"the id {text[:80]!r} leads out of the folder, wanted a relative path"
    else:
        return text
    raise RowError(DropReason.MALFORMED_ROW, why)


def checked_author(text: str, key: str) -> str:
    """A photographer's id.

    Raises:
        RowError: If it is empty or has control characters: without it, no leak can be noticed.
    """
    if not text.strip() or _CONTROL.search(text):
        why = f"the author is {text[:40]!r}, wanted the photographer's id"
        raise RowError(DropReason.MALFORMED_ROW, why, key)
    return text.strip()


def position(latitude: str, longitude: str, key: str) -> tuple[float, float]:
    """Degrees from text.

    Raises:
        RowError: If either is missing, not a number, not finite or not on Earth.
    """
    if latitude.strip() in _MISSING and longitude.strip() in _MISSING:
        raise RowError(DropReason.NO_COORDINATES, "the row has no position", key)
    return _degrees(latitude, "latitude", 90.0, key), _degrees(longitude, "longitude", 180.0, key)


def _degrees(text: str, name: str, limit: float, key: str) -> float:
    number = text.strip(" ")
    if not _NUMBER.fullmatch(number):
        if _NOT_FINITE.fullmatch(number):
            why = f"the {name} is {number}, wanted a finite number of degrees"
            raise RowError(DropReason.BAD_COORDINATES, why, key)
        why = f"the {name} is {text[:40]!r}, wanted a number of degrees"
        raise RowError(DropReason.MALFORMED_ROW, why, key)
    degrees = float(number)
    if not -limit <= degrees <= limit:
        why = f"the {name} is {degrees:g}, wanted {-limit:g} to {limit:g}"
        raise RowError(DropReason.BAD_COORDINATES, why, key)
    return degrees


def web_address(text: str) -> str | None:
    """An http(s) URL with a host, or None."""
    if _USUAL_ADDRESS.fullmatch(text):
        return text
    if _CONTROL.search(text) or " " in text:
        return None
    try:
        parts = urlsplit(text)
        known = parts.scheme.lower() in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        return None
    return text if known else None


def file_image(root: str, path: str) -> ImageRef:
    """A whole file under a root.

    Args:
        root: A folder, or the URL of one, with or without a slash at the end.
        path: Relative; one that `checked_key` let through.
    """
    return ImageRef("file", f"{root.rstrip('/')}/{path}")

"""Defines the records that sources yield, and parses the fields that all sources share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from schemas.training import MAX_LINE_CHARACTERS, DropReason

T = TypeVar("T")

_MAX_SHOWN_BYTES = 64 * 2**10

MAX_DETAIL_CHARACTERS = 1000
"""Part of a sentence about a drop that is kept: some hold names of files and headers of hosts."""

MAX_KEY_CHARACTERS = 1024
"""Longest id, and photographer's id; no bucket takes longer names."""

MAX_ADDRESS_CHARACTERS = 8192
"""Longest address; web servers take none that is longer."""

MAX_LICENCE_CHARACTERS = 500
"""Part of a licence that is kept: some files hold its whole text."""

BOM = "\ufeff"

# float() would also take 'nan', 'inf', '1_000', blanks and the digits of other scripts.
_NUMBER = re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]{0,60})?|\.[0-9]{1,60})([eE][+-]?[0-9]{1,3})?")
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_MISSING = ("", "null", r"\N")
# An address in a text: what stands before its query, and the query. A query may hold anything.
_ADDRESS = re.compile(
    r"(?:/{2,}|\bhttps?:[/\\]*)((?:(?!//)[^ \t\r\n?#;\"<>])*)([?#;][^ \t\r\n]*)?", re.I
)
# An address that is encoded within another text, as in the columns of YFCC100M.
_ENCODED = re.compile(r"(?<=%3A%2F%2F)[^ \t\r\n]+", re.I)
_PORT_OR_NONE = re.compile(r"[^:]*(:[0-9]*)?['),.:]*")
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
    """Place of the bytes of one image.

    Attributes:
        kind: "file", "msgpack", "url" or "tar".
        url: Path of the file, or a URL that fsspec opens, or an http(s) address.
        offset: First byte of the image within the file; other than 0 only for msgpack and tar.
        length: Number of bytes of the image; None for the whole file.
    """

    kind: str
    url: str
    offset: int = 0
    length: int | None = None


@dataclass(frozen=True)
class Record:
    """One photo, or video, that a source lists.

    Attributes:
        key: Id as the source spells it; compare with `photo_id`.
        author: Photographer's Flickr NSID; empty where a webdataset shard does not tell. Two
            records without an author may be of two photographers.
        latitude: Latitude in degrees, in [-90, 90].
        longitude: Longitude in degrees, in [-180, 180].
        source: "mp16", "yfcc100m" or "webdataset".
        image: Place of the image; None until it is joined.
        accuracy: YFCC100M's accuracy, from 1 (world) to 16 (street).
        licence: URL of the licence, or its name where there is no URL.
        is_photo: Whether the record is a photo; False for a video.
        url: Address of the image for a download.
        hash: YFCC100M's hash of the photo.
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
        key: Id of the record; None where it could not be read.
        reason: Reason that is counted.
        detail: Sentence that says what was found and what was wanted.
        line: Beginning of the raw line, with bytes that are not UTF-8 escaped.

    Addresses in `detail` and `line` lose their passwords and queries: the table of drops is shared.
    """

    key: str | None
    reason: DropReason
    detail: str
    line: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", redacted(self.detail)[:MAX_DETAIL_CHARACTERS])
        object.__setattr__(self, "line", redacted(self.line))


def photo_id(key: str) -> str:
    """Returns Flickr's number of a photo, from any spelling; other keys are returned unchanged.

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


class DropError(Exception):
    """A record, or its image, cannot be used.

    Attributes:
        reason: Reason of the drop.
        key: Id of the record, if it is known by then.
    """

    def __init__(self, reason: DropReason, message: str, key: str | None = None) -> None:
        super().__init__(reason, message, key)
        self.reason, self.key = reason, key

    def __str__(self) -> str:
        return str(self.args[1])


class RowError(DropError):
    """A row cannot be used; `parse_row` turns this into a Drop."""


def redacted(text: str) -> str:
    """Returns a text whose addresses have no passwords and no queries, which may hold tokens."""
    if "%" in text:
        text = _ENCODED.sub("…", text)
    return _ADDRESS.sub(_without_secrets, text) if ":" in text or "//" in text else text


def licence_text(text: str) -> str | None:
    """Returns the part of a licence that is kept, None for an empty one; addresses are redacted."""
    return redacted(text[:_MAX_SHOWN_BYTES])[:MAX_LICENCE_CHARACTERS] or None


def _without_secrets(found: re.Match[str]) -> str:
    host, slash, path = found[1].partition("/")
    start = found[0][: found.start(1) - found.start()]
    if "@" in host:
        host = host.rpartition("@")[2]
    elif not (host.startswith("[") or _PORT_OR_NONE.fullmatch(host)):
        return f"{start}…"  # a password that is cut, or holds a slash
    return f"{start}{host}{slash}{path}" + ("?…" if found[2] else "")


def quoted(text: str, most: int = 40) -> str:
    """Returns the beginning of a text of a list in quotes, for a message."""
    return repr(redacted(text[:_MAX_SHOWN_BYTES])[:most])


def parse_row(line: bytes, parse: Callable[[str], T]) -> T | Drop:
    """Decodes a line and parses it; never raises for what is in the bytes."""
    try:
        return parse(line_text(line))
    except RowError as error:
        return Drop(error.key, error.reason, str(error), shown(line))


def line_text(line: bytes) -> str:
    """Decodes a line, without its end and without a byte order mark.

    Raises:
        RowError: The line is not UTF-8.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        why = f"not UTF-8: byte {line[error.start]:#04x} at {error.start}"
        raise RowError(DropReason.MALFORMED_ROW, why) from None
    return text.removesuffix("\n").removesuffix("\r").removeprefix(BOM)


def shown(line: bytes) -> str:
    """Returns the beginning of a line for the table of drops, with other than UTF-8 escaped."""
    # Cut last: half an address does not show what of it is a password.
    text = line[:_MAX_SHOWN_BYTES].rstrip(b"\r\n").decode("utf-8", "backslashreplace")
    return redacted(text)[:MAX_LINE_CHARACTERS]


def check_columns(found: int, wanted: str, names: str) -> RowError:
    """Makes the error of a row with another number of columns."""
    return RowError(DropReason.MALFORMED_ROW, f"{found} columns, wanted {wanted}: {names[:300]}")


def checked_key(text: str) -> str:
    """Returns an id that is safe to put behind a root.

    Raises:
        RowError: The id is empty, too long, has control characters or would lead out of the root.
    """
    if len(text) > MAX_KEY_CHARACTERS:
        why = f"the id {quoted(text)}... has {len(text):,} characters, at most {MAX_KEY_CHARACTERS}"
        raise RowError(DropReason.MALFORMED_ROW, why)
    if _USUAL_KEY.fullmatch(text):
        return text
    parts = text.split("/")
    if not text or text != text.strip():
        why = f"the id is {quoted(text)}, wanted text without blanks around it"
    elif _CONTROL.search(text) or "\\" in text or "::" in text or "://" in text:
        why = f"the id {quoted(text, 80)} has control characters, '\\', '::' or '://'"
    elif any(part in ("", ".", "..") for part in parts):
        why = f"the id {quoted(text, 80)} leads out of the folder, wanted a relative path"
    else:
        return text
    raise RowError(DropReason.MALFORMED_ROW, why)


def checked_author(text: str, key: str) -> str:
    """Returns a photographer's id, without which no leak could be noticed.

    Raises:
        RowError: The id is empty, too long or has control characters.
    """
    if not text.strip() or len(text) > MAX_KEY_CHARACTERS or _CONTROL.search(text):
        why = f"the author is {quoted(text)}, wanted the photographer's id"
        raise RowError(DropReason.MALFORMED_ROW, why, key)
    return text.strip()


def position(latitude: str, longitude: str, key: str) -> tuple[float, float]:
    """Parses a latitude and a longitude in degrees.

    Raises:
        RowError: Either is missing, not a number, not finite or not on Earth.
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
        why = f"the {name} is {quoted(text)}, wanted a number of degrees"
        raise RowError(DropReason.MALFORMED_ROW, why, key)
    degrees = float(number)
    if not -limit <= degrees <= limit:
        why = f"the {name} is {degrees:g}, wanted {-limit:g} to {limit:g}"
        raise RowError(DropReason.BAD_COORDINATES, why, key)
    return degrees


def is_number(text: str) -> bool:
    """Returns whether a field may be an angle: a number, however wrong, or nothing."""
    number = text.strip()
    return any((number in _MISSING, _NUMBER.fullmatch(number), _NOT_FINITE.fullmatch(number)))


def web_address(text: str) -> str | None:
    """Returns the text if it is an http(s) URL with a host, else None."""
    if len(text) > MAX_ADDRESS_CHARACTERS:
        return None
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
    """Returns the place of an image that is a whole file under a root."""
    return ImageRef("file", f"{root.rstrip('/')}/{path}")

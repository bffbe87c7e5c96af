"""Reads when a photo was taken, as cameras, programs and people write it.

A time is the wall clock of the camera, and the offset of its zone where that is known. Clocks are
wrong now and then, and a photo is never refused because of its clock: what is no time, or is one
that cameras show until they are set, gives none. Nothing is compared with today's date, so that a
photo gives the same whenever it is read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from enum import Enum
from typing import NamedTuple

FIRST_YEAR, LAST_YEAR = 1826, 2099
"""Years of the first photograph, and of the last one that is believed."""

MOST_OFFSET_MIN = 14 * 60
"""Largest offset from UTC in minutes; that of Kiritimati."""

SAME_MOMENT = timedelta(minutes=MOST_OFFSET_MIN + 5)
"""Most by which a wall clock and UTC differ at one moment, with an error of the clock."""

_CLOCK_ERROR = timedelta(minutes=5)
_UNSET_DAYS = {date(1903, 12, 31), date(1904, 1, 1), date(1969, 12, 31), date(1970, 1, 1)}
_UNSET_DAYS |= {date(1980, 1, 1), date(2000, 1, 1), date(2001, 1, 1)}
"""Days at which clocks begin that nobody has set; for some programs in another zone."""

_ZONES_MIN = {60 * hours for hours in range(-12, 15)}
_ZONES_MIN |= {-570, -270, -210, -150, 210, 270, 330, 345, 390, 510, 525, 570, 630, 690, 765, 825}
"""Offsets of zones since 2000, in minutes (IANA time zone database, 2024a)."""

_EPOCH = datetime(1970, 1, 1)
_LONGEST_TEXT = 64
_BLANK = "\0 \t\r\n"
_TIME = re.compile(
    r"([0-9]{4})([-:/.]) ?([0-9]{1,2})\2 ?([0-9]{1,2})[T ] ?([0-9]{1,2}): ?([0-9]{1,2})"
    r"(?:: ?([0-9]{1,2})(?:[.,]([0-9]{1,9}))?)?(?: ?([zZ+-].{0,7}))?\Z"
)
_OFFSET = re.compile(r"([+-]) ?([0-9]{1,2})(?::?([0-9]{2}))?\Z")
_SUBSECONDS = re.compile(r"[0-9]{1,9}\Z")


class TimeSource(str, Enum):
    """Where a capture time was read."""

    EXIF_ORIGINAL = "exif_original"
    EXIF_DIGITIZED = "exif_digitized"
    EXIF_MODIFIED = "exif_modified"
    GPS = "gps"
    XMP = "xmp"
    JSON = "json"
    TAKEOUT = "takeout"
    TABLE = "table"


@dataclass(frozen=True)
class CaptureTime:
    """The time at which a photo was taken.

    Attributes:
        local: Wall clock of the camera; UTC where the offset is 0.
        source: Where the time was read.
        offset_min: Minutes by which that clock is ahead of UTC; None if it is not known.

    Raises:
        ValueError: The time has a zone of its own, or is none of a photo.
    """

    local: datetime
    source: TimeSource
    offset_min: int | None = None

    def __post_init__(self) -> None:
        years = f"a year between {FIRST_YEAR} and {LAST_YEAR}"
        if self.local.tzinfo is not None or not FIRST_YEAR <= self.local.year <= LAST_YEAR:
            raise ValueError(f"the time is {self.local}, wanted {years} and no zone beside it")
        if abs(self.offset_min or 0) > MOST_OFFSET_MIN:
            raise ValueError(
                f"the offset is {self.offset_min} minutes, wanted at most {MOST_OFFSET_MIN}; "
                "write minutes east of UTC"
            )

    @property
    def utc(self) -> datetime | None:
        """The time in UTC; None if the offset is not known."""
        if self.offset_min is None:
            return None
        return self.local - timedelta(minutes=self.offset_min)

    def __str__(self) -> str:
        """ISO 8601, with the offset where it is known."""
        if self.offset_min is None:
            return self.local.isoformat()
        zone = timezone(timedelta(minutes=self.offset_min))
        return self.local.replace(tzinfo=zone).isoformat()

    @property
    def second(self) -> datetime:
        """The wall clock to the second."""
        return self.local.replace(microsecond=0)


class Camera(NamedTuple):
    """What tells one camera from another, as EXIF and XMP write it; empty where unknown."""

    make: str = ""
    model: str = ""
    serial: str = ""
    owner: str = ""

    @property
    def id(self) -> str:
        """Twelve digits of a hash, which tell neither serial number nor owner.

        Empty without make and model: a name alone is shared by all cameras of its owner. Whoever
        knows the numbers of a camera can compute its hash, and find it again.
        """
        words = [" ".join(text.split()).casefold() for text in self]
        if not any(words[:2]):
            return ""
        return hashlib.sha256("\0".join(words).encode("utf-8", "replace")).hexdigest()[:12]


@dataclass(frozen=True)
class Capture:
    """When a photo was taken, and with which camera.

    Attributes:
        time: Time at which the photo was taken, if it is known.
        camera: Hash of the camera, as of `Camera.id`; empty if it is not known.
    """

    time: CaptureTime | None = None
    camera: str = ""

    def or_else(self, other: Capture) -> Capture:
        """Returns what this tells, and of the rest what another tells."""
        return Capture(self.time or other.time, self.camera or other.camera)

    def told_by(self, document: Capture) -> Capture:
        """Joins what a photo tells with what its document tells.

        A document counts before the photo, as somebody may have corrected it. Takeout is another
        matter: its seconds in UTC are those of the photo, whose zone was a guess. They count where
        the photo has no time, or one that cannot be the same moment in any zone.
        """
        own, told = self.time, document.time
        if own is None or told is None:
            return self.or_else(document)
        if told.source is TimeSource.TAKEOUT:
            time = own if abs(own.local - told.local) <= SAME_MOMENT else told
        else:
            time = likeliest([told, own]) or told
        return Capture(time, self.camera or document.camera)


UNKNOWN = Capture()
"""What a source says that knows neither time nor camera."""


def likeliest(times: Iterable[CaptureTime | None]) -> CaptureTime | None:
    """Chooses among what one photo says of its time.

    Args:
        times: Times, None where there is none; what counts first comes first.

    Returns:
        The first time. Where it has no offset, it takes that of another with the same wall clock;
        or else that of the zone in which its clock shows the time of GPS, within 5 minutes.
    """
    found = [time for time in times if time is not None]
    if not found or found[0].offset_min is not None:
        return found[0] if found else None
    first, *others = found
    for other in others:
        offset = other.offset_min
        if other.source is TimeSource.GPS:
            offset = zone_of(first.local, other.local)
        elif other.second != first.second:
            offset = None
        if offset is not None:
            return replace(first, offset_min=offset)
    return first


def zone_of(local: datetime, utc: datetime) -> int | None:
    """Finds the offset, in minutes, of a zone in which a clock shows this time.

    Args:
        local: Wall clock.
        utc: The time of GPS, which may be that of an earlier fix.

    Returns:
        The nearest offset of any zone; None where it is more than 5 minutes off, as one of the two
        is wrong then.
    """
    ahead = local - utc
    nearest = min(_ZONES_MIN, key=lambda zone: (abs(ahead - timedelta(minutes=zone)), zone))
    return nearest if abs(ahead - timedelta(minutes=nearest)) < _CLOCK_ERROR else None


def parse_time(
    text: str, source: TimeSource, offset: str = "", subseconds: str = ""
) -> CaptureTime | None:
    """Reads a time such as `2024:05:17 10:30:00` or `2024-05-17T10:30:00.25+02:00`.

    Args:
        text: Text of the time, of which the seconds may be missing.
        source: Where it was read.
        offset: Offset from UTC that the file gives beside the text, such as `+02:00`.
        subseconds: Digits of the fraction of the second that the file gives beside the text.

    Returns:
        The time; None where the text is none, or is what a camera shows that nobody has set.
    """
    clock = read_clock(text, offset, subseconds)
    return None if clock is None else _sound(clock[0], source, clock[1])


def read_clock(
    text: str, offset: str = "", subseconds: str = ""
) -> tuple[datetime, int | None] | None:
    """Reads a text as `parse_time` does, whether or not a photo may have that time.

    Returns:
        Wall clock, and minutes by which it is ahead of UTC, None if not known; or None where the
        text is no time.
    """
    text, subseconds = text.strip(_BLANK), subseconds.strip(_BLANK)
    parts = _TIME.match(text) if len(text) <= _LONGEST_TEXT else None
    if parts is None:
        return None
    year, _, month, day, hour, minute, second, fraction, zone = parts.groups(default="")
    if not fraction and _SUBSECONDS.match(subseconds):
        fraction = subseconds
    ahead = parse_offset(zone or offset)
    # Second 60 is a leap second, or was rounded.
    if int(second or 0) > 60 or (zone and ahead is None):
        return None
    fraction_s = timedelta(seconds=int(second or 0), microseconds=int(fraction[:6].ljust(6, "0")))
    try:
        start = datetime(int(year), int(month), int(day), int(hour), int(minute))
        return start + fraction_s, ahead
    except (ValueError, OverflowError):
        return None


def parse_offset(text: str) -> int | None:
    """Reads an offset from UTC such as `+02:00`, `-0330` or `Z`, in minutes; None if it is none."""
    text = text.strip(_BLANK)
    if text in ("Z", "z"):
        return 0
    parts = _OFFSET.match(text)
    if parts is None or int(parts[3] or 0) > 59:
        return None
    minutes = 60 * int(parts[2]) + int(parts[3] or 0)
    if minutes > MOST_OFFSET_MIN:
        return None
    return -minutes if parts[1] == "-" else minutes


def from_timestamp(seconds: float, source: TimeSource) -> CaptureTime | None:
    """Reads seconds since 1970 in UTC; None where they are none of a photo."""
    try:
        utc = _EPOCH + timedelta(seconds=seconds)
    except (ValueError, OverflowError):
        return None
    return _sound(utc, source, 0)


def _sound(local: datetime, source: TimeSource, offset_min: int | None) -> CaptureTime | None:
    """Returns a time, unless it is one that cameras and programs write without knowing any."""
    new_year = (local.month, local.day, local.time()) == (1, 1, datetime.min.time())
    if new_year or local.date() in _UNSET_DAYS or not FIRST_YEAR <= local.year <= LAST_YEAR:
        return None
    return CaptureTime(local, source, offset_min)

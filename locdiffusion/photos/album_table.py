"""Photos of albums, as a table lists them: when each was taken, and where if that is known.

A table is CSV, tab-separated text or Parquet, with columns by their names, as `exiftool -csv`
writes them too (with `-n` or without). A row with a position is an anchor, one without is asked. A
row is never refused because of its clock or its position: what cannot be read of it is not known.
Where exiftool writes several columns of one thing, each row has that of the first which is filled.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from locdiffusion.photos.capture_time import Camera, CaptureTime, TimeSource, parse_time, read_clock
from locdiffusion.photos.coordinates import CoordinateError, Source, parse_angle, place
from locdiffusion.photos.left_out import number
from locdiffusion.photos.lists import LATITUDE, LONGITUDE, Column, NamedColumns, read_list
from locdiffusion.photos.storage import DataError

KEY = Column("photo's name", ("key", "sourcefile", "path", "uri", "filename", "file", "image"))
ALBUM = Column("album", ("album", "directory", "folder"))
TIME = Column(
    "capture time", ("captured_at", "subsecdatetimeoriginal", "datetimeoriginal", "createdate")
)
OFFSET = Column("offset from UTC", ("offset", "offsettimeoriginal", "offsettime"))
OFFSET_MIN = Column("offset from UTC in minutes", ("captured_utc_offset_min",))
CAMERA = Column("camera", ("camera",))
NAMES_OF_CAMERAS = (
    Column("make", ("make",)),
    Column("model", ("model",)),
    Column("serial number", ("serialnumber", "bodyserialnumber")),
    Column("owner", ("ownername", "cameraownername")),
)
LATITUDE = Column(LATITUDE.what, (*LATITUDE.names, "gpslatitude"))
LONGITUDE = Column(LONGITUDE.what, (*LONGITUDE.names, "gpslongitude"))
LETTERS = tuple(Column("hemisphere", (f"{axis}ref",)) for axis in ("gpslatitude", "gpslongitude"))

_NAMED = Column("album", ALBUM.names[:1])
_ANSWER = Column("radius of an answer", ("radius_90_km",))
_EPOCH = datetime(1970, 1, 1)
_NOWHERE = (np.nan, np.nan)
_DAY_FIRST = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4}),?(?= )")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]{1,3},[0-9]+\Z")
_NO_MINUTES = 3
"""Digits behind a comma that are no minutes any more, but decimals."""


@dataclass(frozen=True)
class AlbumTable:
    """The N photos of a table, in its order.

    Attributes:
        key: Name of each photo.
        album: Name of the album of each photo: that of the table, or else the photo's folder.
        named: Whether the table has a column `album`, and not folders alone.
        camera: Name or hash of the camera of each photo, empty where unknown.
        time: When each photo was taken, None where unknown.
        latitude, longitude: Known positions in degrees, ``(N,)``; NaN where unknown.
        unread: Positions that are there and cannot be read, as texts.
        unread_times: Times that are there and cannot be read, as texts.
    """

    key: list[str]
    album: list[str]
    named: bool
    camera: list[str]
    time: list[CaptureTime | None]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    unread: list[str]
    unread_times: list[str]

    def __len__(self) -> int:
        """Number of photos N."""
        return len(self.key)

    @property
    def hours(self) -> NDArray[np.float64]:
        """Hours since 1970, ``(N,)``: of UTC where `zoned`, else of the clock; NaN for none."""
        times = (None if time is None else time.utc or time.local for time in self.time)
        hours = (np.nan if at is None else (at - _EPOCH) / timedelta(hours=1) for at in times)
        return np.fromiter(hours, np.float64, len(self))

    @property
    def zoned(self) -> NDArray[np.bool_]:
        """Whether the offset of each photo's time is known, ``(N,)``."""
        known = (time is not None and time.offset_min is not None for time in self.time)
        return np.fromiter(known, np.bool_, len(self))

    @property
    def problems(self) -> list[str]:
        """What of the table cannot be read, for people: a line for positions, one for times."""
        wanted = "degrees such as 48.1374 and -11.5755", "2024-05-17 12:30:05 or 17.05.2024 12:30"
        found = (self.unread, "position", wanted[0]), (self.unread_times, "time", wanted[1])
        return [
            f"{number(len(texts), what)} cannot be read, such as {texts[0][:40]!r}, and count as "
            f"unknown; want {want}"
            for texts, what, want in found
            if texts
        ]


def read_album_table(url: str) -> AlbumTable:
    """Reads a table of photos.

    Args:
        url: Path of the file, or a URL that fsspec opens.

    Raises:
        DataError: The table cannot be read, has no column of times, or has answers of this project
            instead of known positions.
    """
    rows = read_list(url)
    if rows.has(_ANSWER):
        raise DataError(
            f"{url} has a column {_ANSWER.names[0]!r}, so its positions are answers, wanted known "
            "ones; keep the columns of truth_ or exif_, as latitude and longitude"
        )
    rows.text(TIME)  # raises if no column is one of times
    times = [_DAY_FIRST.sub(r"\3-\2-\1", text) for text in _filled(rows, TIME)]
    keys = _texts(rows, KEY)
    folders = [posixpath.dirname(key) for key in keys]
    positions = list(zip(*_positions(rows), strict=True))
    places = [_place(*row) for row in positions]
    known = [_NOWHERE if at is None else at for at in places]
    degrees = np.array(known, np.float64).reshape(-1, 2)
    return AlbumTable(
        key=keys,
        album=_texts(rows, ALBUM) if rows.has(ALBUM) else folders,
        named=rows.has(_NAMED),
        camera=_cameras(rows),
        time=[_time(*row) for row in zip(times, _offsets(rows), strict=True)],
        latitude=degrees[:, 0],
        longitude=degrees[:, 1],
        unread=[
            " ".join(filter(None, words))
            for words, at in zip(positions, places, strict=True)
            if at is None
        ],
        unread_times=[text for text in times if text and read_clock(text) is None],
    )


def _texts(rows: NamedColumns, column: Column) -> list[str]:
    return rows.text(column) if rows.has(column) else [""] * len(rows)


def _filled(rows: NamedColumns, column: Column) -> list[str]:
    """Takes of each row the first column of these names that is not empty there, if any is."""
    columns = [Column(column.what, (name,)) for name in column.names]
    texts = [rows.text(one) for one in columns if rows.has(one)] or [[""] * len(rows)]
    return [next(filter(None, row), "") for row in zip(*texts, strict=True)]


def _cameras(rows: NamedColumns) -> list[str]:
    if rows.has(CAMERA):
        return rows.text(CAMERA)
    names = (_filled(rows, column) for column in NAMES_OF_CAMERAS)
    return [Camera(*words).id for words in zip(*names, strict=True)]


def _offsets(rows: NamedColumns) -> list[str]:
    """Offsets from UTC as ISO 8601 writes them, empty where unknown."""
    if not rows.has(OFFSET_MIN):
        return _filled(rows, OFFSET)
    return [_iso_offset(minutes) for minutes in rows.text(OFFSET_MIN)]


def _iso_offset(minutes: str) -> str:
    try:
        ahead = int(float(minutes))
    except (ValueError, OverflowError):
        return ""
    sign = "-" if ahead < 0 else "+"
    return f"{sign}{abs(ahead) // 60:02d}:{abs(ahead) % 60:02d}"


def _time(text: str, offset: str) -> CaptureTime | None:
    return parse_time(text, TimeSource.TABLE, offset)


def _positions(rows: NamedColumns) -> list[list[str]]:
    """Latitudes, longitudes and the hemispheres of both, as texts."""
    columns = [_texts(rows, column) for column in (LATITUDE, LONGITUDE, *LETTERS)]
    return [*map(_with_points, columns[:2]), *columns[2:]]


def _with_points(angles: list[str]) -> list[str]:
    """Writes the decimal commas of a spreadsheet as points, where they cannot be of minutes."""
    found = [text for text in angles if _DECIMAL_COMMA.match(text)]
    if all(len(text.partition(",")[2]) < _NO_MINUTES for text in found):
        return angles
    return [text.replace(",", ".") if _DECIMAL_COMMA.match(text) else text for text in angles]


def _place(*words: str) -> tuple[float, float] | None:
    """Reads a position; NaN where there is none, None where it cannot be read."""
    latitude, longitude, north, east = words
    try:
        angles = [
            parse_angle(text, letter[:1]) if text and text.lower() != "nan" else None
            for text, letter in ((latitude, north), (longitude, east))
        ]
        found = place(angles, Source.TABLE).position
    except CoordinateError:
        return None
    return _NOWHERE if found is None else (found.latitude, found.longitude)

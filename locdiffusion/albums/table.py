"""Reads albums from a table: a row for each photo, with its time and perhaps its position.

Columns are found by name, as in all lists (`locdiffusion.photos.lists`); those that
`exiftool -csv -n` writes are among them. A row without a time or without a position is a photo like
others; what is neither a position nor empty is an error.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.album import Album
from locdiffusion.photos.lists import LATITUDE, LONGITUDE, PHOTO_ID, Column, NamedColumns, read_list
from locdiffusion.photos.storage import DataError

Float = NDArray[np.float64]

KEY = Column("photo's key", ("key", "sourcefile", *PHOTO_ID.names))
ALBUM = Column("album", ("album", "directory", "folder", "owner"))
CAMERA = Column("camera", ("camera", "serialnumber", "model"))
TIME = Column(
    "capture time", ("captured_at", "subsecdatetimeoriginal", "datetimeoriginal", "createdate")
)
OFFSET = Column("offset of the capture time", ("offset", "offsettimeoriginal", "offsettime"))
NORTH = Column("latitude", (*LATITUDE.names, "gpslatitude"))
EAST = Column("longitude", (*LONGITUDE.names, "gpslongitude"))

CLOCK_HOURS = 3.0
"""Standard error in hours of a clock whose zone is not known, where that of others is."""

_TIME = re.compile(
    r"(\d{4})[:-](\d\d)[:-](\d\d)[T ](\d\d):(\d\d):(\d\d(?:\.\d+)?)\s*(Z|[+-]\d\d:?\d\d)?$"
)


def read_albums(url: str) -> dict[str, tuple[Album, list[str]]]:
    """Reads the albums of a table.

    Args:
        url: CSV, tab-separated or Parquet file, a path or a URL.

    Returns:
        The albums by their names, each with the keys of its photos, or the numbers of their rows.

    Raises:
        DataError: The table cannot be read, lacks a column of times or positions, or a row holds a
            position that is none.
    """
    table = read_list(url)
    n = len(table)
    keys = table.text(KEY) if table.has(KEY) else [str(row + 1) for row in range(n)]
    names = table.text(ALBUM) if table.has(ALBUM) else [""] * n
    cameras = table.text(CAMERA) if table.has(CAMERA) else [""] * n
    offsets = table.text(OFFSET) if table.has(OFFSET) else [""] * n
    read = [hours_of(t, o) for t, o in zip(table.text(TIME), offsets, strict=True)]
    hours = np.array([when for when, _ in read])
    zoned = np.array([known for _, known in read])
    latitude, longitude = _angles(table, NORTH, 90.0), _angles(table, EAST, 360.0)
    camera = np.unique(cameras, return_inverse=True)[1]
    albums = {}
    for name in dict.fromkeys(names):
        rows = np.array([i for i, other in enumerate(names) if other == name])
        clock = np.where(zoned[rows] | ~zoned[rows].any(), 0.0, CLOCK_HOURS)
        album = Album.of(hours[rows], latitude[rows], longitude[rows], camera[rows], clock)
        albums[name] = album, [keys[i] for i in rows.tolist()]
    return albums


def hours_of(text: str, offset: str = "") -> tuple[float, bool]:
    """Reads a time as EXIF or ISO 8601 writes it.

    Args:
        text: The time, perhaps with its zone behind it.
        offset: Its zone, such as `+02:00`; empty if it is not known.

    Returns:
        Hours since 1970, UTC if the zone is known, NaN for what is no time; and whether it is.
    """
    match = _TIME.match(text.strip())
    if match is None:
        return np.nan, False
    *parts, seconds, own = match.groups()
    try:
        year, month, day, hour, minute = map(int, parts)
        when = datetime(year, month, day, hour, minute, tzinfo=timezone.utc)
    except ValueError:
        return np.nan, False
    zone = re.match(r"([+-])(\d\d):?(\d\d)$", own or offset.strip())
    known = zone is not None or own == "Z" or offset.strip() == "Z"
    east = 0.0
    if zone is not None:
        east = (int(zone[2]) + int(zone[3]) / 60.0) * (-1.0 if zone[1] == "-" else 1.0)
    return (when.timestamp() + float(seconds)) / 3600.0 - east, known


def _angles(table: NamedColumns, column: Column, most: float) -> Float:
    """Angles of a column in degrees ``(N,)``, NaN where a row has none."""
    values = table.text(column)
    angles = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        if not value or value.lower() == "nan":
            continue
        try:
            angles[row] = float(value)
        except ValueError:
            angles[row] = np.inf
        if not abs(angles[row]) <= most:
            raise DataError(
                f"{table.place(row)}: {value[:40]!r} is no {column.what} in degrees; mend it or "
                "leave it empty. exiftool writes degrees with the flag -n."
            )
    return angles

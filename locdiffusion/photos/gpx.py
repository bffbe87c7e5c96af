"""Reads where a GPS receiver was, and when, out of GPX files, without entities or what could grow.

GPX 1.0 and 1.1 (https://www.topografix.com/gpx.asp): track points and waypoints with a time, which
the format has in UTC.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from locdiffusion.photos.capture_time import TimeSource, parse_time
from locdiffusion.photos.storage import DataError, open_stream

Float = NDArray[np.float64]

MAX_GPX_BYTES = 2**30
"""Longest file that is read: some five million points."""
CHUNK_BYTES = 2**20
SECONDS_APART = 15.0
"""Of the points within so many seconds, the first is kept."""
NOWHERE_DEG = 1e-3
"""So near to 0°N 0°E are the points of a receiver that has no fix."""

_POINTS = ("trkpt", "wpt")
_DEEPEST = 100
_LONGEST_TIME = 64
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True, eq=False)
class Tracks:
    """Points of receivers in the order of their times.

    Attributes:
        hours: Times in hours since 1970, UTC, ``(N,)``.
        latitude, longitude: Positions in degrees, ``(N,)``.
        digest: Sixteen digits that tell these points from all others.
    """

    hours: Float
    latitude: Float
    longitude: Float
    digest: str

    def __len__(self) -> int:
        """The number of points."""
        return len(self.hours)

    def __eq__(self, other: object) -> bool:
        """Whether the points are the same."""
        return isinstance(other, Tracks) and self.digest == other.digest

    def __hash__(self) -> int:
        """A hash of the points."""
        return hash(self.digest)

    @classmethod
    def of(cls, hours: Float, latitude: Float, longitude: Float) -> Tracks:
        """Takes points ``(N,)`` in any order, one of each SECONDS_APART."""
        order = np.lexsort((longitude, latitude, hours))
        slots = np.floor(hours[order] * (3600.0 / SECONDS_APART))
        kept = order[np.unique(slots, return_index=True)[1]]
        columns = hours[kept], latitude[kept], longitude[kept]
        digest = hashlib.sha256(b"".join(column.tobytes() for column in columns))
        return cls(*columns, digest.hexdigest()[:16])

    def beside(self, hours: Float) -> NDArray[np.int64]:
        """Finds the numbers of the points before and after each of some times, in order."""
        after = np.searchsorted(self.hours, hours[np.isfinite(hours)])
        both = np.unique(np.concatenate([after - 1, after]))
        return both[(both >= 0) & (both < len(self.hours))]


def read_tracks(urls: Sequence[str]) -> Tracks:
    """Reads the points of files together.

    Args:
        urls: Paths of the files, or URLs that fsspec opens.

    Raises:
        DataError: A file cannot be read, is damaged, or has no point with a time.
    """
    parts = []
    for url in urls:
        points = _Points()
        try:
            with open_stream(url) as file:
                _parse(file, points)
        except (OSError, ValueError, expat.ExpatError) as error:
            raise DataError(
                f"{url} cannot be read as GPX ({error}); export the track anew"
            ) from error
        if not len(points.hours):
            raise DataError(
                f"{url} has no track point or waypoint with a time; a route or a drawn track says "
                "nothing about photos"
            )
        parts.append([np.frombuffer(column) for column in points.columns])
    return Tracks.of(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _parse(file: BinaryIO, points: _Points) -> None:
    """Reads a file; raises ValueError for what is none, or has a document type."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = points.start, points.end
    parser.CharacterDataHandler = points.text
    parser.StartDoctypeDeclHandler = points.refuse
    size = 0
    while chunk := file.read(CHUNK_BYTES):
        size += len(chunk)
        if size > MAX_GPX_BYTES:
            raise ValueError(f"it has more than {MAX_GPX_BYTES:,} bytes")
        parser.Parse(chunk)
    parser.Parse(b"", True)


class _Points:
    """Collects the points of a file while it is parsed."""

    def __init__(self) -> None:
        self.hours, self.latitude, self.longitude = self.columns = [array("d") for _ in range(3)]
        self._depth = 0
        self._point = 0
        """Depth of the point that is open, 0 for none."""
        self._place = (math.nan, math.nan)
        self._time: list[str] | None = None
        self._length = 0

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """Begins an element."""
        self._depth += 1
        word = name.rpartition(":")[2]
        if self._depth == 1 and word != "gpx":
            raise ValueError(f"it begins with {name[:40]!r}, wanted 'gpx'")
        if self._depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} elements lie in one another")
        if not self._point and word in _POINTS:
            self._point = self._depth
            self._place = _degrees(attributes, "lat", 90.0), _degrees(attributes, "lon", 180.0)
        elif self._point and word == "time" and self._depth == self._point + 1:
            self._time, self._length = [], 0

    def text(self, words: str) -> None:
        """Takes the text of an element."""
        if self._time is not None and self._length <= _LONGEST_TIME:
            self._time.append(words)
            self._length += len(words)

    def end(self, _: str) -> None:
        """Ends an element."""
        self._depth -= 1
        if self._time is not None:
            self._add("".join(self._time))
            self._time = None
        elif self._depth < self._point:
            self._point = 0

    def refuse(self, *_: object) -> None:
        """Refuses a document type, whose entities could grow."""
        raise ValueError("it has a document type, wanted plain GPX")

    def _add(self, text: str) -> None:
        latitude, longitude = self._place
        time = parse_time(text, TimeSource.GPS)
        nowhere = abs(latitude) < NOWHERE_DEG and abs(longitude) < NOWHERE_DEG
        if time is None or math.isnan(latitude + longitude) or nowhere:
            return
        self.hours.append(((time.utc or time.local) - _EPOCH) / timedelta(hours=1))
        self.latitude.append(latitude)
        self.longitude.append(longitude)


def _degrees(attributes: Mapping[str, str], name: str, most: float) -> float:
    """An angle of a point, NaN for none that can be."""
    try:
        angle = float(attributes.get(name, ""))
    except ValueError:
        return math.nan
    return angle if abs(angle) <= most else math.nan

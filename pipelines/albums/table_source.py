"""Reads the photos of a table: rows with a position are anchors, those without are asked.

Knows no Beam.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pyarrow as pa

from locdiffusion.photos.album_table import AlbumTable, read_album_table
from locdiffusion.photos.capture_time import TimeSource
from locdiffusion.photos.coordinates import Source
from locdiffusion.photos.storage import version
from pipelines.albums.grouping import AlbumBy
from pipelines.albums.photos import photo_table
from schemas.geotags import CAPTURE_COLUMNS


@dataclass(frozen=True)
class TableSource:
    """A table of photos.

    Attributes:
        url: Path or URL of the table.
        by: How its photos are grouped.
        above: Path above the top folders.
    """

    url: str
    by: AlbumBy
    above: str = ""

    @property
    def table(self) -> AlbumTable:
        """The rows of the table; read once where a job runs in one process.

        Raises:
            DataError: The table cannot be read or has no column of times.
        """
        return _read(self.url, tuple(version(self.url)))

    def read(self) -> pa.Table:
        """Reads the photos.

        Raises:
            DataError: The table cannot be read or has no column of times.
        """
        table = self.table
        times = table.time
        capture = (
            [time and time.local for time in times],
            [time and time.offset_min for time in times],
            [time and TimeSource.TABLE.value for time in times],
            [camera or None for camera in table.camera],
        )
        known = (table.latitude == table.latitude).tolist()
        return photo_table(
            {
                "key": table.key,
                "truth_latitude": table.latitude,
                "truth_longitude": table.longitude,
                "truth_source": [Source.TABLE.value if one else None for one in known],
                **dict(zip(CAPTURE_COLUMNS, capture, strict=True)),
                "album": self.by.names(table.album, table.camera, self.above),
                "hours": table.hours,
                "zoned": table.zoned,
                "known_latitude": table.latitude,
                "known_longitude": table.longitude,
            }
        )


@functools.lru_cache(maxsize=1)
def _read(url: str, state: object) -> AlbumTable:
    return read_album_table(url)

"""Makes albums of a table of photos, see `locdiffusion.photos.album_table`."""

from __future__ import annotations

import numpy as np

from locdiffusion.albums.album import Album
from locdiffusion.photos.album_table import read_album_table

CLOCK_HOURS = 3.0
"""Standard error in hours of a clock whose zone is not known, where that of others is."""


def read_albums(url: str) -> dict[str, tuple[Album, list[str]]]:
    """Reads the albums of a table.

    Args:
        url: CSV, tab-separated or Parquet file, a path or a URL.

    Returns:
        The albums by their names, each with the keys of its photos.

    Raises:
        DataError: The table cannot be read or has no column of times.
    """
    table = read_album_table(url)
    name, hours, zoned = np.array(table.album), table.hours, table.zoned
    camera = np.unique(table.camera, return_inverse=True)[1]
    albums = {}
    for album in dict.fromkeys(table.album):
        rows = np.flatnonzero(name == album)
        clock = np.where(zoned[rows] | ~zoned[rows].any(), 0.0, CLOCK_HOURS)
        place = table.latitude[rows], table.longitude[rows]
        photos = Album.of(hours[rows], *place, camera[rows], clock)
        albums[album] = photos, [table.key[row] for row in rows.tolist()]
    return albums

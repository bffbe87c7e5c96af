"""Makes albums of a table of photos, see `locdiffusion.photos.album_table`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.album import Album
from locdiffusion.cli.terminal import tell
from locdiffusion.photos.album_table import read_album_table

Float = NDArray[np.float64]

CLOCK_HOURS = 3.0
"""Standard error in hours of a clock whose zone is not known, where that of others is."""


def read_albums(url: str) -> dict[str, tuple[Album, list[str]]]:
    """Reads the albums of a table: those of its column `album`, or else of a camera in a folder.

    What of the table cannot be read is told on the console.

    Args:
        url: CSV, tab-separated or Parquet file, a path or a URL.

    Returns:
        The albums by their names, each with the keys of its photos.

    Raises:
        DataError: The table cannot be read or has no column of times.
    """
    table = read_album_table(url)
    for problem in table.problems:
        tell(f"{url}: {problem}")
    hours, zoned = table.hours, table.zoned
    names = table.album if table.named else [*map(_name, table.album, table.camera)]
    name = np.array(names)
    albums = {}
    for album in dict.fromkeys(names):
        rows = np.flatnonzero(name == album)
        place = table.latitude[rows], table.longitude[rows]
        camera = [table.camera[row] for row in rows.tolist()]
        photos = album_of(hours[rows], zoned[rows], camera, *place)
        albums[album] = photos, [table.key[row] for row in rows.tolist()]
    return albums


def _name(folder: str, camera: str) -> str:
    return f"{folder} ({camera})" if camera else folder


def album_of(
    hours: Float, zoned: NDArray[np.bool_], camera: Sequence[str], latitude: Float, longitude: Float
) -> Album:
    """Makes an album, in which clocks without a zone may be wrong where others have one.

    Args:
        hours: Times ``(N,)`` in hours since 1970, in UTC where the zone is known; NaN without one.
        zoned: Whether the zone of each time is known, ``(N,)``.
        camera: Name of the camera of each photo, N of them.
        latitude: Known latitudes ``(N,)`` in degrees, or NaN.
        longitude: Known longitudes ``(N,)`` in degrees, or NaN.
    """
    clock = np.where(zoned | ~zoned.any(), 0.0, CLOCK_HOURS)
    number = np.unique(np.asarray(camera, object), return_inverse=True)[1]
    return Album.of(hours, latitude, longitude, number.reshape(-1), clock)

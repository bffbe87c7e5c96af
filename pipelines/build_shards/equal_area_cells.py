"""Divides the globe into cells of nearly equal area, by which photos are counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Cells:
    """Bands of latitude that are cut evenly in longitude.

    Attributes:
        degrees: Height of a band, and approximate width of its cells, in degrees of a great circle;
            1° is 111 km.

    Raises:
        ValueError: The height is outside 0.01° to 90°.
    """

    degrees: float

    def __post_init__(self) -> None:
        if not 0.01 <= self.degrees <= 90:
            raise ValueError(f"cells of {self.degrees} degrees, wanted 0.01 to 90")

    @property
    def bands(self) -> int:
        """Number of bands from the south pole to the north pole."""
        return max(2, round(180 / self.degrees))

    @property
    def columns(self) -> NDArray[np.int64]:
        """Number of cells of each band, from south to north, int64 ``(bands,)``."""
        middle = np.pi * ((np.arange(self.bands) + 0.5) / self.bands - 0.5)
        return np.maximum(1, np.rint(2 * self.bands * np.cos(middle))).astype(np.int64)

    def index(self, latitude: ArrayLike, longitude: ArrayLike) -> NDArray[np.int64]:
        """Returns the number of the cell of each position in degrees, int64 ``(N,)``."""
        columns = self.columns
        first = np.concatenate([[0], np.cumsum(columns)[:-1]])
        up = (np.asarray(latitude, np.float64) + 90) / 180 * self.bands
        band = np.minimum(up.astype(np.int64), self.bands - 1)
        east = (np.asarray(longitude, np.float64) + 180) % 360 / 360 * columns[band]
        return first[band] + np.minimum(east.astype(np.int64), columns[band] - 1)

    def centres(self, index: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns latitude and longitude of the middle of each cell in degrees, ``(N,)`` each."""
        number = np.asarray(index, np.int64)
        columns = self.columns
        first = np.concatenate([[0], np.cumsum(columns)[:-1]])
        band = np.searchsorted(first, number, side="right") - 1
        latitude = (band + 0.5) / self.bands * 180 - 90
        longitude = (number - first[band] + 0.5) / columns[band] * 360 - 180
        return latitude, longitude

    def names(self, index: ArrayLike) -> list[str]:
        """Names each cell by its middle, such as `N48.625E002.304`; names are unique."""
        places = zip(*self.centres(index), strict=True)
        return [
            f"{'S' if latitude < 0 else 'N'}{abs(latitude):06.3f}"
            f"{'W' if longitude < 0 else 'E'}{abs(longitude):07.3f}"
            for latitude, longitude in places
        ]

"""Finds the known position of rows that a geotag run wrote: the truth, else that of the photo.

What earlier runs wrote into copies of the photos are estimates. They are never a known position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from locdiffusion.photos.coordinates import Source

KINDS = ("truth", "exif")
"""Sources of a photo's known position, the better first: a document beside it, its own EXIF."""

POSITION_COLUMNS = tuple(f"{kind}_{axis}" for kind in KINDS for axis in ("latitude", "longitude"))
SOURCE_COLUMNS = tuple(f"{kind}_source" for kind in KINDS)


class _Columns(Protocol):
    """N rows as columns by name: a mapping, or a table of pandas."""

    def __contains__(self, name: Any, /) -> bool: ...

    def __getitem__(self, name: Any, /) -> Any: ...


@dataclass(frozen=True)
class KnownPositions:
    """True positions of photos, as far as they are known.

    Attributes:
        latitude, longitude: Position in degrees, ``(N,)``; NaN where unknown.
        kind: Source of the position, ``(N,)``: 0 unknown, or 1 + its number in `KINDS`.
        estimated: Whether a photo has only an estimate of an earlier run, ``(N,)``.
    """

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    kind: NDArray[np.uint8]
    estimated: NDArray[np.bool_]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether the position of each photo is known, ``(N,)``."""
        return self.kind > 0

    def by_kind(self) -> dict[str, int]:
        """Counts the known positions by their source."""
        return {kind: int(np.sum(self.kind == i)) for i, kind in enumerate(KINDS, start=1)}


def known_positions(columns: _Columns | Mapping[str, Any]) -> KnownPositions:
    """Takes the truth of each row, else the position that the photo itself has.

    Args:
        columns: N rows with the columns of `schemas.geotags` by name. POSITION_COLUMNS may hold
            None or NaN. Older files lack SOURCE_COLUMNS, or those of the EXIF.
    """
    count = len(columns["truth_latitude"])
    latitude, longitude = np.full((2, count), np.nan)
    kind, estimated = np.zeros(count, np.uint8), np.zeros(count, np.bool_)
    for number, name in enumerate(KINDS, start=1):
        if f"{name}_latitude" not in columns:
            continue
        pair = [np.asarray(columns[f"{name}_{axis}"], float) for axis in ("latitude", "longitude")]
        ours = np.zeros(count, np.bool_)
        if f"{name}_source" in columns:
            ours = np.asarray(columns[f"{name}_source"], object) == Source.ESTIMATE.value
        new = np.isfinite(pair[0] + pair[1]) & ~ours & (kind == 0)
        latitude[new], longitude[new], kind[new] = pair[0][new], pair[1][new], number
        estimated |= ours
    return KnownPositions(latitude, longitude, kind, estimated & (kind == 0))

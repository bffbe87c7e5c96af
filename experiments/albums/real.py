"""Real trips by leaving albums out: parameters from the others, positions hidden and asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from experiments.albums.scores import Scored
from locdiffusion.albums.album import Album
from locdiffusion.albums.check import HiddenPhotos, check, hidden
from locdiffusion.albums.fitting import fit
from locdiffusion.albums.parameters import AlbumParameters
from schemas.geotags import THRESHOLDS_KM

TRIALS = (("photos", 0.5), ("photos", 0.8), ("hours", 0.5), ("days", 0.5), ("days", 0.8))
"""What is hidden as a whole, and which share of it."""


def left_out(albums: Sequence[Album]) -> list[AlbumParameters]:
    """Fits parameters for each album to all others."""
    start = AlbumParameters()
    return [
        fit([other for other in albums if other is not album], start, "the other albums")
        for album in albums
    ]


def measure(
    albums: Sequence[Album],
    parameters: Sequence[AlbumParameters],
    unit: str,
    share: float,
    seeds: Sequence[int],
) -> HiddenPhotos:
    """Hides positions of each album and asks for them, once for each seed."""
    parts = []
    for number, (album, own) in enumerate(zip(albums, parameters, strict=True)):
        for seed in seeds:
            if not _can_be_asked(album, unit, share, seed):
                continue
            found = check([album], own, unit, share, seed)
            parts.append(replace(found, album=np.full(len(found), number)))
    return HiddenPhotos.joined(parts)


def _can_be_asked(album: Album, unit: str, share: float, seed: int) -> bool:
    """Whether some positions are hidden and some are left."""
    count, anchors = np.count_nonzero(hidden(album, unit, share, seed)), album.anchored.sum()
    return bool(0 < count < anchors)


def lines(name: str, found: HiddenPhotos, least: int, albums: Sequence[Album]) -> list[str]:
    """Rows of a table for all photos, and for each album of many anchors."""
    rows = [_scored(found).line(f"{name}, all")]
    for number, album in enumerate(albums):
        part = found.take(found.album == number)
        if np.count_nonzero(album.anchored) >= least and len(part):
            rows.append(_scored(part).line(f"{name}, album {number}"))
    gains = [
        f"{100.0 * (np.mean(found.error_km <= km) - np.mean(found.nearest_km <= km)):+.1f}"
        for km in THRESHOLDS_KM
    ]
    rows.append(f"| {name}, points more than the nearest anchor | {' / '.join(gains)} ||||||")
    return rows


def _scored(found: HiddenPhotos) -> Scored:
    return Scored(
        found.album, found.error_km, found.radius_50_km, found.radius_90_km, found.log_density_km2
    )

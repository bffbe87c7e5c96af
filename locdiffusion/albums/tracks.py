"""Draws whole tracks of an album: positions of all its photos that belong together.

Between two photos whose position is known or drawn, the middle one is drawn from its bridge, then
the middle of both halves, and so on (as Lévy built Brownian motion). So neighbours agree, and the
first photo drawn in a gap has just the density that it has by itself. Before the first anchor and
after the last, the farthest photo comes first. Each track moves by one draw of the album's scales.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.anchors import Anchors
from locdiffusion.albums.bridge import Bridges, End
from locdiffusion.albums.levels import BLOCK

Float = NDArray[np.float64]
Index = NDArray[np.int64]


def sample_tracks(anchors: Anchors, count: int, seed: int) -> Float:
    """Draws tracks from the joint density of all photos that have a time.

    Args:
        anchors: Anchors of the album, at least one.
        count: Number of tracks.
        seed: Seed of the draws.

    Returns:
        Unit vectors ``(count, n, 3)`` of the n photos of `Album.order`; anchors where they are.

    Raises:
        ValueError: The album has no anchor.
    """
    album, order = anchors.album, anchors.album.order
    if not len(anchors.photos):
        raise ValueError("The album has no anchor; tracks want at least one known position.")
    fixed = np.flatnonzero(np.isin(order, anchors.photos))
    tracks = np.full((count, len(order), 3), np.nan)
    tracks[:, fixed] = album.vectors[order[fixed]]
    rng = np.random.default_rng(seed)
    left, right = np.append(-1, fixed), np.append(fixed, len(order))
    while len(left := left[keep := right - left > 1]):
        right = right[keep]
        middle = np.where(
            left < 0, 0, np.where(right == len(order), right - 1, (left + right) // 2)
        )
        rows = np.stack([np.tile(x, count) for x in (left, middle, right)])
        track = np.repeat(np.arange(count), len(left))
        for start in range(0, len(track), BLOCK):
            part = slice(start, start + BLOCK)
            _draw(anchors, tracks, track[part], rows[:, part], rng)
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
    return tracks


def _draw(
    anchors: Anchors, tracks: Float, track: Index, rows: Index, rng: np.random.Generator
) -> None:
    """Draws the middle photos between left and right ones, ``rows (3, B)``, of some tracks."""
    left, middle, right = rows
    photos = anchors.album.order[middle]
    places, there = anchors.visits.around(*anchors.neighbours(photos))
    a = _end(anchors, tracks, track, left, photos)
    b = _end(anchors, tracks, track, right, photos)
    bridges = Bridges.between(a, b, places, there, anchors.law)
    tracks[track, middle] = bridges.draws(rng.random((len(track), 1, 3)))[:, 0]


def _end(anchors: Anchors, tracks: Float, track: Index, row: Index, photos: Index) -> End:
    album, law = anchors.album, anchors.law
    known = (row >= 0) & (row < tracks.shape[1])
    safe = np.where(known, row, 0)
    there = np.where(known, album.order[safe], photos)
    kernels, back = anchors.table(album.step_hours(there, photos, law.clock_seconds))
    number, draw = np.arange(len(track)), track % kernels.shape[1]
    centre = np.where(known[:, None], tracks[track, safe], [0.0, 0.0, 1.0])
    # What was drawn is a position itself; only what was measured has an error.
    error = np.where(np.isin(there, anchors.photos), album.error_km[there], 0.0)
    return End(centre, error, known, kernels[number, draw][:, None], back[number, draw][:, None])

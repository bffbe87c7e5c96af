"""Checks the placing of albums: hides known positions and compares the answers with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.album import Album
from locdiffusion.albums.anchors import Anchors
from locdiffusion.albums.levels import BLOCK, decided, hidden_shares
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.placing import believed, place
from locdiffusion.decoding.answers import Columns
from locdiffusion.photos.left_out import number
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between, unit_vectors
from schemas.albums import Standing
from schemas.geotags import THRESHOLDS_KM

Float = NDArray[np.float64]
Index = NDArray[np.int64]

UNITS = {"photos": 0.0, "hours": 1.0, "days": 24.0}
"""What is hidden as a whole, and its length in hours; 0 for each photo by itself."""

GAPS = {"10 minutes": 1.0 / 6.0, "1 hour": 1.0, "6 hours": 6.0, "1 day": 24.0, "more": np.inf}
"""Upper ends in hours of the gaps to the nearest anchor by which errors are told."""


@dataclass(frozen=True)
class HiddenPhotos(Columns):
    """Photos whose position was hidden, and what was answered.

    Attributes:
        album: Number of the album of each photo, ``(n,)``.
        error_km: Error of the answer, ``(n,)``.
        radius_50_km, radius_90_km: Radii of the answer, ``(n,)``.
        nearest_km: Error of the position of the anchor that is nearest in time, ``(n,)``.
        interpolated_km: Error of the way along the great circle between both anchors, ``(n,)``.
        gap_hours: Hours to the anchor that is nearest in time, ``(n,)``.
        log_density_km2: Log of the density at the truth in nats per km², ``(n,)``.
        level: Stated probability of being nearer to the answer than the truth is, ``(n,)``.
    """

    album: Index
    error_km: Float
    radius_50_km: Float
    radius_90_km: Float
    nearest_km: Float
    interpolated_km: Float
    gap_hours: Float
    log_density_km2: Float
    level: Float


def hidden(album: Album, unit: str, share: float, seed: int) -> NDArray[np.bool_]:
    """Draws which anchors of an album are hidden, ``(N,)``.

    Args:
        album: Photos of an album.
        unit: What is hidden as a whole, one of UNITS.
        share: Share of the units that is hidden.
        seed: Seed of the draw.
    """
    if unit not in UNITS:
        raise ValueError(f"unit is {unit!r}; want one of {', '.join(UNITS)}.")
    rng = np.random.default_rng([seed, round(1000 * share), len(album)])
    if not UNITS[unit]:
        return album.anchored & (rng.random(len(album)) < share)
    stretch = np.floor(np.where(album.timed, album.hours, 0.0) / UNITS[unit])
    _, number = np.unique(stretch, return_inverse=True)
    return album.anchored & (rng.random(number.max(initial=-1) + 1) < share)[number]


def check(
    albums: Sequence[Album], parameters: AlbumParameters, unit: str, share: float, seed: int
) -> HiddenPhotos:
    """Hides positions of albums and asks for them.

    Args:
        albums: Albums with known positions.
        parameters: Parameters of the albums.
        unit: What is hidden as a whole, one of UNITS.
        share: Share of the units that is hidden.
        seed: Seed of the draw.
    """
    found = [
        part
        for number, album in enumerate(albums)
        if (part := _check_one(number, album, parameters, hidden(album, unit, share, seed)))
        is not None
    ]
    if not found:
        raise ValueError(
            f"No position of {number(len(albums), 'album')} could be hidden while others stay; "
            "want albums with several photos that have a time and a position."
        )
    return HiddenPhotos.joined(found)


def _check_one(
    number: int, album: Album, parameters: AlbumParameters, mask: NDArray[np.bool_]
) -> HiddenPhotos | None:
    unknown = {
        name: np.where(mask, np.nan, getattr(album, name)) for name in ("latitude", "longitude")
    }
    asked = replace(album, **unknown)
    answers = place(asked, parameters)
    rows = np.flatnonzero(mask & np.array([s is Standing.PLACED for s in answers.standing]))
    if not len(rows):
        return None
    anchors, wrong = believed(asked, parameters)
    before, after = anchors.neighbours(rows)
    truth = album.vectors[rows]
    answered = unit_vectors(answers.latitude[rows], answers.longitude[rows])
    error_km = EARTH_RADIUS_KM * angle_between(answered, truth)
    nearest = album.vectors[anchors.nearest(rows, before, after)]
    gaps = anchors.gap_hours(rows, before, after)
    return HiddenPhotos(
        np.full(len(rows), number),
        error_km,
        answers.radius_50_km[rows],
        answers.radius_90_km[rows],
        EARTH_RADIUS_KM * angle_between(nearest, truth),
        EARTH_RADIUS_KM * angle_between(_between(anchors, rows, before, after, gaps), truth),
        gaps.min(1),
        _log_density(anchors, rows, truth),
        _levels(anchors, wrong, rows, parameters, error_km),
    )


def _between(anchors: Anchors, photos: Index, before: Index, after: Index, gaps: Float) -> Float:
    """Interpolates along the great circle between two anchors, as navigation does, ``(n, 3)``."""
    last = len(anchors.photos) - 1
    a = anchors.album.vectors[anchors.photos[np.clip(before, 0, last)]]
    b = anchors.album.vectors[anchors.photos[np.clip(after, 0, last)]]
    known = np.isfinite(gaps)
    a, b = np.where(known[:, :1], a, b), np.where(known[:, 1:], b, a)
    way = np.where(known.all(1), gaps[:, 0], 0.0) / np.maximum(
        np.where(known, gaps, 0.0).sum(1), 1e-9
    )
    angle = np.maximum(angle_between(a, b), 1e-12)
    weight_a, weight_b = np.sin((1.0 - way) * angle), np.sin(way * angle)
    mixed = weight_a[:, None] * a + weight_b[:, None] * b
    return mixed / np.linalg.norm(mixed, axis=-1, keepdims=True)


def _log_density(anchors: Anchors, photos: Index, points: Float) -> Float:
    """Log densities in nats per km² of photos at one point each, ``(n,)``."""
    found = [np.zeros(0)]
    for start in range(0, len(photos), BLOCK):
        part = photos[start : start + BLOCK]
        bridges = anchors.bridges(part, *anchors.neighbours(part))
        found.append(bridges.log_density(points[start : start + BLOCK, None])[:, 0])
    return np.concatenate(found) - 2.0 * np.log(EARTH_RADIUS_KM)


def _levels(
    anchors: Anchors,
    wrong: NDArray[np.bool_],
    photos: Index,
    parameters: AlbumParameters,
    error_km: Float,
) -> Float:
    """Probabilities that the answers state for being nearer than the truth, ``(n,)``."""
    album = anchors.album
    asked = np.flatnonzero(album.timed & (~album.anchored | wrong))
    levels = hidden_shares(anchors, asked).levels(parameters.levels)
    shares = [
        decided(anchors, photos[i : i + BLOCK]).share_within(error_km[i : i + BLOCK])
        for i in range(0, len(photos), BLOCK)
    ]
    return levels.probability(np.concatenate(shares))


def report(rows: HiddenPhotos) -> str:
    """Writes what a check found as a table: coverage, and errors by gap."""
    inside = [100.0 * np.mean(rows.error_km <= r) for r in (rows.radius_50_km, rows.radius_90_km)]
    lines = [
        f"{number(len(rows), 'hidden photo')} of {number(len(np.unique(rows.album)), 'album')}",
        f"radii of 50 % and 90 % hold {inside[0]:.0f} % and {inside[1]:.0f} % of the truths",
        f"negative log density at the truth: {-np.mean(rows.log_density_km2):.2f} nats/km²",
        "",
        "gap to the nearest   photos  median error in km           median radius in km",
        "anchor in time               album  nearest  great circle     50 %      90 %",
    ]
    low = -1.0
    for name, high in GAPS.items():
        part = rows.take((rows.gap_hours > low) & (rows.gap_hours <= high))
        low, label = high, f"up to {name}" if np.isfinite(high) else name
        if not len(part):
            continue
        columns = (part.error_km, part.nearest_km, part.interpolated_km)
        middle = [np.median(column) for column in (*columns, part.radius_50_km, part.radius_90_km)]
        lines.append(
            f"{label:<20}{len(part):>7}{middle[0]:>8.2f}{middle[1]:>9.2f}{middle[2]:>14.2f}"
            f"{middle[3]:>9.2f}{middle[4]:>10.2f}"
        )
    within = [
        [f"{100.0 * np.mean(error <= km):>8.1f} %" for km in THRESHOLDS_KM]
        for error in (rows.error_km, rows.nearest_km, rows.interpolated_km)
    ]
    lines += ["", "within" + " " * 14 + "".join(f"{km:>7} km" for km in THRESHOLDS_KM)]
    for name, shares in zip(("album", "nearest anchor", "great circle"), within, strict=True):
        lines.append(f"{name:<20}" + "".join(shares))
    return "\n".join(lines)

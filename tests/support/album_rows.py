"""Output directories of an albums job, made of trips that were never made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from locdiffusion.albums.album import Album
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.placing import place
from locdiffusion.sphere.geodesy import destination
from schemas.albums import album_table
from schemas.geotags import PROBABILITY_COLUMNS
from support.albums import hiding, walk

ALONE_KM = 400.0
"""Error of what photos say alone, of half of them."""


def trip(count: int, seed: int, anchors: float = 0.3, wrong: int = 0) -> tuple[Album, Album]:
    """A walk: the album as it was, and as it is known.

    Args:
        count: Number of photos.
        seed: Seed of the walk.
        anchors: Share of the photos that keep their position.
        wrong: Number of anchors in the middle whose position is on another continent.
    """
    rng = np.random.default_rng(seed)
    truth = walk(count, rng, speed_kmh=15.0, latitude=46.5, longitude=8.0)
    known = hiding(truth, np.flatnonzero(rng.random(count) >= anchors))
    there = np.flatnonzero(~np.isnan(known.latitude))[1:-1]
    far = there[len(there) // 2 :][:wrong]
    known.latitude[far], known.longitude[far] = -33.9, 151.2
    return truth, known


def album_columns(name: str, truth: Album, known: Album, keys: list[str] | None = None) -> dict:
    """The columns of an album that was placed; the truth of photos that are placed is told."""
    answers = place(known, AlbumParameters.load())
    count = len(known)
    rng = np.random.default_rng(count)
    asked = np.isnan(known.latitude)
    own = destination(
        truth.latitude,
        truth.longitude,
        rng.uniform(0.0, 360.0, count),
        np.abs(rng.normal(0.0, ALONE_KM, count)),
    )
    bare = ~asked | (rng.random(count) < 0.5)
    placed = ~np.isnan(answers.latitude)
    seconds = np.where(truth.timed, 3600.0 * np.nan_to_num(truth.hours), 0.0)
    times = seconds.astype("datetime64[s]").astype("datetime64[us]").tolist()
    return {
        "key": keys or [f"{name}/IMG_{i:04}.jpg" for i in range(count)],
        "album": [name] * count,
        "standing": [standing.value for standing in answers.standing],
        "latitude": answers.latitude,
        "longitude": answers.longitude,
        "radius_50_km": answers.radius_50_km,
        "radius_90_km": answers.radius_90_km,
        **dict(zip(PROBABILITY_COLUMNS, answers.probability.T, strict=True)),
        "country_code": [("CH" if one else None) for one in placed],
        "exif_latitude": known.latitude,
        "exif_longitude": known.longitude,
        "truth_latitude": np.where(asked, truth.latitude, np.nan),
        "truth_longitude": np.where(asked, truth.longitude, np.nan),
        "captured_at": [t if ok else None for t, ok in zip(times, truth.timed, strict=True)],
        "captured_utc_offset_min": [60] * count,
        "model_id": ["albums"] * count,
        "hours_before": np.where(placed, answers.hours_before, np.nan),
        "hours_after": np.where(placed, answers.hours_after, np.nan),
        **dict(
            zip(("share_anchors", "share_neighbours", "share_own"), answers.shares.T, strict=True)
        ),
        "alone_latitude": np.where(bare, np.nan, own[0]),
        "alone_longitude": np.where(bare, np.nan, own[1]),
        "alone_radius_50_km": np.where(bare, np.nan, ALONE_KM),
        "alone_radius_90_km": np.where(bare, np.nan, 2.0 * ALONE_KM),
    }


def write_albums(root: Path, *albums: dict[str, Any], part: str = "0") -> None:
    """Writes albums as one part of an output directory."""
    folder = root / "albums"
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: _joined([album[name] for album in albums]) for name in albums[0]}
    pq.write_table(album_table(columns), folder / f"part-{part}.parquet")


def _joined(columns: list[Any]) -> Any:
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return [value for column in columns for value in column]

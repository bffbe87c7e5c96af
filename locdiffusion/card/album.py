"""What the other photos of its album say of one photo, from the rows of an albums job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from locdiffusion.decoding.geotag import place_text
from locdiffusion.files import file_system
from locdiffusion.sphere.geodesy import great_circle_km
from schemas.albums import ALBUMS, GAP_COLUMNS, Standing

_ANSWER = ("latitude", "longitude", "radius_50_km", "radius_90_km")
_TIMES = ("captured_at", "captured_utc_offset_min")
_ROW = ("key", "album", "standing", *_ANSWER, *GAP_COLUMNS, *_TIMES)

STANDS = {
    Standing.ANCHOR: "it is an anchor: its own position is believed",
    Standing.PLACED: "placed by the others",
    Standing.CONTRADICTS: "placed by the others, which contradict its own position",
    Standing.NO_TIME: "it has no time, so the others say nothing",
    Standing.ALONE: "no other photo says where",
}

Place = tuple[float, float]


@dataclass(frozen=True)
class AlbumAnswer:
    """What an album says of one of its photos.

    Attributes:
        album: Name of the album.
        standing: How the photo stands in it.
        place: Latitude and longitude in degrees; None if the album gives no answer.
        radius_50_km, radius_90_km: Radii of the answer; NaN without one.
        hours: Hours to the anchors before and after, None where there is none.
        anchors: Their latitude and longitude, None where there is none.
    """

    album: str
    standing: Standing
    place: Place | None
    radius_50_km: float
    radius_90_km: float
    hours: tuple[float | None, float | None]
    anchors: tuple[Place | None, Place | None]

    def rows(self) -> list[tuple[str, str]]:
        """Pairs of a name and its value, as on the card."""
        rows = [("album", f"{self.album}: {STANDS[self.standing]}")]
        if self.place is not None:
            radii = (_length(self.radius_50_km), _length(self.radius_90_km))
            rows.append(("with its album", place_text(*self.place)))
            rows.append(("its radii", f"{radii[0]} with 50 %, {radii[1]} with 90 %"))
        spans = [
            f"{_span(hours)} {word}"
            for hours, word in zip(self.hours, ("before", "after"), strict=True)
            if hours
        ]
        if spans:
            rows.append(("its anchors", ", ".join(spans)))
        return rows

    def properties(self) -> dict[str, Any]:
        """The answer as properties of a GeoJSON Feature."""
        latitude, longitude = self.place or (None, None)
        there = self.place is not None
        return {
            "album": self.album,
            "album_standing": self.standing.value,
            "album_latitude": latitude,
            "album_longitude": longitude,
            "album_radius_50_km": self.radius_50_km if there else None,
            "album_radius_90_km": self.radius_90_km if there else None,
        }

    def reach_km(self) -> float:
        """Distance that a map about the place shows: the radius, and anchors that are near it."""
        assert self.place is not None
        apart = [float(great_circle_km(*self.place, *anchor)) for anchor in self.anchors if anchor]
        near = [km for km in apart if km < 3.0 * self.radius_90_km]
        return max([self.radius_90_km, *near])


def album_answer(output: str, photo: Path) -> AlbumAnswer:
    """Finds what an albums job says of a photo.

    Args:
        output: Output directory of the job, a path or a URL.
        photo: Path of the photo. The row is found by the end of the path, or by the file's name.

    Raises:
        ValueError: There is no such row, or more than one.
        OSError: The directory cannot be read.
    """
    filesystem, root = file_system(f"{output.rstrip('/')}/{ALBUMS}")
    if not filesystem.isdir(root):
        raise FileNotFoundError(
            f"{output} has no folder {ALBUMS}; want the --output of `locdiffusion albums`"
        )
    rows = ds.dataset(root, filesystem=filesystem, format="parquet")
    row = _row_of(rows, photo, output)
    columns = ["latitude", "longitude", *_TIMES]
    chosen = (pc.field("album") == row["album"]) & (pc.field("standing") == Standing.ANCHOR.value)
    anchors = rows.to_table(columns=columns, filter=chosen).to_pylist()
    known = row["latitude"] is not None and row["radius_90_km"] is not None
    standing = Standing(row["standing"])
    told = standing in (Standing.PLACED, Standing.CONTRADICTS)
    return AlbumAnswer(
        row["album"],
        standing,
        (row["latitude"], row["longitude"]) if known else None,
        row["radius_50_km"] if known else float("nan"),
        row["radius_90_km"] if known else float("nan"),
        (row["hours_before"], row["hours_after"]) if told else (None, None),
        _beside(row, anchors) if told else (None, None),
    )


def _row_of(rows: ds.Dataset, photo: Path, output: str) -> dict[str, Any]:
    """The row of a photo: that with the longest key at which its path ends."""
    parts = photo.absolute().parts[1:]
    ends = ["/".join(parts[i:]) for i in range(len(parts))]
    keys = [name for end in ends for name in (end, end[: len(end) - len(photo.suffix)])]
    exact = pc.field("key").isin(keys)
    within = pc.ends_with(pc.field("key"), f"/{photo.name}")
    for chosen in (exact, within):
        table: pa.Table = rows.to_table(columns=list(_ROW), filter=chosen)
        found = sorted(table.to_pylist(), key=lambda row: -len(row["key"]))
        best = [row for row in found if len(row["key"]) == len(found[0]["key"])]
        if len(best) == 1:
            return best[0]
        if best:
            raise ValueError(
                f"{len(best)} rows of {output} are called {best[0]['key']}; want one: put the "
                "photo into a folder of its name in the archive"
            )
    raise ValueError(
        f"no row of {output} is called {photo.name}; want a photo of the archive over which "
        "`locdiffusion albums` ran"
    )


def _beside(
    row: dict[str, Any], anchors: Sequence[dict[str, Any]]
) -> tuple[Place | None, Place | None]:
    """Places of the anchors that are nearest in time, before and after."""
    now = _utc(row)
    timed = sorted((_utc(one), one["latitude"], one["longitude"]) for one in anchors)
    before = [place for at, *place in timed if at <= now]
    after = [place for at, *place in timed if at > now]
    first = (before[-1][0], before[-1][1]) if before else None
    return first, (after[0][0], after[0][1]) if after else None


def _utc(row: dict[str, Any]) -> Any:
    return row["captured_at"] - timedelta(minutes=row["captured_utc_offset_min"] or 0)


def _length(km: float) -> str:
    return f"{1000.0 * km:,.0f} m" if km < 1.0 else f"{float(f'{km:.3g}'):,g} km"


def _span(hours: float) -> str:
    if hours < 1.5:
        return f"{60.0 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 48.0 else f"{hours / 24.0:.1f} days"

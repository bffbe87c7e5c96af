"""Writes `albums.html`: the tracks of albums on a map, with a time line, in one file."""

from __future__ import annotations

from typing import Any

import numpy as np

from locdiffusion.drawing.palette import CERTAINTY, PAGE
from locdiffusion.drawing.world_map import read_countries
from locdiffusion.photos.left_out import number
from pipelines.albums.pages.counts import AlbumCounts
from pipelines.albums.pages.rows import AlbumRows
from pipelines.geotag.pages.filling import fill, script_json
from pipelines.geotag.pages.page import compact_country, numbered, packed
from pipelines.geotag.pages.rows import DATA, colour_range_km
from schemas.albums import Standing

TEMPLATE = DATA / "albums.html"
SCRIPTS = (DATA / "earth.js", DATA / "albums.js")


def album_page(rows: AlbumRows, counts: AlbumCounts, geotagged: bool) -> str:
    """Fills the page. It makes no request, and equal rows give equal bytes.

    Args:
        rows: Rows that the page shows.
        counts: Counts of all rows.
        geotagged: Whether `map.html` of a geotag run lies beside the page.
    """
    script = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    data = album_page_data(rows, counts) | {"geotagged": geotagged}
    return fill(TEMPLATE, {"MAP_DATA": script_json(data)}, script)


def album_page_data(rows: AlbumRows, counts: AlbumCounts) -> dict[str, Any]:
    """Collects what the page draws, with numbers as in `packed`."""
    n, known = rows.numbers, rows.known
    countries, country = numbered(rows.country_code, np.uint16)
    anchor = [*Standing].index(Standing.ANCHOR)
    placed = rows.standing == [*Standing].index(Standing.PLACED)
    return {
        "title": f"{number(counts.total(), 'photo')} of {number(len(counts.standing), 'album')}",
        "subtitle": left_out(rows, counts),
        "palette": CERTAINTY,
        "colours": PAGE,
        "range_km": colour_range_km(n["radius_90_km"][placed]),
        "standings": [one.value for one in Standing],
        "world": [compact_country(country) for country in read_countries()],
        "countries": countries,
        "albums": rows.albums,
        "first": rows.first.tolist(),
        "photos": rows.photos.tolist(),
        "anchors": [int(counts.standing[name][anchor]) for name in rows.albums],
        "key": rows.key,
        "columns": {
            "standing": packed(rows.standing, np.uint8),
            "country": country,
            "utc": packed(rows.utc_seconds, np.float64),
            "captured_at": packed(rows.wall_clock, np.float64),
            "captured_utc_offset_min": packed(rows.offset_min, np.float32),
            **{name: packed(column, np.float32) for name, column in n.items()},
            "known_latitude": packed(known.latitude, np.float32),
            "known_longitude": packed(known.longitude, np.float32),
            "known_kind": packed(known.kind, np.uint8),
        },
    }


def left_out(rows: AlbumRows, counts: AlbumCounts) -> str:
    """Says what of the albums the page does not show; empty if it shows all."""
    parts = []
    if len(rows.albums) < len(counts.standing):
        shown = number(len(rows.albums), "album")
        parts.append(f"{shown} shown, with the most photos placed")
    if len(rows) < rows.photos.sum():
        parts.append("of the longest albums every few photos")
    return "; ".join(parts)

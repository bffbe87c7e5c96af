"""The country of a point: ISO 3166-1 alpha-2, from Natural Earth at 1:10m (public domain).

The borders are Natural Earth's de facto ones, of version 4.1.0 (2018): **who administers a place,
not whom it belongs to**. Crimea is thus found under RU, Western Sahara's two sides under MA and EH,
Northern Cyprus and Somaliland, which have no code, under CY and SO; Kosovo under XK, which the
standard leaves to its users; a few specks that several states claim (the Siachen glacier, the
Spratly islands) under none. Giving a code takes no position. If you need other borders, use
polygons of your own (`locdiffusion.geography.polygons.PolygonIndex.from_file`).

The borders are simplified to 0.01° (1.1 km): a point within 1.2 km of a border or coast may be on
the wrong side. Lakes count as land; the sea, often with piers and beaches, has no country.
`tools/make_countries.py` makes the file.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pyarrow.parquet as pq
import shapely
from numpy.typing import ArrayLike

from locdiffusion.geography.polygons import PolygonIndex

COUNTRIES = Path(__file__).parents[1] / "assets" / "countries.parquet"


@functools.lru_cache(maxsize=1)
def countries() -> PolygonIndex:
    """Reads Natural Earth's countries by their code, once per process."""
    table = pq.read_table(COUNTRIES, columns=["code", "geometry"])
    shapes = shapely.from_wkb(table["geometry"].to_numpy())
    return PolygonIndex(table["code"].to_pylist(), shapes)


def country_codes(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> list[str | None]:
    """Looks up the country of each point.

    Args:
        latitude_deg: Latitude in degrees, ``(N,)``.
        longitude_deg: Longitude in degrees, ``(N,)``; multiples of 360 may be added.

    Returns:
        N codes of two letters; None at sea, and where no code is agreed on.
    """
    return countries()(latitude_deg, longitude_deg)

"""The country of a point: ISO 3166-1 alpha-2, from Natural Earth at 1:10m (public domain).

The borders are Natural Earth's de facto ones, of version 4.1.0 (2018): **who administers a place,
not whom it belongs to**. Crimea is thus found under RU, Western Sahara's two sides under MA and EH,
Northern Cyprus and Somaliland, which have no code, under CY and SO; Kosovo under XK, which the
standard leaves to its users; a few specks that several states claim (the Siachen glacier, the
Spratly islands) under none. Giving a code takes no position. If you need other borders, use
polygons of your own (`locdiffusion.geography.borders.read_borders`).

The borders are simplified to 0.01° (1.1 km): a point within 1.2 km of a border or coast may be on
the wrong side. Lakes count as land. A point at sea within 12 nautical miles of a coast gets the
nearest country, for the sake of piers, beaches and small islands that the borders leave out. **It
is not meant as a territorial claim**, and no maritime border is looked at. The open sea has none.
`tools/make_countries.py` makes the file.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import shapely
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from locdiffusion.geography.polygons import PolygonIndex, raster_share
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, unit_vectors

NEAR_KM = 12 * 1.852
"""Distance from a coast within which a point at sea gets the nearest country: 12 nautical miles."""

INSIDE, NEAREST = "inside", "nearest"
"""How the country of a point was found."""

COUNTRIES = Path(__file__).parents[1] / "assets" / "countries.parquet"


@functools.lru_cache(maxsize=1)
def countries() -> PolygonIndex:
    """Reads Natural Earth's countries by their code, once per process."""
    table = pq.read_table(COUNTRIES, columns=["code", "geometry"])
    shapes = shapely.from_wkb(table["geometry"].to_numpy())
    return PolygonIndex(table["code"].to_pylist(), shapes)


class FoundCountries(NamedTuple):
    """The countries of N points.

    Attributes:
        codes: Codes of two letters; None on the open sea, and where no code is agreed on.
        found_by: INSIDE the borders, NEAREST coast, or None where there is no code.
    """

    codes: list[str | None]
    found_by: list[str | None]


def find_countries(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> FoundCountries:
    """Looks up the country of each point, and how it was found.

    Args:
        latitude_deg: Latitude in degrees, ``(N,)``.
        longitude_deg: Longitude in degrees, ``(N,)``; multiples of 360 may be added.
    """
    places = np.asarray(latitude_deg, np.float64), np.asarray(longitude_deg, np.float64)
    parts = countries().parts_around(*places)
    sea = np.flatnonzero(parts < 0)
    if len(sea):
        parts[sea] = countries().nearest_parts(places[0][sea], places[1][sea], NEAR_KM)
    codes = countries().names_of(parts)
    at_sea = set(sea.tolist())
    found_by = [
        None if code is None else NEAREST if row in at_sea else INSIDE
        for row, code in enumerate(codes)
    ]
    return FoundCountries(codes, found_by)


def country_codes(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> list[str | None]:
    """Looks up the country of each of N points, as `find_countries` does."""
    return find_countries(latitude_deg, longitude_deg).codes


@functools.lru_cache(maxsize=1)
def nearest_at_sea(rows: int, columns: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rasters the sea within `NEAR_KM` of a coast, by the nearest country.

    Args:
        rows: Number of rows, even in sin(latitude) from north to south.
        columns: Number of columns, even in longitude from -180°.

    Returns:
        Share of sea in each cell, and number of the part of `countries` that is nearest to the
        cell's centre, -1 where none is near, ``(rows, columns)`` each.
    """
    index = countries()
    sea = 1.0 - raster_share(index.parts, rows, columns).clip(0.0, 1.0)
    # A coast every 2 km will do for cells of 13 by 21 km.
    degrees, part = shapely.get_coordinates(
        shapely.segmentize(index.parts, 0.02), return_index=True
    )
    coast = cKDTree(unit_vectors(degrees[:, 1], degrees[:, 0]))
    z = 1.0 - 2.0 * (np.arange(rows) + 0.5) / rows
    longitude = (np.arange(columns) + 0.5) * (360.0 / columns) - 180.0
    row, column = np.nonzero(sea > 0.0)
    centres = unit_vectors(np.degrees(np.arcsin(z))[row], longitude[column])
    _, found = coast.query(centres, distance_upper_bound=NEAR_KM / EARTH_RADIUS_KM)
    nearest = np.full((rows, columns), -1)
    nearest[row, column] = np.append(part, -1)[found]
    return sea, nearest

"""The region of a point: ISO 3166-2, from Natural Earth's first level below countries.

Natural Earth 5.1, admin 1 at 1:10m (public domain), simplified to about 2 km, with the reservations
of `locdiffusion.geography.countries`: who administers a place, not whom it belongs to. A region
lies in the country that a point has there. Its code is the two letters of the country alone where
the standard divides a country no further, or Natural Earth has no code. The raster numbers cells
of 0.05° by their region, with the sea within 12 nautical miles of a coast as part of the nearest.
`tools/make_regions.py` makes both files.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import shapely
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from locdiffusion.geography.polygons import PolygonIndex
from locdiffusion.sphere.geodesy import unit_vectors

if TYPE_CHECKING:
    from locdiffusion.geography.area_raster import AreaRaster

CELL_DEG = 0.05
SEA_ID, ELSEWHERE_ID, FIRST_ID = 0, 1, 2
"""Numbers on the raster: open sea, land of no agreed country, and the first code."""

_ASSETS = Path(__file__).parents[1] / "assets"
REGIONS, REGION_RASTER = _ASSETS / "regions.parquet", _ASSETS / "regions.png"


@functools.lru_cache(maxsize=1)
def region_codes() -> tuple[str, ...]:
    """Reads the codes of the raster, that of number `FIRST_ID` first."""
    with Image.open(REGION_RASTER) as image:
        return tuple(str(image.info["codes"]).split(","))


@functools.lru_cache(maxsize=1)
def raster_countries() -> tuple[str, ...]:
    """Returns the countries of the codes on the raster, sorted."""
    return tuple(sorted({code[:2] for code in region_codes()}))


def country_sums(by_region: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums numbers of areas by country.

    Args:
        by_region: A number for each area of the raster, ``(..., FIRST_ID + regions)``.

    Returns:
        Sums, those of sea and of elsewhere first, ``(..., FIRST_ID + countries)``.
    """
    sums: NDArray[np.float64] = np.add.reduceat(by_region, _starts(), axis=-1)
    return sums


@functools.lru_cache(maxsize=1)
def _starts() -> list[int]:
    """Finds where each country begins: codes are sorted, so those of a country stand together."""
    countries = [code[:2] for code in region_codes()]
    return [SEA_ID, ELSEWHERE_ID, *(FIRST_ID + countries.index(one) for one in raster_countries())]


@functools.lru_cache(maxsize=1)
def region_raster() -> AreaRaster:
    """Reads the raster of regions, once per process."""
    # Imports torch, which whoever counts rows does without.
    import torch

    from locdiffusion.geography.area_raster import AreaRaster, Box

    with Image.open(REGION_RASTER) as image:
        ids = np.asarray(image, np.uint16).astype(np.int16)
    box = Box.around((-180.0, -90.0, 180.0, 90.0), CELL_DEG)
    return AreaRaster(box, torch.from_numpy(ids), SEA_ID)


@functools.lru_cache(maxsize=1)
def regions() -> PolygonIndex:
    """Reads Natural Earth's regions by their code, once per process."""
    table = pq.read_table(REGIONS, columns=["code", "geometry"])
    shapes = shapely.from_wkb(table["geometry"].to_numpy())
    return PolygonIndex(table["code"].to_pylist(), shapes)


def find_regions(
    latitude_deg: ArrayLike, longitude_deg: ArrayLike, countries: Sequence[str | None]
) -> list[str | None]:
    """Looks up the region of each of N points within its country.

    Where borders of regions and of countries differ, or at sea, it is that on the raster if that
    lies in the country, and else the country alone.

    Args:
        latitude_deg: Latitude in degrees, ``(N,)``.
        longitude_deg: Longitude in degrees, ``(N,)``; multiples of 360 may be added.
        countries: Country of each point as of `find_countries`, None on the open sea.

    Returns:
        Codes; None where there is no country.
    """
    places = np.asarray(latitude_deg, np.float64), np.asarray(longitude_deg, np.float64)
    found = regions()(*places)
    numbers = region_raster().at(unit_vectors(*places)).tolist()
    codes: list[str | None] = []
    for country, code, number in zip(countries, found, numbers, strict=True):
        nearest = region_codes()[number - FIRST_ID] if number >= FIRST_ID else None
        own = (one for one in (code, nearest, country) if one and country and one[:2] == country)
        codes.append(next(own, None))
    return codes

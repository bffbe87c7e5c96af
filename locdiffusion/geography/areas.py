"""Areas that a prior names: countries, discs, and several of these at once.

    country:NO                    a country, by its two letters of ISO 3166-1
    59.9,10.7,300km               a disc: latitude, longitude, radius
    country:NO;country:SE         several: anywhere in any of them
    59.9,10.7,300km;sea           at sea as well as on land

An area is rastered as the places from which photos come. All land in it counts alike, and the sea,
for the sake of piers and boats, `SEA_WEIGHT` of that: of a country that up to 12 nautical miles
from it (`countries` has the rule), of a disc all of it. With `sea` the sea counts like land. A
small disc counts in proportion to its size: it takes its share of the cells that it touches, and no
answer can be finer than these.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locdiffusion.geography.countries import countries, nearest_at_sea
from locdiffusion.geography.polygons import coverage, raster_share
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

SEPARATOR = ";"
COUNTRY = "country:"
SEA = "sea"
"""Among the areas of a prior: photos at sea are as many as on land."""
SEA_WEIGHT = 0.05
"""Weight of the sea near a country; that of all sea in the prior `land`."""

MOST_RADIUS_KM = math.pi * EARTH_RADIUS_KM
_LINES = 32
"""Number of parallels per part of a row of cells by which a disc is rastered."""
_SMALL = 1e-6
"""Radius in radians, 6 m."""

MOST_AREAS = 1_000
"""Most areas of one prior."""

_EXAMPLE = "write latitude, longitude and radius, such as 59.9,10.7,300km"
_BEGINS_AS_DISC = re.compile(r"[+-]?\.?\d[\d.]*\s*,")
_NUMBER = r"\s*([+-]?\d{1,9}(?:\.\d{0,20})?|[+-]?\.\d{1,20})\s*"
_DISC = re.compile(rf"{_NUMBER},{_NUMBER},{_NUMBER}km\s*\Z", re.IGNORECASE)


class AreaError(ValueError):
    """A text names no area; the message says what to write."""


@dataclass(frozen=True, order=True)
class Disc:
    """All places within a distance of a point.

    Attributes:
        latitude: Latitude of the point in degrees.
        longitude: Longitude of the point in degrees.
        radius_km: Great-circle distance up to which places count.
    """

    latitude: float
    longitude: float
    radius_km: float

    def __post_init__(self) -> None:
        """Checks the values."""
        if not -90.0 <= self.latitude <= 90.0:
            other = " Are the two swapped?" if abs(self.longitude) <= 90.0 else ""
            raise AreaError(f"the latitude {self.latitude:g} is not within ±90°.{other}")
        if not -180.0 <= self.longitude <= 180.0:
            raise AreaError(f"the longitude {self.longitude:g} is not within ±180°; subtract 360")
        if not 0.0 < self.radius_km <= MOST_RADIUS_KM:
            raise AreaError(
                f"the radius {self.radius_km:g} km is not above 0 and at most "
                f"{MOST_RADIUS_KM:,.0f} km, which is half around the Earth; {_EXAMPLE}"
            )

    def __str__(self) -> str:
        numbers = (np.format_float_positional(x, trim="-") for x in vars(self).values())
        return ",".join(numbers) + "km"

    def share(self, rows: int, columns: int) -> NDArray[np.float64]:
        """Computes which share of each cell of an equal-area raster lies in the disc.

        The sum of all shares is the area of the disc in cells, however small it is.

        Args:
            rows: Number of rows, even in sin(latitude) from north to south.
            columns: Number of columns, even in longitude from -180°.
        """
        angle = min(self.radius_km / EARTH_RADIUS_KM, math.pi)
        # Distances from the nearer pole, which keep their digits there; sin²(θ/2) counts its rows
        at = math.radians(90.0 - abs(self.latitude))
        first, last = max(at - angle, 0.0), min(at + angle, math.pi)
        whole = (abs(angle - at), min(2.0 * math.pi - angle - at, math.pi))
        parts = rows * np.sin(np.clip((first, last, *whole), first, last) / 2.0) ** 2
        edges = np.unique([*parts, *range(math.ceil(parts[0]), math.ceil(parts[1]))])
        if angle < _SMALL or len(edges) < 2:  # all of it lies in the cell around its middle
            share = np.zeros((rows, columns))
            row = min(int(rows * math.sin(at / 2.0) ** 2), rows - 1)
            column = int((self.longitude + 180.0) * (columns / 360.0)) % columns
            # sin²(r/2) is the disc's part of the sphere
            share[row, column] = rows * columns * math.sin(angle / 2.0) ** 2
        else:
            share = self._arcs(edges, angle, at, rows, columns)
        share = share if self.latitude >= 0.0 else share[::-1]
        return np.minimum(share, 1.0)  # rounding may add 1e-13

    def _arcs(
        self, edges: NDArray[np.float64], angle: float, at: float, rows: int, columns: int
    ) -> NDArray[np.float64]:
        """Adds up the arcs of parallels within the disc, the nearer pole being the upper edge."""
        top, bottom = edges[:-1, None], edges[1:, None]
        row = np.minimum(((top + bottom) / 2.0).astype(int), rows - 1)
        # Arcs begin and end like roots there: parallels dense at both ends of each part
        turn = (np.arange(_LINES) + 0.5) * (math.pi / _LINES)
        line = top + (bottom - top) * (1.0 - np.cos(turn)) / 2.0
        height = ((bottom - top) * np.sin(turn) * math.tan(math.pi / _LINES / 2.0)).ravel()
        row = row.repeat(_LINES)
        pole = 2.0 * np.arcsin(np.sqrt(line.ravel() / rows))
        # sin²(Δλ/2) = sin((r+θ-θ₀)/2) sin((r-θ+θ₀)/2) / (sin θ sin θ₀) where a parallel enters
        across = np.sin((angle + pole - at) / 2.0) * np.sin((angle - pole + at) / 2.0)
        under = np.sin(pole) * math.sin(at)
        half = 2.0 * np.arcsin(np.sqrt(np.clip(across, 0.0, under) / under.clip(1e-300)))
        half = np.where(across >= under, math.pi, half)
        width = half * (columns / math.pi)
        west = ((self.longitude + 180.0) * (columns / 360.0) - width / 2.0) % columns
        east = west + width
        share = coverage(row, west, np.minimum(east, columns), height, rows, columns)
        over = east > columns
        share += coverage(
            row[over], np.zeros(over.sum()), east[over] - columns, height[over], rows, columns
        )
        return share


@dataclass(frozen=True)
class Areas:
    """The areas of a prior; a photo may come from any of them.

    Attributes:
        countries: Codes of two letters, sorted.
        discs: Discs, sorted.
        sea: Whether the sea counts like land.
    """

    countries: tuple[str, ...] = ()
    discs: tuple[Disc, ...] = ()
    sea: bool = False

    @classmethod
    def parse(cls, text: str) -> Areas | None:
        """Reads the areas that a text names, separated by `;`.

        Returns:
            The areas; None for the name of another prior, or of a file.

        Raises:
            AreaError: A part of the text is meant as an area, and is none; or only a part is.
        """
        parts = [part.strip() for part in text.split(SEPARATOR)]
        meant = [part for part in parts if _meant_as_area(part)]
        if not meant:
            return None
        sea = SEA in map(str.lower, parts)
        if others := [
            part for part in parts if part.lower() not in ("", SEA, *map(str.lower, meant))
        ]:
            raise AreaError(
                f"{others[0][:80]!r} stands beside the area {meant[0][:80]!r}; only countries and "
                "discs can be joined, so add the area to the polygons of a file"
            )
        if len(meant) > MOST_AREAS:
            raise AreaError(f"{len(meant):,} areas, limit {MOST_AREAS:,}; make polygons of them")
        codes = {_code(part) for part in meant if part.lower().startswith(COUNTRY)}
        discs = {_disc(part) for part in meant if not part.lower().startswith(COUNTRY)}
        return cls(tuple(sorted(codes)), tuple(sorted(discs)), sea)

    def __str__(self) -> str:
        parts = [*(COUNTRY + code for code in self.countries), *map(str, self.discs)]
        return SEPARATOR.join([*parts, SEA] if self.sea else parts)

    def share(self, land: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rasters the areas as the places from which photos come; 0 outside them.

        Args:
            land: Share of land of each cell of an equal-area raster, ``(rows, columns)``.

        Returns:
            Shares from 0 to 1, ``(rows, columns)``.
        """
        total = np.zeros(land.shape)
        for disc in self.discs:
            np.minimum(total + disc.share(*land.shape), 1.0, out=total)
        if not self.sea:
            total *= sea_counts_little(land)
        if self.countries:
            sea_weight = 1.0 if self.sea else SEA_WEIGHT
            total = np.maximum(total, _country_share(self.countries, sea_weight, *land.shape))
        return total


def sea_counts_little(land: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighs the cells of a raster by their share of land ``(rows, columns)``."""
    return SEA_WEIGHT + (1.0 - SEA_WEIGHT) * land


def prior_file(prior: str) -> tuple[str, bool]:
    """Returns the file of a prior of polygons, and whether the sea in them counts like land."""
    path = prior.removesuffix(SEPARATOR + SEA)
    return path, path != prior


def with_sea(name: str, sea: bool) -> str:
    """Returns the prior of a file whose sea counts like land or does not."""
    return name + SEPARATOR + SEA if sea else name


def _meant_as_area(part: str) -> bool:
    disc = _BEGINS_AS_DISC.match(part) or re.search(r",.*,.*km\Z", part, re.IGNORECASE)
    return part.lower().startswith(COUNTRY) or bool(disc)


def _code(part: str) -> str:
    name = part[len(COUNTRY) :].strip()
    known = _codes()
    if name.upper() not in known:
        near = [code for code in known if code[:1] == name[:1].upper()]
        raise AreaError(
            f"{name[:40]!r} is no country; write the two letters of ISO 3166-1, such as "
            f"{COUNTRY}NO"
            + (f" (with {name[0].upper()} begin {', '.join(near)})" if name and near else "")
        )
    return name.upper()


@functools.lru_cache(maxsize=1)
def _codes() -> list[str]:
    return sorted({code for code in countries().part_names if code})


def _disc(part: str) -> Disc:
    found = _DISC.match(part)
    if found is None:
        raise AreaError(f"{part[:80]!r} is no disc; {_EXAMPLE}, with the unit km")
    return Disc(*map(float, found.groups()))


def _country_share(
    codes: Iterable[str], sea_weight: float, rows: int, columns: int
) -> NDArray[np.float64]:
    wanted = np.isin(np.array(countries().part_names, object), list(codes))
    land = raster_share(countries().parts[wanted], rows, columns).clip(0.0, 1.0)
    sea, nearest = nearest_at_sea(rows, columns)
    near = np.where((nearest >= 0) & np.append(wanted, False)[nearest], sea, 0.0)
    return land + sea_weight * np.minimum(near, 1.0 - land)

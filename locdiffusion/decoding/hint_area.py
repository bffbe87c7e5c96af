r"""The area of a hint: how much each place counts, and points all over it.

A hint such as "within 30 km of Bergen" or "in Norway" says w(y) of each place y, from 0 to 1. In it
land counts 1 and the sea, unless `;sea` follows, `areas.SEA_WEIGHT`, as in a prior. Discs are exact
to any size; countries and polygons are rasters of equal areas with cells of 13 by 21 km.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.density.base_measure import land_share
from locdiffusion.density.raster import looked_up
from locdiffusion.geography.areas import SEA, SEPARATOR, AreaError, Areas, Disc, sea_counts_little
from locdiffusion.geography.polygons import polygon_share
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, unit_vectors

Float = NDArray[np.float64]

POINTS = 2_000
"""Points that are laid over a disc, and about as many over other areas."""

MOST_CORNERS = 500
"""Most corners of the polygons of one hint: to mend more may take any time."""

AREAS_HELD = 256
"""Most areas that are kept for photos to come; one takes up to 8 MB."""

_KIND = re.compile(r"\s*(?:SRID=4326;)?\s*(MULTI)?POLYGON\s*(?:Z\s*)?\(", re.IGNORECASE)
_RING = re.compile(r"\(([^()]*)\)")


class LaidPoints(NamedTuple):
    """Points all over an area.

    Attributes:
        vectors: Unit vectors, ``(n, 3)``.
        share: Share of the sphere for which each stands, ``(n,)``.
    """

    vectors: Float
    share: Float


def checked_area(text: str) -> Areas | tuple[shapely.Geometry, bool]:
    """Reads what `HintArea.parse` does, without laying it out; the same errors.

    Returns:
        Areas; or polygons, and whether the sea in them counts like land.
    """
    if _KIND.match(text):
        return _polygons(text)
    areas = Areas.parse(text)
    if areas is None:
        raise AreaError(
            f"{text[:80]!r} is no area; write country:NO, a disc such as 59.9,10.7,300km, "
            "several of these with ;, or POLYGON((5 60, 6 60, 6 61, 5 60)), longitude first"
        )
    return areas


class _Part(Protocol):
    def weight(self, vectors: Float) -> Float:
        """How much places ``(n, 3)`` count, ``(n,)``."""

    def points(self) -> LaidPoints:
        """Lays points where places count."""


@dataclass(frozen=True)
class HintArea:
    """Where a hint says that a photo was taken.

    Attributes:
        parts: Areas; the photo is in any of them.
    """

    parts: tuple[_Part, ...]

    @classmethod
    @functools.lru_cache(maxsize=AREAS_HELD)
    def parse(cls, text: str) -> HintArea:
        """Reads areas as a prior has them, or polygons as well-known text in degrees.

        Raises:
            AreaError: The text is neither.
        """
        areas = checked_area(text)
        if not isinstance(areas, Areas):
            return cls((_Raster(_polygon_weight(*areas)),))
        parts: list[_Part] = [_Disc(disc, areas.sea) for disc in areas.discs]
        if areas.countries:
            land = Areas(areas.countries, (), areas.sea).share(land_share())
            parts.append(_Raster(land.astype(np.float32)))
        return cls(tuple(parts))

    def weight(self, vectors: Float) -> Float:
        """Looks up how much places count.

        Args:
            vectors: Unit vectors, ``(n, 3)``.

        Returns:
            Weights from 0 to 1, ``(n,)``.
        """
        return np.max([part.weight(vectors) for part in self.parts], axis=0)

    @functools.cached_property
    def laid(self) -> LaidPoints:
        """Points all over the area, each place once although areas overlap."""
        laid = [part.points() for part in self.parts]
        vectors = np.concatenate([one.vectors for one in laid])
        share = np.concatenate([one.share for one in laid])
        if len(self.parts) > 1:
            share = share / np.sum([part.weight(vectors) > 0.0 for part in self.parts], axis=0)
        return LaidPoints(vectors, share)


@dataclass(frozen=True)
class _Disc:
    disc: Disc
    sea: bool

    def weight(self, vectors: Float) -> Float:
        chord = np.linalg.norm(vectors - self._centre, axis=-1)
        inside = chord <= 2.0 * math.sin(self._angle / 2.0) * (1.0 + 1e-9)
        if self.sea:
            return inside.astype(np.float64)
        return np.where(inside, sea_counts_little(_picked(_land(), vectors)), 0.0)

    def points(self) -> LaidPoints:
        """Lays a spiral of equal areas."""
        share = (np.arange(POINTS) + 0.5) / POINTS
        below = 2.0 * share * math.sin(self._angle / 2.0) ** 2  # 1 - cos θ
        turn = np.arange(POINTS) * (math.pi * (3.0 - math.sqrt(5.0)))
        across = np.sqrt(below * (2.0 - below))
        south = unit_vectors(self.disc.latitude - 90.0, self.disc.longitude)
        east = unit_vectors(0.0, self.disc.longitude + 90.0)
        vectors = (1.0 - below)[:, None] * self._centre
        vectors = vectors + (across * np.cos(turn))[:, None] * south
        vectors = vectors + (across * np.sin(turn))[:, None] * east
        whole = math.sin(self._angle / 2.0) ** 2
        return LaidPoints(vectors, np.full(POINTS, whole / POINTS))

    @property
    def _angle(self) -> float:
        return min(self.disc.radius_km / EARTH_RADIUS_KM, math.pi)

    @property
    def _centre(self) -> Float:
        return unit_vectors(self.disc.latitude, self.disc.longitude)


class _Raster:
    """Weights on an equal-area raster."""

    def __init__(self, weight: NDArray[np.float32]) -> None:
        self._weight = weight

    def weight(self, vectors: Float) -> Float:
        return _picked(torch.from_numpy(self._weight), vectors)

    def points(self) -> LaidPoints:
        """Lays points in cells, some in each or one in each block of cells."""
        rows, columns = self._weight.shape
        row, column = np.nonzero(self._weight)
        finer = max(1, round(math.sqrt(POINTS / len(row))))
        if len(row) > 4 * POINTS:  # every so many of them, along the rows
            chosen = np.linspace(0, len(row) - 1, 2 * POINTS).round().astype(int)
            share = len(row) / len(chosen) / self._weight.size
            row, column = row[chosen], column[chosen]
        else:
            share = 1.0 / (self._weight.size * finer**2)
        step = (np.arange(finer) + 0.5) / finer
        z = 1.0 - (row[:, None, None] + step[:, None]) * (2.0 / rows)
        longitude = (column[:, None, None] + step) * (360.0 / columns) - 180.0
        latitude, longitude = np.broadcast_arrays(np.degrees(np.arcsin(z)), longitude)
        vectors = unit_vectors(latitude.ravel(), longitude.ravel())
        return LaidPoints(vectors, np.full(len(vectors), share))


@functools.lru_cache(maxsize=1)
def _land() -> Tensor:
    return torch.from_numpy(land_share().copy())  # which is read-only


def _picked(raster: Tensor, vectors: Float) -> Float:
    """Looks an equal-area raster up at unit vectors ``(n, 3)``."""
    found: Float = looked_up(raster, torch.from_numpy(vectors)).double().numpy()
    return found


def _polygon_weight(shape: shapely.Geometry, sea: bool) -> NDArray[np.float32]:
    land = land_share()
    share = polygon_share(shape, None, *land.shape).clip(0.0, 1.0)
    return (share if sea else share * sea_counts_little(land)).astype(np.float32)


def _polygons(text: str) -> tuple[shapely.Geometry, bool]:
    """Reads well-known text of polygons, and whether the sea in them counts like land.

    It is read here, ring by ring: the libraries of geometry were not made for text of strangers.
    """
    body = text.strip().removesuffix(SEPARATOR + SEA)
    found = list(_RING.finditer(body))
    rings = [[pair.split()[:2] for pair in ring[1].split(",")] for ring in found]
    corners = sum(map(len, rings))
    if not rings or corners > MOST_CORNERS:
        raise AreaError(
            f"{text[:60]!r} has {corners:,} corners, wanted 3 to {MOST_CORNERS}; simplify it"
        )
    polygons = []
    try:
        for match, ring in zip(found, rings, strict=True):
            places = np.array(ring, np.float64)
            if not (np.abs(places) <= (180.0, 90.0)).all():
                raise ValueError("a corner is not within ±180°, ±90°; longitude comes first")
            begins = body[: match.start()].rstrip().endswith("(")
            polygons.append([places]) if begins else polygons[-1].append(places)
        shapes = [shapely.Polygon(shell, holes) for shell, *holes in polygons]
        whole = shapely.make_valid(shapely.union_all([shapely.make_valid(one) for one in shapes]))
    except (IndexError, ValueError, shapely.GEOSException) as error:
        raise AreaError(f"{text[:60]!r} is damaged: {str(error)[:200]}") from error
    if shapely.area(whole) <= 0.0:
        raise AreaError(f"{text[:60]!r} has no area; want 3 corners or more in each ring")
    return whole, body != text.strip()

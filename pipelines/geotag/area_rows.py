"""Columns and rows of areas: how likely it is that a photo was taken in a country or region."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from locdiffusion.decoding.answers import AreaColumns, Shares
from locdiffusion.geography.regions import (
    ELSEWHERE_ID,
    FIRST_ID,
    SEA_ID,
    raster_countries,
    region_codes,
)
from locdiffusion.geography.units import NO_UNIT, Units
from schemas.layers import ELSEWHERE, FINEST_H3, LEAST_AREA, SEA, AreaKind, AreaMass

if TYPE_CHECKING:
    from locdiffusion.decoding.area_masses import Partitions

H3_RESOLUTION = 4
"""Finest resolution of H3 if none is named."""

Masses = dict[str | None, float]
"""Masses of areas by their names, None for the open sea; what is missing of 1 is elsewhere."""


def kind_of(text: str) -> AreaKind:
    """Returns the kind of areas that a word such as `country` or `h3:4` names.

    Raises:
        ValueError: It names none; the message says what to write.
    """
    name, _, resolution = text.partition(":")
    known = {kind.value for kind in AreaKind}
    if name not in known or (resolution and name != AreaKind.H3.value):
        raise ValueError(f"{text!r} is no kind of area; want country, region, admin or h3:4")
    if name == AreaKind.H3.value:
        h3_resolution(text)
    return AreaKind(name)


def h3_resolution(text: str) -> int:
    """Returns the resolution of a word such as `h3:4`; ValueError if it has none that there is."""
    digits = text.partition(":")[2] or str(H3_RESOLUTION)
    if not digits.isdecimal() or int(digits) > FINEST_H3:
        raise ValueError(f"{text!r} has no resolution; want h3:0 to h3:{FINEST_H3}")
    return int(digits)


def wanted_partitions(units: Units | None, kinds: Sequence[str]) -> Partitions:
    """Builds the areas whose masses are wanted, once per process."""
    resolutions = [h3_resolution(kind) for kind in kinds if kind_of(kind) is AreaKind.H3]
    return _partitions(units, resolutions[0] if resolutions else None)


@functools.lru_cache(maxsize=1)
def _partitions(units: Units | None, resolution: int | None) -> Partitions:
    from locdiffusion.decoding.area_masses import Partitions, RasterPartition, region_partition
    from locdiffusion.decoding.hexagons import Hexagons

    admin = None if units is None else RasterPartition(units.raster(), 1 + len(units.labels))
    hexagons = None if resolution is None else Hexagons(resolution)
    return Partitions(region_partition(), admin, hexagons)


def named_masses(shares: Shares, codes: Sequence[str]) -> Masses:
    """Names the masses of a photo's areas by codes, that of number FIRST_ID first."""
    return {
        codes[number - FIRST_ID] if number != SEA_ID else None: mass
        for number, mass in zip(shares.ids.tolist(), shares.probability.tolist(), strict=True)
        if number != ELSEWHERE_ID
    }


def admin_columns(
    areas: AreaColumns | None, units: Units, latitude: np.ndarray, longitude: np.ndarray
) -> dict[str, Any]:
    """Makes the columns of the user's units around answers, coordinates in degrees ``(N,)``."""
    names, codes, numbers = units.around(latitude, longitude)
    shares = areas.admin if areas else None
    probability: list[float | None] = [None] * len(names)
    for row, number in enumerate(numbers.tolist() if shares else ()):
        if shares is not None and number != NO_UNIT:
            probability[row] = shares[row].of(number)
    return {"admin": names, "admin_code": codes, "admin_probability": probability}


def area_rows(
    areas: AreaColumns, row: int, kinds: Sequence[AreaKind], labels: Sequence[str] = ()
) -> Iterator[AreaMass]:
    """Lists the areas of one photo, kind by kind, the likeliest first and the rest last."""
    for kind in kinds:
        if kind is AreaKind.COUNTRY:
            yield from listed(kind, named_masses(areas.country[row], raster_countries()))
        elif kind is AreaKind.REGION:
            yield from listed(kind, named_masses(areas.region[row], region_codes()))
        elif kind is AreaKind.ADMIN and areas.admin is not None:
            ids, masses = areas.admin[row]
            named = zip(ids.tolist(), masses.tolist(), strict=True)
            units: Masses = {labels[n - 1 - NO_UNIT]: m for n, m in named if n != NO_UNIT}
            yield from listed(kind, units)
        elif areas.h3 is not None:
            ids, masses = areas.h3[row]
            texts = (f"{cell:x}" for cell in ids.tolist())
            cells: Masses = dict(zip(texts, masses.tolist(), strict=True))
            yield from listed(kind, cells, least=0.0)


def listed(kind: AreaKind, masses: Masses, least: float = LEAST_AREA) -> Iterator[AreaMass]:
    """Lists areas of one kind that hold at least so much, then sea and elsewhere."""
    left = 1.0
    named = [(name, mass) for name, mass in masses.items() if name is not None]
    for name, mass in sorted(named, key=lambda one: (-one[1], one[0])):
        if mass >= least:
            yield AreaMass(kind, name, None, min(mass, 1.0))  # rounding may add 1e-13
            left -= mass
    if (sea := masses.get(None, 0.0)) > 0.0:
        yield AreaMass(kind, None, SEA, min(sea, 1.0))
        left -= sea
    if left > np.finfo(np.float32).eps:
        yield AreaMass(kind, None, ELSEWHERE, left)

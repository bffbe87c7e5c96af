"""Columns and rows of areas: how likely it is that a photo was taken in a country or region."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from locdiffusion.decoding.answers import AreaColumns, Shares
from locdiffusion.geography.regions import (
    ELSEWHERE_ID,
    FIRST_ID,
    SEA_ID,
    raster_countries,
    region_codes,
)
from schemas.layers import ELSEWHERE, LEAST_AREA, SEA, AreaKind, AreaMass

Masses = dict[str | None, float]
"""Masses of areas by their names, None for the open sea; what is missing of 1 is elsewhere."""


def named_masses(shares: Shares, codes: Sequence[str]) -> Masses:
    """Names the masses of a photo's areas by codes, that of number FIRST_ID first."""
    return {
        codes[number - FIRST_ID] if number != SEA_ID else None: mass
        for number, mass in zip(shares.ids.tolist(), shares.probability.tolist(), strict=True)
        if number != ELSEWHERE_ID
    }


def area_columns(
    areas: AreaColumns | None, countries: Sequence[str | None], regions: Sequence[str | None]
) -> dict[str, Any]:
    """Makes the columns of country and region.

    Args:
        areas: Masses of areas of N photos; None if they are not known.
        countries: Country of each answer, None on the open sea.
        regions: Region of each answer.
    """
    of_country: list[float | None] = [None] * len(countries)
    of_region = list(of_country)
    for row in range(len(countries) if areas else 0):
        assert areas is not None
        if (country := countries[row]) is not None:
            of_country[row] = _of(areas.country[row], raster_countries(), country)
        if (region := regions[row]) is not None:
            of_region[row] = _of(areas.region[row], region_codes(), region)
    return {"country_probability": of_country, "region": regions, "region_probability": of_region}


def _of(shares: Shares, codes: Sequence[str], code: str) -> float:
    return shares.of(FIRST_ID + bisect.bisect_left(codes, code))


def area_rows(areas: AreaColumns, row: int, kinds: Sequence[AreaKind]) -> Iterator[AreaMass]:
    """Lists the areas of one photo, kind by kind, the likeliest first and the rest last.

    Args:
        areas: Masses of areas of N photos.
        row: Number of the photo.
        kinds: Kinds of areas.
    """
    named = {
        AreaKind.COUNTRY: (areas.country, raster_countries()),
        AreaKind.REGION: (areas.region, region_codes()),
    }
    for kind in kinds:
        shares, codes = named[kind]
        yield from listed(kind, named_masses(shares[row], codes))


def listed(kind: AreaKind, masses: Masses) -> Iterator[AreaMass]:
    """Lists areas of one kind that hold at least `LEAST_AREA`, then sea and elsewhere."""
    left = 1.0
    named = [(name, mass) for name, mass in masses.items() if name is not None]
    for name, mass in sorted(named, key=lambda one: (-one[1], one[0])):
        if mass >= LEAST_AREA:
            yield AreaMass(kind, name, None, mass)
            left -= mass
    if (sea := masses.get(None, 0.0)) > 0.0:
        yield AreaMass(kind, None, SEA, sea)
        left -= sea
    if left > np.finfo(np.float32).eps:
        yield AreaMass(kind, None, ELSEWHERE, left)

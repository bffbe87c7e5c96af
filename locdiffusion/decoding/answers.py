"""Answers for many photos as columns: those of the decoder, and those that are evaluated."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from locdiffusion.geography.regions import FIRST_ID, raster_countries, region_codes
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, latitude_longitude
from schemas.geotags import NUMBER_COLUMNS, PROBABILITY_COLUMNS, THRESHOLDS_KM

SCORED_COLUMNS = ("latitude", "longitude", "radius_50_km", "radius_90_km", *PROBABILITY_COLUMNS)
"""Columns on disk from which an answer is scored."""

LEAST_MODE = 0.01
"""Other places with less probability than this are not reported."""


@dataclass(frozen=True)
class Mode:
    """A place the photo may come from.

    Attributes:
        latitude, longitude: Position in degrees.
        probability: Probability that the photo lies within `radius_km` of it.
        radius_km: Radius ρ of the decoder.
    """

    latitude: float
    longitude: float
    probability: float
    radius_km: float


def distinct_modes(
    places: NDArray[np.float64], probability: NDArray[np.float64], radius_km: float, count: int
) -> list[tuple[Mode, ...]]:
    """Selects the modes of photos: the answer, and places more than 2ρ from all likelier modes.

    Args:
        places: Unit vectors ``(N, M, 3)``, the answer first.
        probability: Probability within `radius_km` of each place, ``(N, M)``.
        radius_km: Radius ρ of the decoder.
        count: How many modes are selected at most for each photo.

    Returns:
        N tuples: the answer first, then the other modes, likeliest first.
    """
    order = np.argsort(-np.where(np.arange(probability.shape[1]) == 0, np.inf, probability), 1)
    places = np.take_along_axis(places, order[..., None], 1)
    probability = np.take_along_axis(probability, order, 1)
    near = np.einsum("nix,njx->nij", places, places) >= math.cos(
        min(math.pi, 2.0 * radius_km / EARTH_RADIUS_KM)
    )
    chosen = probability >= LEAST_MODE
    chosen[:, 0] = True
    for i in range(1, chosen.shape[1]):
        kept = chosen[:, :i]
        chosen[:, i] &= ~(kept & near[:, i, :i]).any(1) & (kept.sum(1) < count)
    latitude, longitude = (c.tolist() for c in latitude_longitude(places))
    numbers = zip(latitude, longitude, probability.tolist(), chosen.tolist(), strict=True)
    return [
        tuple(Mode(a, b, p, radius_km) for a, b, p, kept in zip(*row, strict=True) if kept)
        for row in numbers
    ]


C = TypeVar("C", bound="Columns")


@dataclass(frozen=True)
class Columns:
    """N rows as columns: each field of a derived class holds N entries, or None for no column.

    A column is an array whose first axis has length N, a list, or columns again.
    """

    def __len__(self) -> int:
        """The number of rows."""
        return len(getattr(self, fields(self)[0].name))

    def take(self: C, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> C:
        """Some of the rows.

        Args:
            rows: Numbers of the rows, in the wanted order, a mask ``(N,)``, or a slice, which does
                not copy arrays.
        """
        return type(self)(**{name: _rows_of(c, rows) for name, c in self._columns().items()})

    @classmethod
    def joined(cls: type[C], parts: Sequence[C]) -> C:
        """The rows of all parts, in order; at least one part."""
        if len(parts) == 1:
            return parts[0]
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        return cls(**{name: _concatenated(column) for name, column in columns.items()})

    def finite_rows(self) -> NDArray[np.bool_]:
        """Which rows hold only finite numbers, ``(N,)``.

        Raises:
            ValueError: Columns differ in length.
        """
        finite = np.ones(len(self), np.bool_)
        for name, column in self._columns().items():
            if column is None:
                continue
            if len(column) != len(self):
                raise ValueError(f"{name} has {len(column)} rows; want {len(self)}.")
            if isinstance(column, Columns):
                finite &= column.finite_rows()
            elif isinstance(column, np.ndarray):
                finite &= np.isfinite(column).reshape(len(self), -1).all(axis=1)
        return finite

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays."""
        return sum(getattr(column, "nbytes", 0) for column in self._columns().values())

    def _columns(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _rows_of(column: Any, rows: Any) -> Any:
    if isinstance(column, Columns):
        return column.take(rows)
    if isinstance(column, list):
        return [column[i] for i in np.arange(len(column))[rows]]
    return None if column is None else column[rows]


def _concatenated(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Columns):
        return type(first).joined(parts)
    if isinstance(first, list):
        return [entry for part in parts for entry in part]
    return None if first is None else np.concatenate(parts)


class Shares(NamedTuple):
    """Masses of areas of one photo.

    Attributes:
        ids: Numbers of the areas, ``(n,)`` int64; those with next to no mass are left out.
        probability: Masses of these areas, ``(n,)`` float64; what is left out is missing of 1.
    """

    ids: NDArray[np.int64]
    probability: NDArray[np.float64]

    def of(self, number: int) -> float:
        """The mass of an area by its number."""
        return float(self.probability[self.ids == number].sum())


class PhotoPoints(NamedTuple):
    """The density of one photo at points.

    Attributes:
        vectors: Unit vectors, ``(n, 3)``.
        mass: Mass of each, ``(n,)``; their sum may be any.
        share: Share of the sphere for which each stands, ``(n,)``.
    """

    vectors: NDArray[np.float64]
    mass: NDArray[np.float64]
    share: NDArray[np.float64]


@dataclass(frozen=True)
class AreaColumns(Columns):
    """Masses of areas of N photos, by kind of area.

    Attributes:
        country: Masses of the countries of `locdiffusion.geography.regions.raster_countries`.
        region: Masses on the raster of `locdiffusion.geography.regions`.
        admin: Masses of a user's polygons; None if not asked for.
        h3: Masses of H3 cells of one resolution; None if not asked for.
        points: The densities at points; None if not asked for.
    """

    country: list[Shares]
    region: list[Shares]
    admin: list[Shares] | None = None
    h3: list[Shares] | None = None
    points: list[PhotoPoints] | None = None


def area_columns(
    areas: AreaColumns | None, countries: Sequence[str | None], regions: Sequence[str | None]
) -> dict[str, Any]:
    """Makes the columns of the countries and regions of N answers; None without masses."""
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


@dataclass(frozen=True)
class GeotagColumns(Columns):
    """Answers for N photos, one column each; units and names as in `schemas.geotags`.

    Attributes:
        latitude, longitude: Position of each answer, ``(N,)`` float64 degrees.
        radius_50_km, radius_90_km: Radii that hold the truth with 50 % and 90 %, ``(N,)`` float64.
        probability: Probability that the truth lies within each of
            `schemas.geotags.THRESHOLDS_KM`, ``(N, 5)`` float32.
        information_nats: Information gained over knowing nothing, ``(N,)`` float32.
        land_probability: Probability that the photo was taken on land, ``(N,)`` float32.
        modes: For each photo the answer itself, then the other places, likeliest first.
        familiarity: Share of training-like photos that are less alike than each photo, ``(N,)``
            float32; None if the checkpoint does not say.
        areas: Masses of areas; None if not asked for.
        prior_mass: Mass that the picture alone gives to the area of each photo's hint, None for
            photos without; None if there are no hints.
    """

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    radius_50_km: NDArray[np.float64]
    radius_90_km: NDArray[np.float64]
    probability: NDArray[np.float32]
    information_nats: NDArray[np.float32]
    land_probability: NDArray[np.float32]
    modes: list[tuple[Mode, ...]]
    familiarity: NDArray[np.float32] | None = None
    areas: AreaColumns | None = None
    prior_mass: list[float | None] | None = None

    @classmethod
    def empty(cls) -> GeotagColumns:
        """The answers for no photos."""
        none = np.zeros(0)
        share, nats = np.zeros((0, len(THRESHOLDS_KM)), np.float32), np.zeros(0, np.float32)
        return cls(none, none, none, none, share, nats, nats, [])

    def with_totals(
        self, information: NDArray[np.float32], on_land: NDArray[np.float32]
    ) -> GeotagColumns:
        """Replaces the information in nats and the probability of land, ``(N,)`` each."""
        return replace(self, information_nats=information, land_probability=on_land)

    def numbers(self) -> dict[str, NDArray[np.floating]]:
        """Every number of the answers, ``(N,)`` each, by the name of its column on disk."""
        shares = dict(zip(PROBABILITY_COLUMNS, self.probability.T, strict=True))
        return {
            name: shares[name] if name in shares else vars(self)[name] for name in NUMBER_COLUMNS
        }


@dataclass(frozen=True)
class Predictions(Columns):
    """What any method answers for N photos whose truth is known: the input of every evaluation.

    Attributes:
        latitude, longitude: Position of each answer, ``(N,)`` degrees.
        radius_50_km, radius_90_km: Radii that should hold the truth with 50 % and 90 %, ``(N,)``.
        probability: Probability that the truth lies within each of
            `schemas.geotags.THRESHOLDS_KM`, ``(N, 5)``.
        log_density_km2: Log of the posterior density at the truth in nats per km², ``(N,)``; NaN
            where a method states none.
    """

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    radius_50_km: NDArray[np.float64]
    radius_90_km: NDArray[np.float64]
    probability: NDArray[np.float64]
    log_density_km2: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Checks that the columns are as long as each other."""
        n = len(self.latitude)
        for name, column in vars(self).items():
            wanted = (n, len(THRESHOLDS_KM)) if name == "probability" else (n,)
            if column.shape != wanted:
                raise ValueError(f"{name} has shape {column.shape}; want {wanted}.")

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, NDArray[np.floating]]) -> Predictions:
        """Takes SCORED_COLUMNS and, if it is there, `log_density_km2` from columns by name."""
        columns = {name: np.asarray(numbers[name], np.float64) for name in SCORED_COLUMNS}
        shares = [columns.pop(name) for name in PROBABILITY_COLUMNS]
        unknown = np.full(len(shares[0]), np.nan)
        density = np.asarray(numbers.get("log_density_km2", unknown), np.float64)
        return cls(**columns, probability=np.stack(shares, 1), log_density_km2=density)

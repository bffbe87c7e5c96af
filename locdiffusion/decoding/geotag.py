"""The answer for one photo as a plain Python object, which `Geotagger.geotag` returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from locdiffusion.decoding.answers import GeotagColumns, Mode, area_columns
from locdiffusion.decoding.credible_regions import CredibleRegion
from locdiffusion.geography.countries import NEAREST, find_countries

_POSITION = ("latitude", "longitude")


@dataclass(frozen=True)
class Geotag:
    """Where one photo was taken, how far off that may be, and where else it may be from.

    The names are those of the columns that `pipelines.geotag` writes.

    Attributes:
        key: Name of the photo: its path, or its number in the list that was geotagged.
        latitude: Latitude of the answer in degrees, WGS84.
        longitude: Longitude of the answer in degrees, in [-180, 180).
        radius_50_km: Radius around the answer that holds the truth with probability 0.5, in km.
        radius_90_km: Radius around the answer that holds the truth with probability 0.9, in km.
        prob_1km, prob_25km, prob_200km, prob_750km, prob_2500km: Probability (0 to 1) that the
            photo was taken within 1, 25, 200, 750, 2500 km of the answer.
        information_nats: Information gained over knowing nothing: 0 is nothing, larger is more
            certain; one more means that the possible area is e = 2.7 times smaller.
        land_probability: Probability that the photo was taken on land.
        country_code: Country of the answer, ISO 3166-1 alpha-2, de facto borders
            (`locdiffusion.geography.countries`); None at sea.
        modes: Likeliest places, the answer first, each with its probability.
        model_id: Name and short hash of the checkpoint that answered.
        country_found_by: How the country was found: `inside` its borders, or the `nearest` within
            12 nautical miles of its coast; None without a country.
        country_probability: Probability that the photo was taken in that country, 0 to 1; None
            without a country.
        familiarity: Share of training-like photos that are less alike than this one, 0 to 1. Near
            0 the checkpoint is not for such a photo, and the answer says nearly nothing; None if
            the checkpoint does not tell.
        regions: The 50 % and the 90 % credible region, if they were asked for.
    """

    key: str
    latitude: float
    longitude: float
    radius_50_km: float
    radius_90_km: float
    prob_1km: float
    prob_25km: float
    prob_200km: float
    prob_750km: float
    prob_2500km: float
    information_nats: float
    land_probability: float
    country_code: str | None
    modes: tuple[Mode, ...]
    model_id: str
    country_found_by: str | None = None
    country_probability: float | None = None
    familiarity: float | None = None
    regions: tuple[CredibleRegion, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        """The answer in one line."""
        country = f" ({self.country_code})" if self.country_code else ""
        return f"{place_text(self.latitude, self.longitude)}{country}, {self.radii_text}"

    @property
    def country_text(self) -> str:
        """The country in words, with its probability and that of land."""
        coast = ", the nearest coast" if self.country_found_by == NEAREST else ""
        country = (
            f"{self.country_code}{coast}" if self.country_code else "none: at sea, or nobody's"
        )
        if self.country_probability is not None:
            country += f", {percent(self.country_probability)}"
        return f"{country} (on land: {percent(self.land_probability)})"

    @property
    def radii_text(self) -> str:
        """Both radii in words."""
        return (
            f"within {km_text(self.radius_50_km)} with probability 50 %, "
            f"within {km_text(self.radius_90_km)} with 90 %"
        )

    def region(self, level: float) -> CredibleRegion:
        """The smallest region that holds a probability; its `geometry` is a shapely (multi)polygon.

        Args:
            level: Probability that the region holds, 0.5 or 0.9.

        Raises:
            ValueError: Regions were not asked for, or none of this level is there.
        """
        for region in self.regions:
            if math.isclose(region.level, level):
                return region
        known = ", ".join(f"{region.level:g}" for region in self.regions)
        remedy = f"want one of {known}" if known else "ask for them: geotag(photos, regions=True)"
        raise ValueError(f"there is no region of level {level!r}; {remedy}.")

    def to_geojson(self) -> dict[str, Any]:
        """A GeoJSON Feature (RFC 7946): the position as its point, all else as its properties."""
        left_out = ["key", "modes", "regions", *_POSITION]
        properties = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        return {
            "type": "Feature",
            "id": self.key,
            "geometry": {"type": "Point", "coordinates": [self.longitude, self.latitude]},
            "properties": {**properties, "modes": [asdict(mode) for mode in self.modes]},
        }


def geotags(
    columns: GeotagColumns,
    keys: Sequence[str],
    model_id: str,
    regions: Sequence[tuple[CredibleRegion, ...]] | None = None,
) -> list[Geotag]:
    """Makes one object of each row of the answers.

    Args:
        columns: Answers for N photos.
        keys: Names of the N photos.
        model_id: Name and short hash of the checkpoint that answered.
        regions: Credible regions of the N photos, or None.
    """
    numbers = columns.numbers()
    countries = find_countries(columns.latitude, columns.longitude)
    familiar = columns.familiarity
    unknown = [None] * len(columns)
    likely = area_columns(columns.areas, countries.codes, unknown)["country_probability"]
    return [
        Geotag(
            key=keys[i],
            **{name: float(column[i]) for name, column in numbers.items()},
            country_code=countries.codes[i],
            modes=columns.modes[i],
            model_id=model_id,
            country_found_by=countries.found_by[i],
            country_probability=likely[i],
            familiarity=None if familiar is None else float(familiar[i]),
            regions=() if regions is None else regions[i],
        )
        for i in range(len(columns))
    ]


def percent(share: float) -> str:
    """A probability in words; never 0 % or 100 %, which no model can know."""
    if share < 0.01:
        return "< 1 %"
    return "> 99 %" if share > 0.99 else f"{100.0 * share:.0f} %"


def place_text(latitude: float, longitude: float) -> str:
    """A position in words, to about a kilometre: 47.37° N, 8.54° E."""
    north, east = ("N" if latitude >= 0 else "S"), ("E" if longitude >= 0 else "W")
    return f"{abs(latitude):.2f}° {north}, {abs(longitude):.2f}° {east}"


def km_text(km: float) -> str:
    """A distance in words, rounded to three digits."""
    return f"{km:.1f} km" if km < 10 else f"{float(f'{km:.3g}'):,.0f} km"

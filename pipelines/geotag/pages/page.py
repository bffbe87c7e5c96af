"""Writes `map.html`: a run's predictions to pan and zoom in a browser, in one file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from locdiffusion.drawing.palette import CERTAINTY, PAGE
from locdiffusion.drawing.world_map import Country, read_countries
from locdiffusion.evaluate.known_positions import KINDS
from locdiffusion.files import write_atomically
from locdiffusion.geography.countries import NEAREST
from pipelines.geotag.pages.filling import fill, script_json
from pipelines.geotag.pages.rows import DATA, MapRows, map_rows
from pipelines.geotag.sample import ROWS, Sample
from schemas.geotags import FAMILIARITY, NUMBER_COLUMNS, PROBABILITY_COLUMNS, THRESHOLDS_KM

TEMPLATE, SCRIPTS = DATA / "map.html", (DATA / "earth.js", DATA / "map.js")

UNIT = 10_000
"""Probabilities are packed as whole numbers of 1/10,000; the page shows two digits."""


def write_map_html(sample: Sample, path: str, told: Mapping[str, Any] | None = None) -> None:
    """Writes one file that shows a run's predictions in a browser, without any request.

    The file is local, or a URL that fsspec opens; `told` is what the checkpoint says it is for.
    """
    data = script_json(page_data(map_rows(sample, ROWS, told)))
    script = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    write_atomically(str(path), fill(TEMPLATE, {"MAP_DATA": data}, script).encode())


def page_data(rows: MapRows) -> dict[str, Any]:
    """Collects what the page draws, with numbers as in `packed` and JPEGs by number of the row."""
    n, known, modes = rows.numbers, rows.known, rows.modes
    shards, shard = numbered(rows.text["shard"], np.uint32)
    countries, country = numbered(rows.text["country_code"], np.uint16)
    nearest = [found_by == NEAREST for found_by in rows.text["country_found_by"]]
    units, unit = numbered(rows.text["admin"], np.uint32)
    return {
        "title": rows.title(),
        "subtitle": rows.subtitle(),
        "purpose": rows.purpose(),
        "warning": rows.warning(),
        "palette": CERTAINTY,
        "colours": PAGE,
        "range_km": rows.colour_range_km,
        "thresholds_km": THRESHOLDS_KM,
        "known_kinds": KINDS,
        "unit": UNIT,
        "world": [compact_country(country) for country in read_countries()],
        "shards": shards,
        "countries": countries,
        "units": units,
        "key": rows.text["key"],
        "thumbnails": [
            [row, base64.b64encode(jpeg).decode()] for row, jpeg in rows.thumbnails.items()
        ],
        "columns": {
            "shard": shard,
            "country": country,
            "country_nearest": packed(nearest, np.uint8),
            "unit": unit,
            **{
                name: _probability(n[name])
                if name in PROBABILITY_COLUMNS
                else packed(n[name], np.float32)
                for name in NUMBER_COLUMNS
            },
            FAMILIARITY: packed(n[FAMILIARITY], np.float32),
            "unfamiliar": packed(rows.unfamiliar, np.uint8),
            "captured_at": packed(n["captured_at"], np.float64),
            "captured_utc_offset_min": packed(n["captured_utc_offset_min"], np.float32),
            "known_latitude": packed(known.latitude, np.float32),
            "known_longitude": packed(known.longitude, np.float32),
            "known_kind": packed(known.kind, np.uint8),
            "mode_count": packed(rows.mode_counts, np.uint8),
            "mode_latitude": packed(modes[:, 0], np.float32),
            "mode_longitude": packed(modes[:, 1], np.float32),
            "mode_probability": _probability(modes[:, 2]),
            "mode_radius_km": packed(modes[:, 3], np.float32),
        },
    }


def packed(values: ArrayLike, kind: type[np.generic]) -> dict[str, str]:
    """Packs numbers as a JavaScript typed array: its name, and its bytes in base64.

    A column that is NaN throughout is left empty.
    """
    array = np.asarray(values).astype(kind)
    if array.dtype.kind == "f" and np.isnan(array).all():
        array = array[:0]
    little = array.astype(array.dtype.newbyteorder("<"))
    name = {"f": "Float", "u": "Uint", "i": "Int"}[array.dtype.kind]
    return {
        "type": f"{name}{8 * array.dtype.itemsize}Array",
        "base64": base64.b64encode(little.tobytes()).decode(),
    }


def _probability(values: NDArray[np.float64]) -> dict[str, str]:
    return packed(np.rint(np.clip(values, 0, 1) * UNIT), np.uint16)


def numbered(
    names: Sequence[str | None], kind: type[np.generic]
) -> tuple[list[str], dict[str, str]]:
    """The different names, sorted, and the number of each row's name, from 1; 0 for None."""
    different = sorted({name for name in names if name is not None})
    number_of: dict[str | None, int] = {name: i for i, name in enumerate(different, start=1)}
    return different, packed([number_of.get(name, 0) for name in names], kind)


def compact_country(country: Country) -> dict[str, Any]:
    """Packs a country for the page: its name, a place for the name, and its rings.

    Returns:
        `name`; `label`: longitude, latitude, width in degrees; `rings`: packed Int16, each ring its
        number of points, then longitude and latitude in hundredths of a degree, the first absolute,
        the others as steps.
    """
    numbers = []
    for ring in country.rings:
        hundredths = np.rint(ring * 100).astype(int)
        steps = np.diff(hundredths, axis=0, prepend=np.zeros((1, 2), int))
        numbers += [[len(ring)], steps.ravel().tolist()]
    largest = max((shapely.Polygon(ring) for ring in country.rings), key=lambda p: p.area)
    place = shapely.line_interpolate_point(shapely.maximum_inscribed_circle(largest, 0.5), 0)
    west, _, east, _ = largest.bounds
    return {
        "name": country.name,
        "label": [round(place.x, 1), round(place.y, 1), round(east - west, 1)],
        "rings": packed(np.concatenate(numbers), np.int16),
    }

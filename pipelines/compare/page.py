"""Fills `compare.html`: the photos that moved the farthest, on a map, and what else changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from locdiffusion.drawing.palette import CERTAINTY, PAGE
from locdiffusion.drawing.world_map import read_countries
from locdiffusion.photos.left_out import number
from pipelines.compare.comparison import largest_movers
from pipelines.geotag.pages.filling import fill, script_json
from pipelines.geotag.pages.page import compact_country, packed
from pipelines.geotag.pages.rows import DATA
from schemas.comparisons import AFTER, BEFORE

TEMPLATE, SCRIPTS = DATA / "compare.html", (DATA / "earth.js", DATA / "compare.js")
MOST_SHOWN = 4_000
"""Most photos that the map shows."""
RANGE_RADII = (0.1, 10.0)
"""Ends of the scale of colours, in 90 % radii."""


def compare_page(table: pa.Table, lines: list[tuple[str, str]], names: Mapping[str, str]) -> str:
    """Fills the page. It makes no request, and equal numbers give equal bytes.

    Args:
        table: Table of `schemas.comparisons`.
        lines: Names and values of the summary.
        names: What the two outputs are called, by BEFORE and AFTER.
    """
    script = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    data = script_json(page_data(table, lines, names))
    return fill(TEMPLATE, {"MAP_DATA": data}, script)


def page_data(
    table: pa.Table, lines: list[tuple[str, str]], names: Mapping[str, str]
) -> dict[str, Any]:
    """Collects what the page draws, with numbers as in `packed`."""
    shown = largest_movers(table, MOST_SHOWN)
    numbers = ["distance_km", "distance_in_radii"]
    for name in ("latitude", "longitude", "radius_50_km", "radius_90_km"):
        numbers += [f"{name}_{BEFORE}", f"{name}_{AFTER}"]
    return {
        "title": f"{number(len(table), 'photo')} in two outputs",
        "subtitle": f"from {names[BEFORE]} to {names[AFTER]}; "
        f"the {number(len(shown), 'photo')} that moved the farthest are shown",
        "palette": tuple(reversed(CERTAINTY)),
        "colours": PAGE,
        "range_km": (1.0, 10.0),
        "range": RANGE_RADII,
        "world": [compact_country(country) for country in read_countries()],
        "lines": lines,
        "key": shown["key"].to_pylist(),
        "shards": shown["shard"].to_pylist(),
        "countries": [
            [code or "none" for code in shown[f"country_code_{side}"].to_pylist()]
            for side in (BEFORE, AFTER)
        ],
        "columns": {
            name: packed(np.asarray(shown[name], np.float64), np.float32) for name in numbers
        },
    }

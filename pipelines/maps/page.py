"""`map.html`: a run's predictions to pan and zoom in a browser; one file, no request anywhere."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.maps.rows import DATA, PALETTE, MapRows, colour_range_km, read_outlines, read_rows
from pipelines.storage import write_whole
from schemas.geotags import MODE_FIELDS, PROBABILITY_COLUMNS, THRESHOLDS_KM

MAX_POINTS = 100_000
TEMPLATE = DATA / "map.html"
TEMPLATE_SLOT = "__MAP_DATA__"


def write_map_html(output_dir: str, path: str) -> None:
    """Writes one file that shows a run's predictions in a browser, with no request to anywhere.

    Args:
        output_dir: directory of a finished run, local or a URL that fsspec opens.
        path: HTML file to write, local or such a URL.

    Raises:
        FileNotFoundError: if the directory holds no predictions.
    """
    rows = read_rows(output_dir, MAX_POINTS, with_modes=True)
    page = TEMPLATE.read_text(encoding="utf-8").replace(TEMPLATE_SLOT, script_json(page_data(rows)))
    write_whole(str(path), page.encode())


def script_json(value: Any) -> str:
    """JSON that cannot end the <script> around it, whatever an archive calls its photos."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def page_data(rows: MapRows) -> dict[str, Any]:
    """What the page draws: columns, with degrees to 4 decimals and probabilities to 3."""
    shards = sorted(set(rows.rows["shard"]))
    number_of = {shard: number for number, shard in enumerate(shards)}
    degrees = ("latitude", "longitude", "truth_latitude", "truth_longitude")
    return {
        "title": rows.title(),
        "subtitle": rows.subtitle(),
        "palette": PALETTE,
        "range_km": colour_range_km(rows.numbers["radius_90_km"]),
        "thresholds_km": THRESHOLDS_KM,
        "outlines": [_compact_ring(ring) for ring in read_outlines()],
        "shards": shards,
        "shard": [number_of[shard] for shard in rows.rows["shard"]],
        "key": rows.rows["key"],
        **{name: _rounded(rows.numbers[name], 4) for name in degrees},
        **{name: _rounded(rows.numbers[name], 1) for name in ("radius_50_km", "radius_90_km")},
        "probability": [_rounded(rows.numbers[name], 3) for name in PROBABILITY_COLUMNS],
        "modes": [_compact_modes(modes) for modes in rows.rows["modes"]],
    }


def _rounded(values: NDArray, decimals: int) -> list[float | None]:
    return [round(v, decimals) if math.isfinite(v) else None for v in values.tolist()]


def _compact_modes(modes: list[dict[str, float]] | None) -> list[float]:
    """The fields of every mode in one row, one mode after the other."""
    decimals = (3, 3, 3, 1)
    return [
        round(mode[name], digits)
        for mode in modes or []
        for name, digits in zip(MODE_FIELDS, decimals, strict=True)
    ]


def _compact_ring(ring: NDArray[np.float64]) -> list[int]:
    """Longitude and latitude in hundredths of a degree, the first absolute, the others as steps."""
    hundredths = np.rint(ring * 100).astype(int)
    return np.diff(hundredths, axis=0, prepend=np.zeros((1, 2), int)).ravel().tolist()

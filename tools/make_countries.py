"""Makes locdiffusion/assets/countries.parquet, the borders of countries, from Natural Earth.

    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
    pip install pycountry==26.2.16
    python tools/make_countries.py package locdiffusion/assets/countries.parquet

Natural Earth 4.1.0, 1:10m, public domain. Borders are simplified arc by arc, as `make_world` does,
so that neighbours share them afterwards; no border moves by more than `TOLERANCE_DEG`, and no small
island by more than a twentieth of its size. The source names countries by ISO 3166-1's numeric
code; pycountry (the iso-codes of Debian) gives the two letters. `WITHOUT_NUMBER` and `OWN_CODE`
hold the cases that this does not decide.
"""

import argparse
import json
from pathlib import Path

import geopandas
import numpy as np
import pycountry
import shapely

from make_world import cut, ring, unwrap

TOLERANCE_DEG = 0.01
RELATIVE_TOLERANCE = 0.05
GRID_DEG = 0.001

WITHOUT_NUMBER: dict[str, str | None] = {
    # User-assigned by the European Union and others; the standard has none.
    "Kosovo": "XK",
    # No code of their own: that of the state whose entry in the standard includes them.
    "Akrotiri": "GB",
    "Dhekelia": "GB",
    "Baikonur": "KZ",
    "Clipperton I.": "FR",
    "Coral Sea Is.": "AU",
    "Cyprus U.N. Buffer Zone": "CY",
    "N. Cyprus": "CY",
    "Somaliland": "SO",
    "USNB Guantanamo Bay": "CU",
    # Claimed by several: no answer is better than ours.
    "Bajo Nuevo Bank": None,
    "Scarborough Reef": None,
    "Serranilla Bank": None,
    "Siachen Glacier": None,
    "Spratly Is.": None,
}

# Parts of a country that the standard gives a code of their own: the whole's code or name, the
# part's code, and a box around it (west, south, east, north).
OWN_CODE = (
    ("FR", "GF", (-55.0, 2.0, -51.0, 6.0)),
    ("FR", "GP", (-62.0, 15.7, -60.9, 16.6)),
    ("FR", "MQ", (-61.4, 14.2, -60.7, 15.0)),
    ("FR", "RE", (55.0, -21.6, 56.0, -20.7)),
    ("FR", "YT", (44.9, -13.2, 45.4, -12.5)),
    ("NL", "BQ", (-68.6, 11.9, -68.0, 12.5)),
    ("NL", "BQ", (-63.5, 17.3, -62.8, 17.8)),
    ("NO", "SJ", (-10.0, 70.5, -7.0, 71.5)),
    ("NO", "SJ", (10.0, 74.0, 34.0, 81.0)),
    ("NO", "BV", (3.0, -55.0, 4.0, -54.0)),
    ("NZ", "TK", (-173.0, -10.0, -171.0, -8.0)),
    ("Indian Ocean Ter.", "CC", (96.0, -13.0, 98.0, -11.0)),
    ("Indian Ocean Ter.", "CX", (105.0, -11.0, 106.0, -10.0)),
)


def decode_arcs(topology: dict) -> list[list[tuple[float, float]]]:
    """Reads the arcs of a TopoJSON as degrees, and simplifies the large ones."""
    scale, shift = topology["transform"]["scale"], topology["transform"]["translate"]
    arcs = []
    for deltas in topology["arcs"]:
        points = np.cumsum(np.array(deltas), axis=0) * scale + shift
        line = np.array(unwrap([(x, y) for x, y in points.tolist()]))
        extent = float(np.hypot(*np.ptp(line, axis=0)))
        tolerance = min(TOLERANCE_DEG, RELATIVE_TOLERANCE * extent)
        simple = shapely.get_coordinates(shapely.LineString(line).simplify(tolerance))
        # Rounded arc by arc: rounded country by country, shared borders would come apart.
        arcs.append([(x, y) for x, y in (np.round(simple / GRID_DEG) * GRID_DEG).tolist()])
    return arcs


def alpha_2(country: dict) -> str | None:
    """Finds the code of a country of the source; its name, if its parts have codes of their own."""
    number, name = country.get("id"), country["properties"]["name"]
    if number is not None:
        return str(pycountry.countries.get(numeric=number).alpha_2)
    if any(whole == name for whole, *_ in OWN_CODE):
        return str(name)
    return WITHOUT_NUMBER[name]


def by_code(code: str | None, polygons: list[shapely.Polygon]) -> dict[str | None, list]:
    """Sorts the polygons of a country by their codes."""
    found: dict[str | None, list] = {}
    for polygon in polygons:
        part = next(
            (
                own
                for whole, own, box in OWN_CODE
                if whole == code and shapely.box(*box).contains(polygon)
            ),
            code,
        )
        found.setdefault(part, []).append(polygon)
    return found


def read(path: Path) -> dict[str | None, list]:
    """Reads all polygons of a TopoJSON, sorted by code."""
    topology = json.loads(path.read_text(encoding="utf-8"))
    arcs = decode_arcs(topology)
    polygons: dict[str | None, list] = {}
    for country in topology["objects"]["countries"]["geometries"]:
        parts = country["arcs"] if country["type"] == "MultiPolygon" else [country["arcs"]]
        whole = [p for part in parts for p in cut([ring(indices, arcs) for indices in part])]
        for code, own in by_code(alpha_2(country), whole).items():
            polygons.setdefault(code, []).extend(p for p in own if not p.is_empty)
    return {code: own for code, own in polygons.items() if own}


def main() -> None:
    """Reads the unpacked package and writes a GeoParquet file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="npm's world-atlas, unpacked")
    parser.add_argument("target", type=Path, help="GeoParquet to write")
    flags = parser.parse_args()
    polygons = read(flags.package / "countries-10m.json")
    vatican = read(flags.package / "countries-50m.json")["VA"]
    assert "VA" not in polygons and all(code is None or len(code) == 2 for code in polygons)
    polygons["IT"] = [p - shapely.union_all(vatican) for p in polygons["IT"]]
    polygons["VA"] = vatican
    codes = sorted(polygons, key=lambda code: code or "")
    geometry = [shapely.union_all(polygons[code], grid_size=GRID_DEG) for code in codes]
    table = geopandas.GeoDataFrame({"code": codes}, geometry=geometry, crs="OGC:CRS84")
    table.to_parquet(flags.target, index=False, compression="zstd", compression_level=22)
    print(f"{len(codes)} codes, {shapely.get_num_coordinates(geometry).sum()} points")


if __name__ == "__main__":
    main()

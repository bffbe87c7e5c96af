"""Makes world.geojson, the outlines of countries under the maps of a run, from Natural Earth.

    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
    python tools/make_world.py package/countries-50m.json world.geojson

The file belongs in locdiffusion/assets/.

The source is TopoJSON: a border that two countries share is stored once, as an arc. The arcs are
simplified, not the countries, so that neighbours still fit together afterwards.
"""

import argparse
import json
from pathlib import Path

import shapely

TOLERANCE_DEG = 0.1
SMALLEST_ISLAND_DEG2 = 0.03

Point = tuple[float, float]


def unwrap(points: list[Point]) -> list[Point]:
    """Adds turns of 360 degrees to longitudes, so that no step is longer than half a turn."""
    unwrapped = points[:1]
    for longitude, latitude in points[1:]:
        turns = round((unwrapped[-1][0] - longitude) / 360)
        unwrapped.append((longitude + 360 * turns, latitude))
    return unwrapped


def decode_arcs(topology: dict) -> list[list[Point]]:
    """Reads the arcs of a TopoJSON as degrees, and simplifies them."""
    scale_x, scale_y = topology["transform"]["scale"]
    shift_x, shift_y = topology["transform"]["translate"]
    arcs = []
    for deltas in topology["arcs"]:
        x = y = 0
        points = []
        for dx, dy in deltas:
            x, y = x + dx, y + dy
            points.append((x * scale_x + shift_x, y * scale_y + shift_y))
        arcs.append(list(shapely.LineString(unwrap(points)).simplify(TOLERANCE_DEG).coords))
    return arcs


def ring(indices: list[int], arcs: list[list[Point]]) -> list[Point]:
    """Joins arcs end to end; a negative index stands for an arc in the opposite direction."""
    points: list[Point] = []
    for index in indices:
        arc = arcs[index] if index >= 0 else arcs[~index][::-1]
        points.extend(arc[1:] if points else arc)
    points = unwrap(points)
    if abs(points[-1][0] - points[0][0]) > 180:  # around a pole (Antarctica): close it there
        pole = 90.0 if points[0][1] > 0 else -90.0
        points += [(points[-1][0], pole), (points[0][0], pole)]
    return points


def cut(rings: list[list[Point]]) -> list[shapely.Polygon]:
    """Cuts a polygon of the sphere at the antimeridian, into polygons of the plane."""
    rings = [points for points in rings if len(points) >= 4]
    if not rings:
        return []
    whole = shapely.make_valid(shapely.Polygon(rings[0], rings[1:]))
    pieces = []
    for turn in (-360, 0, 360):
        part = shapely.intersection(whole, shapely.box(-180 + turn, -90, 180 + turn, 90))
        moved = shapely.transform(part, lambda xy, turn=turn: xy - (turn, 0))
        pieces += [p for p in shapely.get_parts(moved) if p.geom_type == "Polygon"]
    return pieces


def coordinates(geometry: dict, arcs: list[list[Point]]) -> list[list[list[Point]]]:
    """Lists the polygons of a country: those large enough to be seen, but at least the largest."""
    parts = geometry["arcs"] if geometry["type"] == "MultiPolygon" else [geometry["arcs"]]
    drawn = [p for part in parts for p in cut([ring(indices, arcs) for indices in part])]
    smallest = min(SMALLEST_ISLAND_DEG2, max((p.area for p in drawn), default=0.0))
    return [
        [[(round(x, 2), round(y, 2)) for x, y in r.coords] for r in (p.exterior, *p.interiors)]
        for p in drawn
        if p.area >= smallest
    ]


def main() -> None:
    """Reads a TopoJSON and writes a GeoJSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="countries-50m.json of npm's world-atlas")
    parser.add_argument("target", type=Path, help="GeoJSON to write")
    flags = parser.parse_args()
    topology = json.loads(flags.source.read_text(encoding="utf-8"))
    arcs = decode_arcs(topology)
    features = []
    for country in topology["objects"]["countries"]["geometries"]:
        polygons = coordinates(country, arcs)
        if polygons:
            properties = {"iso_numeric": country.get("id"), "name": country["properties"]["name"]}
            geometry = {"type": "MultiPolygon", "coordinates": polygons}
            features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    collection = {"type": "FeatureCollection", "features": features}
    text = json.dumps(collection, separators=(",", ":"), ensure_ascii=False)
    flags.target.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

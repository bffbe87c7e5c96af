"""The country of a point, against facts and against somebody else's point in polygon."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely

from locdiffusion.geography.borders import read_borders
from locdiffusion.geography.countries import NEAR_KM, countries, country_codes, find_countries
from locdiffusion.geography.polygons import PolygonError, PolygonIndex, fingerprint
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, destination, unit_vectors

PLACES = {
    "FR": (48.8566, 2.3522),
    "DE": (52.52, 13.405),
    "CH": (46.948, 7.4474),
    "BR": (-15.79, -47.88),
    "US": (38.9, -77.04),
    "CA": (45.42, -75.69),
    "MX": (19.43, -99.13),
    "AU": (-35.28, 149.13),
    "NZ": (-41.29, 174.75),
    "JP": (35.68, 139.69),
    "KR": (37.57, 126.98),
    "IN": (28.61, 77.21),
    "CN": (39.9, 116.4),
    "RU": (55.75, 37.62),
    "ZA": (-25.75, 28.19),
    "LS": (-29.6, 28.2),
    "EG": (30.04, 31.24),
    "KE": (-1.29, 36.82),
    "AR": (-34.61, -58.44),
    "IS": (64.13, -21.8),
    "GL": (72.0, -40.0),
    "UA": (50.45, 30.52),
    "SG": (1.36, 103.82),
    "VA": (41.9022, 12.4350),
    "SM": (43.94, 12.45),
    "MC": (43.738, 7.421),
    "LI": (47.14, 9.54),
    "MT": (35.89, 14.44),
    "GI": (36.135, -5.348),
    "HK": (22.4, 114.15),
    "TW": (24.0, 121.0),
    "XK": (42.6, 20.9),
    "CD": (-4.4, 15.4),
    "CG": (-4.2, 15.1),
    # Parts of a country with a code of their own.
    "GF": (4.0, -53.0),
    "GP": (16.2, -61.65),
    "MQ": (14.65, -61.0),
    "RE": (-21.1, 55.5),
    "YT": (-12.8, 45.15),
    "SJ": (78.2, 16.0),
    "BQ": (12.2, -68.3),
    "CX": (-10.48, 105.63),
    "PR": (18.2, -66.4),
}
BORDERS = [
    # Strasbourg and Kehl, Basel and Weil, Detroit and Windsor, El Paso and Juárez, Narva and
    # Ivangorod, Foz do Iguaçu and Puerto Iguazú: a few kilometres to either side.
    ((48.58, 7.73, "FR"), (48.57, 7.85, "DE")),
    ((47.54, 7.57, "CH"), (47.61, 7.62, "DE")),
    ((42.38, -83.10, "US"), (42.28, -83.00, "CA")),
    ((31.80, -106.42, "US"), (31.68, -106.42, "MX")),
    ((59.38, 28.15, "EE"), (59.36, 28.26, "RU")),
    ((-25.52, -54.55, "BR"), (-25.63, -54.53, "AR")),
]
SEA = [(0, 0), (0, -150), (40, -40), (85, 0), (-60, 100), (57, 3), (35, 18), (42, 51), (15, -60)]


def test_cities_are_in_their_countries():
    latitude, longitude = np.array(list(PLACES.values())).T
    assert country_codes(latitude, longitude) == list(PLACES)


def test_both_sides_of_borders():
    for pair in BORDERS:
        for latitude, longitude, code in pair:
            assert country_codes([latitude], [longitude]) == [code], (latitude, longitude)


def test_the_sea_has_none():
    latitude, longitude = np.array(SEA).T
    assert country_codes(latitude, longitude) == [None] * len(SEA)


@pytest.mark.parametrize(
    ("latitude", "longitude", "code"),
    [
        (67.0, 179.999, "RU"),
        (67.0, -179.999, "RU"),
        (67.0, 180.0, "RU"),
        (67.0, -180.0, "RU"),
        (-90.0, 17.0, "AQ"),
        (-89.99, -180.0, "AQ"),
        (-16.9, 179.99, "FJ"),
        (-16.85, -179.99, "FJ"),
        (48.8566, 362.3522, "FR"),
        (48.8566, -357.6478, "FR"),
    ],
)
def test_antimeridian_pole_and_turns(latitude, longitude, code):
    assert country_codes([latitude], [longitude]) == [code]


def test_no_points_no_codes():
    assert country_codes([], []) == []
    assert find_countries([], []) == ([], [])


@pytest.mark.parametrize(
    ("latitude", "longitude", "code"),
    [
        (58.9696, 5.7325, "NO"),  # the centre of Stavanger, which the simplified coast leaves out
        (10.70, 103.20, "KH"),  # 2 km off Koh Rong
        (1.2200, 103.8500, "SG"),
        (-17.1, 179.999, "FJ"),
        (-17.1, -179.999, "FJ"),
        (69.1, 180.0, "RU"),
    ],
)
def test_near_a_coast_the_nearest_country(latitude, longitude, code):
    assert find_countries([latitude], [longitude]) == ([code], ["nearest"])


def test_how_a_country_was_found():
    latitude, longitude = [48.8566, 58.9696, 0.0, 35.5], [2.3522, 5.7325, 0.0, 77.0]
    codes, found_by = find_countries(latitude, longitude)
    # The last is the Siachen glacier: on land, and nobody's.
    assert codes == ["FR", "NO", None, None]
    assert found_by == ["inside", "nearest", None, None]


def test_the_nearest_is_what_a_search_of_all_points_of_all_coasts_finds(rng):
    table = geopandas.read_parquet(countries_file()).dropna(subset="code")
    rings = shapely.segmentize(shapely.boundary(table.geometry.values), 0.01)
    degrees, row = shapely.get_coordinates(rings, return_index=True)
    coasts, code = unit_vectors(degrees[:, 1], degrees[:, 0]), table["code"].to_numpy()[row]
    latitude = np.concatenate([rng.uniform(55, 71, 40), rng.uniform(-84, -60, 20)])
    longitude = np.concatenate([rng.uniform(4, 30, 40), rng.uniform(-180, 180, 20)])
    sea = np.flatnonzero(countries().parts_around(latitude, longitude) < 0)[:25]
    found = find_countries(latitude[sea], longitude[sea])
    points = unit_vectors(latitude[sea], longitude[sea])
    nearest = EARTH_RADIUS_KM * np.arccos(np.clip(points @ coasts.T, -1.0, 1.0))
    for one, by, distance in zip(found.codes, found.found_by, nearest, strict=True):
        if abs(distance.min() - NEAR_KM) > 0.1:
            assert (by == "nearest") == (distance.min() < NEAR_KM)
        assert one is None or distance[code == one].min() < distance.min() + 0.1
    assert 3 < found.found_by.count("nearest") < len(sea)


def test_distances_are_great_circles_to_edges_and_not_to_corners():
    squares = PolygonIndex(
        ["equator", "arctic", "east", None],
        [
            shapely.box(0, 0, 8, 1),
            shapely.box(0, 80, 90, 89.81),
            shapely.box(178, 40, 180, 41),
            shapely.box(-20, 0, -10, 1),
        ],
    )

    def nearest(latitude, longitude, within_km):
        [found] = squares.nearest_parts([latitude], [longitude], within_km)
        return squares.names_of(np.array([found]))[0]

    for km, name in ((22.2, "equator"), (22.3, None)):
        assert nearest(*destination(0.0, 3.21, 180.0, km), 22.224) == name
        assert nearest(*destination(40.5, -180.0, 90.0, km), 22.224) == (name and "east")
    for longitude in (0.0, 45.0, -135.0, 180.0):  # the pole, 21.1 km from its square
        assert (
            nearest(90.0, longitude, 22.224) == "arctic" and nearest(90.0, longitude, 21.0) is None
        )
    assert nearest(89.95, -135.0, 27.0) == "arctic"
    assert nearest(40.5, 180.01 + 360.0, 22.224) == "east"
    assert nearest(-0.1, -15.0, 22.224) is None


def test_codes_are_two_letters_each_once():
    names = [name for name in countries()._names if name is not None]
    assert len(set(names)) == 250  # 249 of the standard, and Kosovo
    assert all(len(name) == 2 and name.isupper() for name in names)


def test_neighbours_fit_together():
    """Borders are simplified once for both sides: no gap and no overlap between neighbours."""
    table = geopandas.read_parquet(countries_file())
    shapes = table.set_index("code").geometry
    assert shapes.is_valid.all()
    for one, other in (("FR", "DE"), ("BR", "BO"), ("CD", "AO"), ("ZA", "LS"), ("IN", "NP")):
        both = shapes[one].union(shapes[other])
        overlap = shapes[one].intersection(shapes[other]).area
        holes = [shapely.Polygon(h) for p in shapely.get_parts(both) for h in p.interiors]
        gaps = [hole for hole in holes if hole.buffer(-1e-4).is_empty]
        assert overlap < 1e-9 and sum(gap.area for gap in gaps) < 1e-9


def countries_file() -> Path:
    from locdiffusion.geography.countries import COUNTRIES

    return COUNTRIES


# ------------------------------------------------- against the unsimplified polygons, by GeoPandas

NATURAL_EARTH = os.environ.get("LOCDIFFUSION_NATURAL_EARTH")
"""`countries-10m.json` of npm's world-atlas 2.0.2, which the repository does not hold (3.7 MB)."""

# ISO's numbers that Natural Earth gives to a whole whose parts have codes of their own.
PARTS = {"FR": "FR GF GP MQ RE YT", "NL": "NL BQ", "NO": "NO SJ BV", "NZ": "NZ TK"}


def full_polygons(path: str) -> geopandas.GeoDataFrame:
    """GDAL's reading of the TopoJSON, rings unrolled over the antimeridian and closed at a pole."""
    table = geopandas.read_file(path, layer="countries").explode(index_parts=False)
    return table.set_geometry([unrolled(polygon) for polygon in table.geometry.values])


def unrolled(polygon: shapely.Polygon) -> shapely.Geometry:
    xy = shapely.get_coordinates(polygon.exterior)
    if polygon.is_empty:  # the Vatican's ring lost its points in world-atlas
        return polygon
    if np.abs(np.diff(xy[:, 0])).max() < 180.0:
        return mended(polygon)
    xy[:, 0] = np.degrees(np.unwrap(np.radians(xy[:, 0])))
    if abs(xy[-1, 0] - xy[0, 0]) > 180.0:
        xy = np.vstack([xy, [xy[-1, 0], -90.0], [xy[0, 0], -90.0]])
    return mended(shapely.Polygon(xy, [r.coords for r in polygon.interiors]))


def mended(polygon: shapely.Polygon) -> shapely.Geometry:
    return shapely.make_valid(polygon, method="structure", keep_collapsed=False)


def joined(full: geopandas.GeoDataFrame, latitude, longitude) -> list[set[int]]:
    """Rows of all polygons around each point, by geopandas.sjoin."""
    found: list[set[int]] = [set() for _ in latitude]
    for turn in (-360.0, 0.0, 360.0):
        points = geopandas.GeoDataFrame(
            geometry=geopandas.points_from_xy(longitude + turn, latitude)
        )
        hits = points.sjoin(full.reset_index(drop=True), predicate="within")
        for point, row in zip(hits.index, hits["index_right"], strict=True):
            found[point].add(int(row))
    return found


@pytest.mark.skipif(NATURAL_EARTH is None, reason="LOCDIFFUSION_NATURAL_EARTH names no file")
@pytest.mark.parametrize("where", ["anywhere on land", "near borders"])
def test_agrees_with_geopandas_on_the_unsimplified_polygons(where, rng):
    """10,000 points on land (or, harder, 10,000 at 1 to 6 km from a border or coast)."""
    assert NATURAL_EARTH is not None
    full = full_polygons(NATURAL_EARTH)
    code_of = codes_by_number(full)
    edges = shapely.boundary(full.geometry.values)
    if where == "near borders":
        corner = rng.permutation(shapely.get_coordinates(edges))[:30_000]
        longitude, latitude = (corner + rng.uniform(-0.05, 0.05, corner.shape)).T
        inside = (np.abs(latitude) < 90.0) & (np.abs(longitude) < 180.0)
        longitude, latitude = longitude[inside][:10_000], latitude[inside][:10_000]
        rows = joined(full, latitude, longitude)
    else:
        latitude = np.degrees(np.arcsin(rng.uniform(-1, 1, 60_000)))
        longitude = rng.uniform(-180, 180, 60_000)
        rows = joined(full, latitude, longitude)
        land = np.flatnonzero([len(r) > 0 for r in rows])[:10_000]
        latitude, longitude, rows = latitude[land], longitude[land], [rows[i] for i in land]
    assert len(latitude) == 10_000
    ours = country_codes(latitude, longitude)
    wanted = [{code_of[i] for i in r} for r in rows]
    wrong = [i for i in range(10_000) if not agree(ours[i], wanted[i])]
    points = shapely.points(longitude[wrong], latitude[wrong])
    nearest = shapely.STRtree(segments(edges)).query_nearest(
        points, return_distance=True, all_matches=False
    )[1]
    print(f"{where}: {len(wrong)} of 10,000 differ, the farthest {nearest.max(initial=0):.4f}°")
    assert np.all(nearest <= 0.011), "simplified by 0.01°, then rounded to 0.001°"
    assert len(wrong) < (2_000 if where == "near borders" else 50)


def segments(edges: Sequence[shapely.Geometry]) -> np.ndarray:
    parts = shapely.get_parts(edges)
    xy, line = shapely.get_coordinates(parts, return_index=True)
    same = line[1:] == line[:-1]
    return shapely.linestrings(np.stack([xy[:-1][same], xy[1:][same]], 1))


def agree(ours: str | None, wanted: set[str | None]) -> bool:
    if not wanted or ours is None:
        return not wanted - {None} and ours is None
    return any(ours in (PARTS.get(code or "", code) or "").split() for code in wanted)


def codes_by_number(full: geopandas.GeoDataFrame) -> list[str | None]:
    """The code of most of what our own file has at a polygon's inside: by rows of the same id."""
    inside = full.geometry.representative_point()
    ours = country_codes(inside.y.to_numpy(), inside.x.to_numpy())
    names = full["id"].fillna(full["name"]) if "id" in full else full["name"]
    frame = geopandas.pd.DataFrame({"name": names.to_numpy(), "code": ours, "area": full.area})
    frame = frame.dropna(subset="code").sort_values("area")
    largest = frame.groupby("name")["code"].last()
    return [largest.get(name) for name in names]


# ------------------------------------------------------------------------- a user's own polygons


def squares() -> geopandas.GeoDataFrame:
    boxes = [shapely.box(0, 0, 2, 2), shapely.box(1, 1, 3, 3), shapely.box(170, -5, 190, 5)]
    return geopandas.GeoDataFrame(
        {"Name": ["a", "b", None], "rank": [1, 2, 3]}, geometry=boxes, crs="OGC:CRS84"
    )


@pytest.mark.parametrize("suffix", ["geojson", "parquet", "gpkg", "shp.zip"])
def test_own_polygons_by_their_names(tmp_path, suffix):
    path = str(tmp_path / f"units.{suffix}")
    write(squares(), path)
    index = read_borders(path)
    assert index([0.5, 1.5, 2.5, 10.0], [0.5, 1.5, 2.5, 10.0]) == ["a", "a", "b", None]
    assert read_borders(path, "rank")([2.5, 0, 0], [2.5, 179, -175]) == ["2", "3", "3"]


def write(table: geopandas.GeoDataFrame, path: str) -> None:
    if path.endswith("parquet"):
        table.to_parquet(path)
    else:
        drivers = {"geojson": "GeoJSON", "gpkg": "GPKG", "zip": "ESRI Shapefile"}
        table.to_file(path, driver=drivers[path.rpartition(".")[2]])


def test_projected_polygons_come_back_to_degrees(tmp_path):
    path = str(tmp_path / "units.parquet")
    write(squares().iloc[:2].to_crs(3857), path)
    np.testing.assert_allclose(
        shapely.total_bounds(read_borders(path).parts), [0, 0, 3, 3], atol=1e-9
    )


def test_broken_rings_are_mended(tmp_path):
    path = str(tmp_path / "bow.geojson")
    bow = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    write(geopandas.GeoDataFrame({"name": ["bow"]}, geometry=[bow], crs="OGC:CRS84"), path)
    assert shapely.is_valid(read_borders(path).parts).all()
    assert read_borders(path)([1.0, 1.9], [0.2, 1.0]) == ["bow", None]


def test_a_file_that_cannot_be_used_says_why(tmp_path):
    path = str(tmp_path / "units.geojson")
    with pytest.raises(PolygonError, match="cannot be read"):
        read_borders(path)
    (tmp_path / "units.geojson").write_text("no json")
    with pytest.raises(PolygonError, match="begins with b'no j'; want GeoJSON"):
        read_borders(path)
    points = squares().set_geometry(shapely.points([0.0, 1.0, 2.0], 0.0), crs="OGC:CRS84")
    write(points, path)
    with pytest.raises(PolygonError, match="holds no polygon among its 3 rows"):
        read_borders(path)
    metres = squares().iloc[:2].to_crs(3857).set_crs(4326, allow_override=True)
    write(metres, str(tmp_path / "metres.parquet"))
    with pytest.raises(PolygonError, match="projected"):
        read_borders(str(tmp_path / "metres.parquet"))
    write(squares().rename(columns={"Name": "x"}), str(tmp_path / "x.parquet"))
    with pytest.raises(PolygonError, match=r"no column 'y'\. Choose one of"):
        read_borders(str(tmp_path / "x.parquet"), "y")


def test_fingerprints_follow_the_bytes(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    assert fingerprint(str(one)) == fingerprint(str(one)) != fingerprint(str(other))

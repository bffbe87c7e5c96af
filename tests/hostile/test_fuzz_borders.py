"""Random changes of files of polygons: each file is read or refused, and nothing else happens."""

from collections.abc import Callable

import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locdiffusion.geography.polygon_files import read_rows
from locdiffusion.geography.polygons import PolygonError
from locdiffusion.geography.wkb import polygons_from_wkb
from support.hostile.borders import SQUARE, geojson, geopackage, geoparquet, polygon, shapefile

SHAPES = [
    shapely.box(0, 0, 2, 2),
    shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.Point(5, 5).buffer(1, 2)]),
    shapely.GeometryCollection([shapely.Point(0, 0), shapely.box(0, 0, 1, 1)]),
    shapely.box(0, 0, 9, 9) - shapely.box(3, 3, 6, 6),
]
BLOBS = [shapely.to_wkb(shape, byte_order=order) for shape in SHAPES for order in (0, 1)]
# Arrow throws where nobody catches: a damaged Parquet is for a child process only.
FILES: dict[str, Callable[[], bytes]] = {
    "geojson": lambda: geojson([polygon(SQUARE)]),
    "gpkg": geopackage,
    "shp.zip": lambda: shapefile([*SQUARE, *SQUARE]),
}
EDITS = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=6)
FAST = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
SLOW = settings(FAST, max_examples=5_000)


def edited(data: bytes, edits: list[tuple[int, int]], cut: int) -> bytes:
    changed = bytearray(data)
    for at, value in edits:
        changed[at % len(changed)] = value
    return bytes(changed[: len(changed) - cut % len(changed)] if cut % 3 == 0 else changed)


def check_wkb(blob: bytes) -> None:
    try:
        [shape] = polygons_from_wkb([blob])
    except PolygonError:
        return
    assert shape is None or shapely.get_num_coordinates(shape) * 16 <= len(blob)


def check_file(data: bytes) -> None:
    try:
        rows = read_rows(data)
    except PolygonError:
        return
    assert len(rows.values) == len(rows.shapes)


WKB = (st.sampled_from(BLOBS), EDITS, st.integers(0, 200))
FILE = (st.sampled_from(sorted(FILES)), EDITS, st.integers(0, 4_000))


@FAST
@given(*WKB)
def test_changed_wkb_is_read_or_refused(blob: bytes, edits: list, cut: int) -> None:
    check_wkb(edited(blob, edits, cut))


@FAST
@given(*FILE)
def test_changed_files_are_read_or_refused(name: str, edits: list, cut: int) -> None:
    check_file(edited(FILES[name](), edits, cut))


@pytest.mark.slow
@SLOW
@given(*WKB)
def test_much_changed_wkb_is_read_or_refused(blob: bytes, edits: list, cut: int) -> None:
    check_wkb(edited(blob, edits, cut))


@pytest.mark.slow
@SLOW
@given(*FILE)
def test_much_changed_files_are_read_or_refused(name: str, edits: list, cut: int) -> None:
    check_file(edited(FILES[name](), edits, cut))


def test_a_sound_geoparquet_is_read() -> None:
    check_file(geoparquet([BLOBS[0]], ["a"]))

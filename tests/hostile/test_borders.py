"""Borders of strangers open nothing else, and take neither the process nor all memory."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import shapely

from locdiffusion.geography import borders
from locdiffusion.geography.borders import named_parts, read_borders, read_share
from locdiffusion.geography.polygon_files import read_rows
from locdiffusion.geography.polygon_rows import MOST_NAME
from locdiffusion.geography.polygons import PolygonError, _crossings, polygon_share
from locdiffusion.geography.wkb import polygons_from_wkb
from support import ROOT
from support.hostile.borders import (
    BORDERS,
    FOREIGN,
    SECRET,
    SQUARE,
    STAR,
    geojson,
    geopackage,
    nested_wkb,
    polygon,
    shapefile,
)

IN_CHILD_ONLY = ("generated.gpkg", "many.parquet", "names.parquet")
"""What only the memory of a child bounds."""


@pytest.mark.parametrize("name", [name for name in BORDERS if name not in IN_CHILD_ONLY])
def test_each_is_refused_with_a_reason_before_it_costs_anything(name: str) -> None:
    """In this process, so that a crash or a gigabyte would be seen."""
    with pytest.raises(PolygonError) as refusal:
        named_parts(BORDERS[name](), None)
    assert len(str(refusal.value)) < 2_500


@pytest.mark.parametrize("name", ["nested.parquet", "vrt.geojson", *IN_CHILD_ONLY])
def test_the_file_is_named_where_the_user_reads_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(BORDERS[name]())
    for read in (read_borders, lambda path: read_share(path, 8, 16)):
        with pytest.raises(PolygonError, match=f"{name} cannot be used"):
            read(str(path))


READ_ALL = """
import os, sys
from pathlib import Path
from locdiffusion.geography import borders
from locdiffusion.geography.polygons import PolygonError
from support.hostile import borders as hostile
files = [make() for make in hostile.FOREIGN.values()]
try:
    os.stat("/begin-of-reading")
except OSError:
    pass
for data in files:
    try:
        borders.named_parts(data, None)
    except PolygonError:
        pass
assert not [name for name in sys.modules if name.startswith(("pyogrio", "osgeo", "fiona"))]
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_no_file_outside_and_no_server_is_asked(tmp_path: Path) -> None:
    log = tmp_path / "log"
    calls = "trace=open,openat,stat,newfstatat,socket,connect"
    traced = ["strace", "-f", "-qq", "-s", "300", "-e", calls, "-o", str(log)]
    place = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [*traced, sys.executable, "-c", READ_ALL],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": place},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    _, _, calls = log.read_text("utf-8", "replace").partition("/begin-of-reading")
    assert "units" not in calls and calls
    assert "socket(" not in calls and "connect(" not in calls and SECRET not in calls
    ours = (tempfile.gettempdir(), sys.prefix, sys.base_prefix, os.getcwd(), "/proc", "/sys")
    ours += (
        str(Path(np.__file__).parents[1]),
        "/usr/lib",
        "/lib",
        "/dev/null",
        "/etc/ld.so",
        str(Path(os.__file__).parent),
    )
    opened = [line for line in calls.splitlines() if "open" in line and "ENOENT" not in line]
    paths = [line.split('"')[1] for line in opened if '"/' in line]
    assert not [path for path in paths if not path.startswith(ours)]


@pytest.mark.parametrize(
    "path",
    ["GeoJSON:http://127.0.0.1:9/a", "/vsizip//vsicurl/http://127.0.0.1:9/a.zip", "WFS:http://a"],
)
def test_a_path_for_gdal_is_no_path(path: str) -> None:
    with pytest.raises(PolygonError, match="cannot be read"):
        read_borders(path)


def test_endless_mending_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(borders, "CPU_S", 0.5)
    monkeypatch.setattr(borders, "FREE_BYTES", 400 * 2**20)
    (tmp_path / "star.geojson").write_bytes(geojson([polygon([STAR])]))
    with pytest.raises(PolygonError, match="reading it ended because it takes more than"):
        read_borders(str(tmp_path / "star.geojson"))


def test_collections_nest_once() -> None:
    assert polygons_from_wkb([nested_wkb(1)])[0].geoms[0].area == 4.0
    with pytest.raises(PolygonError, match="nested"):
        polygons_from_wkb([nested_wkb(2)])


def test_a_long_edge_takes_no_memory_of_all_lines() -> None:
    """10,000 edges from pole to pole cross 80 million parallels, a million at a time."""
    edges = np.tile([0.0, -90.0], (10_000, 1)), np.tile([0.0, 90.0], (10_000, 1))
    parallels = np.degrees(np.arcsin(1.0 - 2.0 * (np.arange(800) + 0.5) / 800))
    sizes = [len(edge) for edge, *_ in _crossings(edges, parallels, 1920)]
    assert sum(sizes) == 8_000_000 and max(sizes) <= 1_001_000


def test_many_weighted_polygons_take_one_raster() -> None:
    """One raster for each polygon took hours for 100,000 of them."""
    west = np.linspace(-170, 160, 500)
    boxes = shapely.box(west, -20, west + 7, 30)
    weights = np.arange(500.0)
    wanted = np.zeros((48, 96))
    for box, weight in zip(boxes[1:], weights[1:], strict=True):
        share = polygon_share(box, None, 48, 96)
        wanted += weight * share / share.sum()
    np.testing.assert_allclose(polygon_share(boxes, weights, 48, 96), wanted, atol=1e-9)


# -------------------------------------------------------------------- what must stay readable


def test_good_files_of_each_format_and_their_tricks() -> None:
    hole = [[0, 0], [0, 9], [9, 9], [9, 0], [0, 0]], [[3, 3], [6, 3], [6, 6], [3, 6], [3, 3]]
    others = {"../../up.dbf": b"x", "a.vrt": b"<OGRVRTDataSource/>", "units.cpg": b"punycode"}
    [shape] = read_rows(shapefile(hole, **others)).mended().shapes
    assert shape.area == 72.0
    assert read_rows(shapefile(hole)).mended().names(None) == ["a"]
    trigger = "CREATE TRIGGER t AFTER INSERT ON units BEGIN SELECT load_extension('x'); END;"
    assert read_rows(geopackage(trigger)).mended().names(None) == ["a"]
    name = {"name": "urn:ogc:def:crs:EPSG::3857"}
    mercator = geojson([polygon(SQUARE)], crs={"type": "name", "properties": name})
    assert read_rows(mercator).mended().shapes[0].area < 1e-9
    assert read_rows(b"\xef\xbb\xbf " + geojson([polygon(SQUARE)])).mended().shapes[0].area == 4.0


def test_names_are_text_that_can_be_written() -> None:
    half = json.dumps("a\ud800\x1b[2J<b>")
    data = geojson([polygon(SQUARE)], ["NAME"]).replace(b'"NAME"', half.encode())
    [name] = read_rows(data).mended().names(None)
    assert name == "a?\x1b[2J<b>"
    with pytest.raises(PolygonError, match=f"at most {MOST_NAME:,}"):
        named_parts(geojson([polygon(SQUARE)], ["x" * (MOST_NAME + 1)]), "name")


def test_columns_are_looked_at_once() -> None:
    """The column of the names is chosen once, not once for each row."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    def work(rows: int) -> int:
        nonlocal calls
        squares = [polygon([[[k, 0], [k + 0.5, 0], [k, 1]]]) for k in range(rows)]
        table = read_rows(geojson(squares, ["a"] * rows)).mended()
        calls = 0
        sys.setprofile(count)
        table.names(None)
        sys.setprofile(None)
        return calls

    assert work(100) <= 2.5 * work(50)


def test_zips_are_not_unpacked_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpacked")

    monkeypatch.setattr(zipfile.ZipFile, "extract", refuse)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", refuse)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert read_rows(shapefile(SQUARE)).mended().names(None) == ["a"]
    assert set(FOREIGN) & set(BORDERS) == set(FOREIGN)


def test_borders_of_kilobytes_take_no_more_than_a_run_may() -> None:
    """The child and this process together stay within 1.5 GB, whatever the polygons are."""
    assert borders.FREE_BYTES <= 2**30

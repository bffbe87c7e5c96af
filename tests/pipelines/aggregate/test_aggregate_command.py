"""`locdiffusion aggregate` gives the numbers of the definition, in every area and by every way."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import geopandas
import h3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from numpy.testing import assert_allclose

from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from pipelines.aggregate import output, result
from pipelines.aggregate.command import main
from schemas.aggregates import AGGREGATE_SCHEMA
from support.area_layers import Mass, brute_force, cell_masses, country_masses, write_areas

PHOTOS, SHARDS = 15, 3
CAMERAS = [None if i % 5 == 0 else f"camera {i % 2}" for i in range(PHOTOS)]
YEARS = [None if i == 3 else 2019 + i % 2 for i in range(PHOTOS)]


@pytest.fixture(scope="module")
def photos() -> list[Mass]:
    rng = np.random.default_rng(3)
    return [cell_masses(rng, 3) | country_masses(rng) for _ in range(PHOTOS)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, photos: list[Mass]) -> Path:
    """An output of three shards that share their keys, with albums."""
    root = tmp_path_factory.mktemp("run") / "out"
    root.mkdir()
    rows = []
    for shard in range(SHARDS):
        part = range(shard, PHOTOS, SHARDS)
        times = [None if YEARS[i] is None else datetime(YEARS[i] or 0, 7, 1) for i in part]
        write_areas(
            root,
            f"s-{shard}",
            {f"k{number}": photos[i] for number, i in enumerate(part)},
            camera=[CAMERAS[i] for i in part],
            captured_at=times,
        )
        rows += [(f"k{n}", f"s-{shard}", f"album {i % 4}") for n, i in enumerate(part)]
    (root / "albums").mkdir()
    table = pa.table([*zip(*rows, strict=True)], ["key", "shard", "album"])
    for part in range(2):
        pq.write_table(table[part::2], root / f"albums/part-{part}.parquet")
    return root


Run = Callable[..., geopandas.GeoDataFrame]


@pytest.fixture(autouse=True)
def drawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps take most of the time: all tests but that of the page go without."""
    if "page" not in request.node.name:
        monkeypatch.setattr(output, "draw_map", lambda *given: b"")
        monkeypatch.setattr(output, "map_page", lambda *given: "")


@pytest.fixture
def run(out: Path, tmp_path: Path) -> Run:
    def runs(*words: Any, output: str = "made") -> geopandas.GeoDataFrame:
        target = tmp_path / output
        assert main([str(out), "--output", str(target), "--pixel", "1", *map(str, words)]) == 0
        return geopandas.read_parquet(target / "aggregate.parquet")

    return runs


def check(found: geopandas.GeoDataFrame, wanted: dict[Any, tuple[float, float]]) -> None:
    """Rows are those of the definition: each area and rest once, expected number and error."""
    places = [tuple(None if x != x else x for x in row) for row in found[["area", "rest"]].values]
    assert len(set(places)) == len(places) and set(places) == set(wanted)
    numbers = np.array([wanted[place] for place in places])
    assert_allclose(found.photos_expected, numbers[:, 0], rtol=1e-9)
    assert_allclose(found.standard_error, numbers[:, 1], atol=1e-7)


def by_camera(photos: list[Mass]) -> list[list[Mass]]:
    groups = [
        [m for m, c in zip(photos, CAMERAS, strict=True) if c == f"camera {i}"] for i in (0, 1)
    ]
    return [*groups, *([m] for m, c in zip(photos, CAMERAS, strict=True) if c is None)]


@pytest.mark.parametrize("resolution", [0, 1, 3])
def test_cells(resolution: int, run: Run, photos: list[Mass], tmp_path: Path) -> None:
    found = run("--h3", resolution)
    check(found, brute_force([[m] for m in photos], "h3", resolution))
    assert found.photos_expected.sum() == pytest.approx(PHOTOS, abs=1e-5)
    cells = found[found.rest.isna()]
    assert found[found.rest.notna()].geometry.isna().all()
    for row in cells.iloc[::97].itertuples():
        assert row.geometry.buffer(1e-6).covers(shapely.Point(h3.cell_to_latlng(row[1])[::-1]))
    assert_allclose(cells.photos_per_km2, cells.photos_expected / cells.area_km2)
    schema = pq.read_schema(tmp_path / "made/aggregate.parquet")
    assert schema.remove_metadata().equals(AGGREGATE_SCHEMA)
    with rasterio.open(tmp_path / "made/aggregate.tif") as file:
        assert file.crs.to_epsg() == 4326 and file.shape == (180, 360)
        assert tuple(file.bounds) == (-180, -90, 180, 90)
        edge = np.sin(np.radians(np.linspace(90, -90, 181)))
        pixel_km2 = (edge[:-1] - edge[1:]) * np.radians(1) * EARTH_RADIUS_KM**2
        total = (file.read(1).sum(axis=1) * pixel_km2).sum()
        expected = cells.photos_expected.sum()
        assert total == pytest.approx(expected, rel=1e-2 if resolution < 3 else 1e-3)


@pytest.mark.parametrize("kind, resolution", [("country", None), ("h3", 2)])
def test_photos_of_a_group_are_one_draw(
    kind: str, resolution: int | None, run: Run, photos: list[Mass]
) -> None:
    words = ["--kind", kind] if resolution is None else ["--h3", resolution]
    check(run(*words, "--group", "camera"), brute_force(by_camera(photos), kind, resolution))
    albums = [[photos[i] for i in range(k, PHOTOS, 4)] for k in range(4)]
    found = run(*words, "--group", "album", output="albums")
    check(found, brute_force(albums, kind, resolution))
    alone = run(*words, output="alone")
    assert (found.standard_error >= alone.standard_error - 1e-7).all()


def test_classes_are_counted_apart(run: Run, photos: list[Mass], tmp_path: Path) -> None:
    found = run("--kind", "country", "--by", "year", "--group", "camera")
    for year in (2019, 2020, None):
        rows = found[found.by == str(year)] if year else found[found.by.isna()]
        mine = [i for i in range(PHOTOS) if YEARS[i] == year]
        groups = [[photos[i] for i in mine if CAMERAS[i] == c] for c in set(CAMERAS) - {None}]
        groups += [[photos[i]] for i in mine if CAMERAS[i] is None]
        check(rows, brute_force([group for group in groups if group], "country"))
    norway = found[found["area"] == "NO"].iloc[0].geometry
    assert norway.covers(shapely.Point(10, 61)) and not norway.covers(shapely.Point(15, 60))
    summary = json.loads((tmp_path / "made/aggregate_summary.json").read_text())
    assert {one["by"]: one["photos"] for one in summary["classes"]} == {
        **{"2019": YEARS.count(2019), "2020": YEARS.count(2020)},
        None: 1,
    }


def test_beam_gives_the_same_rows(run: Run) -> None:
    for words in (
        ["--h3", 2, "--by", "year", "--group", "album"],
        ["--kind", "country", "--group", "camera"],
        ["--h3", 3],
    ):
        wanted = run(*words, "--overwrite", output="plain")
        found = run(*words, "--overwrite", "--runner", "DirectRunner")
        columns = ["area", "rest", "by"]
        assert found[columns].equals(wanted[columns])
        assert_allclose(found.photos_expected, wanted.photos_expected, rtol=1e-12)
        assert_allclose(found.standard_error, wanted.standard_error, atol=1e-9)


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The northern hemisphere without a rectangle, and that rectangle."""
    inner = shapely.box(-40.0, 10.0, 20.0, 60.0)
    shapes = [shapely.box(-180, 0, 180, 90) - inner, inner]
    table = geopandas.GeoDataFrame({"name": ["north", "box"]}, geometry=shapes, crs="OGC:CRS84")
    path = tmp_path_factory.mktemp("borders") / "halves.geojson"
    table.to_file(path)
    return path


def test_polygons_take_the_share_of_each_cell(
    run: Run, photos: list[Mass], halves: Path, tmp_path: Path
) -> None:
    """By the points of small cells: those of resolution 6 are 1/343 of the finest of the run."""
    found = run("--polygons", halves)
    inner = shapely.from_wkt("POLYGON ((-40 10, 20 10, 20 60, -40 60, -40 10))")
    rows: list[Mass] = []
    for photo in photos:
        sums = {"box": 0.0, "north": 0.0, "elsewhere": 0.0}
        for (kind, cell, _), p in photo.items():
            if kind != "h3":
                continue
            if cell is None:
                sums["elsewhere"] += p
                continue
            points = [*h3.cell_to_children(cell, max(4, h3.get_resolution(cell) + 2))]
            for point in points:
                y, x = h3.cell_to_latlng(point)
                name = "box" if inner.contains(shapely.Point(x, y)) else "north"
                sums[name if y > 0 else "elsewhere"] += p / len(points)
        rows.append({("p", n if n != "elsewhere" else None, None): p for n, p in sums.items()})
    wanted = brute_force([[row] for row in rows], "p")
    for name in ("north", "box"):
        [row] = found[found["area"] == name].itertuples()
        assert row.photos_expected == pytest.approx(wanted[name, None][0], abs=0.02)
        assert row.standard_error == pytest.approx(wanted[name, None][1], abs=0.01)
        assert row.area_km2 == pytest.approx(_box_km2() if name == "box" else _north_km2())
    assert found.photos_expected.sum() == pytest.approx(PHOTOS, abs=1e-5)


def _box_km2() -> float:
    height = np.sin(np.radians(60)) - np.sin(np.radians(10))
    return float(np.radians(60) * height * EARTH_RADIUS_KM**2)


def _north_km2() -> float:
    return float(2 * np.pi * EARTH_RADIUS_KM**2) - _box_km2()


def test_polygons_of_the_run_take_its_own_probabilities(
    tmp_path: Path, halves: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from locdiffusion.geography.polygons import file_identity

    root = tmp_path / "own"
    root.mkdir()
    table = geopandas.read_file(halves).assign(code=["N", "B"])
    coded = tmp_path / "coded.geojson"
    table.to_file(coded)
    photo: Mass = {("admin", "B", None): 0.25, ("admin", None, "sea"): 0.75}
    write_areas(root, "s", {"a": photo, "b": photo})
    run = json.loads((root / "run.json").read_text())
    (root / "run.json").write_text(json.dumps(run | {"admin": file_identity(str(coded))}))
    words = [str(root), "--output", str(tmp_path / "made"), "--polygons", str(coded)]
    assert main([*words, "--pixel", "1"]) == 0
    found = geopandas.read_parquet(tmp_path / "made/aggregate.parquet")
    check(found, brute_force([[photo]] * 2, "admin"))
    assert found.geometry.notna().tolist() == [True, False]
    assert main([str(root), "--output", str(tmp_path / "k"), "--kind", "admin"]) == 0
    assert "1 area without borders" in capsys.readouterr().err
    assert not (tmp_path / "k/aggregate.tif").exists()


def test_cells_too_coarse_to_spread_are_a_rest(
    run: Run, photos: list[Mass], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result, "MOST_CELLS", 3000)
    found = run("--h3", 3).set_index("rest")
    coarse = sum(
        p
        for photo in photos
        for (kind, cell, _), p in photo.items()
        if kind == "h3" and cell and h3.get_resolution(cell) == 0
    )
    assert found.photos_expected["coarser"] == pytest.approx(coarse, rel=1e-6)
    assert np.isnan(found.standard_error["coarser"])
    assert found.photos_expected.sum() == pytest.approx(PHOTOS, abs=1e-5)


@pytest.mark.parametrize(
    "words, told",
    [
        (["--h3", "4"], "no finer than resolution 3; give --h3 3 or less, or geotag again with"),
        (["--h3", "16"], "wanted a resolution of H3 from 0 to 15"),
        (["--kind", "region"], "no rows of kind region; geotag again with --areas region"),
        (["--kind", "country", "--by", "colour"], "choose year, month"),
        (["--kind", "country", "--by", "latitude"], "the column holds double"),
        (["--kind", "country", "--h3", "2"], "wanted one of --h3 N, --kind KIND and --polygons"),
        (["--h3", "2", "--pixel", "0"], "wanted 0.02 to 5 degrees"),
        (["--polygons", "missing.geojson"], "cannot be read"),
        (["--h3", "2", "--polygon-name", "x"], "give FILE, too"),
    ],
)
def test_mistakes_are_told(
    words: list[str], told: str, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(out), "--output", str(tmp_path / "made"), *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_what_is_no_such_output_is_told(
    tmp_path: Path, photos: list[Mass], capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> str:
        assert main([str(tmp_path), "--output", str(tmp_path / "made"), *words]) == 2
        return capsys.readouterr().err

    assert "holds no run.json" in told("--h3", "2")
    (tmp_path / "run.json").write_text("{}")
    assert "geotag again with --areas" in told("--h3", "2")
    write_areas(tmp_path, "a", {"x": photos[0], "y": photos[1]})
    write_areas(tmp_path, "b", {"x": photos[0]})
    part = tmp_path / "areas/part-b.parquet"
    for broken, why in (
        ({"area": pa.nulls(1, pa.string()), "rest": pa.nulls(1, pa.string())}, "not one of `area`"),
        ({"probability": pa.array([-0.5], pa.float32())}, "a probability is -0.5"),
        ({"area": pa.array(["NO"])}, "is no H3 cell"),
    ):
        write_areas(tmp_path, "b", {"x": photos[0]})
        table = pq.read_table(part)[:1]
        for name, column in broken.items():
            table = table.set_column(table.column_names.index(name), name, column)
        pq.write_table(table, part)
        assert why in told("--h3", "2", "--overwrite")
    write_areas(tmp_path, "b", {"x": photos[0]})
    (tmp_path / "run.json").write_text("{}")  # as if it did not say how fine its cells are
    assert "no finer than resolution 3" in told("--h3", "5")
    (tmp_path / "predictions/part-b.parquet").unlink()
    assert "part-b.parquet is only in one of" in told("--h3", "2")


def test_rows_that_are_missing_fail_the_command(
    tmp_path: Path, photos: list[Mass], capsys: pytest.CaptureFixture[str]
) -> None:
    half = {place: p / 2 for place, p in photos[0].items()}
    write_areas(tmp_path, "a", {"x": half, "y": photos[1]})
    assert main([str(tmp_path), "--output", str(tmp_path / "m"), "--kind", "country"]) == 1
    assert "do not add up to 2 photos" in capsys.readouterr().err


def test_another_aggregate_is_not_replaced_unasked(
    out: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--kind", "country")
    before = (tmp_path / "made/aggregate.parquet").read_bytes()
    words = [str(out), "--output", str(tmp_path / "made")]
    assert main([*words, "--h3", "1"]) == 2
    assert "holds another aggregate" in capsys.readouterr().err
    run("--kind", "country")
    assert (tmp_path / "made/aggregate.parquet").read_bytes() == before
    assert main(["--output", str(tmp_path / "made"), "--summarise"]) == 0
    assert f"{PHOTOS} photos in 6 areas" in capsys.readouterr().out


def test_the_page_asks_for_nothing_and_obeys_no_name(run: Run, tmp_path: Path) -> None:
    run("--kind", "country", "--by", "camera")
    page = (tmp_path / "made/aggregate.html").read_text()
    assert 'http-equiv="Content-Security-Policy"' in page and "default-src" in page
    assert "http://" not in page and "https://" not in page
    assert (tmp_path / "made/aggregate.png").read_bytes()[:4] == b"\x89PNG"

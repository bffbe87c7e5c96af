"""What a run writes besides points if asked to: regions, thumbnails, names of the user's units."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image

from locdiffusion.decoding.credible_regions import CredibleRegion
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.thumbnails import Chosen, small_jpeg
from locdiffusion.sphere import hilbert
from locdiffusion.sphere.hilbert import hilbert_index
from pipelines.geotag import command as geotag
from pipelines.geotag import writing
from pipelines.geotag.batches import PhotoBatch, read_batches, run_stage
from pipelines.geotag.console import summary_table
from pipelines.geotag.output import Output, OutputError, RunConfiguration, write_shard
from pipelines.geotag.summary import summarise
from pipelines.geotag.tables import Extras
from schemas import geoparquet
from schemas.geotags import PREDICTION_SCHEMA, Stage
from schemas.layers import REGION_SCHEMA, THUMBNAIL_SCHEMA, THUMBNAIL_SIDE, Thumbnail
from support.archives import bad_members, photo, sound_members, write_tar
from support.fake_geotagger import FakeGeotagger, FakeLoader
from support.outputs import plain, tree

ALL = Extras(regions=True, thumbnails=5)
CONFIGURATION = RunConfiguration("fake-1", "f" * 64, 7, ALL.settings())


pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Sound photos, bad ones, and one of no blue at all, of which no region can be drawn."""
    bad = [member for members, _ in bad_members().values() for member in members]
    yellow = io.BytesIO()
    Image.new("RGB", (300, 200), (200, 120, 0)).save(yellow, "PNG")
    large = ("large.jpg", photo(50, (640, 480)))
    members = [*sound_members(20), *bad, ("yellow.png", yellow.getvalue()), large]
    return write_tar(tmp_path / "s-0.tar", members)


def decoded(path: Path, batch_size: int = 4, shard_id: str = "s-0") -> list[PhotoBatch]:
    model = FakeGeotagger()
    shard = Shard(shard_id, str(path))
    batches = list(read_batches(shard, model.preprocess, batch_size, thumbnails=ALL.thumbnails))
    for stage in (Stage.EMBED, Stage.SAMPLE, Stage.DECODE):
        batches = [run_stage(batch, stage, model, ALL.regions) for batch in batches]
    return batches


def written(root: Path, batches: list[PhotoBatch]) -> dict[str, Any]:
    return write_shard(Output(str(root)), CONFIGURATION, batches, ALL)


# Layers


def test_bytes_do_not_depend_on_batches(archive: Path, tmp_path: Path) -> None:
    trees = []
    for name, batch_size in (("a", 1), ("b", 7), ("c", 64)):
        written(tmp_path / name, decoded(archive, batch_size)[::-1])
        trees.append(tree(tmp_path / name))
    assert trees[0] == trees[1] == trees[2]
    assert sorted(map(plain, trees[0])) == [
        "_manifest/s-0.json",
        "errors/part-s-0.parquet",
        "predictions/part-s-0.parquet",
        "regions/part-s-0.parquet",
        "thumbnails/part-s-0.parquet",
    ]


def test_regions_are_polygons_beside_their_predictions(archive: Path, tmp_path: Path) -> None:
    manifest = written(tmp_path / "out", decoded(archive))
    schema = pq.read_schema(tmp_path / "out/regions/part-s-0.parquet")
    assert schema.equals(REGION_SCHEMA)
    geoparquet.validate(schema, geoparquet.POLYGONS)
    assert schema.metadata[b"schema_version"] == b"6"
    regions = geopandas.read_parquet(tmp_path / "out/regions")
    predictions = geopandas.read_parquet(tmp_path / "out/predictions").set_index("key")
    assert manifest["layers"]["regions"] == len(regions) == 2 * (len(predictions) - 1)
    assert set(regions.groupby("key")["level"].agg(tuple)) == {(0.5, 0.9)}
    assert regions.is_valid.all() and (regions.probability == regions.level).all()
    at = predictions.loc[regions.key]
    assert shapely.covers(regions.geometry.values, at.geometry.values).all()
    # In the order of the predictions, but for those with a box across the whole map.
    width = regions.bounds.maxx - regions.bounds.minx
    assert (np.diff(width > 90) >= 0).all()
    narrow = set(regions.key) - set(regions.key[width > 90])
    order = [key for key in dict.fromkeys(regions.key) if key in narrow]
    assert order == [key for key in predictions.index if key in narrow] and len(order) > 9


def test_a_region_that_fails_costs_no_prediction(archive: Path, tmp_path: Path) -> None:
    manifest = written(tmp_path / "out", decoded(archive))
    keys = pq.read_table(tmp_path / "out/predictions")["key"].to_pylist()
    assert "yellow" in keys
    assert manifest["photo_errors"] == pq.read_table(tmp_path / "out/errors").num_rows
    reason = "RuntimeError: not blue enough for a region"
    assert manifest["regions_failed"] == {reason: 1}
    summary = summarise(Output(str(tmp_path / "out")))
    assert summary["regions_failed"] == {reason: 1} and summary["mismatches"] == []
    assert f"1 photo without: {reason}" in summary_table(summary)


@pytest.mark.parametrize("geometry", [shapely.Polygon(), shapely.Point(1, 2)])
def test_a_region_that_is_none_is_not_written(
    geometry: shapely.Geometry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = CredibleRegion(0.5, geometry, 1.0, 0.5)
    monkeypatch.setattr(FakeGeotagger, "regions", lambda self, natural: [(region,)])
    path = write_tar(tmp_path / "s.tar", sound_members(3))
    manifest = written(tmp_path / "out", decoded(path))
    assert manifest["predictions"] == 3 and manifest["layers"]["regions"] == 0
    assert sum(manifest["regions_failed"].values()) == 3


def test_thumbnails_are_of_predicted_photos(archive: Path, tmp_path: Path) -> None:
    manifest = written(tmp_path / "out", decoded(archive))
    table = pq.read_table(tmp_path / "out/thumbnails/part-s-0.parquet")
    assert table.schema.equals(THUMBNAIL_SCHEMA)
    assert manifest["layers"]["thumbnails"] == table.num_rows <= 5
    keys = pq.read_table(tmp_path / "out/predictions")["key"].to_pylist()
    for row in table.to_pylist():
        assert row["key"] in keys and row["shard"] == "s-0"
        picture = Image.open(io.BytesIO(row["jpeg"]))
        assert picture.format == "JPEG" and max(picture.size) <= THUMBNAIL_SIDE


def test_every_layer_must_be_there_and_add_up(archive: Path, tmp_path: Path) -> None:
    output, shard = Output(str(tmp_path / "out")), Shard("s-0", str(archive))
    for layer in ("regions", "thumbnails"):
        written(tmp_path / "out", decoded(archive))
        assert output.kept(shard, CONFIGURATION, shard.version)
        path = tmp_path / f"out/{layer}/part-s-0.parquet"
        pq.write_table(pq.read_table(path)[1:], path)
        assert "rows, the manifest says" in summarise(output)["mismatches"][0]
        path.unlink()
        assert not output.kept(shard, CONFIGURATION, shard.version)
        assert "cannot be read" in summarise(output)["mismatches"][0]


def test_empty_shards_have_empty_layers(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "empty.tar", [])
    written(tmp_path / "out", decoded(path))
    assert len(geopandas.read_parquet(tmp_path / "out/regions")) == 0
    assert pq.read_table(tmp_path / "out/thumbnails").num_rows == 0
    assert summarise(Output(str(tmp_path / "out")))["mismatches"] == []


# Thumbnails


def test_the_choice_does_not_depend_on_order(rng: np.random.Generator) -> None:
    keys = [f"{i:03d}.jpg" for i in range(200)]
    found = []
    for order in (keys, keys[::-1], [keys[i] for i in rng.permutation(200)]):
        chosen = Chosen(7)
        made = 0
        for key in order:
            if chosen.wants(key):
                chosen.add(Thumbnail(key, b"jpeg"))
                made += 1
        found.append([thumbnail.key for thumbnail in chosen.thumbnails()])
        assert made < 60  # 7 (1 + ln(200/7)) = 30 on average
    assert found[0] == found[1] == found[2] and len(found[0]) == 7
    assert found[0] != keys[:7]
    assert not Chosen(0).wants("x")


@pytest.mark.parametrize(
    ("mode", "size", "wanted"),
    [
        ("RGB", (960, 480), (96, 48)),
        ("RGBA", (100, 400), (24, 96)),
        ("P", (50, 40), (50, 40)),
        ("L", (3000, 1), (96, 1)),
    ],
)
def test_small_pictures(mode: str, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    image = Image.new(mode, size)
    image.info["comment"] = b"by a photographer"
    small = small_jpeg(image)
    assert small is not None and b"photographer" not in small
    assert Image.open(io.BytesIO(small)).size == wanted
    assert image.size == size


def test_what_cannot_be_shown_has_no_thumbnail() -> None:
    assert small_jpeg(Image.new("RGB", (0, 4))) is None


# Order


def test_hilbert_curve_never_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hilbert, "ORDER", 4)
    centres = (np.arange(16) + 0.5) / 16
    latitude, longitude = np.meshgrid(180 * centres - 90, 360 * centres - 180, indexing="ij")
    index = hilbert_index(latitude.ravel(), longitude.ravel())
    assert sorted(index) == list(range(256))
    row, column = np.divmod(np.argsort(index), 16)
    assert (np.abs(np.diff(row)) + np.abs(np.diff(column)) == 1).all()
    assert (row[0], column[0], row[-1], column[-1]) == (0, 0, 0, 15)


def test_the_corners_of_the_map_have_a_place() -> None:
    index = hilbert_index([-90, 90, 90, -90], [-180, -180, 180, 180])
    assert list(index) == sorted(index) and index[0] == 0 and index[-1] == 4**16 - 1


def test_predictions_are_in_spatial_order(archive: Path, tmp_path: Path) -> None:
    written(tmp_path / "out", decoded(archive))
    table = pq.read_table(tmp_path / "out/predictions/part-s-0.parquet")
    place = hilbert_index(table["latitude"].to_numpy(), table["longitude"].to_numpy())
    pairs = list(zip(place.tolist(), table["key"].to_pylist(), strict=True))
    assert pairs == sorted(pairs) and len(pairs) > 20


# The command


@pytest.fixture
def tars(tmp_path: Path) -> str:
    for index in range(3):
        write_tar(tmp_path / f"in/val-{index:03d}.tar", sound_members(12, 20 * index))
    return str(tmp_path / "in/*.tar")


def run(tars: str, output: Path, *flags: str) -> int:
    return geotag.main(["--input", tars, "--output", str(output), *flags], load=FakeLoader())


FLAGS = ("--regions", "--thumbnails=4")


def results(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(root).items() if name != "summary.json"}


def test_a_stopped_run_goes_on_with_all_layers(
    tars: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tars, tmp_path / "whole", *FLAGS) == 0
    real, done = writing.write_shard, []

    def stops(target: Output, *rest: Any) -> dict[str, Any]:
        if done:
            target.write("regions", "part-val-002.parquet", data=b"half")  # killed half way
            raise OSError("pulled the plug")
        done.append(target)
        return real(target, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_shard", stops)
        assert run(tars, tmp_path / "out", *FLAGS) == 1
    assert run(tars, tmp_path / "out", *FLAGS, "--batch_size=5") == 0
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["layers"] == {"regions": 72, "thumbnails": 12}
    predictions = pandas.read_parquet(tmp_path / "out/predictions")
    assert (predictions.land_probability > 0).all() and predictions.admin.isna().all()


@pytest.mark.usefixtures("plain_loop")
def test_runs_with_and_without_layers_do_not_mix(tars: str, tmp_path: Path, capsys: Any) -> None:
    assert run(tars, tmp_path / "out", *FLAGS) == 0
    for flags, message in (
        ((), "regions True there, None now; thumbnails 4 there, None now"),
        (("--regions",), "run: thumbnails 4 there, None now"),
        (("--regions", "--thumbnails", "3"), "thumbnails 4 there, 3 now"),
    ):
        assert run(tars, tmp_path / "out", *flags) == 2
        assert message in capsys.readouterr().err
    assert run(tars, tmp_path / "out", "--overwrite") == 0
    layers = {path.parent.name for path in (tmp_path / "out").glob("*/*.parquet")}
    assert layers == {"predictions", "errors"}


def test_an_output_of_an_older_schema_is_refused(tars: str, tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    output.prepare(CONFIGURATION, [])
    old = {**CONFIGURATION.to_dict(), "schema_version": "1"}
    output.write("run.json", data=json.dumps(old).encode())
    with pytest.raises(OutputError, match=r"schema version 1.*writes version 6.*--overwrite"):
        output.prepare(CONFIGURATION, [])


# Pictures without their last bytes


@pytest.mark.parametrize("flags", [(), ("--direct_num_workers=2",)])
def test_salvage_is_a_setting_of_the_run(
    flags: tuple[str, ...], tmp_path: Path, capsys: Any
) -> None:
    whole = photo(1, (300, 200))
    archive = write_tar(tmp_path / "s.tar", [("a.jpg", whole[:-99]), ("b.jpg", whole)])
    assert run(str(archive), tmp_path / "out", *flags) == 0
    (error,) = pq.read_table(tmp_path / "out/errors").to_pylist()
    assert (error["key"], error["status"]) == ("a", "incomplete_image")
    assert run(str(archive), tmp_path / "out", "--salvage", *flags) == 2
    assert "salvage None there, True now" in capsys.readouterr().err
    assert run(str(archive), tmp_path / "salvaged", "--salvage", *flags) == 0
    assert set(pq.read_table(tmp_path / "salvaged/predictions")["key"].to_pylist()) == {"a", "b"}


# Units of the user's own


def units(path: Path, **names: list[Any]) -> str:
    boxes = [shapely.box(-180, -90, 0, 90), shapely.box(0, -90, 180, 0)]
    table = geopandas.GeoDataFrame(names or {"name": ["west", "south"]}, geometry=boxes, crs=4326)
    table.to_file(path, driver="GeoJSON")
    return str(path)


@pytest.mark.usefixtures("plain_loop")
def test_admin_names_the_unit_around_each_point(tars: str, tmp_path: Path, capsys: Any) -> None:
    path = units(tmp_path / "units.geojson", district=["west", "south"], code=["W", "S"])
    output = tmp_path / "out"
    assert run(tars, output, "--admin", path, "--admin_name", "code") == 0
    table = pq.read_table(output / "predictions")
    assert table.schema.names == PREDICTION_SCHEMA.names
    rows = table.to_pylist()
    wanted = ["W" if r["longitude"] < 0 else "S" if r["latitude"] < 0 else None for r in rows]
    assert [row["admin"] for row in rows] == wanted and len(set(wanted)) == 3
    recorded = json.loads((output / "run.json").read_text())
    assert recorded["admin"].startswith("units.geojson sha256:")
    assert recorded["admin_name"] == "code"
    Path(path).rename(tmp_path / "in" / "units.geojson")  # moved: the same run
    moved = str(tmp_path / "in" / "units.geojson")
    assert run(tars, output, "--admin", moved, "--admin_name", "code") == 0
    units(Path(moved), code=["X", "Y"])  # changed: another
    assert run(tars, output, "--admin", moved, "--admin_name", "code") == 2
    assert "admin 'units.geojson sha256:" in capsys.readouterr().err


def test_units_that_cannot_be_used_are_told_before_the_job(
    tars: str, tmp_path: Path, capsys: Any
) -> None:
    two = units(tmp_path / "two.geojson", district=["west", "south"], code=["W", "S"])
    for flags, message in (
        (("--admin", "nowhere.geojson"), "nowhere.geojson cannot be read"),
        (("--admin", two), "which of its columns holds the names"),
        (("--admin", two, "--admin_name", "kode"), "no column 'kode'. Choose one of"),
        (("--admin_name", "code"), "name the file: --admin FILE"),
        (("--admin", two, "--runner=DataflowRunner"), "two.geojson lies on this machine"),
        (("--prior", two, "--runner=DataflowRunner"), "give --prior gs://BUCKET/two.geojson"),
    ):
        assert run(tars, tmp_path / "out", *flags) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

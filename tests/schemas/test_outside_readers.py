"""What others say of our files: a validator, GeoPandas and DuckDB, none of which is ours."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import geoparquet_validator
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import torch

from locdiffusion.decoding.answers import GeotagColumns, Mode
from locdiffusion.decoding.credible_regions import RegionFinder
from locdiffusion.density.shdd import encode
from locdiffusion.geography.polygons import within_world
from locdiffusion.photos.blocks import TarStatus
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.positions import PhotoPositions
from pipelines.geotag.batches import Decoded, PhotoBatch, ShardEnding
from pipelines.geotag.late_results import written_region
from pipelines.geotag.output import Output, RunConfiguration, write_shard
from pipelines.geotag.tables import Extras
from schemas.geotags import THRESHOLDS_KM
from schemas.layers import Region
from schemas.training import INDEX_SCHEMA, index_table

CONFIGURATION = RunConfiguration("fake-1", "f" * 64, 0, {})
PHOTOS = 50_000
WITH_REGIONS = 4_000
FRANCE = (-5.0, 42.0, 8.0, 51.0)
"""West, south, east, north."""


def synthetic(count: int, seed: int, regions: bool) -> PhotoBatch:
    """Photos in towns all over the world, as they come out of the decoder."""
    rng = np.random.default_rng(seed)
    towns = np.stack([rng.uniform(-60, 75, 500), rng.uniform(-180, 180, 500)], 1)
    places = towns[rng.integers(500, size=count)] + rng.normal(0, 1, (count, 2))
    latitude, longitude = places[:, 0], (places[:, 1] + 180) % 360 - 180
    some = np.ones(count)
    answers = GeotagColumns(
        latitude=latitude,
        longitude=longitude,
        radius_50_km=10 * some,
        radius_90_km=30 * some,
        probability=np.full((count, len(THRESHOLDS_KM)), 0.5, np.float32),
        information_nats=some.astype(np.float32),
        land_probability=some.astype(np.float32),
        modes=[(Mode(*place, 0.5, 10.0),) for place in places.tolist()],
    )
    drawn = [around(*place) for place in zip(latitude, longitude, strict=True)] if regions else None
    ending = ShardEnding(1, count, TarStatus.COMPLETE, "", "")
    keys = tuple(f"{i:06d}" for i in range(count))
    nowhere = (PhotoPositions(),) * count
    payload = Decoded(answers, drawn) if count else None
    return PhotoBatch(Shard("s-0", "s-0.tar"), 0, keys, nowhere, payload, (), ending)


def around(latitude: float, longitude: float) -> tuple[Region, ...]:
    discs = [shapely.Point(longitude, latitude).buffer(size) for size in (0.5, 1.0)]
    shapes = shapely.reverse(shapely.normalize([within_world(disc) for disc in discs]))
    return tuple(
        Region(level, shapely.to_wkb(shape), shape.bounds, 1e4, level)
        for level, shape in zip((0.5, 0.9), shapes, strict=True)
    )


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A large file of each layer with places, written by our own sink."""
    root = tmp_path_factory.mktemp("out")
    points, regions = Output(str(root / "points")), Output(str(root / "regions"))
    write_shard(points, CONFIGURATION, [synthetic(PHOTOS, 1, False)])
    write_shard(regions, CONFIGURATION, [synthetic(WITH_REGIONS, 2, True)], Extras(regions=True))
    return {
        "predictions": root / "points/predictions/part-s-0.parquet",
        "regions": root / "regions/regions/part-s-0.parquet",
    }


# The validator of GeoParquet's own project


def complaints(path: Path, least: int = 15) -> dict[str, str]:
    outcomes = geoparquet_validator.check(str(path))["outcomes"]
    passed = sum(one["status"] == "pass" for one in outcomes)
    assert passed >= least, "the validator has looked at next to nothing"
    return {one["id"]: one["message"] for one in outcomes if one["status"] == "fail"}


@pytest.mark.parametrize("layer", ["predictions", "regions"])
def test_the_validator_has_no_complaint(layers: dict[str, Path], layer: str) -> None:
    """Nor of the spatial order: a window skips about as many groups as it could."""
    assert complaints(layers[layer]) == {}


def test_the_validator_accepts_layers_without_rows(tmp_path: Path) -> None:
    empty = [synthetic(0, 3, True)]
    write_shard(Output(str(tmp_path)), CONFIGURATION, empty, Extras(regions=True))
    for layer in ("predictions", "regions"):
        found = complaints(tmp_path / layer / "part-s-0.parquet", least=10)
        # A file without rows has no statistics; that class of tests is about large files.
        assert [name for name in found if "/distribution/" not in name] == []


def test_the_validator_accepts_regions_over_poles_and_the_antimeridian(tmp_path: Path) -> None:
    """Drawn by the library itself, not by a fake."""
    finder = RegionFinder(15)
    places = [(89.0, 0.0), (-90.0, 10.0), (0.0, 179.9), (-20.0, -180.0), (48.0, 2.0)]
    natural = torch.from_numpy(np.stack([60.0 / 256 * encode(*place, 15) for place in places]))
    batch = synthetic(len(places), 4, True)
    drawn = finder(natural[:, None])
    written = [tuple(written_region(one) for one in regions) for regions in drawn]
    batch = replace(batch, payload=replace(batch.payload, regions=written))
    write_shard(Output(str(tmp_path)), CONFIGURATION, [batch], Extras(regions=True))
    path = tmp_path / "regions/part-s-0.parquet"
    assert complaints(path) == {}
    frame = geopandas.read_parquet(path)
    assert frame.is_valid.all() and set(frame.geom_type) == {"Polygon", "MultiPolygon"}
    west, south, east, north = frame.total_bounds
    assert (west, south, east, north) == (-180, -90, 180, 90)


def test_the_validator_accepts_the_index_of_training_shards(tmp_path: Path) -> None:
    count = 20
    values = {field.name: blank(field.type, count) for field in INDEX_SCHEMA}
    values |= {
        "latitude": [float(i) for i in range(count)],
        "longitude": [-5.0 * i for i in range(count)],
    }
    pq.write_table(index_table(values), tmp_path / "index.parquet", compression="zstd")
    assert complaints(tmp_path / "index.parquet") == {}


def blank(kind: pa.DataType, count: int) -> list[Any]:
    """Values that any column of a type takes."""
    if pa.types.is_string(kind):
        return [f"{i:03d}" for i in range(count)]
    return [0] * count if pa.types.is_integer(kind) else [0.0] * count


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"geometry_types": ["LineString"]}, "geometry-types"),
        ({"bbox": [0.0, 0.0, 1.0, 1.0]}, "bbox-extent"),
        ({"orientation": "clockwise"}, "orientation-value"),
    ],
)
def test_the_validator_would_complain(
    layers: dict[str, Path], change: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    table = pq.read_table(layers["regions"])
    geo = json.loads(table.schema.metadata[b"geo"])
    geo["columns"]["geometry"] |= change
    metadata = {**table.schema.metadata, b"geo": json.dumps(geo).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "wrong.parquet")
    assert any(complaint in found for found in complaints(tmp_path / "wrong.parquet"))


# Readers that skip what they do not need


@pytest.mark.parametrize("layer", ["predictions", "regions"])
def test_row_groups_are_small_places(layers: dict[str, Path], layer: str) -> None:
    """What a box needs, by the statistics that every reader has."""
    needed, groups = groups_in(layers[layer], FRANCE)
    assert 0 < len(needed) <= groups // 2
    metadata = pq.read_metadata(layers[layer])
    assert all(metadata.row_group(i).num_rows <= 5_000 for i in range(groups))


def groups_in(path: Path, box: tuple[float, ...]) -> tuple[list[int], int]:
    """The row groups whose rows may touch a box, and how many there are."""
    metadata = pq.read_metadata(path)
    needed = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(i) for i in range(group.num_columns)]
        side = {c.path_in_schema: c.statistics for c in columns if c.path_in_schema[:5] == "bbox."}
        west, south = side["bbox.xmin"].min, side["bbox.ymin"].min
        east, north = side["bbox.xmax"].max, side["bbox.ymax"].max
        if west <= box[2] and east >= box[0] and south <= box[3] and north >= box[1]:
            needed.append(number)
    return needed, metadata.num_row_groups


class CountingFile(io.FileIO):
    """A file that knows how much of it was read."""

    taken = 0

    def read(self, size: int = -1) -> bytes:  # type: ignore[override]
        data = super().read(size)
        assert data is not None
        self.taken += len(data)
        return data


@pytest.mark.parametrize("layer", ["predictions", "regions"])
def test_geopandas_reads_less_of_a_file_for_a_box(layers: dict[str, Path], layer: str) -> None:
    with CountingFile(layers[layer]) as part, CountingFile(layers[layer]) as whole:
        found = geopandas.read_parquet(part, bbox=FRANCE)
        everything = geopandas.read_parquet(whole)
    assert part.taken < 0.7 * whole.taken
    inside = everything.cx[FRANCE[0] : FRANCE[2], FRANCE[1] : FRANCE[3]]
    assert len(inside) > 0 and set(inside.key) <= set(found.key)
    if layer == "predictions":
        assert sorted(found.key) == sorted(inside.key)


@pytest.mark.parametrize("layer", ["predictions", "regions"])
def test_duckdb_reads_less_of_a_file_for_a_box(
    layers: dict[str, Path], layer: str, tmp_path: Path
) -> None:
    """Plain SQL on the bbox struct: no extension."""
    west, south, east, north = FRANCE
    query = f"SELECT key, geometry, bbox FROM '{layers[layer]}'"
    everything, whole = profiled(query, tmp_path)
    found, part = profiled(
        f"{query} WHERE bbox.xmin <= {east} AND bbox.xmax >= {west} "
        f"AND bbox.ymin <= {north} AND bbox.ymax >= {south}",
        tmp_path,
    )
    assert bytes_read(part) < bytes_read(whole) and 0 < len(found) < len(everything)
    theirs = geopandas.read_parquet(layers[layer], bbox=FRANCE).key
    assert sorted(key for key, *_ in found) == sorted(theirs)
    if "query" in part:  # since DuckDB 2
        needed, groups = groups_in(layers[layer], FRANCE)
        assert part["query"]["total_row_groups_to_scan"] == groups
        assert 0 < part["query"]["total_row_groups_scanned"] <= len(needed)


def profiled(query: str, directory: Path) -> tuple[list[Any], dict[str, Any]]:
    """The rows of a query in a new DuckDB, and what it tells of its work."""
    profile = directory / "profile.json"
    with duckdb.connect() as connection:
        connection.execute("PRAGMA enable_profiling = 'json'")
        connection.execute(f"PRAGMA profiling_output = '{profile}'")
        rows = connection.execute(query).fetchall()
    return rows, json.loads(profile.read_text())


def bytes_read(profile: dict[str, Any]) -> int:
    count: int = profile.get("io", profile)["total_bytes_read"]
    return count

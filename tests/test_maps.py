"""The maps read only what a run wrote, in bounded memory, and trust none of it."""

import json
import re
from types import SimpleNamespace

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from locdiffusion.sphere.geodesy import destination
from pipelines.maps import page, picture, rows, write_map_html, write_map_png
from schemas.geotags import THRESHOLDS_KM, prediction_table

HOSTILE_KEY = "</script><script>alert(1)</script><!--\u2028'\"&amp;"


def write_predictions(directory, shard, count, rng, truth=True, keys=None):
    """Writes a shard of synthetic predictions; every second row has a truth if `truth`."""
    latitude, longitude = rng.uniform(-85, 85, count), rng.uniform(-180, 180, count)
    radius_90_km = np.exp(rng.normal(6, 1, count))
    true_latitude, true_longitude = destination(
        latitude, longitude, rng.uniform(0, 360, count), radius_90_km * rng.uniform(0, 1, count)
    )
    hidden = (np.arange(count) % 2 == 1) | (not truth)
    unknown = np.full(count, np.nan)
    columns = {
        "key": keys or [f"{shard}-{i}" for i in range(count)],
        "latitude": latitude,
        "longitude": longitude,
        "radius_50_km": radius_90_km / 2,
        "radius_90_km": radius_90_km,
        "information_nats": 9 - np.log(radius_90_km),
        "probability": [[1 - np.exp(-km / r) for km in THRESHOLDS_KM] for r in radius_90_km],
        "modes": [
            [SimpleNamespace(latitude=a, longitude=b, probability=0.75, radius_km=r / 2)]
            for a, b, r in zip(latitude, longitude, radius_90_km, strict=True)
        ],
        "exif_latitude": unknown,
        "exif_longitude": unknown,
        "truth_latitude": np.where(hidden, np.nan, true_latitude),
        "truth_longitude": np.where(hidden, np.nan, true_longitude),
    }
    predictions = directory / "predictions"
    predictions.mkdir(parents=True, exist_ok=True)
    pq.write_table(prediction_table(shard, "model", columns), predictions / f"part-{shard}.parquet")


def page_json(path):
    """The data inside a written page."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


@pytest.fixture
def run(tmp_path, rng):
    """An output directory of two groups of shards."""
    write_predictions(tmp_path, "seen-000000", 30, rng)
    write_predictions(tmp_path, "seen-000001", 30, rng)
    write_predictions(tmp_path, "unseen-000000", 20, rng)
    return tmp_path


def test_png_is_a_picture_and_the_same_twice(run, tmp_path):
    write_map_png(str(run), str(tmp_path / "a.png"))
    write_map_png(str(run), str(tmp_path / "b.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 1000
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 100


def test_png_shows_accuracy_only_where_truth_is_known(run, tmp_path, rng):
    with_truth = picture.draw_figure(rows.read_rows(str(run), 1000))
    write_predictions(tmp_path / "blind", "a-0", 10, rng, truth=False)
    without = picture.draw_figure(rows.read_rows(str(tmp_path / "blind"), 1000))
    assert len(with_truth.axes) == len(without.axes) + 2


def test_maps_of_a_run_without_any_prediction(tmp_path, rng):
    write_predictions(tmp_path, "a-0", 0, rng)
    write_map_png(str(tmp_path), str(tmp_path / "map.png"))
    write_map_html(str(tmp_path), str(tmp_path / "map.html"))
    assert page_json(tmp_path / "map.html")["title"] == "0 photos geotagged"


def test_a_directory_without_predictions_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pipelines\.geotag --output"):
        write_map_png(str(tmp_path), str(tmp_path / "map.png"))


def test_thinning_is_even_across_files_and_keeps_the_total(run):
    everything = rows.read_rows(str(run), 80)
    third = rows.read_rows(str(run), 27)
    assert (len(everything), third.total) == (80, 80)
    assert third.rows["key"] == everything.rows["key"][::3]
    np.testing.assert_array_equal(third.numbers["latitude"], everything.numbers["latitude"][::3])


def test_accuracy_is_grouped_by_shard_name_and_counts_only_rows_with_truth(run):
    groups = picture.accuracy_groups(rows.read_rows(str(run), 1000))
    assert {name: len(errors) for name, errors in groups.items()} == {"seen": 30, "unseen": 10}
    assert all((np.diff(errors) >= 0).all() for errors in groups.values())


def test_many_groups_are_merged_without_losing_a_row(tmp_path, rng):
    for letter in "abcdefghi":
        write_predictions(tmp_path, f"{letter}-0", 4, rng)
    groups = picture.accuracy_groups(rows.read_rows(str(tmp_path), 1000))
    assert len(groups) == len(picture.GROUP_COLOURS)
    assert sum(map(len, groups.values())) == 9 * 2


@pytest.mark.parametrize(
    ("shard", "group"),
    [("unseen-000003", "unseen"), ("a.b_12", "a.b"), ("000", "all shards"), ("x", "x")],
)
def test_group_of_shard(shard, group):
    assert rows.group_of_shard(shard) == group


@pytest.mark.parametrize(
    ("radius_km", "wanted"),
    [([120, 300, 900], (100, 1000)), ([], (10, 10_000)), ([300] * 5, (200, 1000))],
)
def test_colour_range_has_round_ends_around_the_radii(radius_km, wanted):
    assert rows.colour_range_km(np.asarray(radius_km, float)) == wanted


def test_equal_earth_keeps_areas():
    """Every cell of equal area on the sphere has equal area on the map, by finite differences."""
    latitude, longitude = np.meshgrid([-80.0, -45.0, 0.0, 30.0, 75.0], [-170.0, 0.0, 120.0])
    step = 1e-4
    x_east, y_east = picture.equal_earth(longitude + step, latitude)
    x_north, y_north = picture.equal_earth(longitude, latitude + step)
    x, y = picture.equal_earth(longitude, latitude)
    area = (x_east - x) * (y_north - y) - (x_north - x) * (y_east - y)
    on_sphere = np.radians(step) ** 2 * np.cos(np.radians(latitude))
    np.testing.assert_allclose(area / on_sphere, 1.0, rtol=1e-4)


def test_page_holds_the_rows(run):
    write_map_html(str(run), str(run / "map.html"))
    data = page_json(run / "map.html")
    shown = geopandas.read_parquet(run / "predictions")
    assert sorted(data["key"]) == sorted(shown["key"])
    by_key = shown.set_index("key").loc[data["key"]]
    np.testing.assert_allclose(data["latitude"], by_key["latitude"], atol=5e-5)
    np.testing.assert_allclose(data["probability"][2], by_key["prob_200km"], atol=5e-4)
    assert [data["shards"][i] for i in data["shard"]] == list(by_key["shard"])
    assert sum(value is None for value in data["truth_latitude"]) == 40
    np.testing.assert_allclose(data["modes"][0][2:], [0.75, data["radius_50_km"][0]], atol=0.05)


def test_a_hostile_key_cannot_leave_its_place(tmp_path, rng):
    write_predictions(tmp_path, "a-0", 2, rng, keys=[HOSTILE_KEY, "plain"])
    write_map_html(str(tmp_path), str(tmp_path / "map.html"))
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text
    assert text.count("<script") == text.count("</script>") == 2
    assert "\u2028" not in text
    assert HOSTILE_KEY in page_json(tmp_path / "map.html")["key"]


def test_page_asks_nobody_and_builds_no_html_from_strings():
    template = page.TEMPLATE.read_text(encoding="utf-8")
    assert template.count(page.TEMPLATE_SLOT) == 1
    assert "default-src 'none'" in template
    for forbidden in ("http:", "https:", "src=", "href=", "innerHTML", "document.write", "fetch("):
        assert forbidden not in template


def test_outlines_are_small_and_cover_the_world():
    assert rows.OUTLINES.stat().st_size < 300_000
    points = np.concatenate(rows.read_outlines())
    assert points.min(axis=0).tolist() == [-180, -90]
    assert points[:, 0].max() == 180
    assert points[:, 1].max() > 83
    ring = rows.read_outlines()[0]
    steps = np.reshape(page._compact_ring(ring), (-1, 2))
    np.testing.assert_allclose(np.cumsum(steps, axis=0) / 100, ring, atol=1e-9)

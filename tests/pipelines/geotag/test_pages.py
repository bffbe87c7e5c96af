"""The maps read only what a run wrote, in bounded memory, and trust none of it."""

import base64

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from PIL import Image

from locdiffusion.drawing import world_map
from locdiffusion.drawing.palette import STRANGE
from locdiffusion.geography.countries import country_codes
from pipelines.geotag.pages import page, picture, rows, write_map_html, write_map_png
from pipelines.geotag.pages.filling import fill
from support.outputs import (
    HOSTILE_KEY,
    digest_of,
    rows_of,
    write_maps,
    write_predictions,
    write_thumbnails,
)
from support.packed import page_json, unpacked


@pytest.fixture
def run(tmp_path, rng):
    """An output directory of two groups of shards."""
    write_predictions(tmp_path, "seen-000000", 30, rng)
    write_predictions(tmp_path, "seen-000001", 30, rng)
    write_predictions(tmp_path, "unseen-000000", 20, rng)
    return tmp_path


def test_png_is_a_picture_and_the_same_twice(run, tmp_path):
    write_map_png(digest_of(run).sample, str(tmp_path / "a.png"))
    write_map_png(digest_of(run).sample, str(tmp_path / "b.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 1000
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 100


def test_png_shows_accuracy_only_where_truth_is_known(run, tmp_path, rng):
    with_truth = picture.draw_figure(rows_of(run, 1000))
    write_predictions(tmp_path / "blind", "a-0", 10, rng, truth=False)
    without = picture.draw_figure(rows_of(tmp_path / "blind", 1000))
    assert len(with_truth.axes) == len(without.axes) + 2


def test_maps_of_a_run_without_any_prediction(tmp_path, rng):
    write_predictions(tmp_path, "a-0", 0, rng)
    write_maps(tmp_path)
    assert page_json(tmp_path / "map.html")["title"] == "0 photos geotagged"


def test_photos_of_another_kind_are_grey_and_told(tmp_path, rng):
    """On both maps, and out of the scale of colours and the median of the radii."""
    columns = {"radius_90_km": np.array([100.0] * 30 + [15_000.0] * 10)}
    columns["radius_50_km"] = columns["radius_90_km"] / 2
    write_predictions(tmp_path, "a-0", 40, rng, familiarity=[0.5] * 30 + [0.001] * 10, **columns)
    told = {"purpose": "views <from> above", "unlike": "take a lift", "unfamiliar": 0.02}
    sample = digest_of(tmp_path).sample
    shown = rows.map_rows(sample, 1000, told)
    warning = "In grey: 10 photos unlike those that the checkpoint is for (views <from> above)"
    assert shown.warning().startswith(warning) and shown.warning().endswith("; take a lift.")
    assert shown.subtitle().startswith("of the others: median 90 % radius 100 km")
    assert rows.map_rows(sample, 1000).warning() == "", "no checkpoint said what it is for"
    write_map_html(sample, str(tmp_path / "map.html"), told)
    data = page_json(tmp_path / "map.html")
    grey = unpacked(data["columns"]["unfamiliar"])
    familiarity = unpacked(data["columns"]["familiarity"])
    assert grey.sum() == 10 and (familiarity[grey == 1] < 0.02).all()
    assert data["warning"] == shown.warning() and data["range_km"][1] < 1000
    figure = picture.draw_figure(shown)
    pale = [p for p in figure.axes[0].collections if len(p.get_offsets()) == 10]
    assert [to_hex(p.get_facecolor()[0]) for p in pale] == [STRANGE]
    known = np.isfinite(shown.error_km)
    [lines] = (p for p in figure.axes[2].collections if isinstance(p, LineCollection))
    grey_lines = [to_hex(colour) == STRANGE for colour in lines.get_edgecolor()]
    assert grey_lines == list(shown.unfamiliar[known]) and 0 < sum(grey_lines) < known.sum()


def test_a_sample_is_the_same_in_any_order_and_keeps_the_total(run):
    everything, some = rows_of(run, 80), rows_of(run, 20)
    assert (len(everything), len(some), some.total) == (80, 20, 80)
    place = {key: row for row, key in enumerate(everything.text["key"])}
    chosen = [place[key] for key in some.text["key"]]
    assert chosen == sorted(chosen) and everything.text["shard"] == sorted(everything.text["shard"])
    np.testing.assert_array_equal(some.numbers["latitude"], everything.numbers["latitude"][chosen])


def test_accuracy_is_grouped_by_shard_name_and_counts_only_rows_with_truth(run):
    groups = picture.accuracy_groups(rows_of(run, 1000))
    assert {name: len(errors) for name, errors in groups.items()} == {"seen": 30, "unseen": 10}
    assert all((np.diff(errors) >= 0).all() for errors in groups.values())


def test_many_groups_are_merged_without_losing_a_row(tmp_path, rng):
    for letter in "abcdefghi":
        write_predictions(tmp_path, f"{letter}-0", 4, rng)
    groups = picture.accuracy_groups(rows_of(tmp_path, 1000))
    assert len(groups) == len(picture.GROUP_COLOURS)
    assert sum(map(len, groups.values())) == 9 * 2


@pytest.mark.parametrize(
    ("radius_km", "wanted"),
    [
        ([120, 300, 900], (100, 1000)),
        ([], (10, 10_000)),
        ([300] * 5, (200, 1000)),
        ([19_455], (5_000, 20_000)),
    ],
)
def test_colour_range_has_round_ends_around_the_radii(radius_km, wanted):
    assert rows.colour_range_km(np.asarray(radius_km, float)) == wanted


def test_equal_earth_keeps_areas():
    """Every cell of equal area on the sphere has equal area on the map, by finite differences."""
    latitude, longitude = np.meshgrid([-80.0, -45.0, 0.0, 30.0, 75.0], [-170.0, 0.0, 120.0])
    step = 1e-4
    x_east, y_east = world_map.equal_earth(longitude + step, latitude)
    x_north, y_north = world_map.equal_earth(longitude, latitude + step)
    x, y = world_map.equal_earth(longitude, latitude)
    area = (x_east - x) * (y_north - y) - (x_north - x) * (y_east - y)
    on_sphere = np.radians(step) ** 2 * np.cos(np.radians(latitude))
    np.testing.assert_allclose(area / on_sphere, 1.0, rtol=1e-4)


def test_page_holds_the_rows(run):
    write_map_html(digest_of(run).sample, str(run / "map.html"))
    data = page_json(run / "map.html")
    columns = {name: unpacked(column) for name, column in data["columns"].items()}
    shown = geopandas.read_parquet(run / "predictions")
    assert sorted(data["key"]) == sorted(shown["key"])
    by_key = shown.set_index("key").loc[data["key"]]
    np.testing.assert_allclose(columns["latitude"], by_key["latitude"], atol=1e-5)
    np.testing.assert_allclose(columns["radius_90_km"], by_key["radius_90_km"], rtol=1e-6)
    np.testing.assert_allclose(columns["prob_200km"] / page.UNIT, by_key["prob_200km"], atol=6e-5)
    assert [data["shards"][i - 1] for i in columns["shard"]] == list(by_key["shard"])
    known = columns["known_kind"] == 1
    assert known.sum() == 40
    np.testing.assert_array_equal(known, by_key["truth_latitude"].notna())
    np.testing.assert_allclose(
        columns["known_longitude"][known], by_key["truth_longitude"][known], atol=2e-5
    )
    assert columns["mode_count"].tolist() == [1] * 80
    np.testing.assert_allclose(columns["mode_radius_km"], by_key["radius_90_km"] / 2, rtol=1e-6)


def test_the_better_known_position_counts(tmp_path, rng):
    truth, exif = [10, np.nan, np.nan], [20, 30, np.nan]
    positions = {"truth_latitude": truth, "truth_longitude": truth}
    positions |= {"exif_latitude": exif, "exif_longitude": exif}
    write_predictions(tmp_path, "a-0", 3, rng, **{k: np.array(v) for k, v in positions.items()})
    known = rows_of(tmp_path, 10).known
    assert known.kind.tolist() == [1, 2, 0]
    np.testing.assert_array_equal(known.latitude, [10, 30, np.nan])
    only = rows_of(tmp_path, 10, known_only=True)
    assert (only.total, only.text["key"]) == (2, ["a-0-0", "a-0-1"])


def test_columns_that_an_older_file_lacks_are_empty(run):
    whole = rows_of(run, 100)
    for file in (run / "predictions").iterdir():
        older = pq.read_table(file).drop_columns(["land_probability", "admin", "exif_latitude"])
        pq.write_table(older, file)
    older = rows_of(run, 100)
    assert np.isnan(older.numbers["land_probability"]).all()
    assert set(older.text["admin"]) == {None}
    np.testing.assert_array_equal(older.error_km, whole.error_km)
    data = page.page_data(older)
    assert data["columns"]["land_probability"]["base64"] == ""
    assert data["columns"]["known_kind"]["base64"]


def test_places_have_their_names(tmp_path, rng):
    named = {"country_code": ["NZ", None, "DE"], "admin": [None, "<b>", ""]}
    write_predictions(tmp_path, "a-0", 3, rng, **named)
    data = page.page_data(rows_of(tmp_path, 10))
    for column, names in (("country", "countries"), ("unit", "units")):
        numbers = unpacked(data["columns"][column])
        told = [data[names][i - 1] if i else None for i in numbers]
        assert told == named["country_code" if column == "country" else "admin"]


def test_thumbnails_are_those_of_the_rows_and_not_too_many(run, monkeypatch):
    write_thumbnails(run, "seen-000001", {"seen-000001-3": b"one", "elsewhere": b"two"})
    write_thumbnails(run, "unseen-000000", {"unseen-000000-9": b"three", "seen-000001-4": b"four"})
    write_map_html(digest_of(run).sample, str(run / "map.html"))
    data = page_json(run / "map.html")
    shown = {data["key"][row]: base64.b64decode(jpeg) for row, jpeg in data["thumbnails"]}
    assert shown == {"seen-000001-3": b"one", "unseen-000000-9": b"three"}
    monkeypatch.setattr("pipelines.geotag.sample.THUMBNAIL_BYTES", 3)
    write_map_html(digest_of(run).sample, str(run / "map.html"))
    fewer = [base64.b64decode(jpeg) for _, jpeg in page_json(run / "map.html")["thumbnails"]]
    assert len(fewer) == 1 and fewer[0] in (b"one", b"three")


def test_what_is_put_into_a_page_is_not_searched_for_slots(tmp_path):
    (tmp_path / "page").write_text("a __ONE__ b __TWO__ c")
    assert fill(tmp_path / "page", {"ONE": "__TWO__", "TWO": "__ONE__"}) == "a __TWO__ b __ONE__ c"
    with pytest.raises(KeyError, match="TWO"):
        fill(tmp_path / "page", {"ONE": ""})


def test_a_hostile_key_cannot_leave_its_place(tmp_path, rng):
    write_predictions(tmp_path, "a-0", 2, rng, keys=[HOSTILE_KEY, "plain"])
    write_map_html(digest_of(tmp_path).sample, str(tmp_path / "map.html"))
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text
    assert text.count("<script") == text.count("</script>") == 2
    assert "\u2028" not in text
    assert HOSTILE_KEY in page_json(tmp_path / "map.html")["key"]


@pytest.mark.parametrize(
    "name",
    [
        "map.html",
        "albums.html",
        "earth.js",
        "map.js",
        "albums.js",
        "aggregate.html",
        "aggregate.js",
        "compare.html",
        "compare.js",
        "report.html",
    ],
)
def test_pages_ask_nobody_and_build_no_html_from_strings(name):
    text = (rows.DATA / name).read_text(encoding="utf-8")
    assert (
        name.endswith(".js") or 'http-equiv="Content-Security-Policy" content="__POLICY__"' in text
    )
    links = ["http:", "https:", "src=", "innerHTML", "insertAdjacent", "document.write", "eval("]
    for forbidden in [*links, "fetch(", "XMLHttp", "import(", "@import", "url("]:
        assert forbidden not in text


def test_outlines_are_small_and_cover_the_world():
    assert world_map.OUTLINES.stat().st_size < 300_000
    points = np.concatenate([r for c in world_map.read_countries() for r in c.rings])
    assert points.min(axis=0).tolist() == [-180, -90]
    assert points[:, 0].max() == 180
    assert points[:, 1].max() > 83


def test_a_country_is_packed_whole_and_its_name_lies_in_it():
    country = next(c for c in world_map.read_countries() if c.name == "Chile")
    packed = page.compact_country(country)
    numbers, rings = unpacked(packed["rings"]).astype(int).tolist(), []
    while numbers:
        count = numbers.pop(0)
        rings.append(np.cumsum(np.reshape(numbers[: 2 * count], (-1, 2)), axis=0) / 100)
        del numbers[: 2 * count]
    assert len(rings) == len(country.rings)
    for ring, wanted in zip(rings, country.rings, strict=True):
        np.testing.assert_allclose(ring, wanted, atol=1e-9)
    longitude, latitude, width = packed["label"]
    assert country_codes([latitude], [longitude]) == ["CL"]
    assert 5 < width < 15


@pytest.mark.parametrize("name", ["out [a]", "out*", "a::b", "x{0..3}"])
def test_maps_of_an_output_whose_name_looks_like_a_pattern(name, tmp_path, rng):
    directory = tmp_path / name
    write_predictions(directory, "s", 3, rng)
    write_maps(directory)
    assert {file.name for file in directory.glob("map.*")} == {"map.html", "map.png"}
    assert page_json(directory / "map.html")["title"] == "3 photos geotagged"

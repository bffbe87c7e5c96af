"""docs/RECIPES.md, run: every block in its order, in a folder with what the page speaks of."""

from __future__ import annotations

import json
from collections.abc import Iterator

import geopandas
import pandas
import pyarrow.dataset as ds
import pyogrio
import pytest
import shapely
from google.cloud import bigquery
from PIL import Image

from locdiffusion.sphere.geodesy import great_circle_km
from schemas.bigquery import TABLES, bigquery_schema
from support import without_beam, without_pages
from support.pages import read_page
from support.recipes import BOX, PHOTO, PHOTOS, RUNNERS, Recipes, lay_out

PAGE, BLOCKS = read_page("docs/RECIPES.md")


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipes]:
    root = tmp_path_factory.mktemp("recipes")
    lay_out(root)
    ran = Recipes(root, {}, {}, [], {})
    with pytest.MonkeyPatch.context() as patch, without_beam(), without_pages():
        patch.chdir(root)
        for number, (language, code) in enumerate(BLOCKS):
            try:
                RUNNERS[language](code, ran)
            except (Exception, SystemExit) as error:
                ran.failures[number] = error
    yield ran


def photos_of(table: pandas.DataFrame) -> set[tuple[str, str]]:
    return set(zip(table.shard, table.key, strict=True))


def answer_of(recipes: Recipes, words: str) -> pandas.DataFrame:
    [found] = [table for code, table in recipes.answers.items() if words in code]
    return found


@pytest.mark.parametrize(
    "number", range(len(BLOCKS)), ids=[f"{n}-{language}" for n, (language, _) in enumerate(BLOCKS)]
)
def test_every_block_runs(number: int, recipes: Recipes) -> None:
    if number in recipes.failures:
        raise AssertionError(BLOCKS[number][1]) from recipes.failures[number]


def test_every_block_has_a_language_that_is_run() -> None:
    assert {language for language, _ in BLOCKS} == set(RUNNERS)
    assert PAGE.count("```") == 2 * len(BLOCKS)


class TestGeoPandas:
    def test_filters(self, recipes: Recipes) -> None:
        geotags, africa = recipes.names["geotags"], recipes.names["africa"]
        assert len(geotags) == PHOTOS
        assert 0 < len(recipes.names["region"]) < PHOTOS
        assert (recipes.names["city"].prob_25km > 0.5).all()
        wanted = geotags.cx[BOX[0] : BOX[2], BOX[1] : BOX[3]]
        assert photos_of(africa) == photos_of(wanted) and 0 < len(africa) < PHOTOS

    def test_keys_come_again_in_other_shards(self, recipes: Recipes) -> None:
        """All that is joined below would be wrong by key alone."""
        geotags = recipes.names["geotags"]
        assert geotags.shard.nunique() == 2 and len(photos_of(geotags)) == PHOTOS
        assert geotags.key.nunique() == 40

    def test_known_positions(self, recipes: Recipes) -> None:
        g, known = recipes.names["geotags"], recipes.names["known"]
        assert known.known.all() and known.latitude.tolist() == g.truth_latitude.tolist()
        wanted = great_circle_km(g.latitude, g.longitude, g.truth_latitude, g.truth_longitude)
        assert recipes.names["error_km"].tolist() == wanted.tolist()

    def test_regions(self, recipes: Recipes) -> None:
        most, inside = recipes.names["most"], recipes.names["inside"]
        assert photos_of(most) == photos_of(recipes.names["geotags"]) and len(most) == PHOTOS
        assert 0 < len(inside) < len(most)
        assert photos_of(inside) <= photos_of(recipes.names["africa"])
        by_photo = recipes.names["geotags"].set_index(PHOTO).country_code
        for row in most.itertuples():
            assert row.country_code == by_photo[row.shard, row.key]

    def test_join(self, recipes: Recipes) -> None:
        placed = recipes.names["placed"]
        assert len(placed) == PHOTOS - 5 + 1
        assert placed[placed.latitude.isna()].shard.tolist() == ["no-such-shard"]
        by_photo = recipes.names["geotags"].set_index(PHOTO).latitude
        for row in placed[placed.latitude.notna()].itertuples():
            assert row.latitude == by_photo[row.shard, row.key]
        written = geopandas.read_file(recipes.root / "catalogue.gpkg", layer="photos")
        assert set(written.columns) == {*PHOTO, "title", "radius_90_km", "geometry"}
        assert len(written) == len(placed)

    def test_thumbnails(self, recipes: Recipes) -> None:
        assert len(recipes.names["thumbnails"]) == PHOTOS
        assert max(recipes.names["first"].size) <= 96
        assert photos_of(recipes.names["pictured"]) == photos_of(recipes.names["geotags"])


class TestDuckDb:
    def test_agrees_with_geopandas(self, recipes: Recipes) -> None:
        geotags = recipes.names["geotags"]
        counted = answer_of(recipes, "GROUP BY country_code")
        certain = geotags[geotags.radius_90_km < 300]
        assert counted.photos.sum() == len(certain)
        by_country = certain.country_code.value_counts().to_dict()
        found = dict(zip(counted.country_code, counted.photos, strict=True))
        assert {k: v for k, v in found.items() if isinstance(k, str)} == by_country
        area = answer_of(recipes, "bbox.xmin >= -20")
        assert photos_of(area) == photos_of(recipes.names["africa"])

    def test_second_places(self, recipes: Recipes) -> None:
        second = answer_of(recipes, "modes[2]")
        geotags = recipes.names["geotags"].set_index(PHOTO)
        assert photos_of(second) == set(geotags.index[geotags.modes.map(len) > 1])
        for row in second.itertuples():
            assert row.p == geotags.modes[row.shard, row.key][1]["probability"]

    def test_the_joined_file(self, recipes: Recipes) -> None:
        joined = pandas.read_parquet(recipes.root / "catalogue_with_places.parquet")
        certain = recipes.names["geotags"].set_index(PHOTO).prob_200km > 0.8
        assert len(joined) == PHOTOS - 5 + 1 == len(photos_of(joined))
        placed = joined.set_index(PHOTO).latitude.notna()
        assert all(has == certain.get(key, False) for key, has in placed.items())
        assert 0 < placed.sum() < len(joined)

    def test_errors_are_great_circles(self, recipes: Recipes) -> None:
        [row] = answer_of(recipes, "error_km").to_dict("records")
        g = recipes.names["geotags"]
        wanted = great_circle_km(g.latitude, g.longitude, g.truth_latitude, g.truth_longitude)
        assert row["photos"] == PHOTOS
        assert row["median_km"] == pytest.approx(pandas.Series(wanted).median(), rel=1e-6)
        assert row["in_radius_90"] == pytest.approx((wanted <= g.radius_90_km).mean())


def test_aggregates_add_up_to_the_photos(recipes: Recipes) -> None:
    assert recipes.names["photos"] == pytest.approx(PHOTOS, abs=1e-6)
    for name in ("by-region", "by-cell", "by-district"):
        found = geopandas.read_parquet(recipes.root / name / "aggregate.parquet")
        assert found.photos_expected.sum() == pytest.approx(PHOTOS, abs=2e-3 * PHOTOS)
    countries = recipes.names["countries"]
    assert countries[countries["area"].notna()].geometry.notna().all()


def test_changes_are_those_of_the_prior(recipes: Recipes) -> None:
    changes = recipes.names["changes"]
    assert len(changes) == PHOTOS and set(changes.fate) == {"kept"}
    norway = pandas.read_parquet(recipes.root / "out-norway/predictions").set_index("photo_id")
    after = changes.set_index("photo_id").longitude_after
    assert (after == norway.longitude.reindex(after.index)).all()
    assert len(recipes.names["surprising"]) > 0


def test_albums_place_photos_between_others(recipes: Recipes) -> None:
    albums = recipes.names["albums"]
    assert albums.standing.tolist() == [
        *("anchor", "placed", "anchor", "contradicts", "anchor", "placed")
    ]
    assert recipes.names["near"].key.tolist() == ["2.jpg"]
    assert recipes.names["doubtful"].key.tolist() == ["4.jpg"]


class TestBigQuery:
    def test_the_schema_is_that_of_the_files(self, recipes: Recipes) -> None:
        described = json.loads((recipes.root / "predictions.json").read_text())
        assert described == bigquery_schema(TABLES["predictions"])
        for name in ("predictions", "regions", "thumbnails", "errors"):
            files = ds.dataset(recipes.root / "out" / name, format="parquet")
            made = [bigquery.SchemaField.from_api_repr(f) for f in bigquery_schema(TABLES[name])]
            assert [field.name for field in made] == files.schema.names

    def test_types_and_modes(self) -> None:
        fields = {f["name"]: f for f in bigquery_schema(TABLES["predictions"])}
        assert fields["geometry"] == {"name": "geometry", "type": "GEOGRAPHY", "mode": "REQUIRED"}
        assert (fields["modes"]["type"], fields["modes"]["mode"]) == ("RECORD", "REPEATED")
        assert [f["name"] for f in fields["modes"]["fields"]][:2] == ["latitude", "longitude"]
        assert fields["country_code"]["mode"] == "NULLABLE"
        assert {f["type"] for f in fields["bbox"]["fields"]} == {"FLOAT"}
        assert {f["name"]: f["type"] for f in bigquery_schema(TABLES["thumbnails"])}[
            "jpeg"
        ] == "BYTES"

    def test_a_type_without_counterpart(self) -> None:
        import pyarrow as pa

        with pytest.raises(ValueError, match="column when is date32"):
            bigquery_schema(pa.schema([("when", pa.date32())]))

    def test_the_commands_name_the_files_and_the_schema(self, recipes: Recipes) -> None:
        make, load = recipes.google
        assert make[:3] == ["bq", "mk", "--table"]
        assert (recipes.root / make[make.index("--schema") + 1]).is_file()
        assert load[:2] == ["bq", "load"]
        flags = {word for word in load if word.startswith("--")}
        assert flags == {"--source_format=PARQUET", "--parquet_enable_list_inference=true"}
        table, source = load[-2:]
        assert table == make[-1] == "DATASET.predictions"
        assert source.startswith("gs://BUCKET/")
        assert list(recipes.root.glob(source.removeprefix("gs://BUCKET/")))


class TestQgis:
    def test_the_file_holds_both_layers(self, recipes: Recipes) -> None:
        file = recipes.root / "geotags.gpkg"
        layers = {name: kind for name, kind in pyogrio.list_layers(file)}
        assert set(layers) == {"predictions", "regions"}
        points = geopandas.read_file(file, layer="predictions")
        assert len(points) == PHOTOS and points.crs.to_epsg() == 4326
        assert set(points.geometry.geom_type) == {"Point"}
        assert points.radius_90_km.tolist() == recipes.names["geotags"].radius_90_km.tolist()
        polygons = geopandas.read_file(file, layer="regions", where='"level" = 0.9')
        assert len(polygons) == PHOTOS and polygons.is_valid.all()


class TestRuns:
    def test_the_prior_keeps_answers_in_the_area(self, recipes: Recipes) -> None:
        geotags = geopandas.read_parquet(recipes.root / "out-area/predictions")
        assert geotags.within(shapely.box(*BOX).buffer(0.5)).all()

    def test_districts(self, recipes: Recipes) -> None:
        by_district = recipes.names["by_district"].to_dict()
        assert set(by_district) == {"north", "south"} and sum(by_district.values()) == PHOTOS

    def test_copies_with_positions(self, recipes: Recipes) -> None:
        copies = [*recipes.root.glob("COPIES/**/*.jpg")]
        geotags = recipes.names["geotags"]
        assert len(copies) == (geotags.radius_90_km <= 200).sum() > 0
        assert Image.open(copies[0]).getexif().get_ifd(0x8825)

    def test_refitted_radii(self, recipes: Recipes) -> None:
        before = recipes.names["geotags"].set_index(PHOTO).radius_90_km
        after = geopandas.read_parquet(recipes.root / "out-mine/predictions").set_index(PHOTO)
        assert set(after.index) == set(before.index)
        assert not (after.radius_90_km.reindex(before.index) == before).all()

    def test_scores(self, recipes: Recipes) -> None:
        assert {"scores.json", "scores.md"} <= {p.name for p in recipes.root.glob("out-scores/*")}

    def test_the_card_and_the_feature(self, recipes: Recipes) -> None:
        assert (recipes.root / "patch-card.png").stat().st_size > 50_000
        feature, polygon = recipes.names["feature"], recipes.names["polygon"]
        assert polygon.contains(shapely.geometry.shape(feature["geometry"]))

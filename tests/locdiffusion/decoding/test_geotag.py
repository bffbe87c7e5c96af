"""One photo's answer in Python: dataclasses that say what the columns say, and GeoJSON of them."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from locdiffusion import Geotag, Mode
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.decoding.geotag import geotags, km_text, place_text
from locdiffusion.density.base_measure import uniform_measure
from locdiffusion.geography.countries import country_codes
from locdiffusion.geotagger import Geotagger
from schemas.geotags import PREDICTION_SCHEMA, PROBABILITY_COLUMNS
from support.tiny import (
    TinyEncoder,
    checkpoint_config,
    coloured_photo,
    random_denoiser,
    with_orientation,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tagger(one_thread: None) -> Geotagger:
    encoder = TinyEncoder()
    loaded = Checkpoint(
        checkpoint_config(encoder.spec), random_denoiser(), uniform_measure(), "0" * 64
    )
    return Geotagger(loaded, encoder)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    return [coloured_photo(50.0, 10.0), coloured_photo(-30.0, 140.0), coloured_photo(0.0, -75.0)]


@pytest.fixture(scope="module")
def answers(tagger: Geotagger, photos: list[Image.Image]) -> list[Geotag]:
    return tagger.geotag(photos, regions=True)


class TestAnswers:
    def test_say_what_the_columns_say(
        self, tagger: Geotagger, photos: list[Image.Image], answers: list[Geotag]
    ) -> None:
        pixels = np.stack([tagger.preprocess(photo) for photo in photos])
        columns = tagger.decode(tagger.sample(tagger.embed(pixels), ["0", "1", "2"]))
        codes = country_codes(columns.latitude, columns.longitude)
        for i, answer in enumerate(answers):
            for name in ("latitude", "longitude", "radius_50_km", "radius_90_km"):
                assert getattr(answer, name) == getattr(columns, name)[i]
            said = [getattr(answer, name) for name in PROBABILITY_COLUMNS]
            assert said == columns.probability[i].tolist()
            assert answer.information_nats == columns.information_nats[i]
            assert answer.land_probability == columns.land_probability[i]
            assert answer.modes == columns.modes[i] and isinstance(answer.modes[0], Mode)
            assert answer.country_code == codes[i]
            assert (answer.key, answer.model_id) == (str(i), tagger.model_id)

    def test_are_of_plain_types(self, answers: list[Geotag]) -> None:
        """NumPy's numbers would not go into JSON, and compare and print in ways of their own."""
        for field in dataclasses.fields(Geotag):
            for answer in answers:
                value = getattr(answer, field.name)
                assert type(value) in (str, float, tuple, type(None)), field.name

    def test_have_the_names_of_the_table(self) -> None:
        own = {field.name for field in dataclasses.fields(Geotag)} - {"regions"}
        beside = {"shard", "geometry", "bbox", "admin", "exif_source", "truth_source", "camera"}
        beside |= {"photo_id", "path", "stem", "sha256", "prior_mass", "best_latitude"}
        beside |= {"best_longitude", "best_source", "region", "region_probability"}
        beside |= {"admin_code", "admin_probability"}
        beside |= {"captured_at", "captured_at_source", "captured_utc_offset_min"}
        known = {f"{a}_{b}" for a in ("exif", "truth") for b in ("latitude", "longitude")}
        assert set(PREDICTION_SCHEMA.names) - beside - known == own

    def test_can_not_be_changed_and_can_be_sent(self, answers: list[Geotag]) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            answers[0].latitude = 0.0  # type: ignore[misc]
        assert pickle.loads(pickle.dumps(answers[0])).to_geojson() == answers[0].to_geojson()

    def test_one_line_for_people(self, answers: list[Geotag]) -> None:
        answer = dataclasses.replace(
            answers[0],
            latitude=-1.256,
            longitude=-75.0,
            radius_50_km=8.24,
            radius_90_km=1234.5,
            country_code="PE",
        )
        assert str(answer) == (
            "1.26° S, 75.00° W (PE), within 8.2 km with probability 50 %, within 1,230 km with 90 %"
        )
        assert "(" not in str(dataclasses.replace(answer, country_code=None))
        assert "regions" not in repr(answer)
        assert (place_text(0.0, 0.0), km_text(99.6)) == ("0.00° N, 0.00° E", "100 km")


class TestGeoJson:
    def test_is_a_feature(self, answers: list[Geotag]) -> None:
        for answer in answers:
            feature = json.loads(json.dumps(answer.to_geojson(), allow_nan=False))
            assert feature == answer.to_geojson(), "plain JSON types: nothing changes on the way"
            assert set(feature) == {"type", "id", "geometry", "properties"}
            assert (feature["type"], feature["id"]) == ("Feature", answer.key)
            point = shapely.geometry.shape(feature["geometry"])
            assert (point.x, point.y) == (answer.longitude, answer.latitude)
            properties = feature["properties"]
            assert properties["radius_90_km"] == answer.radius_90_km
            assert properties["modes"][0] == dataclasses.asdict(answer.modes[0])
            left = {f.name for f in dataclasses.fields(Geotag)} - set(properties)
            assert left == {"key", "latitude", "longitude", "regions"}

    def test_is_what_geopandas_reads(self, answers: list[Geotag]) -> None:
        import geopandas

        table = geopandas.GeoDataFrame.from_features([a.to_geojson() for a in answers], "OGC:CRS84")
        assert table.geometry.x.tolist() == [a.longitude for a in answers]
        assert table.prob_200km.tolist() == [a.prob_200km for a in answers]


class TestRegions:
    def test_are_there_when_asked_for(self, answers: list[Geotag]) -> None:
        for answer in answers:
            half, most = answer.region(0.5), answer.region(0.9)
            assert (half.level, most.level) == (0.5, 0.9)
            assert half.geometry.is_valid and half.area_km2 < most.area_km2
            assert most.probability == pytest.approx(0.9, abs=0.02)

    def test_else_the_error_says_how(self, tagger: Geotagger, answers: list[Geotag]) -> None:
        [without] = tagger.geotag([coloured_photo(50.0, 10.0)])
        with pytest.raises(ValueError, match=r"geotag\(photos, regions=True\)"):
            without.region(0.9)
        with pytest.raises(ValueError, match=r"level 0.95; want one of 0.5, 0.9"):
            answers[0].region(0.95)


class TestPhotos:
    def test_paths_and_images_alike(self, tagger: Geotagger, tmp_path: Path) -> None:
        sideways = coloured_photo(10.0, 20.0)
        sideways.paste((255, 255, 255), (0, 0, 7, 16))
        turned = with_orientation(sideways, 6)
        turned.save(tmp_path / "a.png", exif=turned.getexif())
        path = tmp_path / "a.png"
        image, by_path, by_text = tagger.geotag([turned, path, str(path)])
        assert by_path.key == by_text.key == str(path) and image.key == "0"
        for answer in (by_path, by_text):  # alike up to the rounding of sums
            assert answer.latitude == pytest.approx(image.latitude, abs=1e-3)
            assert answer.radius_90_km == pytest.approx(image.radius_90_km, rel=1e-3)
        [unturned] = tagger.geotag([sideways])
        assert abs(unturned.latitude - image.latitude) > 0.1

    def test_keys(self, tagger: Geotagger) -> None:
        photos = [coloured_photo(1.0, 2.0)] * 2
        assert [a.key for a in tagger.geotag(photos, ["x", "y"])] == ["x", "y"]
        with pytest.raises(ValueError, match="0 keys for 2 embeddings"):
            tagger.geotag(photos, [])

    def test_none(self, tagger: Geotagger) -> None:
        assert tagger.geotag([]) == tagger.geotag([], regions=True) == []

    @pytest.mark.parametrize("alone", ["a.jpg", Path("a.jpg"), Image.new("RGB", (8, 8))])
    def test_one_without_a_list(self, tagger: Geotagger, alone: object) -> None:
        with pytest.raises(TypeError, match=r"write geotag\(\[photo\]\)"):
            tagger.geotag(alone)  # type: ignore[arg-type]

    def test_neither_image_nor_path(self, tagger: Geotagger) -> None:
        with pytest.raises(TypeError, match=r"a photo is a ndarray; .*PIL.Image.fromarray"):
            tagger.geotag([np.zeros((8, 8, 3), np.uint8)])  # type: ignore[list-item]

    def test_files_that_are_no_photos(self, tagger: Geotagger, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match=r"no\.jpg does not exist; want the file of one"
        ):
            tagger.geotag([tmp_path / "no.jpg"])
        with pytest.raises(FileNotFoundError, match="is a folder"):
            tagger.geotag([tmp_path])
        (tmp_path / "text.jpg").write_text("not a picture at all")
        with pytest.raises(ValueError, match=r"text.jpg cannot be decoded: .*is text"):
            tagger.geotag([tmp_path / "text.jpg"])
        coloured_photo(1.0, 2.0).resize((400, 400)).save(tmp_path / "cut.jpg")
        whole = (tmp_path / "cut.jpg").read_bytes()
        (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(
            ValueError,
            match=r"cut.jpg cannot be decoded: the JPEG breaks off.*copy the photo again",
        ):
            tagger.geotag([tmp_path / "cut.jpg"])


def test_rows_without_photos(tagger: Geotagger) -> None:
    natural = np.zeros((0, 1, tagger.checkpoint.config.model.dimension), np.float32)
    assert geotags(tagger.decode(natural), [], "model") == []

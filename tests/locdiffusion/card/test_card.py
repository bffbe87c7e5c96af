"""A card: one photo's answer as picture, table and GeoJSON, which all say the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.patches import Circle
from numpy.typing import NDArray
from PIL import Image

from locdiffusion import geotagger, model_card
from locdiffusion.card import figure, views
from locdiffusion.card.album import AlbumAnswer
from locdiffusion.card.answer import AnsweredPhoto, Known
from locdiffusion.card.command import main, targets
from locdiffusion.decoding.answers import Mode
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.decoding.geotag import Geotag, percent
from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.inference import Answerer, log_density_around
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, destination, unit_vectors
from schemas.albums import Standing
from schemas.samples import Truth
from support.album_rows import album_columns, trip, write_albums
from support.tiny import MODEL, TinyEncoder, coloured_photo, write_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

ABOUT = "Photos of one *colour*, `16` pixels\nhigh. Nothing else."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A tiny checkpoint with a card of its own, and photos: with JSON, with EXIF, with neither."""
    root = tmp_path_factory.mktemp("cards")
    write_checkpoint(root / "checkpoint", TinyEncoder().spec)
    text = f"# Model card\n\n**What it is for.** {ABOUT}\n\n**Data.** None.\n"
    (root / "checkpoint" / model_card.CARD).write_text(text)
    coloured_photo(50.0, 10.0).save(root / "json.png")
    (root / "json.json").write_text('{"latitude": 50, "longitude": 10.5}')
    exif = Image.Exif()
    exif[0x8825] = {1: "S", 2: (30.0, 0.0, 0.0), 3: "E", 4: (140.0, 30.0, 0.0)}
    coloured_photo(-30.0, 140.0).resize((80, 16)).save(root / "exif.jpg", exif=exif)
    coloured_photo(0.0, -75.0).resize((16, 80)).save(root / "plain.jpg")
    return root


@pytest.fixture
def tiny_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geotagger, "load_image_encoder", lambda name, *_: TinyEncoder(name))


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch, tiny_encoder: None) -> Iterator[Path]:
    monkeypatch.chdir(folder)
    yield folder


def test_missing_weights_are_told_with_a_flag_that_is_there(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    weights = ["--checkpoint", "geoclip-distilled", "--encoder", "geoclip:none.safetensors"]
    assert main(["plain.jpg", *weights]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "none.safetensors" in told and "--encoder" in told


class Bump:
    """Densities that fall off around a place, as the model's would."""

    def __init__(self, latitude: float, longitude: float, width_km: float) -> None:
        self.place, self.width = unit_vectors(latitude, longitude), width_km / EARTH_RADIUS_KM

    def __call__(
        self, centre: tuple[float, float], distance_deg: NDArray[np.float64], bearings: int
    ) -> NDArray[np.float64]:
        bearing, distance = np.meshgrid(360.0 * np.arange(bearings) / bearings, distance_deg)
        points = unit_vectors(
            *destination(*centre, bearing, np.radians(distance) * EARTH_RADIUS_KM)
        )
        return -(1.0 - points @ self.place) / self.width**2 - 10.0


def made_up(
    latitude: float, longitude: float, radius_90_km: float, **changes: object
) -> AnsweredPhoto:
    modes = (Mode(latitude, longitude, 0.6, 50.0), Mode(latitude / 2, longitude - 20.0, 0.2, 50.0))
    chances = (0.001, 0.2, 0.7, 0.9, 1.0)
    certain = (radius_90_km / 2, radius_90_km, *chances, 5.5, 0.75, None)
    tag = Geotag("a.jpg", latitude, longitude, *certain, modes, "tiny-000000000000")
    density = Bump(latitude, longitude, radius_90_km / 2)
    image = coloured_photo(latitude, longitude)
    answer = AnsweredPhoto(Path("a.jpg"), image, tag, None, density, "About.")
    return dataclasses.replace(answer, **changes)


class TestCommand:
    def test_draws_and_prints(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        photos = ["json.png", "exif.jpg"]
        assert main([*photos, "--output", "CARDS", "--checkpoint", "checkpoint"]) == 0
        out = capsys.readouterr().out
        tables = [part for part in out.split("\n\n") if "\n  answer" in part]
        for photo, table in zip(photos, tables, strict=True):
            assert photo in table.splitlines()
            for name in ("answer", "country", "90 % radius", "within 2,500 km", "model"):
                assert f"\n  {name} " in table
        assert "truth (its JSON)  50.00° N, 10.50° E" in tables[0]
        assert "truth (EXIF)  " in out and "30.00° S, 140.50° E" in out
        assert out.count("error  ") == 2
        assert "about the model: Photos of one colour, 16 pixels high. Nothing else." in out
        pictures = [np.asarray(Image.open(p)) for p in sorted((here / "CARDS").iterdir())]
        assert len(pictures) == 2
        for picture in pictures:
            assert picture.shape[:2] == (880, 1650)
            for part in np.split(picture, [500, 1100], axis=1):  # text, globe, closer map
                assert len(np.unique(part.reshape(-1, picture.shape[2]), axis=0)) > 50
        assert not np.array_equal(pictures[0], pictures[1])

    def test_shows_what_the_album_says(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        truth, known = trip(9, 1)
        photo = int(np.flatnonzero(np.isnan(known.latitude))[0])
        keys = ["plain.jpg" if i == photo else f"{i}.jpg" for i in range(9)]
        write_albums(here / "OUT", album_columns("Alps $x$\x1b[31m", truth, known, keys=keys))
        assert main(["plain.jpg", "--output", "alone.png", *CHECKPOINT]) == 0
        assert "its anchors" not in capsys.readouterr().out
        words = ["plain.jpg", "--albums", "OUT", *CHECKPOINT]
        assert main([*words, "--output", "together.png"]) == 0
        printed = capsys.readouterr().out
        for name in ("album ", "with its album", "its radii", "its anchors"):
            assert f"\n  {name}" in printed
        assert "\x1b" not in printed
        assert (here / "alone.png").read_bytes() != (here / "together.png").read_bytes()
        assert main([*words, "--json"]) == 0
        [feature] = json.loads(capsys.readouterr().out)["features"]
        assert feature["properties"]["album_standing"] == "placed"
        assert main(["exif.jpg", "--albums", "OUT", *CHECKPOINT]) == 2
        assert "no row of OUT is called exif.jpg" in capsys.readouterr().err

    def test_a_checkpoint_at_a_url(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plain.jpg", "--checkpoint", (here / "checkpoint").as_uri()]) == 0
        assert "about the model: Photos of one colour" in capsys.readouterr().out

    def test_geojson_and_the_default_name(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for photo in ("plain.jpg", "json.png"):
            assert main([photo, "--json", "--checkpoint", "checkpoint"]) == 0
            printed = capsys.readouterr()
            [feature] = json.loads(printed.out)["features"]
            assert ("error_km" in feature["properties"]) == (photo == "json.png")
        properties = feature["properties"]
        assert feature["id"] == "json.png"
        assert (properties["truth_latitude"], properties["truth_longitude"]) == (50.0, 10.5)
        assert properties["truth_source"] == "its JSON" and properties["error_km"] > 0
        assert properties["model_id"].startswith("tiny-")
        assert printed.err == "written: json-card.png\n"
        assert (here / "json-card.png").read_bytes()[:4] == b"\x89PNG"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["no.jpg"], "no.jpg does not exist; want the file of one photo"),
            (["json.png", "plain.jpg", "--output", "a.png"], "one file for 2 photos; want a folde"),
            (["json.png", "--output", "json.png"], "json.png is a photo; give the card another"),
            (["json.png", "--checkpoint", "none"], "No checkpoint at 'none'"),
            (["json.png", "--prior", "none.geojson"], "none.geojson cannot be read"),
        ],
    )
    def test_what_cannot_be_done_is_said(
        self, arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = (here / "json.png").read_bytes()
        assert main([*arguments, *([] if "--checkpoint" in arguments else CHECKPOINT)]) == 2
        printed = capsys.readouterr()
        assert message in printed.err and printed.err.startswith("error: ")
        assert (here / "json.png").read_bytes() == before

    def test_a_document_that_is_not_understood_costs_the_truth_only(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        coloured_photo(1.0, 2.0).save(here / "half.png")
        (here / "half.json").write_text('{"latitude": 50}')
        assert main(["half.png", *CHECKPOINT]) == 0
        printed = capsys.readouterr()
        assert "half.json: only one" in printed.err and "truth" not in printed.out

    def test_the_document_of_google_takeout(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        coloured_photo(1.0, 2.0).save(here / "taken.png")
        document = '{"geoData": {"latitude": 50.0, "longitude": 10.5}, '
        document += '"photoTakenTime": {"timestamp": "1551123684"}}'
        (here / "taken.png.supplemental-metadata.json").write_text(document)
        assert main(["taken.png", *CHECKPOINT]) == 0
        printed = capsys.readouterr().out
        assert "truth (Google Takeout)  50.00° N, 10.50° E" in printed
        assert "2019-02-25T19:41:24+00:00 (takeout)" in printed

    def test_two_photos_of_one_name(self) -> None:
        with pytest.raises(ValueError, match="two photos are named a: both cards would be a-card"):
            targets([Path("x/a.jpg"), Path("y/a.jpg")], None)


CHECKPOINT = ["--checkpoint", "checkpoint"]


class TestRows:
    def test_say_where_the_truth_lies(self) -> None:
        place = Truth(10.0, 20.0)
        for error, verdict in (
            (40.0, "inside the 50 % radius"),
            (90.0, "inside the 90 % radius"),
            (300.0, "outside the 90 % radius"),
        ):
            rows = dict(made_up(0, 0, 100.0, known=Known(place, "EXIF", error)).rows())
            assert rows["error"] == f"{error:.0f} km, {verdict}"
        assert "error" not in dict(made_up(0, 0, 100.0).rows())

    def test_do_not_hide_that_nothing_is_known(self) -> None:
        assert made_up(0, 0, 9000.0).certainty().endswith("the model does not know")
        assert "not know" not in made_up(0, 0, 900.0).certainty()
        assert dict(made_up(0, 0, 900.0).rows())["country"].startswith("none: at sea")

    def test_say_how_familiar_the_photo_is(self) -> None:
        known = made_up(0, 0, 900.0)
        assert "familiarity" not in dict(known.rows())
        strange = dataclasses.replace(known.geotag, familiarity=0.001)
        rows = dict(dataclasses.replace(known, geotag=strange).rows())
        assert rows["familiarity"] == "more like training than < 1 % of its kind"

    def test_probabilities_are_never_certainties(self) -> None:
        assert [percent(p) for p in (0.0, 0.004, 0.01, 0.456, 0.99, 0.999, 1.0)] == [
            "< 1 %", "< 1 %", "1 %", "46 %", "99 %", "> 99 %", "> 99 %",
        ]  # fmt: skip

    def test_purpose_of_the_shipped_checkpoint(self) -> None:
        assert "knows nothing about photos taken from the ground" in model_card.purpose(None)

    def test_a_checkpoint_without_a_card(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path, TinyEncoder().spec)
        assert model_card.purpose(str(tmp_path)) == ""


class TestFigure:
    def texts(self, drawn: object) -> str:
        from matplotlib.text import Text

        return "\n".join(t.get_text() for t in drawn.findobj(Text))  # type: ignore[attr-defined]

    def test_narrow_answers_get_a_closer_map_and_broad_ones_the_other_side(self) -> None:
        narrow = self.texts(figure.draw_card(made_up(46.8, 8.2, 300.0)))
        broad = self.texts(figure.draw_card(made_up(46.8, 8.2, 6000.0)))
        assert "FR" in narrow.splitlines() and "200 km" in narrow.splitlines()
        assert "other side of the Earth" not in narrow
        assert "the other side of the Earth" in broad.splitlines()
        for text in (narrow, broad):
            assert "46.80° N, 8.20° E   at sea" in text  # what the made-up geotag says
            assert "20 %" in text and "tiny-000000000000" in text and "About." in text

    @pytest.mark.parametrize("place", [(90.0, 0.0), (-89.9, 33.0), (-17.0, 180.0)])
    def test_poles_and_the_antimeridian(self, place: tuple[float, float]) -> None:
        drawn = figure.draw_card(made_up(*place, 400.0, known=Known(Truth(*place), "EXIF", 0.0)))
        globe, closer = drawn.axes[-2:]
        for axes in (globe, closer):
            markers = [line for line in axes.lines if line.get_marker() in "xo"]
            positions = [(line.get_xdata()[0], line.get_ydata()[0]) for line in markers]
            at_centre = np.isclose(positions, 0.0, atol=1e-6).all(1)
            assert at_centre.sum() == 4, "the answer and the truth, each with its halo"
            [image] = axes.images
            painted = np.asarray(image.get_array())
            row, column = np.unravel_index(painted.argmax(), painted.shape)
            assert abs(row - views.PIXELS / 2) < 12 and abs(column - views.PIXELS / 2) < 12

    def test_an_album_has_a_map_of_its_own(self) -> None:
        place, anchors = (46.5, 8.6), ((46.5, 8.6), (46.45, 8.66))
        album = AlbumAnswer("Alps", Standing.PLACED, place, 2.0, 9.0, (0.4, 3.7), anchors)
        for radius_km in (300.0, 9000.0):
            drawn = figure.draw_card(made_up(48.0, 11.0, radius_km, album=album))
            told = self.texts(drawn)
            for words in ("with its album", "2 km with 50 %, 9 km with 90 %", "24 min before"):
                assert words in told
            assert "other side of the Earth" not in told
            axes = drawn.axes[-1]
            circles = [one for one in axes.patches if isinstance(one, Circle)]
            assert [one.radius for one in circles] == [2.0, 9.0]
            markers = [line.get_marker() for line in axes.lines]
            assert markers.count("D") == 2 and markers.count("P") == 1
        lost = AlbumAnswer("x", Standing.ALONE, None, np.nan, np.nan, (None, None), (None, None))
        assert "no other photo says" in self.texts(
            figure.draw_card(made_up(48.0, 11.0, 300.0, album=lost))
        )

    def test_the_same_answer_gives_the_same_bytes(self) -> None:
        one, other = (figure.card_png(made_up(10.0, 20.0, 4000.0), dpi=40) for _ in range(2))
        assert one == other

    def test_the_density_is_painted_where_it_is(self) -> None:
        """Catches mirrored and turned maps: a bump 1,500 km east of the centre is east on both."""
        from matplotlib.figure import Figure

        east = destination(40.0, 20.0, 90.0, 1500.0)
        bump = Bump(float(east[0]), float(east[1]), 100.0)
        for view, half in (
            (views.View(40.0, 20.0, globe=True), EARTH_RADIUS_KM),
            (views.View(40.0, 20.0, globe=False), 2000.0),
        ):
            axes = Figure().add_subplot()
            circles = np.arange(0.125, 90.0, 0.25)
            density = bump((40.0, 20.0), circles, 480)
            views.paint_density(axes, view, half, circles, density, float(np.exp(density.max())))
            [image] = axes.images
            painted = np.asarray(image.get_array())
            row, column = np.unravel_index(painted.argmax(), painted.shape)
            x, y = ((np.array([column, row]) + 0.5) / views.PIXELS * 2.0 - 1.0) * half
            # Known at every quarter of a degree, 28 km.
            assert x == pytest.approx(float(view.radius(1500.0)), abs=20.0)
            assert y == pytest.approx(0.0, abs=20.0)


class TestViews:
    def test_directions_and_distances(self) -> None:
        latitude, longitude = destination(-33.0, 151.0, 30.0, 2000.0)
        for globe, length in ((False, 2000.0), (True, EARTH_RADIUS_KM * np.sin(2000 / 6371.0088))):
            view = views.View(-33.0, 151.0, globe)
            (x,), (y,), (visible,) = view(unit_vectors(latitude, longitude)[None])
            assert visible
            np.testing.assert_allclose([x, y], [length * 0.5, length * np.sqrt(0.75)], rtol=1e-6)
            np.testing.assert_allclose(
                view.distance_deg(np.array(length)), np.degrees(2e3 / 6371.0088)
            )

    def test_what_is_behind_lies_on_the_rim(self) -> None:
        view = views.View(10.0, 20.0, globe=True)
        (x,), (y,), (visible,) = view(unit_vectors(-10.0, -150.0)[None])
        assert not visible
        assert np.hypot(x, y) == pytest.approx(EARTH_RADIUS_KM)
        assert view.opposite.latitude == -10.0 and view.opposite.longitude == -160.0

    def test_land_is_where_land_is(self) -> None:
        """Of the drawn rings, those around Paris and around the pole; none around the Atlantic."""
        from matplotlib.figure import Figure

        axes = Figure().add_subplot()
        view = views.View(48.0, 0.0, globe=True)
        views.draw_base(axes, view, EARTH_RADIUS_KM)
        paths = [path for c in axes.collections for path in c.get_paths() if len(path) > 3]

        def on_land(latitude: float, longitude: float) -> bool:
            (x,), (y,), _ = view(unit_vectors(latitude, longitude)[None])
            return any(path.contains_point((x, y)) for path in paths if path.codes is not None)

        assert on_land(48.85, 2.35) and on_land(60.0, 90.0) and on_land(45.0, -75.0)
        assert not on_land(45.0, -30.0) and not on_land(85.0, -120.0)


def test_density_on_circles_is_the_decoders() -> None:
    """Of a mixture, with a base measure, at any place of the circles."""
    rng = np.random.default_rng(3)
    base = BaseMeasure(rng.uniform(0.5, 2.0, (24, 48)))
    decoder = Decoder(MODEL.max_degree, base_measure=base)
    natural = torch.from_numpy(rng.normal(scale=0.4, size=(3, MODEL.dimension))).float()
    distance = np.array([0.3, 20.0, 100.0, 179.0])
    found = log_density_around(Answerer(decoder), natural, (-40.0, 170.0), distance, 6)
    for i in range(4):
        for j in range(6):
            km = np.radians(distance[i]) * EARTH_RADIUS_KM
            place = unit_vectors(*destination(-40.0, 170.0, 60.0 * j, km))
            wanted = decoder.tables.log_probability(natural[None], place[None])[0]
            there = Answerer(decoder).log_density_at(natural[None], place[None])
            assert there[0] == pytest.approx(wanted, abs=2e-3)
            wanted -= np.log(4.0 * np.pi * EARTH_RADIUS_KM**2)
            assert found[i, j] == pytest.approx(wanted, abs=2e-3)

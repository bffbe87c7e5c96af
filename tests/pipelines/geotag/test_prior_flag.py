"""`--prior` and `country_code`, from the command line to the rows."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import shapely

from locdiffusion import geotagger
from locdiffusion.geography.countries import country_codes
from locdiffusion.model.preprocessing import EncoderSpec
from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.geotag import command as geotag
from support.tiny import replace_encoders, write_checkpoint, write_coloured_shard

pytestmark = pytest.mark.usefixtures("no_pages", "plain_loop")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A tiny checkpoint and a shard; the arguments that geotag it."""
    from support.tiny import TinyEncoder

    spec: EncoderSpec = TinyEncoder().spec
    replace_encoders(monkeypatch, geotagger)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", spec)
    shard = write_coloured_shard(tmp_path / "photos.tar", 12, seed=3)
    monkeypatch.chdir(tmp_path)
    return ["--input", str(shard), "--checkpoint", str(checkpoint)]


def polygon_file(path: Path) -> shapely.Polygon:
    box = shapely.box(5.0, 40.0, 25.0, 60.0)
    feature = {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(box))}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return box


def test_answers_lie_in_the_polygons_and_have_their_country(world, tmp_path):
    box = polygon_file(tmp_path / "europe.geojson")
    assert geotag.main([*world, "--output", "free"]) == 0
    assert geotag.main([*world, "--output", "in", "--prior", "europe.geojson"]) == 0
    free, inside = (
        pq.read_table(tmp_path / name / "predictions").to_pylist() for name in ("free", "in")
    )
    grown = box.buffer(0.8)  # cells of the raster that the polygon touches
    assert all(grown.contains(shapely.Point(r["longitude"], r["latitude"])) for r in inside)
    assert not all(grown.contains(shapely.Point(r["longitude"], r["latitude"])) for r in free)
    for rows in (free, inside):
        wanted = country_codes([r["latitude"] for r in rows], [r["longitude"] for r in rows])
        assert [r["country_code"] for r in rows] == wanted
    assert any(r["country_code"] for r in inside)
    run = json.loads((tmp_path / "in" / "run.json").read_text())
    assert run["prior"].startswith("europe.geojson sha256:")


def test_another_prior_is_another_run(world, tmp_path, capsys):
    assert geotag.main([*world, "--output", "out"]) == 0
    assert geotag.main([*world, "--output", "out", "--prior", "land"]) == 2
    assert "prior None there, 'land' now" in capsys.readouterr().err
    assert geotag.main([*world, "--output", "new", "--prior", "nowhere.geojson"]) == 2
    assert "nowhere.geojson" in capsys.readouterr().err


def test_countries_and_discs_are_given_several_at_once(world, tmp_path):
    """A row of two flags is one prior; a latitude in the south is no flag."""
    words = ["--prior", "-30,140,400km", "--prior", "country:NZ"]
    assert geotag.main([*world, "--output", "both", *words]) == 0
    assert json.loads((tmp_path / "both" / "run.json").read_text())["prior"] == (
        "country:NZ;-30,140,400km"
    )
    rows = pq.read_table(tmp_path / "both" / "predictions").to_pylist()
    at = [r["latitude"] for r in rows], [r["longitude"] for r in rows]
    near = great_circle_km(*at, -30.0, 140.0) < 430.0
    codes = country_codes(*at)
    assert all(close or code == "NZ" for close, code in zip(near, codes, strict=True))
    # Another spelling of the same is the same run.
    again = ["--prior", "country:nz; -30.0,140,400 km"]
    assert geotag.main([*world, "--output", "both", *again]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["country:NORWAY"], "write the two letters of ISO 3166-1"),
        (["95,10,3km"], "latitude 95 is not within"),
        (["country:NO", "land"], "only countries and discs can be joined"),
        (["a.geojson", "b.geojson"], "put the polygons into one file"),
        (["1,2,3"], "such as 59.9,10.7,300km, with the unit km"),
    ],
)
def test_a_prior_that_is_none_is_refused_before_anything_is_loaded(words, says, capsys):
    flags = [part for word in words for part in ("--prior", word)]
    assert geotag.main(["photos.tar", "--output", "out", *flags]) == 2
    assert says in capsys.readouterr().err

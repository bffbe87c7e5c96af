"""`--checkpoint geoclip-distilled` as a user types it: with CLIP's weights, and without."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import geopandas
import numpy as np
import pytest

from locdiffusion import Geotagger, checkpoint
from locdiffusion.gallery.places import read_gallery
from locdiffusion.model import geoclip
from pipelines.geotag import command as geotag
from pipelines.geotag import model_cache
from support.small_clip import (
    SMALL,
    expect_small,
    random_clip,
    save_like_the_hub,
    write_geoclip_checkpoint,
)
from support.tiny import coloured_photo

pytestmark = pytest.mark.usefixtures("one_thread", "no_pages")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One where that checkpoint is shipped, nothing is cached and no hub answers."""
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path / "checkpoints")
    write_geoclip_checkpoint(tmp_path / "checkpoints" / "geoclip-distilled")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(model_cache, "_LOADED", {})  # nothing loaded by an earlier test
    expect_small(monkeypatch, tmp_path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, (latitude, longitude) in enumerate([(50.0, 10.0), (-30.0, 140.0), (0.0, -60.0)]):
        coloured_photo(latitude, longitude).resize((300, 231)).save(folder / f"{i}.jpg")
    return folder


def command(photos: Path, output: Path, *more: str) -> list[str]:
    return [
        *("--input", str(photos), "--output", str(output)),
        *("--checkpoint", "geoclip-distilled", *more),
    ]


def rows(output: Path) -> geopandas.GeoDataFrame:
    table = geopandas.read_parquet(next((output / "predictions").glob("*.parquet")))
    return table.sort_values("key")


@pytest.mark.usefixtures("plain_loop")
def test_weights_in_a_file_and_in_the_cache_give_the_same_rows(
    photos: Path, tmp_path: Path
) -> None:
    file = save_like_the_hub(random_clip(SMALL), tmp_path / "clip.safetensors")
    named = ("--encoder", f"geoclip:{file}", "--gallery", "none")
    assert geotag.main(command(photos, tmp_path / "named", *named)) == 0
    cached = tmp_path / "hub" / "models--openai--clip-vit-large-patch14"
    save_like_the_hub(random_clip(SMALL), cached / "snapshots" / "c0ffee" / "model.safetensors")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("c0ffee")
    assert geotag.main(command(photos, tmp_path / "cached", "--gallery", "none")) == 0
    first, second = rows(tmp_path / "named"), rows(tmp_path / "cached")
    assert len(first) == 3 and first["model_id"].str.startswith("geoclip-distilled-").all()
    assert first.drop(columns="geometry").equals(second.drop(columns="geometry"))
    assert np.ptp(first["latitude"]) > 0.0, "an answer of its own for every photo"


def test_without_weights_one_message_says_what_to_fetch(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert geotag.main(command(photos, tmp_path / "out")) == 2
    said = capsys.readouterr().err
    assert said.count("model.safetensors (1,710,540,580 bytes, sha256 a2bf730a") == 1
    assert "--encoder geoclip:/path/to/model.safetensors" in said
    assert not (tmp_path / "out").exists(), "nothing was begun"


def test_another_encoder_is_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ("--encoder", "open_clip:ViT-L-14/clip.safetensors")
    assert geotag.main(command(photos, tmp_path / "out", *named)) == 2
    assert "trained on embeddings of 'geoclip'" in capsys.readouterr().err


def test_a_name_that_is_not_shipped_is_told_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match=r"shipped ones: \['geoclip-distilled'\]"):
        Geotagger.load("geoclip")


# A gallery

needs_geoclip = pytest.mark.skipif(
    importlib.util.find_spec("geoclip") is None, reason="the package geoclip is not installed"
)


@pytest.fixture
def encoder(tmp_path: Path) -> tuple[str, str]:
    file = save_like_the_hub(random_clip(SMALL), tmp_path / "clip.safetensors")
    return "--encoder", f"geoclip:{file}"


def write_places(path: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    rows = rng.uniform((-60.0, -180.0), (70.0, 180.0), (300, 2))
    lines = [f"{latitude!r},{longitude!r}" for latitude, longitude in rows.tolist()]
    path.write_text("\n".join(["LAT,LON", *lines]))
    return path


@needs_geoclip
@pytest.mark.parametrize("mode", ["density", "sampling"])
def test_the_gallery_is_part_of_the_one_answer(
    photos: Path, tmp_path: Path, encoder: tuple[str, str], mode: str
) -> None:
    """Rows and regions as of `Geotagger.geotag`; and other ones than without the gallery."""
    places = write_places(tmp_path / "places.csv")
    settings = (*encoder, "--mode", mode, "--samples=3", "--steps=2", "--regions")
    chosen = ("--gallery", str(places))
    assert geotag.main(command(photos, tmp_path / "pure", *settings, "--gallery", "none")) == 0
    assert geotag.main(command(photos, tmp_path / "both", *settings, *chosen)) == 0
    pure, both = rows(tmp_path / "pure"), rows(tmp_path / "both")
    assert (pure["radius_50_km"].to_numpy() != both["radius_50_km"].to_numpy()).all()
    assert json.loads((tmp_path / "both" / "run.json").read_text())["gallery"].startswith(
        "places.csv sha256:"
    )
    tagger = Geotagger.load(
        "geoclip-distilled", encoder=encoder[1], mode=mode, samples=3, steps=2, gallery=str(places)
    )
    files = [photos / key for key in both["key"]]
    answers = tagger.geotag(files, list(both["key"]), regions=True)
    for name in ("latitude", "radius_50_km", "radius_90_km", "prob_1km", "information_nats"):
        told = [getattr(answer, name) for answer in answers]
        assert both[name].to_numpy() == pytest.approx(told, rel=1e-5, abs=1e-6)
    drawn = geopandas.read_parquet(next((tmp_path / "both" / "regions").glob("*.parquet")))
    for answer in answers:
        areas = sorted(drawn[drawn["key"] == answer.key]["area_km2"])
        assert areas == pytest.approx([region.area_km2 for region in answer.regions], rel=1e-4)


@pytest.mark.usefixtures("plain_loop")
@needs_geoclip
def test_the_checkpoint_chooses_a_gallery(
    photos: Path, tmp_path: Path, encoder: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GeoCLIP's own, here with few places, unless somebody says `none`."""
    few = write_places(tmp_path / "places.csv")
    monkeypatch.setattr(geoclip, "load_gallery", lambda: read_gallery(str(few)))
    for name, more in (("own", ()), ("named", ("--gallery", str(few)))):
        assert geotag.main(command(photos, tmp_path / name, *encoder, *more)) == 0
        model_cache._LOADED.clear()
    own, named = rows(tmp_path / "own"), rows(tmp_path / "named")
    assert own.drop(columns="geometry").equals(named.drop(columns="geometry"))


@pytest.mark.usefixtures("plain_loop")
@needs_geoclip
def test_another_gallery_is_another_run(
    photos: Path, tmp_path: Path, encoder: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    places = write_places(tmp_path / "places.csv")
    typed = command(photos, tmp_path / "out", *encoder, "--gallery", str(places))
    assert geotag.main(typed) == 0
    assert geotag.main(command(photos, tmp_path / "out", *encoder, "--gallery", "none")) == 2
    assert "gallery 'places.csv sha256:" in capsys.readouterr().err
    model_cache._LOADED.clear()
    write_places(places, seed=1)
    assert geotag.main(typed) == 2
    assert capsys.readouterr().err.count("places.csv sha256:") == 2


def test_a_gallery_that_cannot_be_used_is_told_before_the_job(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("LAT,LON\n91,0\n")
    for places, message in (
        (str(wrong), "'91' is no latitude from -90° to 90°"),
        ("nowhere.csv", "nowhere.csv cannot be read"),
    ):
        assert geotag.main(command(photos, tmp_path / "out", "--gallery", places)) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists(), "nothing was begun"

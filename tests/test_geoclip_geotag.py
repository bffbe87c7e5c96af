"""`--checkpoint geoclip-distilled` as a user types it: with CLIP's weights, and without."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
from small_clip import (
    SMALL,
    expect_small,
    random_clip,
    save_like_the_hub,
    write_geoclip_checkpoint,
)
from tiny import coloured_photo

from locdiffusion import Geotagger, checkpoint
from pipelines import geotag, loading

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One where that checkpoint is shipped, nothing is cached and no hub answers."""
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path / "checkpoints")
    write_geoclip_checkpoint(tmp_path / "checkpoints" / "geoclip-distilled")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(geotag, "_draw_maps", lambda output: None)
    monkeypatch.setattr(loading, "_LOADED", {})  # nothing loaded by an earlier test
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


def test_weights_in_a_file_and_in_the_cache_give_the_same_rows(
    photos: Path, tmp_path: Path
) -> None:
    file = save_like_the_hub(random_clip(SMALL), tmp_path / "clip.safetensors")
    named = ("--encoder", f"geoclip:{file}")
    assert geotag.main(command(photos, tmp_path / "named", *named)) == 0
    cached = tmp_path / "hub" / "models--openai--clip-vit-large-patch14"
    save_like_the_hub(random_clip(SMALL), cached / "snapshots" / "c0ffee" / "model.safetensors")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("c0ffee")
    assert geotag.main(command(photos, tmp_path / "cached")) == 0
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

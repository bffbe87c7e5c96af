"""Checkpoints and weights in a bucket load as local ones do, and are told as the same model."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from locdiffusion import geotagger
from locdiffusion.model.model_files import ModelFileError, local_checkpoint, local_encoder
from pipelines.geotag.model_cache import GeotaggerLoader
from support.tiny import TinyEncoder, replace_encoders, write_checkpoint


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    """A checkpoint and a weight file at a URL."""
    url = f"memory://{tmp_path.name}"
    checkpoint = write_checkpoint(tmp_path / "model", TinyEncoder("open_clip:ViT-B-32/openai").spec)
    files = fsspec.filesystem("memory")
    for path in checkpoint.iterdir():
        files.pipe_file(f"/{tmp_path.name}/model/{path.name}", path.read_bytes())
    files.pipe_file(f"/{tmp_path.name}/weights/clip.safetensors", b"weights")
    return url


def test_local_names_are_left_alone() -> None:
    assert local_checkpoint(None) is None
    assert local_checkpoint("overhead") == "overhead"
    assert local_checkpoint("runs/checkpoint") == "runs/checkpoint"
    for name in (
        *("efficientnet_lite0", "open_clip:ViT-B-32/openai", "open_clip:X/clip.pt"),
        *("geoclip", "geoclip:weights/clip.pt"),
    ):
        assert local_encoder(name) == name


def test_files_are_copied_once_and_whole(bucket: str) -> None:
    folder = local_checkpoint(f"{bucket}/model/")
    assert folder is not None
    assert {path.name for path in Path(folder).iterdir()} == {"config.json", "model.safetensors"}
    assert local_checkpoint(f"{bucket}/model/") == folder
    encoder = local_encoder(f"open_clip:ViT-B-32/{bucket}/weights/clip.safetensors")
    model, _, path = encoder.partition("/")
    assert model == "open_clip:ViT-B-32"
    assert Path(path).name == "clip.safetensors"
    assert Path(path).read_bytes() == b"weights"
    assert local_encoder(f"geoclip:{bucket}/weights/clip.safetensors") == f"geoclip:{path}"


@pytest.mark.parametrize("place", ["nothing", "weights/other.pt"])
def test_a_wrong_place_is_told(bucket: str, place: str) -> None:
    with pytest.raises(ModelFileError, match=f"{place} cannot be read .* check the path"):
        local_checkpoint(f"{bucket}/{place}")


def test_a_model_is_the_same_wherever_it_lies(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name, hash and encoder go into run.json: a job that was moved must find itself again."""
    loaded = replace_encoders(monkeypatch, geotagger)
    here = GeotaggerLoader(checkpoint=str(tmp_path / "model"))()
    moved = GeotaggerLoader(
        checkpoint=f"{bucket}/model",
        encoder=f"open_clip:ViT-B-32/{bucket}/weights/clip.safetensors",
    )()
    assert loaded[1].spec.name.endswith("clip.safetensors")
    for name in ("model_id", "checkpoint_hash", "encoder_spec"):
        assert getattr(moved, name) == getattr(here, name)

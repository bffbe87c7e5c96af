"""Folders and repositories of open_clip tell model and preprocessing beside the weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from locdiffusion.model.image_encoder import encoder_spec, load_image_encoder
from locdiffusion.model.weights import EncoderWeightsError, join_name, may_move, split_name
from support.clip_layouts import CONFIGS, SIZES, VIT, as_safetensors, assert_same, random_model

pytestmark = pytest.mark.usefixtures("clip_configs")


def write_folder(folder: Path, name: str = VIT, **preprocess: Any) -> Any:
    """What `open_clip.push_to_hf_hub` writes, for a model that open_clip has no name for."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = random_model(name)
    config = {"model_cfg": CONFIGS[name], "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    as_safetensors(clip.state_dict(), folder / "open_clip_model")
    return clip


PREPROCESS = {"mean": [0.5] * 3, "std": [0.4] * 3, "interpolation": "bilinear"}


def test_a_local_folder_tells_model_and_preprocessing(tmp_path: Path) -> None:
    clip = write_folder(tmp_path, **PREPROCESS, resize_mode="squash")
    name = f"open_clip:local-dir:{tmp_path}"
    encoder = load_image_encoder(name)
    assert encoder_spec(name) == encoder.spec
    assert (encoder.spec.name, encoder.spec.embedding_dim) == (name, 24)
    assert (encoder.spec.mean, encoder.spec.std) == ((0.5,) * 3, (0.4,) * 3)
    assert (encoder.spec.interpolation, encoder.spec.framing) == ("bilinear", "squash")
    assert_same(encoder, clip.encode_image, 0.999999)


def test_a_repository_of_the_hub_is_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    name = "open_clip:hf-hub:ours/small-clip"
    for load in (load_image_encoder, encoder_spec):
        with pytest.raises(EncoderWeightsError, match=r"open_clip:local-dir:FOLDER.*MODEL/FILE"):
            load(name)
    cache = tmp_path / "models--ours--small-clip"
    clip = write_folder(cache / "snapshots" / "abc", **PREPROCESS)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    encoder = load_image_encoder(name)
    assert encoder.spec == encoder_spec(name) and encoder.spec.name == name
    assert_same(encoder, clip.encode_image, 0.999999)
    (cache / "snapshots" / "abc" / "open_clip_model.safetensors").unlink()
    assert encoder_spec(name) == encoder.spec
    with pytest.raises(EncoderWeightsError, match="has none of"):
        load_image_encoder(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_cfg": {**SIZES, "layers": 10**6}}, "layers is 1e.06, wanted at most 256"),
        ({"vision_cfg": {**SIZES, "image_size": 10**5}}, "image_size"),
        ({"vision_cfg": {**SIZES, "image_size": 1024, "patch_size": 8}}, "size mismatch"),
        ({"vision_cfg": {**SIZES, "width": float("nan")}}, "width is nan"),
        ({"vision_cfg": {"timm_model_name": "hf-hub:stranger/model"}}, "name of timm"),
        ({"vision_cfg": {"timm_model_name": 3}}, "name of timm"),
        ({"vision_cfg": [1]}, "no configuration"),
        ({"vision_cfg": {**SIZES, "layers": [1] * 1000}}, "1,000 entries"),
        ({"multimodal_cfg": {"layers": 10**6}}, "layers"),
        # Within bounds, and 100 times as large as the file.
        ({"vision_cfg": {**SIZES, "width": 2**15}}, "size mismatch"),
        ({"vision_cfg": {**SIZES, "layers": 200}}, "lacks"),
        ({"vision_cfg": {**SIZES, "patch_size": 0}}, "could not be loaded"),
        ({"vision_cfg": {**SIZES, "surprise": 1}}, "could not be loaded"),
    ],
)
def test_a_folder_of_a_stranger_gets_no_memory_that_its_weights_do_not_fill(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_folder(tmp_path)
    config = {"model_cfg": {**CONFIGS[VIT], **change}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderWeightsError, match=message):
        load_image_encoder(f"open_clip:local-dir:{tmp_path}")


@pytest.mark.parametrize("text", [b"", b"[]", b"[" * 10**5, b"\xff", b"{}", b" " * (2**20 + 1)])
def test_a_folder_without_a_configuration(text: bytes, tmp_path: Path) -> None:
    name = f"open_clip:local-dir:{tmp_path}"
    for _ in range(2):
        with pytest.raises(EncoderWeightsError, match="no configuration of open_clip"):
            load_image_encoder(name)
        (tmp_path / "open_clip_config.json").write_bytes(text)
    write_folder(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(EncoderWeightsError, match="holds no weights"):
        load_image_encoder(name)


@pytest.mark.parametrize(
    ("name", "parts", "moves"),
    [
        ("open_clip:local-dir:/a/b", ("open_clip:local-dir", "/a/b"), True),
        ("open_clip:local-dir:gs://a/b", ("open_clip:local-dir", "gs://a/b"), True),
        ("open_clip:hf-hub:org/name", ("open_clip:hf-hub:org/name", ""), False),
        ("open_clip:B/m.safetensors.index.json", ("open_clip:B", "m.safetensors.index.json"), True),
    ],
)
def test_names_of_folders(name: str, parts: tuple[str, str], moves: bool) -> None:
    assert split_name(name) == parts
    assert join_name(*parts) == name
    assert may_move(name) == moves

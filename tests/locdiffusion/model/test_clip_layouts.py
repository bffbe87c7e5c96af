"""Every layout in which CLIP is published: a file of it gives the embeddings of its own library."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from locdiffusion.model.image_encoder import load_image_encoder
from locdiffusion.model.tensor_files import read_tensors, tensor_names
from locdiffusion.model.torch_pickle import TensorFileError
from locdiffusion.model.weights import EncoderWeightsError
from support import SEED
from support.clip_layouts import (
    FAMILY,
    LAYOUTS,
    RESNET,
    VIT,
    as_old,
    as_safetensors,
    as_shards,
    as_zip,
    assert_same,
    input_size,
    of_transformers,
    prefixed,
    random_model,
    randomised,
    their_embedding,
)

pytestmark = pytest.mark.usefixtures("clip_configs")


@pytest.mark.parametrize("name", [VIT, RESNET])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_open_clip(layout: str, name: str, tmp_path: Path) -> None:
    clip = random_model(name)
    file = LAYOUTS[layout](clip.state_dict(), tmp_path / "weights")
    encoder = load_image_encoder(f"open_clip:{name}/{file}")
    assert_same(encoder, clip.encode_image, 0.9999 if layout == "OpenAI" else 0.999999)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", [VIT, RESNET])
def test_archives_of_openai(name: str, tmp_path: Path) -> None:
    clip = random_model(name)
    example = torch.zeros(1, 3, *input_size(clip)).half()
    with torch.no_grad():
        clip.visual = torch.jit.trace(clip.visual.half(), example, check_trace=False)
        whole = nn.Module()
        whole.visual = clip.visual
        torch.jit.save(torch.jit.script(whole), tmp_path / "openai.pt")
    encoder = load_image_encoder(f"open_clip:{name}/{tmp_path / 'openai.pt'}")
    assert_same(encoder, lambda images: clip.visual(images.half()), 0.9999)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("write", [as_safetensors, as_zip, as_old])
def test_low_precision_is_only_in_the_file(
    write: Callable[..., Path], dtype: torch.dtype, tmp_path: Path
) -> None:
    clip = random_model(VIT, force_custom_text=True)
    half = {name: tensor.to(dtype) for name, tensor in clip.state_dict().items()}
    encoder = load_image_encoder(f"open_clip:{VIT}/{write(half, tmp_path / 'x')}")
    clip.load_state_dict(half)
    assert_same(encoder, clip.encode_image, 0.999999)
    assert all(p.dtype == torch.float32 for p in encoder._network.parameters())


@pytest.mark.parametrize("write", [as_safetensors, as_zip, as_old, as_shards, prefixed("clip.")])
@pytest.mark.parametrize("kind", ["CLIPModel", "CLIPVisionModelWithProjection", "MetaClip2Model"])
def test_layouts_of_transformers(kind: str, write: Callable[..., Path], tmp_path: Path) -> None:
    model = of_transformers(kind, 128, 2, 4.0, quick=False)
    tensors = model.state_dict()
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]  # of old versions
    encoder = load_image_encoder(f"open_clip:{VIT}/{write(tensors, tmp_path / 'x')}")
    assert_same(encoder, their_embedding(model), 0.99999)


@pytest.mark.parametrize("number", range(len(FAMILY)), ids=FAMILY)
def test_the_sizes_of_the_family(number: int, tmp_path: Path) -> None:
    """Heads of other widths, layers between of other widths, and the other activation."""
    quick, head, ratio = list(FAMILY.values())[number]
    model = of_transformers("CLIPModel", 2 * head, 2, ratio, quick)
    file = as_safetensors(model.state_dict(), tmp_path / "model")
    encoder = load_image_encoder(f"open_clip:LocDiffusion-Family-{number}/{file}")
    assert_same(encoder, their_embedding(model), 0.99999)


@pytest.mark.parametrize("whole", [True, False])
def test_siglip_of_transformers(whole: bool, tmp_path: Path) -> None:
    import transformers as hub

    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2}
    vision = hub.SiglipVisionConfig(**sizes, image_size=32, patch_size=8)
    text = hub.SiglipTextConfig(**sizes, vocab_size=50, max_position_embeddings=8)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        both = hub.SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
        model = randomised(hub.SiglipModel(both) if whole else hub.SiglipVisionModel(vision))
    file = as_safetensors(model.state_dict(), tmp_path / "model")
    encoder = load_image_encoder(f"open_clip:LocDiffusion-SigLIP/{file}")
    assert_same(encoder, their_embedding(model), 0.99999)


def test_files_that_lack_something_name_it(tmp_path: Path) -> None:
    model = of_transformers("CLIPModel", 128, 2, 4.0, quick=False)
    tensors = model.state_dict()
    del tensors["visual_projection.weight"]
    cases = {
        "lacks 1, first proj": as_safetensors(tensors, tmp_path / "a"),
        "lacks .*index.json": as_safetensors(
            {"visual.conv1.weight": torch.zeros(128, 3, 8, 8)}, tmp_path / "b"
        ),
    }
    index = as_shards(tensors, tmp_path / "x")
    (tmp_path / "model-2-of-2.safetensors").unlink()
    cases["model-2-of-2.safetensors is not beside it"] = index
    for message, file in cases.items():
        with pytest.raises(EncoderWeightsError, match=f"could not be loaded into.*{message}"):
            load_image_encoder(f"open_clip:{VIT}/{file}")
    siglip = as_safetensors(random_model("LocDiffusion-SigLIP").state_dict(), tmp_path / "c")
    with pytest.raises(EncoderWeightsError, match="lacks"):
        load_image_encoder(f"open_clip:{VIT}/{siglip}")


@pytest.mark.parametrize(
    "content",
    [
        *({}, [], {"weight_map": {}}, {"weight_map": []}, {"weight_map": {"a": 3}}),
        *({"weight_map": {"a": name}} for name in ("../x.bin", "/etc/passwd", "x", "m.index.json")),
    ],
)
def test_an_index_names_files_beside_it_only(content: Any, tmp_path: Path) -> None:
    index = tmp_path / "m.index.json"
    index.write_text(json.dumps(content))
    with pytest.raises(TensorFileError):
        tensor_names(index)


def test_old_files_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    shared = torch.arange(12.0)
    tensors = {"a": shared[2:8].reshape(2, 3).T, "b": shared, "c": torch.tensor([True, False])}
    tensors |= {"d": torch.zeros(0, 3, dtype=torch.float64), "e": torch.ones(2).bfloat16()}
    file = as_old({**tensors, "names": ["x"], "rate": 0.1}, tmp_path / "x")
    found = read_tensors(file)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert read_tensors(file, ("b",)).keys() == {"b"}
    for cut in (20, 100, 400, file.stat().st_size - 1):
        file.with_name("cut.bin").write_bytes(file.read_bytes()[:cut])
        with pytest.raises(TensorFileError):
            read_tensors(file.with_name("cut.bin"))

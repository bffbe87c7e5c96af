"""Every layout in which CLIP is published, written by other people's libraries with random weights.

The embeddings are compared with open_clip's own, or with transformers'.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from locdiffusion.model.image_encoder import ImageEncoder, encoder_spec, load_image_encoder
from locdiffusion.model.open_clip_model import NO_TEXT
from locdiffusion.model.tensor_files import read_tensors, tensor_names
from locdiffusion.model.torch_pickle import TensorFileError
from locdiffusion.model.weights import EncoderWeightsError, join_name, may_move, split_name
from support import SEED

VIT, RESNET = "LocDiffusion-Layout-ViT", "LocDiffusion-Layout-RN"
TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
SIZES = {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    VIT: {"embed_dim": 24, "vision_cfg": SIZES, "text_cfg": TEXT},
    RESNET: {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
}
# As in the family: the widths of heads and of the layers between, of models that are named.
FAMILY = {
    "B-32, L-14-336": (True, 64, 4.0),
    "H-14": (False, 80, 4.0),
    "g-14": (False, 88, 4.3637),
    "bigG-14": (False, 104, 4.9231),
}


@pytest.fixture(scope="module", autouse=True)
def _configs(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    for number, (quick, head, ratio) in enumerate(FAMILY.values()):
        vision = {**SIZES, "width": 2 * head, "head_width": head, "mlp_ratio": ratio}
        config = {"embed_dim": 24, "quick_gelu": quick, "vision_cfg": vision, "text_cfg": TEXT}
        (folder / f"LocDiffusion-Family-{number}.json").write_text(json.dumps(config))
    vision = {"timm_model_name": "locdiffusion_siglip", "timm_pool": "map", "timm_proj": "none"}
    config = {
        "embed_dim": 64,
        "custom_text": True,
        "vision_cfg": {"image_size": 32, **vision},
        "text_cfg": TEXT,
    }
    (folder / "LocDiffusion-SigLIP.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@register_model
def locdiffusion_siglip(pretrained: bool = False, **arguments: Any) -> VisionTransformer:
    """timm's SigLIP 2, as it makes the large ones, with few weights."""
    small = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32}
    arguments.pop("pretrained_cfg", None), arguments.pop("pretrained_cfg_overlay", None)
    arguments.pop("cache_dir", None)
    return VisionTransformer(
        **{
            **small,
            "class_token": False,
            "global_pool": "map",
            "act_layer": "gelu_tanh",
            "num_classes": 0,
            **arguments,
        }
    )


def randomised(model: Any) -> Any:
    """As models come, biases are 0, norms 1 and the scales of layers tiny."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def with_statistics(clip: Any) -> Any:
    """Gives batch normalisation the statistics of noise; as it comes, all pictures look alike."""
    norms = [part for part in clip.visual.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.train()
    if norms:
        with torch.no_grad():
            clip.encode_image(torch.randn(4, 3, *input_size(clip)))
    return clip.eval()


def input_size(clip: Any) -> tuple[int, int]:
    side = clip.visual.image_size
    return side if isinstance(side, tuple) else (side, side)


def random_model(name: str, **arguments: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        made = open_clip.create_model(name, load_weights=False, pretrained_text=False, **arguments)
        return with_statistics(randomised(made))


def pixels(encoder: ImageEncoder) -> tuple[np.ndarray, Tensor]:
    """Noise, large squares and stripes, and what the network sees of them."""
    side = encoder.spec.image_size
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[:side, :side]
    squares = rng.integers(0, 256, (4, 4, 3))[4 * y // side, 4 * x // side]
    stripes = np.stack([255 * (8 * x // side % 2), x * 255 // side, 0 * y], axis=2)
    shown = np.stack([rng.integers(0, 256, (side, side, 3)), squares, stripes]).astype(np.uint8)
    mean, std = np.array(encoder.spec.mean), np.array(encoder.spec.std)
    normalised = torch.tensor((shown / 255.0 - mean) / std, dtype=torch.float32)
    return shown, normalised.permute(0, 3, 1, 2)


def assert_same(
    encoder: ImageEncoder, embed: Callable[[Tensor], Tensor], least: float = 0.99999
) -> None:
    """Compares embeddings by cosine, and checks that those of two pictures differ by more."""
    shown, normalised = pixels(encoder)
    with torch.inference_mode():
        expected = nn.functional.normalize(embed(normalised).float(), dim=1).numpy()
    found = encoder.embed(shown)
    cosine = float((found * expected).sum(axis=1).min())
    print(f"cosine {cosine:.7f}, of two pictures {(expected[0] * expected[1]).sum():.4f}")
    assert cosine >= least
    assert (expected[0] * expected[1]).sum() < 1 - 4 * (1 - least)


def contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def as_safetensors(tensors: dict[str, Tensor], path: Path) -> Path:
    save_file(contiguous(tensors), path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def as_zip(tensors: Any, path: Path) -> Path:
    torch.save(tensors, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def as_old(tensors: Any, path: Path) -> Path:
    """The only form of torch before 1.6, which hub repositories of that time still have."""
    torch.save(tensors, path.with_suffix(".bin"), _use_new_zipfile_serialization=False)
    return path.with_suffix(".bin")


def as_shards(tensors: dict[str, Tensor], path: Path) -> Path:
    names = sorted(tensors)
    parts = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file(contiguous({name: tensors[name] for name in part}), path.with_name(file))
    index = path.with_name("model.safetensors.index.json")
    places = {name: file for file, part in parts.items() for name in part}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def in_training(tensors: dict[str, Tensor], path: Path) -> Path:
    """What open_clip saves while it trains on several devices."""
    weights = [nn.Parameter(tensor.clone()) for tensor in list(tensors.values())[:3]]
    optimizer = torch.optim.AdamW(weights)
    sum((weight**2).sum() for weight in weights).backward()
    optimizer.step()
    named = {f"module.{name}": tensor for name, tensor in tensors.items()}
    state = {"epoch": 3, "name": "run", "optimizer": optimizer.state_dict(), "state_dict": named}
    return as_zip({**state, "scaler": torch.amp.GradScaler("cpu").state_dict()}, path)


def in_training_old(tensors: dict[str, Tensor], path: Path) -> Path:
    content = torch.load(in_training(tensors, path), weights_only=True)
    return as_old(content, path)


def of_openai(tensors: dict[str, Tensor], path: Path) -> Path:
    """The state dict of OpenAI's archives: halves, and three numbers beside them."""
    sizes = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(8)}
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    return as_zip({**halves, **sizes, "vocab_size": torch.tensor(50)}, path)


def prefixed(prefix: str) -> Callable[[dict[str, Tensor], Path], Path]:
    return lambda tensors, path: as_safetensors(
        {prefix + name: tensor for name, tensor in tensors.items()}, path
    )


def only_image(tensors: dict[str, Tensor], path: Path) -> Path:
    images = {k.removeprefix("visual."): v for k, v in tensors.items() if k.startswith("visual.")}
    return as_safetensors(images, path)


LAYOUTS = {
    "safetensors": as_safetensors,
    "zip": as_zip,
    "before 1.6": as_old,
    "shards": as_shards,
    "training": in_training,
    "training, before 1.6": in_training_old,
    "OpenAI": of_openai,
    "wrapped": prefixed("model.clip."),
    "image tower": only_image,
    "under model": lambda tensors, path: as_old({"model": tensors, "epoch": 1}, path),
}


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


# ---------------------------------------------------------------------------- transformers


def of_transformers(kind: str, width: int, heads: int, ratio: float, quick: bool) -> Any:
    """A model of transformers with the sizes of a model of this file."""
    import transformers as hub

    vision = {
        "hidden_size": width,
        "intermediate_size": int(width * ratio),
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "patch_size": 8,
        "image_size": 32,
        "projection_dim": 24,
        "hidden_act": "quick_gelu" if quick else "gelu",
    }
    text = {**vision, "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 50}
    text |= {"max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        if kind == "CLIPVisionModelWithProjection":
            return randomised(hub.CLIPVisionModelWithProjection(hub.CLIPVisionConfig(**vision)))
        config = getattr(hub, kind.replace("Model", "Config"))
        both = config(projection_dim=24, vision_config=vision, text_config=text)
        return randomised(getattr(hub, kind)(both))


def their_embedding(model: Any) -> Callable[[Tensor], Tensor]:
    def embed(images: Tensor) -> Tensor:
        if hasattr(model, "get_image_features"):
            found = model.get_image_features(pixel_values=images)
            return found if isinstance(found, Tensor) else found.pooler_output
        found = model(pixel_values=images)
        return found.image_embeds if "image_embeds" in found else found.pooler_output

    return embed


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


# -------------------------------------------------------------------------------- refusals


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


# --------------------------------------------------------------------------------- folders


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


# ------------------------------------------------------------------------- published models

PUBLISHED = (
    "ViT-B-32-quickgelu",
    "MobileCLIP2-S0",
    "PE-Core-S-16-384",
    "MobileCLIP2-S3",
    "ViT-B-16-SigLIP2",
    "ViT-B-32-SigLIP2-256",
    "ViT-L-14-336-quickgelu",
    "ViT-L-14-worldwide-quickgelu",
    "EVA02-B-16",
    "convnext_base_w",
    "ViTamin-S",
    "coca_ViT-B-32",
    "roberta-ViT-B-32",
    "nllb-clip-base-siglip",
    "swin_base_patch4_window7_224",
    "RN50-quickgelu",
)


@pytest.mark.parametrize(
    "name",
    ["PE-Core-T-16-384", *(pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED)],
)
def test_published_models(name: str, tmp_path: Path) -> None:
    clip = random_model(name, text_cfg=NO_TEXT)
    file = as_safetensors(clip.state_dict(), tmp_path / "model")
    encoder = load_image_encoder(f"open_clip:{name}/{file}")
    assert_same(encoder, clip.encode_image, 0.99999)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PE-Core-T-16-384", "EVA02-B-16"])
def test_the_names_of_their_authors(name: str, tmp_path: Path) -> None:
    clip = random_model(name, text_cfg=NO_TEXT)
    tensors = as_meta_names_them(clip) if name.startswith("PE") else as_eva_names_them(clip)
    encoder = load_image_encoder(f"open_clip:{name}/{as_old(tensors, tmp_path / 'x')}")
    assert_same(encoder, clip.encode_image, 0.99999)
    smaller = {n: t for n, t in tensors.items() if not n.endswith(("pos_embed", "al_embedding"))}
    file = as_old(smaller, tmp_path / "other")
    with pytest.raises(EncoderWeightsError, match="other patches, or of another size"):
        load_image_encoder(f"open_clip:{name}/{file}")


def as_eva_names_them(clip: Any) -> dict[str, Tensor]:
    named = {}
    for name, tensor in clip.visual.trunk.state_dict().items():
        for ours, theirs in EVA_NAMES:
            name = re.sub(ours, theirs, name)
        named[name] = tensor
    return named


EVA_NAMES = (
    (r"^", "visual."),
    (r"mlp\.norm", "mlp.ffn_ln"),
    (r"attn\.norm", "attn.inner_attn_ln"),
    (r"mlp\.fc1_g", "mlp.w1"),
    (r"mlp\.fc1_x", "mlp.w2"),
    (r"mlp\.fc2", "mlp.w3"),
    (r"([qv])_proj\.bias", r"\1_bias"),
)


def as_meta_names_them(clip: Any) -> dict[str, Tensor]:
    """The names of Perception Encoder's own files; there the last layer has no bias."""
    clip.visual.trunk.head.bias.data.zero_()
    named = {}
    for name, tensor in clip.visual.trunk.state_dict().items():
        for ours, theirs in META_NAMES:
            name = re.sub(ours, theirs, name)
        named[name] = tensor
    named["visual.positional_embedding"] = named["visual.positional_embedding"][0]
    if "visual.class_embedding" in named:
        named["visual.class_embedding"] = named["visual.class_embedding"].flatten()
    named["visual.proj"] = named.pop("visual.head.weight").T
    del named["visual.head.bias"]
    for kind in ("weight", "bias"):
        parts = [named.pop(f"visual.attn_pool.{part}.{kind}") for part in ("q", "kv")]
        named[f"visual.attn_pool.attn.in_proj_{kind}"] = torch.cat(parts)
    return named


META_NAMES = (
    (r"^", "visual."),
    (r"cls_token", "class_embedding"),
    (r"pos_embed$", "positional_embedding"),
    (r"patch_embed\.proj", "conv1"),
    (r"norm_pre", "ln_pre"),
    (r"visual\.norm\.", "visual.ln_post."),
    (r"visual\.blocks\.", "visual.transformer.resblocks."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"gamma_([12])", r"ls_\1.gamma"),
    (r"attn\.qkv\.", "attn.in_proj_"),
    (r"attn\.proj\.", "attn.out_proj."),
    (r"(blocks\..*)mlp\.fc1", r"\1mlp.c_fc"),
    (r"(blocks\..*)mlp\.fc2", r"\1mlp.c_proj"),
    (r"attn_pool\.proj\.", "attn_pool.attn.out_proj."),
    (r"attn_pool\.norm\.", "attn_pool.layernorm."),
    (r"attn_pool\.latent", "attn_pool.probe"),
    (r"(attn_pool\..*)mlp\.fc1", r"\1mlp.c_fc"),
    (r"(attn_pool\..*)mlp\.fc2", r"\1mlp.c_proj"),
)


@pytest.mark.slow
def test_streetclip(tmp_path: Path) -> None:
    """CLIP of ViT-L/14 at 336 pixels in transformers' layout, of full size."""
    import transformers as hub

    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    vision |= {"num_attention_heads": 16, "image_size": 336, "patch_size": 14}
    config = hub.CLIPVisionConfig(**vision, projection_dim=768)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = randomised(hub.CLIPVisionModelWithProjection(config))
    file = as_old(model.state_dict(), tmp_path / "pytorch_model")
    encoder = load_image_encoder(f"open_clip:ViT-L-14-336-quickgelu/{file}")
    assert encoder.spec.image_size == 336
    assert_same(encoder, their_embedding(model), 0.9999)

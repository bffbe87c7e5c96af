"""Small CLIPs with random weights, and the layouts in which files hold them.

Files are written by other people's libraries, and embeddings compared with open_clip's own or with
transformers'.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from locdiffusion.model.image_encoder import ImageEncoder
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


def add_configs(folder: Path) -> None:
    """Writes the configurations of small models, and has open_clip know them."""
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

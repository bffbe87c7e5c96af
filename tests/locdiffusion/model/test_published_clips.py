"""Models of open_clip by their published names and sizes, and the names that authors give."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from locdiffusion.model.image_encoder import load_image_encoder
from locdiffusion.model.open_clip_model import NO_TEXT
from locdiffusion.model.weights import EncoderWeightsError
from support import SEED
from support.clip_layouts import (
    as_old,
    as_safetensors,
    assert_same,
    random_model,
    randomised,
    their_embedding,
)

pytestmark = pytest.mark.usefixtures("clip_configs")


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

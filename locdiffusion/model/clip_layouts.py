"""Finds the image tower in a file of CLIP weights, under whatever names it was published.

| layout | names of the tensors |
|---|---|
| open_clip, OpenAI | `visual.class_embedding`, `visual.trunk.patch_embed.proj.weight` |
| transformers, CLIP and MetaCLIP 2 | `vision_model.embeddings.class_embedding` |
| transformers, SigLIP | `vision_model.head.probe` |
| Apple's MobileCLIP | `image_encoder.model.patch_embed.0.rbr_conv.0.conv.weight` |
| EVA-CLIP, Meta's PE-Core | `visual.blocks.0.attn.q_proj.weight`, `visual.conv1.weight` |

A wrapper may have put a prefix before them, such as `model.`. The text tower stays on the disk.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from locdiffusion.model.tensor_files import read_tensors, tensor_names
from locdiffusion.model.torch_pickle import TensorFileError

PATCHES, PROBE, PROJECTION = "embeddings.patch_embedding.weight", "head.probe", "visual_projection."
APPLE = "image_encoder.model."
TRANSFORMERS = re.compile(r"(embeddings|encoder\.layers|pre_layrnorm|post_layernorm|head)\.")

# Patterns of transformers' names, and open_clip's names.
CLIP = (
    (r"^embeddings\.class_embedding", "class_embedding"),
    (r"^embeddings\.patch_embedding\.", "conv1."),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^pre_layrnorm\.", "ln_pre."),
    (r"^post_layernorm\.", "ln_post."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1.in_proj_"),
    (r"\.self_attn\.", ".attn."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)
SIGLIP = (
    (r"^embeddings\.patch_embedding\.", "trunk.patch_embed.proj."),
    (r"^embeddings\.position_embedding\.weight", "trunk.pos_embed"),
    (r"^post_layernorm\.", "trunk.norm."),
    (r"^encoder\.layers\.", "trunk.blocks."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1.qkv."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"^head\.probe", "trunk.attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "trunk.attn_pool.in_proj_"),
    (r"^head\.attention\.out_proj\.", "trunk.attn_pool.proj."),
    (r"^head\.layernorm\.", "trunk.attn_pool.norm."),
    (r"^head\.mlp\.", "trunk.attn_pool.mlp."),
)


def image_weights(tower: nn.Module, path: Path) -> dict[str, Tensor]:
    """Reads the tensors of an image tower, under the tower's own names.

    Args:
        tower: Image tower of open_clip, which may lie on the device `meta`.
        path: Path of a file of any layout; see `read_tensors` for its formats.

    Returns:
        The file's tensors of the tower by name, in the precision of the file. Their shapes are
        those of the file.

    Raises:
        OSError: The file cannot be read.
        TensorFileError: The file is damaged, holds code, or lacks tensors of the tower.
    """
    names = tensor_names(path)
    wanted = tower.state_dict().keys()
    begins = [name.removesuffix(PATCHES) for name in names if _ends_with(name, PATCHES)]
    if begins:
        found = _of_transformers(path, begins[0], names)
    elif any(name.startswith(APPLE) for name in names):
        found = _of_apple(tower, path)
    else:
        prefix = _prefix(names, wanted)
        found = _without(prefix, read_tensors(path, (prefix,)))
        if type(getattr(tower, "trunk", None)).__name__ == "Eva" and wanted - found.keys():
            found = _of_eva(tower, found)
    if lacking := sorted(wanted - found.keys()):
        raise TensorFileError(
            f"of the {len(wanted)} tensors of the image tower it lacks {len(lacking)}, first "
            f"{lacking[0]}; it holds {len(names)}, such as {[name[:60] for name in names[:3]]}. "
            "Is it the whole model, and this one? Of shards, name the file that ends in .index.json"
        )
    return found


def _ends_with(name: str, end: str) -> bool:
    return name == end or name.endswith("." + end)


def _without(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _prefix(names: Collection[str], wanted: Collection[str]) -> str:
    """Finds what stands before the names of the image tower; the text tower has some of them."""
    first, known = next(iter(wanted)), set(names)
    prefixes = {name.removesuffix(first) for name in names if _ends_with(name, first)}
    return max(
        sorted({"visual.", *prefixes}), key=lambda prefix: sum(prefix + n in known for n in wanted)
    )


def _of_transformers(path: Path, begin: str, names: Collection[str]) -> dict[str, Tensor]:
    projection = begin.removesuffix("vision_model.") + PROJECTION
    tensors = read_tensors(path, (begin, projection))
    siglip = begin + PROBE in names
    found = {}
    for name, tensor in _without(begin, tensors).items():
        # A buffer of old versions, and with an empty prefix the text tower.
        if name == "embeddings.position_ids" or not TRANSFORMERS.match(name):
            continue
        for theirs, ours in SIGLIP if siglip else CLIP:
            name = re.sub(theirs, ours, name)
        found[name] = tensor
    for query in [name for name in found if ".attn.q." in name]:
        parts = [found.pop(query.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        found[query.replace(".attn.q.", ".attn.")] = torch.cat(parts)
    if not siglip:
        if (weight := tensors.get(projection + "weight")) is not None:
            found["proj"] = weight.T.contiguous()
        return found
    found["trunk.pos_embed"] = found["trunk.pos_embed"][None]
    for kind in ("weight", "bias"):
        joint = found.pop(f"trunk.attn_pool.in_proj_{kind}")
        width = len(joint) // 3
        found[f"trunk.attn_pool.q.{kind}"] = joint[:width]
        found[f"trunk.attn_pool.kv.{kind}"] = joint[width:]
    return found


def _of_apple(tower: nn.Module, path: Path) -> dict[str, Tensor]:
    from open_clip.convert import convert_state_dict

    tensors = read_tensors(path, (APPLE, "logit_scale"))
    converted = convert_state_dict(SimpleNamespace(visual=tower), tensors)
    images = {name: tensor for name, tensor in converted.items() if name.startswith("visual.")}
    return _without("visual.", images)


def _of_eva(tower: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    from timm.models.eva import checkpoint_filter_fn

    trunk = tower.trunk
    sizes = {tensor.numel() for tensor in tensors.values()}
    # Otherwise timm would resize them, to whatever a configuration says.
    if not {trunk.pos_embed.numel(), trunk.patch_embed.proj.weight.numel()} <= sizes:
        raise TensorFileError("it is of a model of other patches, or of another size of images")
    converted = checkpoint_filter_fn(tensors, trunk)
    return {f"trunk.{name}": tensor for name, tensor in converted.items()}

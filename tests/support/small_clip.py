"""CLIP of ViT-L/14's family, with random weights: small for the suite, or as large as published.

Built by transformers, which is what GeoCLIP runs; open_clip learns of the same sizes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from locdiffusion.checkpoint import CheckpointConfig, save
from locdiffusion.decoding.decoder import DecodeConfig
from locdiffusion.density.base_measure import uniform_measure
from locdiffusion.diffusion.schedules import NoiseConfig
from locdiffusion.gallery.place_mixture import MixtureConfig
from locdiffusion.model import clip_image, geoclip
from locdiffusion.model.cs_unet import CSUNet, CSUNetConfig
from locdiffusion.temperature import CalibratedDenoiser, TemperatureConfig, TemperatureModel

SMALL = {"layers": 2, "width": 128, "patch_size": 32}
LARGE = {"layers": 24, "width": 1024, "patch_size": 14}
NAME = "LocDiffusion-Small-CLIP"


def random_clip(sizes: dict[str, int], seed: int = 0) -> Any:
    """transformers' CLIPModel with hardly any text tower."""
    from transformers import CLIPConfig, CLIPModel

    width = sizes["width"]
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": width // 64,
        "patch_size": sizes["patch_size"],
        "image_size": 224,
        "projection_dim": 768,
    }
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 50,
        "max_position_embeddings": 8,
        "projection_dim": 768,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    config = CLIPConfig(projection_dim=768, vision_config=vision, text_config=text)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        clip = CLIPModel(config).eval()
        with torch.no_grad():
            for parameter in clip.parameters():  # as it comes, biases are 0 and norms 1
                parameter.add_(0.02 * torch.randn_like(parameter))
    return clip


def save_like_the_hub(clip: Any, path: Path) -> Path:
    """The file that the hub has: also a buffer that nobody has used for years."""
    tensors = {name: tensor.contiguous() for name, tensor in clip.state_dict().items()}
    tensors["vision_model.embeddings.position_ids"] = torch.arange(50)[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def expect_small(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Has the encoder `geoclip` expect the small CLIP."""
    config = {
        "embed_dim": 768,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 224, **SMALL},
        "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / f"{NAME}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{NAME}.json")
    monkeypatch.setattr(clip_image, "MODEL", NAME)


def write_geoclip_checkpoint(directory: Path) -> Path:
    """A checkpoint of GeoCLIP's embeddings whose network has learnt nothing."""
    network = CSUNet(CSUNetConfig(max_degree=7, embedding_dim=512, condition_dim=16, widths=(8,)))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    size = TemperatureConfig(gallery=1, components=1, neighbours=1, hidden=1)
    denoiser = CalibratedDenoiser(network, TemperatureModel(size, 7, 512, uniform_measure()))
    config = CheckpointConfig(
        *(directory.name, network.config, NoiseConfig(), DecodeConfig(), geoclip.SPEC),
        gallery=MixtureConfig(30.0, -1.0, 0.1, (1.0, 0.5, 0.0, -1.0), (0.0,) * 4, 1.0, (0.1,) * 3),
    )
    save(directory, config, denoiser)
    return directory

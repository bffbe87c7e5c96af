"""A model with random weights in the sizes of a real one: CLIP ViT-L/14 and the shipped head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from locdiffusion.checkpoint import load
from locdiffusion.geotagger import Geotagger
from locdiffusion.model import geoclip
from locdiffusion.model.clip_image import MODEL
from locdiffusion.model.image_encoder import ImageEncoder
from locdiffusion.model.open_clip_model import without_weights

CHECKPOINT = "geoclip-distilled"
ARITHMETIC = ("float32", "tf32", "bf16")


class RandomEncoder(nn.Module):
    """Maps normalised images (N, 3, 224, 224) to unit vectors (N, 512).

    Args:
        tiny: Whether a single convolution replaces CLIP ViT-L/14, for a test.
    """

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        patches = nn.Sequential(nn.Conv2d(3, 4, 56, 56), nn.Flatten(), nn.Linear(64, 768))
        self.trunk = patches if tiny else without_weights(MODEL).visual
        self.head = nn.Linear(768, 512)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes the embeddings."""
        return nn.functional.normalize(self.head(self.trunk(images)), dim=1)


@dataclass(frozen=True)
class RandomLoader:
    """Builds the model; stands in for `model_cache.GeotaggerLoader`.

    Attributes:
        device: Torch device.
        arithmetic: One of ARITHMETIC.
        tiny: See `RandomEncoder`.
    """

    device: str
    arithmetic: str
    tiny: bool

    def __call__(self) -> Geotagger:
        """Builds the model; its weights are the same each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = RandomEncoder(self.tiny)
            for parameter in network.parameters():  # open_clip leaves some as they come
                nn.init.normal_(parameter, std=0.02)
        encoder = ImageEncoder(geoclip.SPEC, network, self.device, self.arithmetic == "bf16")
        encoder.tf32 &= self.arithmetic == "tf32"
        return Geotagger(load(CHECKPOINT), encoder)

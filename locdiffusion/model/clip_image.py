"""Loads the image tower of OpenAI's CLIP ViT-L/14 from any of its published files.

* `openai/clip-vit-large-patch14` on Hugging Face, transformers' names: `model.safetensors`
* `timm/vit_large_patch14_clip_224.openai` there, open_clip's names: `open_clip_model.safetensors`
* OpenAI's own `ViT-L-14.pt`, TorchScript in half precision, which the package `clip` fetches

All hold the same numbers. The network is open_clip's ViT-L-14 with QuickGELU.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from locdiffusion.model.clip_layouts import image_weights
from locdiffusion.model.open_clip_model import shapes_only
from locdiffusion.model.weights import EncoderWeightsError, offline_if_unreachable

MODEL = "ViT-L-14-quickgelu"
REPOSITORY, FILE = "openai/clip-vit-large-patch14", "model.safetensors"
REVISION = "32bd64288804d66eefd0ccbe215aa642df71cc41"
FILE_BYTES = 1_710_540_580
FILE_SHA256 = "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"
HUB_FILES = (
    (REPOSITORY, FILE),
    (REPOSITORY, "pytorch_model.bin"),
    ("timm/vit_large_patch14_clip_224.openai", "open_clip_model.safetensors"),
    ("timm/vit_large_patch14_clip_224.openai", "open_clip_pytorch_model.bin"),
)
OPENAI_FILE = "~/.cache/clip/ViT-L-14.pt"

REMEDY = (
    f"Fetch https://huggingface.co/{REPOSITORY}/resolve/main/{FILE} "
    f"({FILE_BYTES:,} bytes, sha256 {FILE_SHA256}), put it anywhere on this machine, and name it: "
    "--encoder geoclip:/path/to/model.safetensors"
)


def image_tower(file: str = "") -> nn.Module:
    """Loads the network, which maps normalised images (N, 3, 224, 224) to raw features (N, 768).

    Args:
        file: File of the weights; empty looks in the usual caches and then on the hub.

    Raises:
        EncoderWeightsError: The weights are missing, or belong to another model.
    """
    path = named_file(file) if file else _cached() or _downloaded()
    try:
        tower: nn.Module = shapes_only(MODEL).visual
        tower.load_state_dict(image_weights(tower, path), assign=True)
    except Exception as error:  # of the file or the model
        reason = " ".join(str(error).split())[:300]  # torch lists every tensor
        raise EncoderWeightsError(
            f"{path} does not hold CLIP ViT-L/14 ({type(error).__name__}: {reason}). {REMEDY}"
        ) from error
    return tower.float().eval().requires_grad_(False)


def named_file(file: str) -> Path:
    """Checks the path of a weight file.

    Raises:
        EncoderWeightsError: There is no such file.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise EncoderWeightsError(f"there is no weight file {path}. {REMEDY}")
    return path


def _cached() -> Path | None:
    """Finds the weights in the caches of Hugging Face and OpenAI, without network."""
    from huggingface_hub import try_to_load_from_cache

    for repository, name in HUB_FILES:
        # A download of a revision, as GeoCLIP's, leaves no "main" in the cache.
        for revision in ("main", REVISION):
            found = try_to_load_from_cache(repository, name, revision=revision)
            if isinstance(found, str):
                return Path(found)
    path = Path(OPENAI_FILE).expanduser()
    return path if path.is_file() else None


def _downloaded() -> Path:
    from huggingface_hub import constants, hf_hub_download

    try:
        with offline_if_unreachable():
            return Path(hf_hub_download(REPOSITORY, FILE))
    except Exception as error:  # of the hub or the network
        raise EncoderWeightsError(
            "the image encoder geoclip needs the weights of CLIP ViT-L/14, which are neither in "
            f"{constants.HF_HUB_CACHE} nor to be had from the hub ({type(error).__name__}). "
            f"{REMEDY}"
        ) from error

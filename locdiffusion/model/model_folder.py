"""Finds a model of open_clip in a folder: a local one, or one of the hub or its cache.

`local-dir:PATH` and `hf-hub:ORG/NAME` are open_clip's names of such folders. They hold
`open_clip_config.json`, with the sizes of the model and its preprocessing, and a file of weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from locdiffusion.model.weights import FOLDER, HUB, EncoderWeightsError, offline_if_unreachable

CONFIG = "open_clip_config.json"
WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MAX_CONFIG_BYTES = 2**20
MAX_NUMBER = 2**20
LIMITS = {"layers": 256, "image_size": 1024}
"""What the largest models have several times; a stranger's file may say anything."""
TIMM_NAME = re.compile(r"\w+(\.\w+)?", re.ASCII)


def model_folder(model: str) -> Path:
    """Finds the folder of a model, and checks its configuration.

    Args:
        model: `local-dir:PATH`, or `hf-hub:ORG/NAME`, whose configuration is fetched.

    Raises:
        EncoderWeightsError: There is no configuration, or it is out of bounds.
    """
    if model.startswith(HUB):
        path = _fetched(model.removeprefix(HUB), (CONFIG,))
    else:
        path = Path(model.removeprefix(FOLDER)).expanduser() / CONFIG
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        if len(text) > MAX_CONFIG_BYTES:
            raise ValueError(f"it has more than {MAX_CONFIG_BYTES:,} bytes")
        config = json.loads(text)["model_cfg"]
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
            raise ValueError("model_cfg lacks embed_dim, vision_cfg or text_cfg")
        _check("model_cfg", config)
        timm = config["vision_cfg"].get("timm_model_name")
        # With a colon, timm would fetch the model from a hub.
        if timm is not None and not (isinstance(timm, str) and TIMM_NAME.fullmatch(timm)):
            raise ValueError(f"timm_model_name is {str(timm)[:80]!r}, wanted a name of timm")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise EncoderWeightsError(
            f"{path} is no configuration of open_clip ({type(error).__name__}: "
            f"{str(error)[:200]}); name a folder that open_clip wrote, or the model and the file: "
            "open_clip:MODEL/FILE"
        ) from error
    return path.parent


def folder_weights(model: str) -> Path:
    """Finds the file of weights beside the configuration.

    Args:
        model: `local-dir:PATH`, or `hf-hub:ORG/NAME`, whose weights are fetched.

    Raises:
        EncoderWeightsError: There is none.
    """
    if model.startswith(HUB):
        names = [name for name in WEIGHT_FILES if not name.endswith(".json")]
        return _fetched(model.removeprefix(HUB), names)
    folder = Path(model.removeprefix(FOLDER)).expanduser()
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise EncoderWeightsError(f"{folder} holds no weights, wanted one of {WEIGHT_FILES}")


def _check(key: str, value: Any) -> None:
    if isinstance(value, dict):
        for name, part in value.items():
            _check(name, part)
    elif isinstance(value, list):
        for part in value[:64]:
            _check(key, part)
        if len(value) > 64:
            raise ValueError(f"{key} has {len(value):,} entries")
    elif isinstance(value, (int, float)) and not abs(value) <= LIMITS.get(key, MAX_NUMBER):
        raise ValueError(f"{key} is {value:.3g}, wanted at most {LIMITS.get(key, MAX_NUMBER):,}")


def _fetched(repository: str, names: Sequence[str]) -> Path:
    """Finds the first file of a repository that is in the cache, or on the hub."""
    from huggingface_hub import constants, hf_hub_download

    reason = ""
    with offline_if_unreachable():
        for name in names:
            try:
                return Path(hf_hub_download(repository, name))
            except Exception as error:  # of the hub or the network, of many kinds
                reason = reason or f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    raise EncoderWeightsError(
        f"hf-hub:{repository} has none of {list(names)}, neither in {constants.HF_HUB_CACHE} nor "
        f"on the hub. Without a network, fetch {CONFIG} and the weights elsewhere, put them into "
        "one folder and name it: open_clip:local-dir:FOLDER. If only transformers reads the "
        "repository, fetch its model.safetensors: open_clip:MODEL/FILE. The first error was "
        f"{reason}"
    )

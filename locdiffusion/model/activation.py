"""Finds and sets the activation of a CLIP image tower.

GELU and QuickGELU have no weights, so no file of tensors fails to load into the wrong one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from locdiffusion.model.preprocessing import Activation
from locdiffusion.model.tensor_files import TensorFileError, tensor_names

MAX_CONFIG_BYTES = 2**20
OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's own files hold beside the weights. All its models have QuickGELU."""


def activation_of(network: nn.Module) -> Activation | None:
    """Returns the activation of a network; None if it has neither of the two, or both."""
    found = {kind for _, _, kind in _activations(network)}
    return found.pop() if len(found) == 1 else None


def set_activation(network: nn.Module, activation: Activation) -> None:
    """Gives a network, in place, one of the two activations wherever it has the other."""
    from open_clip.transformer import QuickGELU

    for parent, name, kind in list(_activations(network)):
        if kind is not activation:
            setattr(parent, name, nn.GELU() if activation is Activation.GELU else QuickGELU())


def activation_of_file(path: Path) -> Activation | None:
    """Returns the activation that a file of weights tells, or the configuration beside it.

    OpenAI's files tell it by what they hold, those of transformers by `config.json` and those of
    open_clip by `open_clip_config.json`, if these were copied along. None is told by other files,
    and by those that cannot be read.
    """
    try:
        names = tensor_names(path)
        if set(names) >= set(OPENAI_SIZES):
            return Activation.QUICK_GELU
        if any(name.endswith("vision_model.pre_layrnorm.bias") for name in names):
            vision = _config(path.with_name("config.json")).get("vision_config")
            # transformers leaves out what is its default
            act = vision.get("hidden_act", "quick_gelu") if isinstance(vision, dict) else None
            return next((known for known in Activation if known.value == act), None)
    except (OSError, TensorFileError):
        return None
    model = _config(path.with_name("open_clip_config.json")).get("model_cfg")
    if not isinstance(model, dict):
        return None
    return Activation.QUICK_GELU if model.get("quick_gelu") else Activation.GELU


def _config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _activations(network: nn.Module) -> Iterator[tuple[nn.Module, str, Activation]]:
    for parent in network.modules():
        for name, child in parent.named_children():
            if type(child).__name__ == "QuickGELU":  # open_clip's or timm's
                yield parent, name, Activation.QUICK_GELU
            elif isinstance(child, nn.GELU) and child.approximate == "none":
                yield parent, name, Activation.GELU

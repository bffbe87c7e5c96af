"""Controls how torch runs on a GPU: the arithmetic of products, and copies from pinned memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from locdiffusion.model.nvidia_driver import loaded_driver, needed_driver


def check_gpu(device: torch.device | str) -> None:
    """Refuses a GPU that torch does not see.

    Args:
        device: Torch device. A processor passes.

    Raises:
        ValueError: No GPU can be used. The message has the driver that was found and the one that
            torch needs.
    """
    if torch.device(device).type != "cuda" or torch.cuda.is_available():
        return
    cuda = torch.version.cuda
    if cuda is None:
        raise ValueError(f"torch {torch.__version__} is built without CUDA; take --device cpu")
    found = loaded_driver()
    raise ValueError(
        f"torch {torch.__version__} (CUDA {cuda}) sees no GPU. It needs NVIDIA driver "
        f"{needed_driver(cuda)} or newer; "
        + (f"loaded is {found}" if found else "none is loaded: is there a GPU?")
        + ". Give a newer driver, an image of an older CUDA (deploy/README.md), or --device cpu"
    )


def uses_bf16(device: torch.device | str, wanted: bool | None) -> bool:
    """Decides whether an image encoder computes in bfloat16.

    Args:
        device: Torch device of the encoder.
        wanted: What was asked for. None takes bfloat16 on a GPU that computes with it (NVIDIA's
            from Ampere on), and float32 elsewhere.

    Raises:
        ValueError: bfloat16 was asked for, and the device is no GPU or computes without it.
    """
    on_gpu = torch.device(device).type == "cuda"
    if wanted is False or (wanted is None and not (on_gpu and torch.cuda.is_available())):
        return False
    if not on_gpu:
        raise ValueError(
            f"bf16 on device '{device}': a processor is slower with it; leave it out, or name "
            "a GPU (--device cuda)"
        )
    has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted and not has_it:
        raise ValueError(
            f"bf16 on {torch.cuda.get_device_name(device)}, which computes without it; leave it "
            "out, or take a GPU from Ampere on (A100, L4, H100)"
        )
    return has_it


@contextmanager
def tensor_float32(enabled: bool = True) -> Iterator[None]:
    """Lets a GPU round the factors of float32 products to TF32 in a block, if it can.

    TF32 has the range of float32 and the 10 bits of half precision; sums stay in float32.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    if enabled:
        matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        if enabled:
            matmul.fp32_precision = before


def on_device(batch: Tensor, device: torch.device) -> Tensor:
    """Copies a batch to a device; to a GPU from pinned memory, while the processor goes on."""
    if device.type != "cuda":
        return batch.to(device)
    return batch.pin_memory().to(device, non_blocking=True)

"""How torch runs on a GPU, as far as a machine without one can tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from locdiffusion.model import cuda
from locdiffusion.model.cuda import check_gpu, on_device, tensor_float32, uses_bf16
from locdiffusion.model.image_encoder import ImageEncoder
from locdiffusion.model.nvidia_driver import loaded_driver, needed_driver
from support.tiny import TinyEncoder


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A GPU that has bfloat16, or has not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: request.param)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")


@pytest.mark.parametrize("card", [True, False], indirect=True)
def test_bf16_is_the_default_of_a_gpu_that_has_it(
    card: None, request: pytest.FixtureRequest
) -> None:
    assert uses_bf16("cuda:0", None) is request.node.callspec.params["card"]
    assert uses_bf16("cuda", False) is uses_bf16("cpu", None) is uses_bf16("cpu", False) is False


@pytest.mark.parametrize("card", [False], indirect=True)
def test_bf16_that_a_gpu_lacks_is_refused(card: None) -> None:
    with pytest.raises(ValueError, match=r"Tesla T4, which computes without it; .*Ampere"):
        uses_bf16("cuda", True)


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  R", "580.95.05"),
        ("nothing", None),
        (None, None),
    ],
)
def test_the_driver_of_this_machine(tmp_path: Path, file: str | None, found: str | None) -> None:
    if file:
        (tmp_path / "version").write_text(file)
    assert loaded_driver(tmp_path / "version") == found


def test_each_cuda_has_its_driver() -> None:
    """Of NVIDIA's table of minor version compatibility."""
    assert [needed_driver(cuda) for cuda in ("12.0", "12.6", "13.0")] == [525, 525, 580]
    with pytest.raises(ValueError, match=r"CUDA 11\.8, wanted one of"):
        needed_driver("11.8")


@pytest.mark.parametrize("found", ["535.183.01", None])
def test_a_gpu_that_cannot_be_used_is_told_with_the_driver(
    monkeypatch: pytest.MonkeyPatch, found: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(cuda, "loaded_driver", lambda: found)
    told = f"driver 580 or newer; {'loaded is ' + found if found else 'none is loaded'}"
    with pytest.raises(ValueError, match=told):
        check_gpu("cuda:0")
    check_gpu("cpu")
    assert uses_bf16("cuda", None) is False
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ValueError, match="built without CUDA"):
        check_gpu("cuda")


def test_tf32_is_for_the_block_only() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    with pytest.raises(RuntimeError), tensor_float32():
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        raise RuntimeError
    with tensor_float32(False):
        assert torch.backends.cuda.matmul.fp32_precision == before
    assert torch.backends.cuda.matmul.fp32_precision == before


class _Far:
    """A batch that tells what is done with it."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def pin_memory(self) -> _Far:
        self.done.append("pinned")
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> _Far:
        self.done.append((device.type, non_blocking))
        return self


@pytest.mark.parametrize(
    ("device", "done"), [("cuda", ["pinned", ("cuda", True)]), ("cpu", [("cpu", False)])]
)
def test_only_a_gpu_is_fed_from_pinned_memory(device: str, done: list[object]) -> None:
    batch = _Far()
    on_device(batch, torch.device(device))  # type: ignore[arg-type]
    assert batch.done == done


def test_nothing_is_rounded_on_a_processor() -> None:
    class Network(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            precisions.append(torch.backends.cuda.matmul.fp32_precision)
            return images.mean((2, 3))

    precisions: list[str] = []
    spec = TinyEncoder().spec
    encoder = ImageEncoder(spec, Network())
    encoder.embed(np.zeros((1, spec.image_size, spec.image_size, 3), np.uint8))
    assert not encoder.bf16 and precisions == [torch.backends.cuda.matmul.fp32_precision]

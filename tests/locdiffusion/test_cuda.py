"""How torch runs on a GPU, as far as a machine without one can tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from locdiffusion.cuda import on_device, tensor_float32, uses_bf16
from locdiffusion.model.image_encoder import ImageEncoder
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


def test_a_missing_gpu_is_told_by_torch_and_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert uses_bf16("cuda", None) is False


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

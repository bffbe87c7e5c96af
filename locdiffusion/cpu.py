"""How torch runs on a processor: how many threads for a while, how much at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Runs a block with `count` threads inside each operation, then restores what was before.

    One thread is best for small products, and where whole tasks run side by side: threads inside a
    small operation wait for each other, and on a busy machine they wait long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_cache(rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of tensors, side by side along the first axis.

    Args:
        rows: Of each part on a CPU, whose caches hold the intermediate results of no more. On a GPU
            there is one part.
        tensors: Of equal length; of none there is one part, which is empty.
    """
    size = rows if tensors[0].device.type == "cpu" else max(1, len(tensors[0]))
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)

"""Controls how torch runs on a CPU: threads inside an operation, and sizes of batches.

Torch is imported where it is used: processes that only read files ask for the number of cores too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def usable_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_torch_thread() -> None:
    """Gives the thread that calls it one thread inside each operation, for good.

    Torch gives the number that was set last to threads that begin; that number stays as it is.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    other = threading.Thread(target=torch.set_num_threads, args=(before,))
    other.start()
    other.join()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Runs a block with `count` threads inside each operation, then restores the former number.

    One thread is best for small products and for tasks that run in parallel, since threads inside a
    small operation wait for each other.
    """
    import torch

    before = torch.get_num_threads()
    if before == count:  # not even for a moment the number of threads that begin
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_cache(rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Splits tensors along the first axis into parts whose intermediate results fit a CPU's cache.

    Args:
        rows: Rows of a part on a CPU. On a GPU there is one part.
        tensors: Tensors of equal length. Tensors of length 0 give one empty part.
    """
    size = rows if tensors[0].device.type == "cpu" else max(1, len(tensors[0]))
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)

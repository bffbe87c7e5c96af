"""How many threads torch uses, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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

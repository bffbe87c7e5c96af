"""Computes numbers that depend on a name and the seed alone: order, chance and partition.

Whatever has to be "any one of them" or "at random" is decided by these, so that the number of
workers and the order in which rows arrive decide nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ORDER, SPLIT, PARTITION = b"order", b"split", b"partition"


def stable_hashes(names: Sequence[str], seed: int, purpose: bytes = ORDER) -> NDArray[np.uint64]:
    """Computes a number per name, uniform over 64 bits.

    Args:
        names: N names.
        seed: Seed of the build.
        purpose: Use of the numbers; those of different purposes are independent.
    """
    start = hashlib.blake2b(f"{seed}\0".encode(), digest_size=8, person=purpose)
    digests = []
    for name in names:
        one = start.copy()
        one.update(name.encode("utf-8", "surrogateescape"))
        digests.append(one.digest())
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def uniform_numbers(names: Sequence[str], seed: int, purpose: bytes = SPLIT) -> NDArray[np.float64]:
    """Computes a number in [0, 1) per name, float64 ``(N,)``."""
    return (stable_hashes(names, seed, purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53

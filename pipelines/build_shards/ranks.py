"""Numbers that depend on a name and the seed, and on nothing else: order, chance and partition.

Whatever has to be "any one of them" or "at random" is decided by these, so that the number of
workers and the order in which rows arrive decide nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ORDER, SPLIT, PARTITION = b"order", b"split", b"partition"


def ranks(names: Sequence[str], seed: int, purpose: bytes = ORDER) -> NDArray[np.uint64]:
    """A number per name, uniform over 64 bits.

    Args:
        names: N names.
        seed: Of the build.
        purpose: Numbers of different purposes are independent.

    Returns:
        uint64 (N,).
    """
    start = hashlib.blake2b(f"{seed}\0".encode(), digest_size=8, person=purpose)
    digests = []
    for name in names:
        one = start.copy()
        one.update(name.encode("utf-8", "surrogateescape"))
        digests.append(one.digest())
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def chances(names: Sequence[str], seed: int, purpose: bytes = SPLIT) -> NDArray[np.float64]:
    """The same as a number in [0, 1): float64 (N,)."""
    return (ranks(names, seed, purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53

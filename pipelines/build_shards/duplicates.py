"""Finds photos that are the same file, or that look the same.

A photo is a duplicate if one of smaller rank is like it, also if that one is dropped: so each pair
can be judged by itself, in any order, on any machine, and the result is the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BANDS, BAND_BITS = 4, 16
MOST_DIFFERENT_BITS = 3
"""Within three bits of another hash, at least one of the four bands is equal (pigeonhole)."""

PARTS, PART_BITS = 4, 12

NONE = np.iinfo(np.uint64).max


def band(hashes: NDArray[np.uint64], number: int) -> NDArray[np.uint64]:
    """Returns the 16 bits of each hash that make its band 0, 1, 2 or 3."""
    return (hashes >> np.uint64(BAND_BITS * number)) & np.uint64(2**BAND_BITS - 1)


def tells_nothing(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Returns whether a hash is, up to three bits, that of a plain surface or a plain gradient.

    The hash does not tell clear skies, fog and night apart; such photos are compared by their bytes
    alone.
    """
    return few_bits(hashes) | few_bits(~hashes)


def few_bits(values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Returns whether at most `MOST_DIFFERENT_BITS` bits are set."""
    for _ in range(MOST_DIFFERENT_BITS):
        values = values & (values - np.uint64(1))  # clears the lowest bit that is set
    found: NDArray[np.bool_] = values == 0
    return found


def first_alike(values: NDArray[np.int64], ranks: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finds for each photo the smallest rank among photos of equal value.

    Args:
        values: Values of the photos, such as numbers of digests, int64 ``(N,)``.
        ranks: Ranks of the photos, all different, uint64 ``(N,)``.

    Returns:
        Smallest ranks, uint64 ``(N,)``; a photo's own rank where it is the first.
    """
    _, group = np.unique(values, return_inverse=True)
    smallest = np.full(len(values), NONE, np.uint64)
    np.minimum.at(smallest, group, ranks)
    found: NDArray[np.uint64] = smallest[group]
    return found


def first_near(
    hashes: NDArray[np.uint64], ranks: NDArray[np.uint64], number: int
) -> NDArray[np.uint64]:
    """Finds for each photo the smallest rank among photos that look like it and share a band.

    Args:
        hashes: dHashes of the photos, uint64 ``(N,)``.
        ranks: Ranks of the photos, all different, uint64 ``(N,)``.
        number: Number of the band; two photos that look alike share at least one.

    Returns:
        Smallest ranks, uint64 ``(N,)``; at least the photo's own rank where none comes before it.
    """
    distinct, group = np.unique(hashes, return_inverse=True)
    smallest = np.full(len(distinct), NONE, np.uint64)
    np.minimum.at(smallest, group, ranks)
    best = smallest.copy()
    for part in range(PARTS):
        keys = _band_and_part(distinct, number, part)
        order = np.argsort(keys, kind="stable")
        best[order] = np.minimum(
            best[order], _first_of_neighbours(keys[order], distinct[order], smallest[order])
        )
    found: NDArray[np.uint64] = best[group]
    return found


def _band_and_part(hashes: NDArray[np.uint64], number: int, part: int) -> NDArray[np.uint64]:
    """Returns keys that divide the hashes of one band further, so that no group gets too large.

    A part is 12 of the 48 bits outside the band: hashes that share the band and differ in three
    bits elsewhere have at least one of the four parts in common.
    """
    low = np.uint64(BAND_BITS * number)
    turned = (hashes >> low) | (hashes << ((np.uint64(64) - low) % np.uint64(64)))
    piece = (turned >> np.uint64(BAND_BITS + PART_BITS * part)) & np.uint64(2**PART_BITS - 1)
    return band(hashes, number) | (piece << np.uint64(BAND_BITS))


def _first_of_neighbours(
    keys: NDArray[np.uint64], hashes: NDArray[np.uint64], ranks: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Finds the smallest rank among near hashes of equal key; all are sorted by key."""
    best = ranks.copy()
    # Neighbours at distance 1, 2, ... as long as anybody still has one with the same key.
    left = np.arange(max(len(keys) - 1, 0))
    step = 1
    while len(left):
        left = left[left + step < len(keys)]
        left = left[keys[left] == keys[left + step]]
        alike = left[few_bits(hashes[left] ^ hashes[left + step])]
        best[alike] = np.minimum(best[alike], ranks[alike + step])
        best[alike + step] = np.minimum(best[alike + step], ranks[alike])
        step += 1
    return best

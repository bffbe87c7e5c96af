"""At most so many photos per group, and always the same ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def within_cap(groups: NDArray[np.int64], ranks: NDArray[np.uint64], cap: int) -> NDArray[np.bool_]:
    """Which photos stay when each group may keep `cap`: those of the smallest ranks.

    Args:
        groups: int64 (N,), the group of each photo; negative: in no group, always kept.
        ranks: uint64 (N,), different within a group.
        cap: At least 1.

    Returns:
        Bool (N,).
    """
    order = np.lexsort((ranks, groups))
    ordered = groups[order]
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(order)]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    kept = np.empty(len(order), bool)
    kept[order] = (np.arange(len(order)) - first < cap) | (ordered < 0)
    return kept

"""Visits: stretches of an album at one place, to which its camera may come back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

Float = NDArray[np.float64]
Index = NDArray[np.int64]

VISIT_KM = 0.3
"""A visit ends with the first anchor that is farther from its first one."""

REMEMBERED = 24
"""Visits before, and after, a photo to which its camera may return."""


@dataclass(frozen=True)
class Visits:
    """The visits of a sequence of anchors.

    Attributes:
        visit: Number of the visit of each anchor, ``(n,)``, from 0 and never falling.
        vectors: Unit vectors of the first anchor of each visit, ``(V, 3)``.
    """

    visit: Index
    vectors: Float

    @classmethod
    def of(cls, vectors: Float) -> Visits:
        """Divides anchors ``(n, 3)``, in the order of their times, into visits."""
        visit = np.zeros(len(vectors), np.int64)
        starts: list[int] = []
        limit = (VISIT_KM / EARTH_RADIUS_KM) ** 2
        x0, y0, z0 = np.inf, np.inf, np.inf
        for i, (x, y, z) in enumerate(vectors.tolist()):
            if (x - x0) ** 2 + (y - y0) ** 2 + (z - z0) ** 2 > limit:
                starts.append(i)
                x0, y0, z0 = x, y, z
            visit[i] = len(starts) - 1
        return cls(visit, vectors[starts])

    def around(self, before: Index, after: Index) -> tuple[Float, NDArray[np.bool_]]:
        """Finds the places to which a camera may return between two anchors.

        They are the visits that ended before the visit of the anchor before, and those that began
        after the visit of the anchor after, so that to stay is not counted as to return.

        Args:
            before: Numbers of the anchors before, ``(N,)``; -1 if there is none.
            after: Numbers of the anchors after, ``(N,)``; n if there is none, or if the future is
                not to be looked at.

        Returns:
            Unit vectors ``(N, 2 · REMEMBERED, 3)``, and which of them are places.
        """
        count = len(self.vectors)
        padded = np.append(self.visit, count)
        early = np.where(before >= 0, padded[before], 0)
        late = padded[np.minimum(after, len(self.visit))]
        steps = np.arange(1, REMEMBERED + 1)
        numbers = np.concatenate([early[:, None] - steps, late[:, None] + steps], 1)
        there = (numbers >= 0) & (numbers < count)
        return self.vectors[np.where(there, numbers, 0)], there

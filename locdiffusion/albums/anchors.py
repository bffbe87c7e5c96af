"""The anchors of an album: those that are believed, their visits, and the bridges over them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.album import Album
from locdiffusion.albums.bridge import Bridges, End
from locdiffusion.albums.motion import LawOfMotion, MotionTable
from locdiffusion.albums.scales import Pairs, fit_scales
from locdiffusion.albums.visits import Visits

Float = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Anchors:
    """Anchors of an album and the law by which it moves.

    Attributes:
        album: Photos of the album.
        photos: Numbers of the anchors, in the order of their times, ``(n,)``.
        law: Law of motion.
        table: Weights of the law for draws of the album's scales.
    """

    album: Album
    photos: Index
    law: LawOfMotion
    table: MotionTable

    @cached_property
    def visits(self) -> Visits:
        """Visits of the anchors."""
        return Visits.of(self.album.vectors[self.photos])

    @cached_property
    def _rank(self) -> Index:
        """Place of each photo in the order of their times, ``(N,)``."""
        rank = np.full(len(self.album), -1)
        rank[self.album.order] = np.arange(len(self.album.order))
        return rank

    @classmethod
    def fitted(cls, album: Album, photos: Index, law: LawOfMotion) -> Anchors:
        """Takes anchors, in the order of their times, and fits the scales of their album."""
        scales = fit_scales(Pairs.of(album, photos, law), law)
        return cls(album, photos, law, MotionTable(law, scales.draws()))

    def gap_hours(self, photos: Index, before: Index, after: Index) -> Float:
        """Computes the hours ``(B, 2)`` to the anchors before and after; infinite without one."""
        known = np.stack([before >= 0, after < len(self.photos)], 1)
        anchor = self.photos[np.clip(np.stack([before, after], 1), 0, len(self.photos) - 1)]
        hours = np.abs(self.album.hours[anchor] - self.album.hours[photos][:, None])
        return np.where(known, hours, np.inf)

    def neighbours(self, photos: Index, apart_hours: float | Float = 0.0) -> tuple[Index, Index]:
        """Finds the anchors before and after photos, themselves left out.

        Args:
            photos: Numbers of photos that have a time, ``(B,)``.
            apart_hours: Anchors nearer in time than this are passed over.

        Returns:
            Positions among the anchors of the one before, -1 if there is none, and of the one
            after, n if there is none.
        """
        ranks, wanted = self._rank[self.photos], self._rank[photos]
        before = np.searchsorted(ranks, wanted) - 1
        after = np.searchsorted(ranks, wanted, "right")
        hours, now = self.album.hours[self.photos], self.album.hours[photos]
        early = np.searchsorted(hours, now - apart_hours, "right") - 1
        late = np.searchsorted(hours, now + apart_hours, "left")
        return np.minimum(before, early), np.maximum(after, late)

    def nearest(self, photos: Index, before: Index, after: Index) -> Index:
        """Finds which photo is the anchor that is nearest in time, of the two neighbours, (B,)."""
        gaps = self.gap_hours(photos, before, after)
        position = np.where(gaps[:, 0] <= gaps[:, 1], before, after)
        return self.photos[np.clip(position, 0, len(self.photos) - 1)]

    def bridges(self, photos: Index, before: Index, after: Index) -> Bridges:
        """Makes the bridges of photos.

        Args:
            photos: Numbers of photos that have a time, ``(B,)``.
            before: Positions among the anchors of the one before each, -1 if there is none.
            after: Positions among the anchors of the one after each, n if there is none.
        """
        places, there = self.visits.around(before, after)
        a = self._end(photos, before, before >= 0)
        b = self._end(photos, after, after < len(self.photos))
        return Bridges.between(a, b, places, there, self.law)

    def _end(self, photos: Index, position: Index, known: NDArray[np.bool_]) -> End:
        # Where there is no anchor the photo itself stands for it, and its numbers are not used.
        anchor = photos.copy()
        anchor[known] = self.photos[position[known]]
        hours = self.album.step_hours(anchor, photos, self.law.clock_seconds)
        kernels, back = self.table(hours)
        centre = np.where(known[:, None], self.album.vectors[anchor], [0.0, 0.0, 1.0])
        return End(centre, self.album.error_km[anchor], known, kernels, back)

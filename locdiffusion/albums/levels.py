"""Levels of the radii: how much of its own density a photo's radius must hold to be honest.

The anchors of an album are hidden one by one, with all others that are as near in time as the
photos that are asked are far from an anchor. What share of the density is then nearer than the
truth says how wide the densities should have been. Photos of one outing are wrong together, so the
levels found lean to the nominal ones, as if these had been seen in ten independent blocks of time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.anchors import Anchors
from locdiffusion.albums.bridge import even_shares
from locdiffusion.albums.decision import Decision
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

Float = NDArray[np.float64]
Index = NDArray[np.int64]

PRIOR_BLOCKS = 10.0
"""Blocks in which the nominal levels count as seen."""

MOST_HIDDEN = 512
"""Anchors of an album that are hidden, evenly taken."""

BLOCK = 128
"""Photos that are computed together."""

POINTS = 256
"""Points that stand for the density of a photo."""


@dataclass(frozen=True)
class Levels:
    """Shares of a density that hold the truth with 50 % and with 90 %.

    Attributes:
        half: Share that holds the truth with 50 %.
        most: Share that holds the truth with 90 %.
    """

    half: float = 0.5
    most: float = 0.9

    def __post_init__(self) -> None:
        """Checks the order."""
        if not 0.0 < self.half < self.most < 1.0:
            raise ValueError(f"Levels are {self.half} and {self.most}; want 0 < half < most < 1.")

    def probability(self, share: Float) -> Float:
        """Converts shares of a density to probabilities; linear between the levels."""
        return np.interp(share, [0.0, self.half, self.most, 1.0], [0.0, 0.5, 0.9, 1.0])


def decided(anchors: Anchors, photos: Index, apart_hours: float | Float = 0.0) -> Decision:
    """Decides where photos are from anchors alone: at the anchor that is nearest in time.

    Interpolating and the middle of the density were worse nearly everywhere: people stay.

    Args:
        anchors: Anchors of the album.
        photos: Numbers of photos with a time, each with an anchor on one side at least, ``(B,)``.
        apart_hours: Anchors nearer in time than this are passed over.
    """
    before, after = anchors.neighbours(photos, apart_hours)
    bridges = anchors.bridges(photos, before, after)
    shares = np.broadcast_to(even_shares(POINTS), (len(photos), POINTS, 3))
    nearest = anchors.nearest(photos, before, after)
    mass = np.ones((len(photos), POINTS))
    return Decision.at(anchors.album.vectors[nearest], bridges.draws(shares), mass)


@dataclass(frozen=True)
class HiddenShares:
    """What hiding the anchors of an album tells about its densities.

    Attributes:
        share: Share of the density that is nearer than the truth, of each hidden anchor, ``(n,)``.
        blocks: Number of blocks of time that are taken as independent, not always a whole one.
    """

    share: Float
    blocks: float

    def levels(self, prior: Levels) -> Levels:
        """Computes levels that lean to those of other albums."""
        if not len(self.share):
            return prior
        trust = self.blocks / (self.blocks + PRIOR_BLOCKS)
        found = np.quantile(self.share, [0.5, 0.9])
        half, most = trust * found + (1.0 - trust) * np.array([prior.half, prior.most])
        half = np.clip(half, 0.05, 0.95)
        return Levels(float(half), float(np.clip(most, half + 0.01, 0.995)))


def hidden_shares(anchors: Anchors, asked: Index) -> HiddenShares:
    """Hides anchors as far from all others as the photos that are asked.

    Args:
        anchors: Anchors of the album.
        asked: Numbers of the photos that are asked, ``(B,)``.
    """
    if not len(asked) or len(anchors.photos) < 2:
        return HiddenShares(np.zeros(0), 0.0)
    gaps = np.sort(anchors.gap_hours(asked, *anchors.neighbours(asked)).min(1))
    even = np.linspace(0, len(anchors.photos) - 1, min(len(anchors.photos), MOST_HIDDEN))
    hidden = anchors.photos[even.astype(np.int64)]
    # Each anchor is hidden with the gap of another photo, in an order that has no rhythm.
    spread = np.mod(np.arange(len(hidden)) * 0.6180339887498949, 1.0)
    apart = gaps[(spread * len(gaps)).astype(np.int64)]
    before, after = anchors.neighbours(hidden, apart)
    left = np.isfinite(anchors.gap_hours(hidden, before, after)).any(1)
    hidden, apart = hidden[left], apart[left]
    share = [
        _share_below_truth(anchors, hidden[i : i + BLOCK], apart[i : i + BLOCK])
        for i in range(0, len(hidden), BLOCK)
    ]
    hours = max(1.0, 4.0 * float(np.median(gaps)))
    steps = np.diff(anchors.album.hours[hidden]) / hours
    blocks = float(min(len(hidden), 1.0 + np.minimum(steps, 1.0).sum()))
    return HiddenShares(np.concatenate([np.zeros(0), *share]), blocks)


def _share_below_truth(anchors: Anchors, photos: Index, apart_hours: Float) -> Float:
    found = decided(anchors, photos, apart_hours)
    chord = np.linalg.norm(anchors.album.vectors[photos] - found.place, axis=-1)
    return found.share_within(2.0 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2.0, 1.0)))

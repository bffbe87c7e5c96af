"""Fits what is common to all albums: the law of motion, and the levels of the radii.

The scales of every album are fitted under the law, then mean and deviation of the scales to the
albums (empirical Bayes), with the law before as a few albums more. Levels come from hiding half of
the anchors of every album. The shapes of the law stay: fitted to two of three photographers, they
cost the third 0.15 nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.album import Album
from locdiffusion.albums.anchors import Anchors
from locdiffusion.albums.contradictions import contradicting
from locdiffusion.albums.levels import HiddenShares, Levels, hidden_shares
from locdiffusion.albums.motion import LawOfMotion
from locdiffusion.albums.parameters import AlbumParameters, Card
from locdiffusion.albums.scales import AlbumScales, Pairs, fit_scales

Float = NDArray[np.float64]
Index = NDArray[np.int64]

PRIOR_ALBUMS = 3.0
"""Albums that the law before counts for, in mean and deviation of the scales."""

FEWEST_ANCHORS = 20
"""Anchors that an album must have to be fitted on."""

ROUNDS = 3


def fit(albums: Sequence[Album], start: AlbumParameters, fitted_on: str) -> AlbumParameters:
    """Fits law and levels to albums with known positions.

    Args:
        albums: Albums; those with fewer than FEWEST_ANCHORS anchors are left out.
        start: Parameters from which the fit starts, and to which it leans.
        fitted_on: The albums in words, for the card.

    Raises:
        ValueError: No album has enough anchors.
    """
    believed = [(album, believed_anchors(album, start.law)) for album in albums]
    used = [(album, anchors) for album, anchors in believed if len(anchors) >= FEWEST_ANCHORS]
    if not used:
        raise ValueError(
            f"None of {len(albums)} albums has {FEWEST_ANCHORS} photos with a time and a position; "
            "give more photos, or use the shipped parameters."
        )
    law = start.law
    for _ in range(ROUNDS):
        pairs = [Pairs.of(album, anchors, law) for album, anchors in used]
        scales = [fit_scales(p, law) for p in pairs]
        law = _fit_population(scales, start.law)
    card = Card(
        fitted_on,
        len(used),
        sum(len(anchors) for _, anchors in used),
        sum(len(p.hours) for p in pairs),
    )
    shares = [_half_hidden(album, anchors, law) for album, anchors in used]
    joined = HiddenShares(np.concatenate([s.share for s in shares]), sum(s.blocks for s in shares))
    return AlbumParameters(law, joined.levels(Levels()), card)


def believed_anchors(album: Album, law: LawOfMotion) -> Index:
    """Finds the anchors that contradict no other, in the order of their times."""
    believed = album.anchored & ~contradicting(album, law.clock_seconds)
    return album.order[believed[album.order]]


def _fit_population(scales: Sequence[AlbumScales], start: LawOfMotion) -> LawOfMotion:
    """Fits mean and deviation of the scales to those of albums."""
    modes = np.stack([s.mode for s in scales])
    own = np.stack([np.diag(s.covariance) for s in scales])
    count = len(scales) + PRIOR_ALBUMS
    mean = (modes.sum(0) + PRIOR_ALBUMS * np.asarray(start.scale_mean)) / count
    spread = ((modes - mean) ** 2 + own).sum(0)
    spread += PRIOR_ALBUMS * np.asarray(start.scale_deviation) ** 2
    deviation = np.sqrt(spread / count)
    return replace(
        start, scale_mean=tuple(mean.tolist()), scale_deviation=tuple(deviation.tolist())
    )


def _half_hidden(album: Album, anchors: Index, law: LawOfMotion) -> HiddenShares:
    """Hides anchors of an album as if every other one were asked."""
    kept = Anchors.fitted(album, anchors[::2], law)
    return hidden_shares(kept, anchors[1::2])

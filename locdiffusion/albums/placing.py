"""Places the photos of an album: an answer for each, or the reason why it has none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.album import Album
from locdiffusion.albums.anchors import Anchors
from locdiffusion.albums.contradictions import contradicting
from locdiffusion.albums.decision import Decision
from locdiffusion.albums.levels import BLOCK, Levels, decided, hidden_shares
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.decoding.answers import Columns
from locdiffusion.sphere.geodesy import latitude_longitude
from schemas.albums import Standing
from schemas.geotags import THRESHOLDS_KM

Float = NDArray[np.float64]
Index = NDArray[np.int64]


EXPLANATIONS = {
    Standing.ANCHOR: "its own position is believed, and others are placed by it",
    Standing.PLACED: "it is placed by the other photos of its album",
    Standing.CONTRADICTS: "its own position cannot be reached from the others in the time between",
    Standing.NO_TIME: "it has no time, or that of a clock that was never set",
    Standing.ALONE: "no other photo of its album has a position, and none has evidence",
}


@dataclass(frozen=True)
class AlbumAnswers(Columns):
    """Answers for the N photos of an album, in the order of the album.

    Attributes:
        standing: How each photo stands in its album, N entries.
        latitude, longitude: Position in degrees, ``(N,)``; NaN for those without an answer.
        radius_50_km, radius_90_km: Radii that hold the truth with 50 % and 90 %, ``(N,)``.
        probability: Probability that the truth lies within each of THRESHOLDS_KM, ``(N, 5)``.
        hours_before, hours_after: Hours to the anchors that were used, ``(N,)``; infinite without.
        shares: How much of the answer came from anchors, from neighbours, and from the photo
            itself, ``(N, 3)``; they sum to 1.
    """

    standing: list[Standing]
    latitude: Float
    longitude: Float
    radius_50_km: Float
    radius_90_km: Float
    probability: Float
    hours_before: Float
    hours_after: Float
    shares: Float

    @classmethod
    def unknown(cls, album: Album) -> AlbumAnswers:
        """Makes answers that say only how photos stand."""
        n = len(album)
        standing = [Standing.ALONE if timed else Standing.NO_TIME for timed in album.timed]
        latitude, longitude, half, most = np.full((4, n), np.nan)
        probability = np.full((n, len(THRESHOLDS_KM)), np.nan)
        before, after = np.full((2, n), np.inf)
        shares = np.full((n, 3), np.nan)
        return cls(standing, latitude, longitude, half, most, probability, before, after, shares)


def believed(album: Album, parameters: AlbumParameters) -> tuple[Anchors, NDArray[np.bool_]]:
    """Finds the anchors that are believed, and fits the scales of the album to them.

    Args:
        album: Photos of an album.
        parameters: Parameters of the albums.

    Returns:
        The anchors, and which photos have a position that contradicts them, ``(N,)``.
    """
    wrong = contradicting(album, parameters.law.clock_seconds)
    photos = album.order[(album.anchored & ~wrong)[album.order]]
    return Anchors.fitted(album, photos, parameters.law), wrong


def place(album: Album, parameters: AlbumParameters) -> AlbumAnswers:
    """Places the photos of an album by its anchors, in time linear in their number.

    Args:
        album: Photos of an album.
        parameters: Parameters of the albums.
    """
    anchors, wrong = believed(album, parameters)
    answers = AlbumAnswers.unknown(album)
    write_anchors(answers, anchors)
    asked = np.flatnonzero(album.timed & (~album.anchored | wrong))
    if not len(anchors.photos):
        return answers
    levels = hidden_shares(anchors, asked).levels(parameters.levels)
    for start in range(0, len(asked), BLOCK):
        photos = asked[start : start + BLOCK]
        shares = np.tile([1.0, 0.0, 0.0], (len(photos), 1))
        write_placed(answers, anchors, photos, decided(anchors, photos), levels, shares)
    for photo in np.flatnonzero(wrong).tolist():
        answers.standing[photo] = Standing.CONTRADICTS
    return answers


def write_anchors(answers: AlbumAnswers, anchors: Anchors) -> None:
    """Writes the answers of anchors: their own positions, never moved."""
    album, photos = anchors.album, anchors.photos
    error = album.error_km[photos]
    answers.latitude[photos] = album.latitude[photos]
    answers.longitude[photos] = album.longitude[photos]
    # Radii of a normal distribution in two dimensions.
    answers.radius_50_km[photos] = error * np.sqrt(2.0 * np.log(2.0))
    answers.radius_90_km[photos] = error * np.sqrt(2.0 * np.log(10.0))
    within = np.asarray(THRESHOLDS_KM) / np.maximum(error, 1e-9)[:, None]
    answers.probability[photos] = -np.expm1(-0.5 * within**2)
    answers.hours_before[photos] = answers.hours_after[photos] = 0.0
    answers.shares[photos] = [0.0, 0.0, 1.0]
    for photo in photos.tolist():
        answers.standing[photo] = Standing.ANCHOR


def write_placed(
    answers: AlbumAnswers,
    anchors: Anchors,
    photos: Index,
    decision: Decision,
    levels: Levels,
    shares: Float,
) -> None:
    """Writes the answers of photos that others place.

    Args:
        answers: Answers for the album; they are changed.
        anchors: Anchors of the album.
        photos: Numbers of the photos, ``(B,)``.
        decision: Their places and the distances of their masses.
        levels: Levels of the radii.
        shares: How much came from anchors, neighbours and the photo itself, ``(B, 3)``.
    """
    answers.latitude[photos], answers.longitude[photos] = latitude_longitude(decision.place)
    answers.radius_50_km[photos] = decision.radius_km(levels.half)
    answers.radius_90_km[photos] = decision.radius_km(levels.most)
    within = np.broadcast_to(np.asarray(THRESHOLDS_KM, np.float64), (len(photos), 5))
    answers.probability[photos] = levels.probability(decision.share_within(within))
    answers.shares[photos] = shares
    if len(anchors.photos):
        gaps = anchors.gap_hours(photos, *anchors.neighbours(photos))
        answers.hours_before[photos], answers.hours_after[photos] = gaps.T
    for photo in photos.tolist():
        answers.standing[photo] = Standing.PLACED

"""Places the photos of an album by its anchors and by what the photos themselves show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.album import Album
from locdiffusion.albums.anchors import Anchors
from locdiffusion.albums.bridge import even_shares
from locdiffusion.albums.decision import Decision, decide
from locdiffusion.albums.evidence import Chain, Evidence, messages
from locdiffusion.albums.levels import Levels, hidden_shares
from locdiffusion.albums.mesh import Mesh
from locdiffusion.albums.motion import MotionTable
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.placing import AlbumAnswers, believed, write_anchors, write_placed
from locdiffusion.albums.scales import Pairs, fit_scales
from locdiffusion.albums.visits import Visits
from schemas.albums import Standing

Float = NDArray[np.float64]
Index = NDArray[np.int64]

WINDOW, MARGIN = 512, 128
"""Photos of an album that are joined at once, and those on either side that are joined too."""

TOGETHER = 16
"""Photos that are decided together."""

POINTS = 192
"""Points of a photo that are drawn from its bridge, and as many from the mesh."""

GAIN = 0.5
"""Expected number of thresholds by which a cell must be better than the nearest anchor."""

CANDIDATES = 12
"""Cells among which the place of a photo is chosen."""

UNBELIEVED = 0.01
"""Weight of a photo below which nothing is taken from what it says itself."""


def place_jointly(album: Album, evidence: Evidence, parameters: AlbumParameters) -> AlbumAnswers:
    """Places the photos of an album by anchors and evidence, in time linear in their number.

    Args:
        album: Photos of an album.
        evidence: What photos say themselves; that of photos without a time is not used.
        parameters: Parameters of the albums.
    """
    anchors, wrong = believed(album, parameters)
    answers = AlbumAnswers.unknown(album)
    write_anchors(answers, anchors)
    joint = JointAlbum(anchors, evidence)
    asked = np.flatnonzero(album.timed & (~album.anchored | wrong))
    levels = hidden_shares(anchors, asked).levels(Levels())
    for found in joint.densities(asked):
        write_placed(answers, anchors, found.photos, found.decision(), levels, found.shares)
    for photo in np.flatnonzero(wrong).tolist():
        answers.standing[photo] = Standing.CONTRADICTS
    return answers


@dataclass(frozen=True)
class JointDensities:
    """Densities of B photos of an album.

    Attributes:
        photos: Numbers of the photos, ``(B,)``.
        shares: How much came from anchors, neighbours and the photos themselves, ``(B, 3)``.
        points: Unit vectors of points that stand for the densities, ``(B, P, 3)``.
        mass: Masses of the points, ``(B, P)``.
        candidates: Places that may be answered, the first with precedence, ``(B, C, 3)``.
        gain: Expected number of thresholds by which another must be better than the first, (B,).
        at: Function from unit vectors ``(B, P, 3)`` to log densities per steradian, ``(B, P)``.
    """

    photos: Index
    shares: Float
    points: Float
    mass: Float
    candidates: Float
    gain: Float
    at: Callable[[Float], Float]

    def decision(self) -> Decision:
        """Decides where the photos are."""
        return decide(self.points, self.mass, self.candidates, self.gain)


class JointAlbum:
    """An album whose photos are joined by anchors and evidence."""

    def __init__(self, anchors: Anchors, evidence: Evidence) -> None:
        """Takes the anchors of an album, and what its photos say themselves.

        Raises:
            ValueError: No photo that could use it has evidence.
        """
        album, likelihood = anchors.album, evidence.likelihood
        usable = album.timed.copy()
        usable[anchors.photos] = False
        usable = usable[evidence.photos] & (likelihood.weight > UNBELIEVED)
        rows = np.flatnonzero(usable)
        if not len(rows):
            raise ValueError(
                "No photo without a position has a time and evidence; call `place` for anchors "
                "alone."
            )
        rows = rows[np.argsort(album.hours[evidence.photos[rows]], kind="stable")]
        first = evidence.scenes(album, rows)
        alone = first == np.arange(len(rows))
        self.anchors, self.likelihood, self.parameters = anchors, likelihood, evidence.parameters
        self.row, self.scene = np.full((2, len(album)), -1)
        self.row[evidence.photos[rows]] = rows
        self.scene[evidence.photos[rows]] = evidence.photos[rows[first]]
        self.powers = np.zeros((2, len(album)))
        self.powers[:, evidence.photos[rows[alone]]] = evidence.powers(album, rows[alone])

    def densities(self, asked: Index) -> Iterator[JointDensities]:
        """Computes the densities of photos with a time, ``(n,)``, some photos at once."""
        order = self.anchors.album.order
        wanted = np.zeros(len(self.anchors.album), np.bool_)
        wanted[asked] = True
        for start in range(0, len(order), WINDOW):
            photos = order[max(start - MARGIN, 0) : start + WINDOW + MARGIN]
            inner = order[start : start + WINDOW]
            if wanted[inner].any():
                yield from _Window(self, photos).densities(inner[wanted[inner]])


class _Window:
    """Photos of an album that are joined on one mesh."""

    def __init__(self, joint: JointAlbum, photos: Index) -> None:
        """Takes photos in the order of their times, ``(n,)``."""
        self.anchors, self._parameters = joint.anchors, joint.parameters
        album, likelihood = self.anchors.album, joint.likelihood
        # A scene is where its first photo is, which speaks for all of it.
        self._spoken = photos[(joint.scene[photos] < 0) | (joint.scene[photos] == photos)]
        rank = np.full(len(album), -1)
        rank[self._spoken] = np.arange(len(self._spoken))
        self._speaker = np.where(joint.scene >= 0, rank[joint.scene], rank)
        seen = photos[(joint.row[photos] >= 0) & (self._speaker[photos] >= 0)]
        scene, member = np.unique(self._speaker[seen], return_inverse=True)
        rows, count = joint.row[seen], np.bincount(member)
        power, self._own = joint.powers[:, self._spoken[scene]]

        def log_likelihood(points: Float) -> Float:
            each, total = likelihood.at(points)(rows), np.zeros((len(scene), len(points)))
            np.add.at(total, member, each)
            return total / count[:, None]

        def log_mass(mesh: Mesh) -> Float:
            base = np.log(likelihood.base(mesh.centres) * mesh.areas)
            return self._parameters.own * log_likelihood(mesh.centres) + base

        near = self.anchors.photos[rank[self.anchors.photos] >= 0]
        self.mesh = Mesh.adapted(
            log_mass,
            Visits.of(album.vectors[near]).vectors,
            self._parameters.finest,
            self._parameters.split,
        )
        self.chain = Chain(self.anchors, self.mesh, likelihood.base)
        self._parts = self.mesh.quarters()
        self._logs = log_likelihood(self._parts.centres).astype(np.float32)
        self._scene = np.full(len(self._spoken), -1)
        self._scene[scene] = np.arange(len(scene))
        self._others = self._messages(scene, power)

    def _messages(self, scene: Index, power: Float) -> NDArray[np.float32]:
        """What all others say of the cell of each scene, with and without evidence, (n, 2, S)."""
        photos, album = self._spoken, self.anchors.album
        hours = album.step_hours(photos[:-1], photos[1:], self.anchors.law.clock_seconds)
        said = np.ones((len(photos), 2, len(self.mesh)), np.float32)
        # The likelihood of a cell is the mean over its quarters.
        own = self._parameters.own
        logs = self._logs.reshape(-1, len(self.mesh), 4)
        top = logs.max(2)
        mean = top + np.log(np.exp(own * (logs - top[..., None])).mean(2)) / own
        mean -= mean.max(1, keepdims=True)
        anchor = np.isin(photos, self.anchors.photos)
        anchors = np.flatnonzero(anchor)
        said[anchors] = 0.0
        said[anchors, :, self.mesh.cells(album.vectors[photos[anchors]])] = 1.0
        said[scene, 0] = np.exp(own * mean)
        self._learn(hours, said[:, 0], anchor)
        said[scene, 0] = np.exp(power[:, None] * mean)
        return messages(self.chain, hours, said)

    def _learn(self, hours: Float, said: NDArray[np.float32], anchor: NDArray[np.bool_]) -> None:
        """Fits the scales of the album to its anchors and to what the photos of a window say."""
        informed = anchor | (np.ptp(said, 1) > 0.0)
        use = informed[1:] & informed[:-1] & ~(anchor[1:] & anchor[:-1])
        if not use.any():
            return
        album, law = self.anchors.album, self.anchors.law
        known = Pairs.of(album, self.anchors.photos, law)
        scales = fit_scales(known.joined(self.chain.pairs(hours, said).take(use)), law)
        self.anchors = replace(self.anchors, table=MotionTable(law, scales.draws()))
        self.chain.move_by(self.anchors.table)

    def densities(self, asked: Index) -> Iterator[JointDensities]:
        """Computes the densities of photos, some at once."""
        for start in range(0, len(asked), TOGETHER):
            yield self._density(asked[start : start + TOGETHER])

    def _density(self, photos: Index) -> JointDensities:
        speaker = self._speaker[photos]
        others, scene = self._others[speaker].astype(np.float64), self._scene[speaker]
        own = np.ones((len(photos), len(self._parts)))
        own[scene >= 0] = np.exp(self._own[scene[scene >= 0], None] * self._logs[scene[scene >= 0]])
        said = self.chain.blurred(others[:, 0], self._parameters.blur_km)
        mass = np.repeat(0.25 * said, 4, 1) * own
        mass /= mass.sum(1, keepdims=True)
        shares = _shares(self.chain.start, others[:, 1], others[:, 0], _by_cell(mass))
        if len(self.anchors.photos):
            alone = self.chain.blurred(others[:, 1], self._parameters.blur_km)
            gain = np.repeat(said / np.maximum(alone, 1e-30), 4, 1) * own
            chained = (np.repeat(0.25 * alone, 4, 1) * gain).sum(1)
            doubt = self._parameters.doubt * -np.expm1(-_nats(said, alone))
            return self._bridged(photos, shares, mass, gain, doubt * chained)
        points = self._drawn(mass, even_shares(2 * POINTS))
        return JointDensities(
            photos,
            shares,
            points,
            np.ones(points.shape[:2]),
            self._candidates(mass),
            np.zeros(len(photos)),
            lambda vectors: np.log(self._on_mesh(mass, vectors)),
        )

    def _bridged(
        self, photos: Index, shares: Float, mass: Float, gain: Float, chained: Float
    ) -> JointDensities:
        """Mixes bridges that evidence has weighted with masses on the mesh of a weight (B,)."""
        before, after = self.anchors.neighbours(photos)
        bridges = self.anchors.bridges(photos, before, after)
        even = even_shares(POINTS)
        near = bridges.draws(np.broadcast_to(even, (len(photos), POINTS, 3)))
        points = np.concatenate([near, self._drawn(mass, even)], 1)
        row = np.arange(len(photos))[:, None]

        def both(vectors: Float) -> tuple[Float, Float, Float]:
            part = self.mesh.quarters_of(vectors)
            alone = np.exp(bridges.log_density(vectors))
            return alone, alone * gain[row, part], mass[row, part] / self._parts.areas[part]

        alone, weighted, meshed = both(points)
        drawn = 0.5 * (alone + meshed)
        total = np.maximum((weighted / drawn).mean(1), 1e-300)
        trust = total / (total + chained)
        share = np.stack([trust / total, 1.0 - trust], 1)

        def density(vectors: Float) -> Float:
            _, first, second = both(vectors)
            return share[:, :1] * first + share[:, 1:] * second

        nearest = self.anchors.album.vectors[self.anchors.nearest(photos, before, after)]
        return JointDensities(
            photos,
            shares,
            points,
            (share[:, :1] * weighted + share[:, 1:] * meshed) / drawn,
            np.concatenate([nearest[:, None], self._candidates(mass)], 1),
            GAIN * trust,
            lambda vectors: np.log(np.maximum(density(vectors), 1e-300)),
        )

    def _on_mesh(self, mass: Float, vectors: Float) -> Float:
        """Densities per steradian of masses on the quarters at unit vectors ``(B, P, 3)``."""
        part = self.mesh.quarters_of(vectors)
        found: Float = mass[np.arange(len(mass))[:, None], part] / self._parts.areas[part]
        return found

    def _drawn(self, mass: Float, share: Float) -> Float:
        """Maps points of the unit cube ``(P, 3)`` to points distributed as masses, (B, P, 3)."""
        cumulative = np.cumsum(mass, 1)
        last = mass.shape[1] - 1
        part = np.stack(
            [np.minimum(np.searchsorted(row, share[:, 0], "right"), last) for row in cumulative]
        )
        return self._parts.points(part, np.broadcast_to(share[:, 1:], (*part.shape, 2)))

    def _candidates(self, mass: Float) -> Float:
        """The middles of the densest parts, and of those with the most mass, ``(B, C, 3)``."""
        dense = np.argsort(-mass / self._parts.areas, 1)[:, :CANDIDATES]
        heavy = np.argsort(-mass, 1)[:, :CANDIDATES]
        return self._parts.centres[np.concatenate([dense, heavy], 1)]


def _by_cell(mass: Float) -> Float:
    """Adds the masses of the quarters of each cell."""
    total: Float = mass.reshape(len(mass), -1, 4).sum(2)
    return total


def _nats(mass: Float, other: Float) -> Float:
    """Computes what is known more from one set of masses ``(B, S)`` than from another, ``(B,)``."""
    safe = np.maximum(mass, 1e-30)
    return np.maximum((mass * np.log(safe / np.maximum(other, 1e-30))).sum(1), 0.0)


def _shares(start: Float, alone: Float, others: Float, mass: Float) -> Float:
    """How many of the nats came from anchors, neighbours and the photo, as shares ``(B, 3)``."""
    nats = [(p * np.log(np.maximum(p, 1e-30) / start)).sum(1) for p in (alone, others, mass)]
    steps = np.diff(np.stack([np.zeros_like(nats[0]), *nats]), axis=0).T
    steps = np.maximum(steps, 0.0) + 1e-12
    return steps / steps.sum(1, keepdims=True)

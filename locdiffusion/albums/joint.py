"""Places the photos of an album by its anchors and by what the photos themselves show."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.album import Album
from locdiffusion.albums.anchors import Anchors
from locdiffusion.albums.bridge import even_shares
from locdiffusion.albums.decision import Decision, decide
from locdiffusion.albums.evidence import OWN, Chain, Evidence, messages
from locdiffusion.albums.levels import Levels, hidden_shares
from locdiffusion.albums.mesh import Mesh
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.placing import AlbumAnswers, believed, write_anchors, write_placed
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


def uniform(vectors: Float) -> Float:
    """The base measure that knows nothing: 1 at all unit vectors ``(S, 3)``."""
    return np.ones(len(vectors))


def place_jointly(
    album: Album,
    evidence: Evidence,
    parameters: AlbumParameters,
    base: Callable[[Float], Float] = uniform,
) -> AlbumAnswers:
    """Places the photos of an album by anchors and evidence, in time linear in their number.

    Args:
        album: Photos of an album.
        evidence: Densities of photos; that of photos without a time is not used.
        parameters: Parameters of the albums.
        base: Density of the base measure at unit vectors, up to a factor.
    """
    anchors, wrong = believed(album, parameters)
    answers = AlbumAnswers.unknown(album)
    write_anchors(answers, anchors)
    evidence = evidence.take(album.timed[evidence.photos])
    if not len(evidence.photos):
        raise ValueError("No photo has a time and evidence; call `place` for anchors alone.")
    mesh = Mesh.adapted(lambda mesh: _mass(mesh, anchors, evidence, base))
    joined = _Joined(anchors, evidence, Chain(anchors, mesh, base))
    asked = album.timed & (~album.anchored | wrong)
    levels = hidden_shares(anchors, np.flatnonzero(asked)).levels(Levels())
    for photos, others in joined.windows():
        rows = np.flatnonzero(asked[photos])
        for start in range(0, len(rows), TOGETHER):
            part = rows[start : start + TOGETHER]
            joined.write(answers, photos[part], others[part].astype(np.float64), levels)
    for photo in np.flatnonzero(wrong).tolist():
        answers.standing[photo] = Standing.CONTRADICTS
    return answers


def _mass(
    mesh: Mesh, anchors: Anchors, evidence: Evidence, base: Callable[[Float], Float]
) -> Float:
    """Mean over photos with evidence and anchors of the mass in each cell, ``(S,)``."""
    start = base(mesh.centres) * mesh.areas
    total = np.zeros(len(mesh))
    for first in range(0, len(evidence.photos), 64):
        some = evidence.take(slice(first, first + 64))
        each = np.exp(OWN * some.log_likelihood(mesh.centres)) * start
        total += (each / each.sum(1, keepdims=True)).sum(0)
    np.add.at(total, mesh.cells(anchors.visits.vectors), 1.0)
    return total / total.sum()


class _Joined:
    """An album whose photos are joined."""

    def __init__(self, anchors: Anchors, evidence: Evidence, chain: Chain) -> None:
        self.anchors, self.evidence, self.chain = anchors, evidence, chain
        album, mesh = anchors.album, chain.mesh
        self._row = np.full(len(album), -1)
        self._row[evidence.photos] = np.arange(len(evidence.photos))
        self._powers, self._own = evidence.powers(album)
        self._cell = np.full(len(album), -1)
        self._cell[anchors.photos] = mesh.cells(album.vectors[anchors.photos])
        self._centres, self._areas = mesh.centres, mesh.areas

    def windows(self) -> Iterator[tuple[Index, NDArray[np.float32]]]:
        """Yields photos ``(n,)`` and what all others say of their cells, ``(n, 2, S)``."""
        album, order = self.anchors.album, self.anchors.album.order
        for start in range(0, len(order), WINDOW):
            first, last = max(start - MARGIN, 0), min(start + WINDOW + MARGIN, len(order))
            photos = order[first:last]
            seconds = self.anchors.law.clock_seconds
            hours = album.step_hours(photos[:-1], photos[1:], seconds)
            logs = self._log_likelihood(photos)
            said = messages(self.chain, hours, [self._said(p, logs) for p in photos.tolist()])
            keep = slice(start - first, start - first + WINDOW)
            yield photos[keep], said[keep]

    def _log_likelihood(self, photos: Index) -> dict[int, NDArray[np.float32]]:
        """Log evidence of each photo that has any, ``(S,)``, by its number."""
        part = self.evidence.take(self._row[photos[self._row[photos] >= 0]])
        logs = part.log_likelihood(self._centres).astype(np.float32)
        return dict(zip(part.photos.tolist(), logs, strict=True))

    def _said(self, photo: int, logs: dict[int, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Likelihood of the cells for a photo in messages, with and without evidence."""
        said = np.ones((2, len(self._areas)), np.float32)
        if self._cell[photo] >= 0:
            said[:] = 0.0
            said[:, self._cell[photo]] = 1.0
        elif photo in logs:
            said[0] = np.exp(np.float32(self._powers[self._row[photo]]) * logs[photo])
        return said

    def write(self, answers: AlbumAnswers, photos: Index, others: Float, levels: Levels) -> None:
        """Writes the answers of photos, given what all others say of their cells ``(B, 2, S)``."""
        logs = self._log_likelihood(photos)
        own = np.ones_like(others[:, 0])
        for row, photo in enumerate(photos.tolist()):
            if photo in logs:
                own[row] = np.exp(self._own[self._row[photo]] * logs[photo])
        mass = others[:, 0] * own
        mass /= mass.sum(1, keepdims=True)
        decision = self._decided(photos, others, own, mass)
        shares = _shares(self.chain.start, others[:, 1], others[:, 0], mass)
        write_placed(answers, self.anchors, photos, decision, levels, shares)

    def _decided(self, photos: Index, others: Float, own: Float, mass: Float) -> Decision:
        rows = len(photos)
        shares = even_shares(POINTS)
        cell = _drawn(mass, shares[:, 0])
        points = self.chain.mesh.points(cell, np.broadcast_to(shares[:, 1:], (rows, POINTS, 2)))
        best = np.argsort(-mass, 1)[:, :CANDIDATES]
        candidates = self._centres[best]
        if not len(self.anchors.photos):
            return decide(points, np.ones((rows, POINTS)), candidates, 0.0)
        before, after = self.anchors.neighbours(photos)
        bridges = self.anchors.bridges(photos, before, after)
        near = bridges.draws(np.broadcast_to(shares, (rows, POINTS, 3)))
        points = np.concatenate([near, points], 1)
        cell = self.chain.mesh.cells(points)
        row = np.arange(rows)[:, None]
        alone = np.exp(bridges.log_density(points))
        gain = (own * others[:, 0] / np.maximum(others[:, 1], 1e-30))[row, cell]
        drawn = 0.5 * (alone + mass[row, cell] / self._areas[cell])
        nearest = self.anchors.album.vectors[self.anchors.nearest(photos, before, after)]
        return decide(
            points, alone * gain / drawn, np.concatenate([nearest[:, None], candidates], 1), GAIN
        )


def _drawn(mass: Float, share: Float) -> Index:
    """Cells ``(B, P)`` at shares ``(P,)`` of the masses ``(B, S)``."""
    return np.stack(
        [np.minimum(np.searchsorted(np.cumsum(m), share, "right"), len(m) - 1) for m in mass]
    )


def _shares(start: Float, alone: Float, others: Float, mass: Float) -> Float:
    """How many of the nats came from anchors, neighbours and the photo, as shares ``(B, 3)``."""
    nats = [(p * np.log(np.maximum(p, 1e-30) / start)).sum(1) for p in (alone, others, mass)]
    steps = np.diff(np.stack([np.zeros_like(nats[0]), *nats]), axis=0).T
    steps = np.maximum(steps, 0.0) + 1e-12
    return steps / steps.sum(1, keepdims=True)

"""Simulated evidence on real trips: a mixture around a place that is off by a draw from it.

The widths are such that photos alone are within 25, 200, 750 and 2,500 km about as often as
GeoCLIP is on Im2GPS3k (34, 51, 70 and 84 %, arXiv 2309.16020), and their radii are honest.
Neighbours within an hour may share width and mistake.

How evidence is joined, and the levels of its radii, are chosen for each album on all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from experiments.albums.scores import NOMINAL, Scored, scored
from locdiffusion.albums.album import Album
from locdiffusion.albums.anchors import Anchors
from locdiffusion.albums.bridge import even_shares
from locdiffusion.albums.check import hidden
from locdiffusion.albums.decision import decide
from locdiffusion.albums.evidence import Evidence, EvidenceParameters
from locdiffusion.albums.joint import GAIN, JointAlbum
from locdiffusion.albums.levels import hidden_shares
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.placing import believed
from locdiffusion.albums.von_mises_fisher import displaced, log_density
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

Float = NDArray[np.float64]
Index = NDArray[np.int64]

WIDTH_KM = np.array([8.0, 80.0, 300.0, 1000.0, 4000.0])
WIDTH_SHARE = np.array([0.38, 0.14, 0.19, 0.14, 0.15])
"""Widths of the evidence in km, and how often each occurs."""

WIDER, PART = np.array([1.0, 4.0, np.inf]), np.array([0.8, 0.15, 0.05])
"""Widths of the three parts of a mixture in units of its own, and their shares."""

SHARED, SHARING_HOURS = 0.7, 1.0
"""Probability that a photo shares the mistake of the one before, and within which time."""

POINTS = 256

_SHARP = EvidenceParameters(
    own=1.0, by_time=0.1, alike_from=0.3, blur_km=5.0, finest=10, split=0.002
)

CHOICES = (
    EvidenceParameters(),
    *(replace(_SHARP, own=own, doubt=doubt) for own in (0.85, 1.0) for doubt in (1.0, 4.0)),
)
"""Ways to join evidence from which one is chosen: that of the shipped checkpoints, and sharper."""


@dataclass(frozen=True)
class MixtureLikelihood:
    """Likelihoods of places that are mixtures of von Mises-Fisher kernels.

    Attributes:
        centre: Unit vectors ``(n, 3)``.
        kappa: Concentrations of the three parts, ``(n, 3)``.
        look: What the photos look like, ``(n, C)``.
        weight: How far each photo is believed, ``(n,)``.
    """

    centre: Float
    kappa: Float
    look: Float
    weight: Float

    @classmethod
    def drawn(
        cls, truth: Float, hours: Float, sharing: bool, rng: np.random.Generator
    ) -> MixtureLikelihood:
        """Draws evidence for photos at ``(n, 3)``, in the order of their times ``(n,)``."""
        n = len(truth)
        width, part = rng.choice(len(WIDTH_KM), n, p=WIDTH_SHARE), rng.choice(3, n, p=PART)
        shares, look = rng.random((n, 2)), rng.normal(size=(n, 64))
        again = sharing & (rng.random(n) < SHARED)
        for i in np.flatnonzero(again[1:] & (np.diff(hours) < SHARING_HOURS)) + 1:
            width[i], part[i], shares[i] = width[i - 1], part[i - 1], shares[i - 1]
            look[i] = 0.8 * look[i - 1] + 0.6 * look[i]
        kappa = (EARTH_RADIUS_KM / (WIDTH_KM[width][:, None] * WIDER)) ** 2
        centre = displaced(truth, kappa[np.arange(n), part], shares[:, 0], shares[:, 1])
        return cls(centre, kappa, look, np.ones(n))

    def base(self, vectors: Float) -> Float:
        """The base measure, which is even."""
        return np.ones(len(vectors))

    def density(self, vectors: Float) -> Float:
        """Densities per steradian of all photos at unit vectors ``(n, P, 3)``, ``(n, P)``."""
        chord2 = np.maximum(2.0 - 2.0 * np.einsum("npi,ni->np", vectors, self.centre), 0.0)
        found: Float = np.exp(log_density(chord2[..., None], self.kappa[:, None])) @ PART
        return found

    def at(self, vectors: Float) -> Callable[[Index], Float]:
        """Prepares the evaluation at unit vectors ``(S, 3)``."""

        def log_likelihood(rows: Index) -> Float:
            part = replace(self, centre=self.centre[rows], kappa=self.kappa[rows])
            logs = np.log(part.density(np.broadcast_to(vectors, (len(rows), *vectors.shape))))
            return logs - logs.max(1, keepdims=True)

        return log_likelihood

    def take(self, rows: Index) -> MixtureLikelihood:
        """Takes some of the photos."""
        return MixtureLikelihood(*(x[rows] for x in vars(self).values()))

    def draws(self) -> Float:
        """Points that stand for the likelihoods, ``(n, POINTS, 3)``."""
        share = even_shares(POINTS)
        part = np.searchsorted(np.cumsum(PART)[:-1], share[:, 0], "right")
        centre = np.broadcast_to(self.centre[:, None], (len(self.centre), POINTS, 3))
        turn = np.broadcast_to(share[:, 1:], (len(self.centre), POINTS, 2))
        return displaced(centre, self.kappa[:, part], turn[..., 0], turn[..., 1])


def photos_alone(likelihood: MixtureLikelihood, truth: Float) -> Scored:
    """Scores the photos by themselves."""
    mass = np.ones((len(truth), POINTS))
    found = decide(likelihood.draws(), mass, likelihood.centre[:, None], np.zeros(len(truth)))
    return scored(found, truth, np.log(likelihood.density(truth[:, None])[:, 0]))


def with_anchors(
    anchors: Anchors, photos: Index, likelihood: MixtureLikelihood, truth: Float
) -> Scored:
    """Scores each photo with the anchors, but without other photos."""
    parts = []
    for start in range(0, len(photos), 64):
        rows = np.arange(start, min(start + 64, len(photos)))
        some, one = likelihood.take(rows), photos[rows]
        before, after = anchors.neighbours(one)
        bridges = anchors.bridges(one, before, after)
        share = np.broadcast_to(even_shares(POINTS), (len(rows), POINTS, 3))
        points = np.concatenate([bridges.draws(share), some.draws()], 1)
        known, seen = np.exp(bridges.log_density(points)), some.density(points)
        drawn = 0.5 * (known + seen)
        total = (known * seen / drawn).mean(1)
        nearest = anchors.album.vectors[anchors.nearest(one, before, after)]
        candidates = np.concatenate([nearest[:, None], some.centre[:, None], points[:, ::32]], 1)
        found = decide(points, known * seen / drawn, candidates, np.full(len(rows), GAIN))
        here = truth[rows, None]
        log_p = bridges.log_density(here) + np.log(some.density(here) / total[:, None])
        parts.append(scored(found, truth[rows], log_p[:, 0]))
    return Scored.joined(parts)


def simulate(
    album: Album,
    parameters: AlbumParameters,
    joining: EvidenceParameters,
    share: float,
    sharing: bool,
    seed: int,
) -> dict[str, Scored]:
    """Hides a share of the positions and places the photos by simulated evidence.

    Args:
        album: Photos of an album with known positions.
        parameters: Parameters of the albums.
        joining: How evidence is joined.
        share: Share of the positions that are hidden.
        sharing: Whether neighbours share mistakes.
        seed: Seed of what is hidden and of the evidence.

    Returns:
        Scores of the photos alone, with anchors, and with the whole album.
    """
    mask = hidden(album, "photos", share, seed)
    unknown = {x: np.where(mask, np.nan, getattr(album, x)) for x in ("latitude", "longitude")}
    anchors, _ = believed(replace(album, **unknown), parameters)
    photos = album.order[mask[album.order]]
    truth = album.vectors[photos]
    rng = np.random.default_rng([seed, len(album)])
    likelihood = MixtureLikelihood.drawn(truth, album.hours[photos], sharing, rng)
    found = {"photo alone": photos_alone(likelihood, truth)}
    if len(anchors.photos):
        found["photo and anchors"] = with_anchors(anchors, photos, likelihood, truth)
    joint = JointAlbum(anchors, Evidence(photos, likelihood, joining))
    levels = hidden_shares(anchors, photos).levels(NOMINAL)
    parts = []
    for part in joint.densities(photos):
        here = album.vectors[part.photos]
        log_p = part.at(here[:, None])[:, 0]
        parts.append(scored(part.decision(), here, log_p, levels=levels))
    return found | {"album": Scored.joined(parts)}


def simulated_lines(albums: Sequence[Album], seed: int) -> Iterator[str]:
    """Rows of a table with 5 and 20 % of the anchors left, and with none."""
    trials = [(share, sharing) for share in (20, 5, 0) for sharing in (False, True)]
    parameters = AlbumParameters.load()

    def measured(album: Album, joining: EvidenceParameters) -> list[dict[str, Scored]]:
        return [
            simulate(album, parameters, joining, 1.0 - share / 100, sharing, seed)
            for share, sharing in trials
        ]

    tried = [[measured(album, joining) for joining in CHOICES] for album in albums]
    total = np.array([[sum(t["album"].total_nats() for t in x) for x in one] for one in tried])
    answered = []
    for number in range(len(albums)):
        best = int(np.delete(total, number, 0).sum(0).argmin())
        yield f"| album {number} is joined by {CHOICES[best]} ||||||||"
        answered.append(tried[number][best])
    for trial, (share, sharing) in enumerate(trials):
        name = f"{share} % anchors, {'sharing' if sharing else 'independent'}"
        for who in answered[0][trial]:
            yield Scored.joined([a[trial][who] for a in answered]).line(f"{name}: {who}")

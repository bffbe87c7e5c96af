r"""Albums with evidence: what photos themselves say, joined along the album.

A hidden Markov chain runs over the cells of a mesh (`locdiffusion.albums.mesh`). Its steps are the
law of motion; forward and backward messages carry what the other photos say. Neighbours share
their mistakes, so photo j counts with the power own / Σ_i c_ij in the messages, and with up to own
in its own answer (c_ij says how much two photos have in common, see `EvidenceParameters`). The same
chain without evidence tells what anchors alone give on the mesh. The answer is then

    p_i(x) ∝ m0_i(x) · (B m_i / B m_i without evidence)(cell of x) · L_i(quarter of x)^own

with the exact bridge m0_i: anchors stay sharp to a metre, evidence is never sharper than a quarter
of a cell, and where no photo has evidence nothing changes. B blurs: what neighbours say is as wrong
as they are together. A chain of many steps goes farther than the one step of a bridge, so
B m_i L_i^own on the mesh alone is a second hypothesis, of weight doubt where neighbours say much.
The scales of an album are learned from its evidence too. Numbers: `experiments/albums`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.album import Album
from locdiffusion.albums.anchors import Anchors
from locdiffusion.albums.mesh import Mesh
from locdiffusion.albums.motion import LADDER_KAPPA, TABLE_HOURS, MotionTable
from locdiffusion.albums.scales import Pairs
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

Float = NDArray[np.float64]
Index = NDArray[np.int64]

SCENE_COSINE, SCENE_HOURS, LONGEST_SCENE = 0.98, 0.5, 64
"""Photos in a row that look alike within these hours are of one scene, and count as one photo."""

NEIGHBOURS = 64
"""Photos on either side whose common part is counted."""

EVERY = 3
"""Of the tabulated times of the law every third has a matrix of its own."""


class Likelihood(Protocol):
    """Likelihoods of places for n photos, as `locdiffusion.decoding.likelihood` has them."""

    @property
    def weight(self) -> Float:
        """How far each photo is believed, from 0 to 1, ``(n,)``."""

    @property
    def look(self) -> Float:
        """What each photo looks like: directions that agree for photos of one scene, ``(n, C)``."""

    def base(self, vectors: Float) -> Float:
        """Density of the base measure at unit vectors ``(S, 3)``, up to a factor, ``(S,)``."""

    def at(self, vectors: Float) -> Callable[[Index], Float]:
        """Function from numbers of photos ``(m,)`` to log L at unit vectors, ``(m, S)``."""


@dataclass(frozen=True)
class EvidenceParameters:
    """What the mistakes of the photos of an album have in common, which models differ in.

    Attributes:
        own: Power of a photo's own evidence.
        by_time: What two photos of one moment have in common, from 0 to 1.
        hours: Time in hours in which that falls to a third.
        alike_from: Cosine of looks from which on photos have something in common; at 1 it is all.
        blur_km: Standard deviation in km of what all photos of a place are wrong together.
        doubt: Most weight of the chain of all photos against the bridge, which has 1.
        finest: Level of the smallest cells of a mesh, see `locdiffusion.albums.mesh`.
        split: Share of the mass more than which no larger cell holds.
    """

    own: float = 0.85
    by_time: float = 0.5
    hours: float = 24.0
    alike_from: float = 0.95
    blur_km: float = 140.0
    doubt: float = 4.0
    finest: int = 8
    split: float = 1.0 / 150.0


FROM_ABOVE = EvidenceParameters(doubt=100.0)
"""For pictures from above, which stay nowhere: the bridge expects photos to be near an anchor."""


def parameters_of(model_id: str) -> EvidenceParameters:
    """Finds the parameters for the evidence of a model: FROM_ABOVE for the shipped `overhead`."""
    return FROM_ABOVE if model_id.rpartition("-")[0] == "overhead" else EvidenceParameters()


@dataclass(frozen=True)
class Evidence:
    """What photos themselves say of the places where they were taken.

    Attributes:
        photos: Numbers of the photos that have evidence, ``(n,)``, each once.
        likelihood: Likelihoods of places for these photos, as of `Geotagger.likelihood`.
        parameters: What their mistakes have in common.
    """

    photos: Index
    likelihood: Likelihood
    parameters: EvidenceParameters = EvidenceParameters()

    def __post_init__(self) -> None:
        """Checks the shapes."""
        if len(np.unique(self.photos)) != len(self.photos):
            raise ValueError("A photo has evidence twice; want each photo once.")
        if len(self.likelihood.weight) != len(self.photos):
            raise ValueError(
                f"The likelihood is of {len(self.likelihood.weight)} photos; want "
                f"{len(self.photos)}, one for each that has evidence."
            )

    def scenes(self, album: Album, rows: Index) -> Index:
        """Finds photos that were taken of one scene, one after the other.

        Args:
            album: Photos of the album.
            rows: Rows of the evidence in the order of their times, ``(m,)``.

        Returns:
            Position among the rows of the first photo of each one's scene, ``(m,)``.
        """
        look, hours = self._directions(rows), album.hours[self.photos[rows]]
        first = np.arange(len(rows))
        same = np.einsum("ne,ne->n", look[1:], look[:-1]) > SCENE_COSINE
        for i in np.flatnonzero(same).tolist():
            start = first[i]
            if hours[i + 1] - hours[start] < SCENE_HOURS and i + 1 - start < LONGEST_SCENE:
                first[i + 1] = start
        return first

    def powers(self, album: Album, rows: Index) -> tuple[Float, Float]:
        """Computes the powers of photos in messages, and of their own evidence.

        Args:
            album: Photos of the album.
            rows: Rows of the evidence in the order of their times, ``(m,)``.

        Returns:
            own / Σ_j c_ij, and own less what photos say that look the same, ``(m,)`` each. Both
            fall with the weight of a photo.
        """
        hours, look = album.hours[self.photos[rows]], self._directions(rows)
        shared = self.parameters
        weight = self.likelihood.weight[rows]
        total, said = np.ones(len(rows)), np.zeros(len(rows))
        lags = range(1, min(NEIGHBOURS + 1, len(rows)))
        alike = [_alike(look[lag:], look[:-lag], shared.alike_from) for lag in lags]
        for lag, same in zip(lags, alike, strict=True):
            near = shared.by_time * np.exp(-(hours[lag:] - hours[:-lag]) / shared.hours)
            common = np.maximum(near, same)
            total[lag:] += common * weight[:-lag]
            total[:-lag] += common * weight[lag:]
        others = shared.own * weight / total
        for lag, same in zip(lags, alike, strict=True):
            said[lag:] += same * others[:-lag]
            said[:-lag] += same * others[lag:]
        return others, np.maximum(shared.own * weight - said, others)

    def _directions(self, rows: Index) -> Float:
        look = self.likelihood.look[rows]
        found: Float = look / np.maximum(np.linalg.norm(look, axis=1, keepdims=True), 1e-12)
        return found


def _alike(look: Float, other: Float, least: float) -> Float:
    """How much of what two photos say is the same by their looks ``(n, C)``, from 0 to 1."""
    cosine = np.einsum("ne,ne->n", look, other)
    return np.clip((cosine - least) / (1.0 - least), 0.0, 1.0)


class Chain:
    """The law of motion of an album as steps between the cells of a mesh.

    Attributes:
        mesh: Cells.
        start: Mass of the base measure in each cell, ``(S,)``.
    """

    def __init__(self, anchors: Anchors, mesh: Mesh, base: Callable[[Float], Float]) -> None:
        """Prepares the steps.

        Args:
            anchors: Anchors of the album.
            mesh: Cells.
            base: Density of the base measure at unit vectors, up to a factor.
        """
        self.mesh = mesh
        start = base(mesh.centres) * mesh.areas
        self.start = start / start.sum()
        visits = np.bincount(mesh.cells(anchors.visits.vectors), minlength=len(mesh))
        self._visits = visits / max(visits.sum(), 1.0)
        centres = mesh.centres.astype(np.float32)
        self._chord2 = np.maximum(2.0 - 2.0 * (centres @ centres.T), 0.0)
        self._width2 = mesh.areas / 4.0
        self._kernels: dict[float, NDArray[np.float32]] = {}
        self.move_by(anchors.table)

    def move_by(self, table: MotionTable) -> None:
        """Takes another law for the steps, the mean over the draws of a table."""
        self._laws, self._back = table.kernels.mean(0), table.back.mean(0)
        self._steps: dict[int, NDArray[np.float32]] = {}

    def pairs(self, hours: Float, likelihood: NDArray[np.float32]) -> Pairs:
        """Takes steps between photos whose cells are not known, to fit scales to.

        Args:
            hours: Hours of the steps, ``(n - 1,)``.
            likelihood: Likelihoods of the cells for each of n photos, ``(n, S)``.
        """
        here, there = likelihood[:-1] * self.start, likelihood[1:].astype(np.float64)
        here /= here.sum(1, keepdims=True)
        # Kernels that are narrower than all cells differ only in how much of them leaves a cell.
        stay, leave = (here * there).sum(1), here / self._width2
        narrow = ((leave @ self._kernel(np.inf)) * there).sum(1) - (leave * there).sum(1)
        density = np.empty((len(hours), len(LADDER_KAPPA)))
        for number, kappa in enumerate(LADDER_KAPPA[:-1].tolist()):
            if kappa * self._width2.min() >= 1.0:
                density[:, number] = stay + narrow / kappa
                continue
            leaves = np.minimum(1.0, 1.0 / (kappa * self._width2))
            gone = ((here * leaves) @ self._kernel(kappa)) * there
            density[:, number] = (gone + here * (1.0 - leaves) * there).sum(1)
        density[:, -1] = there @ self.start
        nowhere = np.zeros(len(hours))
        return Pairs(hours, np.maximum(density, 1e-30), nowhere, nowhere > 0.0)

    def step(self, hours: float) -> NDArray[np.float32]:
        """Gives the probabilities of steps from row to column, ``(S, S)``."""
        growth = EVERY * np.log(TABLE_HOURS[1] / TABLE_HOURS[0])
        number = round(float(np.log(max(hours, TABLE_HOURS[0]) / TABLE_HOURS[0]) / growth))
        entry = min(number * EVERY, len(TABLE_HOURS) - 1)
        if entry not in self._steps:
            self._steps[entry] = self._matrix(self._laws[entry], float(self._back[entry]))
        return self._steps[entry]

    def blurred(self, mass: Float, km: float) -> Float:
        """Spreads masses of cells ``(n, S)`` by a kernel of a standard deviation in km."""
        spread: Float = mass @ self._kernel((EARTH_RADIUS_KM / km) ** 2)
        return spread

    def _kernel(self, kappa: float) -> NDArray[np.float32]:
        """Spreads a kernel over the cells, at least as wide as these, rows of sum 1, ``(S, S)``."""
        widest = 1.0 / float(self._width2.min())
        kappa = min(kappa, widest)
        if kappa not in self._kernels:
            width2 = self._width2.astype(np.float32)
            spread2 = np.maximum(0.5 * (width2[:, None] + width2), np.float32(1.0 / kappa))
            near = np.exp(-0.5 * self._chord2 / spread2) / spread2
            near *= self.start.astype(np.float32)
            self._kernels[kappa] = near / near.sum(1, keepdims=True)
        return self._kernels[kappa]

    def _matrix(self, weights: Float, back: float) -> NDArray[np.float32]:
        everywhere = weights[-1] * self.start + back * self._visits
        total = np.broadcast_to(everywhere.astype(np.float32), self._chord2.shape).copy()
        stay = np.zeros(len(self.mesh))
        for weight, kappa in zip(weights[:-1], LADDER_KAPPA[:-1], strict=True):
            if weight < 1e-6:
                continue
            # A kernel that is narrower than a cell leaves it by its variance's share.
            leaves = np.minimum(1.0, 1.0 / (kappa * self._width2))
            total += (weight * leaves).astype(np.float32)[:, None] * self._kernel(float(kappa))
            stay += weight * (1.0 - leaves)
        total[np.diag_indices(len(stay))] += stay.astype(np.float32)
        return total / total.sum(1, keepdims=True)


def messages(chain: Chain, hours: Float, likelihood: NDArray[np.float32]) -> NDArray[np.float32]:
    """Runs forward and backward over photos in the order of their times.

    Args:
        chain: Steps between cells.
        hours: Hours of the steps, ``(n - 1,)``.
        likelihood: Likelihoods of the cells for n photos, ``(n, 2, S)``: with evidence in the first
            row of each and without in the second.

    Returns:
        What all other photos say of the cell of each, ``(n, 2, S)``, each row of sum 1.
    """
    n = len(hours) + 1
    forward = np.empty((n, 2, len(chain.mesh)), np.float32)
    message: NDArray[np.floating] = np.stack([chain.start, chain.start]).astype(np.float32)
    for i in range(n):
        forward[i] = message
        if i < n - 1:
            message = (message * likelihood[i]) @ chain.step(float(hours[i]))
            message /= message.sum(1, keepdims=True)
    message = np.ones_like(message)
    for i in reversed(range(n)):
        forward[i] *= message
        forward[i] /= forward[i].sum(1, keepdims=True)
        if i:
            message = (message * likelihood[i]) @ chain.step(float(hours[i - 1])).T
            message /= message.max(1, keepdims=True)
    return forward

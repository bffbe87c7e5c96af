r"""Albums with evidence: densities of photos without a position, joined along the album.

A hidden Markov chain runs over the cells of a mesh (`locdiffusion.albums.mesh`). Its steps are the
law of motion; forward and backward messages carry what the other photos say. Neighbours share
their mistakes, so photo j counts with the power OWN / Σ_i c_ij in the messages (c_ij says how much
two photos have in common), and with up to OWN in its own answer. The same chain without evidence
tells what anchors alone give on the mesh. The answer is then

    p_i(x) ∝ m0_i(x) · (m_i / m_i without evidence)(cell of x) · L_i(cell of x)^OWN

with the exact bridge m0_i: anchors stay sharp to a metre, evidence is never sharper than a cell,
and where no photo has evidence nothing changes. Time is linear in the length of the album.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.album import Album
from locdiffusion.albums.anchors import Anchors
from locdiffusion.albums.mesh import Mesh
from locdiffusion.albums.motion import LADDER_KAPPA, TABLE_HOURS
from locdiffusion.albums.von_mises_fisher import chord_squared
from locdiffusion.density.shdd import encode_vectors, max_degree_of

Float = NDArray[np.float64]
Index = NDArray[np.int64]

OWN = 0.7
"""Power of a photo's own evidence."""

SHARED_BY_TIME, SHARING_HOURS = 0.3, 24.0
"""What photos have in common because they are near in time, and how long that lasts."""

ALIKE_FROM, ALIKE_RANGE = 0.4, 0.5
"""Cosine of embeddings from which on photos have something in common, and up to all."""

NEIGHBOURS = 64
"""Photos on either side whose common part is counted."""

EVERY = 3
"""Of the tabulated times of the law every third has a matrix of its own."""


@dataclass(frozen=True)
class Evidence:
    """Densities of photos: p(y) ∝ base(y) exp⟨η, code(y)⟩ (`locdiffusion.density.shdd`).

    Attributes:
        photos: Numbers of the photos that have evidence, ``(n,)``, each once.
        natural: Natural parameters η at their temperature, ``(n, d)``.
        embeddings: Embeddings of the photos, ``(n, E)``, which tell how alike they are.
    """

    photos: Index
    natural: Float
    embeddings: Float

    def __post_init__(self) -> None:
        """Checks the shapes."""
        if len(np.unique(self.photos)) != len(self.photos):
            raise ValueError("A photo has evidence twice; want each photo once.")
        for name in ("natural", "embeddings"):
            column = getattr(self, name)
            if len(column) != len(self.photos):
                raise ValueError(
                    f"{name} has {len(column)} rows; want {len(self.photos)}, one for each photo."
                )

    def take(self, rows: Index | NDArray[np.bool_] | slice) -> Evidence:
        """Takes the evidence of some of the photos."""
        return Evidence(self.photos[rows], self.natural[rows], self.embeddings[rows])

    def log_likelihood(self, vectors: Float) -> Float:
        """Computes ⟨η, code(y)⟩ at unit vectors ``(S, 3)``, less its maximum, ``(n, S)``."""
        code = encode_vectors(vectors, max_degree_of(self.natural.shape[1]))
        values = self.natural.astype(np.float32) @ code.T.astype(np.float32)
        return values.astype(np.float64) - values.max(1, keepdims=True)

    def powers(self, album: Album) -> tuple[Float, Float]:
        """Computes the powers of the photos in messages, and of their own evidence.

        Of a photo that is there twenty times, both together are OWN, as if it were there once.

        Args:
            album: Photos of the album.

        Returns:
            OWN / Σ_i c_ij, ``(n,)``, and OWN less what photos say that look the same, ``(n,)``.
        """
        order = np.argsort(album.hours[self.photos], kind="stable")
        hours, look = album.hours[self.photos][order], self.embeddings[order]
        look = look / np.linalg.norm(look, axis=1, keepdims=True)
        lags = range(1, min(NEIGHBOURS + 1, len(order)))
        pairs = [np.einsum("ne,ne->n", look[lag:], look[:-lag]) for lag in lags]
        alike = [np.clip((cosine - ALIKE_FROM) / ALIKE_RANGE, 0.0, 1.0) for cosine in pairs]
        total = np.ones(len(order))
        for lag, same in zip(lags, alike, strict=True):
            near = SHARED_BY_TIME * np.exp(-(hours[lag:] - hours[:-lag]) / SHARING_HOURS)
            common = np.maximum(near, same)
            total[lag:] += common
            total[:-lag] += common
        others = OWN / total
        said = np.zeros(len(order))
        for lag, same in zip(lags, alike, strict=True):
            said[lag:] += same * others[:-lag]
            said[:-lag] += same * others[lag:]
        back = np.argsort(order)
        return others[back], np.maximum(OWN - said, others)[back]


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
        self._kernels = anchors.table.kernels.mean(0)
        self._back = anchors.table.back.mean(0)
        visits = np.zeros(len(mesh))
        np.add.at(visits, mesh.cells(anchors.visits.vectors), 1.0)
        self._visits = visits / max(visits.sum(), 1.0)
        self._chord2 = chord_squared(mesh.centres[:, None], mesh.centres).astype(np.float32)
        self._steps: dict[int, NDArray[np.float32]] = {}

    def step(self, hours: float) -> NDArray[np.float32]:
        """Gives the probabilities of steps from row to column, ``(S, S)``."""
        growth = EVERY * np.log(TABLE_HOURS[1] / TABLE_HOURS[0])
        number = round(float(np.log(max(hours, TABLE_HOURS[0]) / TABLE_HOURS[0]) / growth))
        entry = min(number * EVERY, len(TABLE_HOURS) - 1)
        if entry not in self._steps:
            self._steps[entry] = self._matrix(self._kernels[entry], float(self._back[entry]))
        return self._steps[entry]

    def _matrix(self, weights: Float, back: float) -> NDArray[np.float32]:
        width2 = (self.mesh.areas / 4.0).astype(np.float32)
        pair2 = 0.5 * (width2[:, None] + width2)
        total = np.zeros_like(self._chord2)
        stay = np.zeros(len(self.mesh))
        for weight, kappa in zip(weights[:-1], LADDER_KAPPA[:-1], strict=True):
            if weight < 1e-6:
                continue
            # A kernel that is narrower than a cell leaves it by its variance's share.
            leaves = np.minimum(1.0, 1.0 / (kappa * width2))
            near = np.exp(-0.5 * self._chord2 / np.maximum(pair2, 1.0 / kappa))
            near *= self.start.astype(np.float32)
            near *= (weight * leaves / near.sum(1))[:, None]
            total += near
            stay += weight * (1.0 - leaves)
        total += (weights[-1] * self.start + back * self._visits).astype(np.float32)
        total[np.diag_indices(len(stay))] += stay.astype(np.float32)
        return total / total.sum(1, keepdims=True)


def messages(
    chain: Chain, hours: Float, likelihood: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Runs forward and backward over photos in the order of their times.

    Args:
        chain: Steps between cells.
        hours: Hours of the steps, ``(n - 1,)``.
        likelihood: Likelihoods of the cells for each of n photos, ``(2, S)``: with evidence in the
            first row and without in the second.

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

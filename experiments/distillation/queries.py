"""Simulated queries: what GeoCLIP's image encoder might say of a photo taken at a given place.

A photo rarely says one place. A query is

    q = normalise( Σ_k w_k loc(y_k) + n + γ g )

* y_0 is the true place, the other y_k are what the photo is mistaken for: with probability `near` a
  place of the gallery 30 to 3,000 km away (log-uniform), otherwise any of the gallery's.
* w ~ Dirichlet(`truth_weight`, `other_weight`, ...): how much each of them is seen. Their sum is
  normalised before noise is added.
* n is Gaussian with norm about `noise`. Most of it lies in directions in which no two places
  differ: those leave the order of places alone and flatten the density.
* g is a unit vector, the gap between the modalities of a contrastive model, γ its size. An encoder
  has one such direction and nobody knows which: queries to learn from have each another.

The setting `typical` was chosen so that GeoCLIP's own answer is right within 1/25/200/750/2500 km
about as often as published for Im2GPS3k (14/34/51/70/84 %; PAPER arXiv 2309.16020). Whether real
photos confuse it in this way is not known here: CLIP's weights were not at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM


@dataclass(frozen=True)
class Ambiguity:
    """A setting of the simulator; see the module's formula.

    Attributes:
        others: How many places a photo is mistaken for.
        near: Share of them that lies near the true one.
        truth_weight, other_weight: Of the Dirichlet distribution of the weights.
        noise: Norm of the noise, varied by ±30 % between queries.
        gap: γ.
        nearest_km, farthest_km: How far near places are.
        along_places: Noise with the covariance of the location embeddings instead of white noise:
            all of it speaks of places.
    """

    others: int
    near: float
    truth_weight: float
    other_weight: float
    noise: float
    gap: float = 0.0
    nearest_km: float = 30.0
    farthest_km: float = 3000.0
    along_places: bool = False


TRAINING: Mapping[str, Ambiguity] = {
    "clear": Ambiguity(3, 0.7, 1.5, 0.4, 1.5, gap=0.5),
    "typical": Ambiguity(6, 0.6, 1.0, 0.5, 2.0),
    "vague": Ambiguity(8, 0.8, 0.5, 0.7, 2.5, gap=0.5),
    "noisy": Ambiguity(4, 0.5, 1.0, 0.5, 3.0, gap=1.0),
}
HELD_OUT = Ambiguity(5, 0.7, 0.9, 0.6, 2.3, gap=0.7, nearest_km=50.0, farthest_km=2000.0)
"""Never trained on or chosen by: other numbers, another gap."""

HELD_OUT_ALONG = Ambiguity(
    5, 0.7, 0.9, 0.6, 0.8, gap=0.7, nearest_km=50.0, farthest_km=2000.0, along_places=True
)
"""Another kind of noise altogether: it moves the query only in directions that mean places."""


class QuerySimulator:
    """Draws queries over a gallery.

    Args:
        vectors: ``(M, 3)`` unit vectors of the gallery.
        embeddings: ``(M, E)`` their location embeddings.
        gap_seed: Of the direction g that all queries share; None for one of each query's own.
    """

    def __init__(
        self, vectors: NDArray[np.float64], embeddings: Tensor, gap_seed: int | None = None
    ) -> None:
        self._vectors, self._embeddings = vectors, embeddings
        self._tree = cKDTree(vectors)
        self._gap = None
        if gap_seed is not None:
            self._gap = _directions(1, embeddings.shape[1], np.random.default_rng(gap_seed))
        self._spread = _covariance_root(embeddings)

    def __call__(
        self,
        setting: Ambiguity,
        vectors: NDArray[np.float64],
        embeddings: Tensor,
        rng: np.random.Generator,
    ) -> Tensor:
        """Queries of photos taken at given places.

        Args:
            setting: How ambiguous they are.
            vectors: ``(B, 3)`` unit vectors of the true places.
            embeddings: ``(B, E)`` their location embeddings, unit vectors.
            rng: Draws everything.

        Returns:
            ``(B, E)`` unit vectors.
        """
        count, width = embeddings.shape
        alpha = [setting.truth_weight] + [setting.other_weight] * setting.others
        weights = torch.from_numpy(rng.dirichlet(alpha, count)).float()
        seen = weights[:, :1] * embeddings
        for k in range(setting.others):
            mistaken = self._embeddings[self._mistaken_for(setting, vectors, rng)]
            seen = seen + weights[:, k + 1 : k + 2] * mistaken
        seen = torch.nn.functional.normalize(seen, dim=1)
        noise = torch.from_numpy(rng.normal(size=(count, width))).float() / width**0.5
        if setting.along_places:
            noise = noise @ self._spread
        size = setting.noise * rng.uniform(0.7, 1.3, (count, 1))
        gap = self._gap if self._gap is not None else _directions(count, width, rng)
        noisy = seen + torch.from_numpy(size).float() * noise + setting.gap * gap
        return torch.nn.functional.normalize(noisy, dim=1)

    def _mistaken_for(
        self, setting: Ambiguity, vectors: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """One place of the gallery for each true place ``(B, 3)``."""
        count = len(vectors)
        log_km = rng.uniform(np.log(setting.nearest_km), np.log(setting.farthest_km), (count, 1))
        near = self._tree.query(moved(vectors, np.exp(log_km), rng))[1]
        anywhere = rng.integers(0, len(self._vectors), count)
        return np.where(rng.random(count) < setting.near, near, anywhere)


def moved(
    vectors: NDArray[np.float64], km: NDArray[np.float64] | float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Unit vectors ``(N, 3)`` after Gaussian steps of `km`, ``(N, 1)`` or one for all."""
    stepped = vectors + rng.normal(size=vectors.shape) * (km / EARTH_RADIUS_KM)
    return stepped / np.linalg.norm(stepped, axis=1, keepdims=True)


def _directions(count: int, width: int, rng: np.random.Generator) -> Tensor:
    """Random unit vectors ``(count, width)``."""
    drawn = torch.from_numpy(rng.normal(size=(count, width))).float()
    return torch.nn.functional.normalize(drawn, dim=1)


def _covariance_root(embeddings: Tensor) -> Tensor:
    """A root ``(E, E)`` of the covariance, scaled so that its trace is E."""
    values, axes = torch.linalg.eigh(torch.cov(embeddings.T.double()))
    values = values.clamp(min=0.0)
    return ((axes * (values * len(values) / values.sum()).sqrt()) @ axes.T).float()

"""Simulates queries: embeddings that GeoCLIP's image encoder might give for photos.

A photo rarely fits one place only. A query is

    q = normalise( m · Σ_k w_k loc(y_k) + n + γ g )

* y_0 is the true place. The other y_k are places that the photo may be mistaken for: with
  probability `near` a place of the gallery 30 to 3,000 km away (log-uniform), otherwise any place
  of the gallery.
* w ~ Dirichlet(`truth_weight`, `other_weight`, ...) are the weights of the places. The weighted sum
  is normalised before noise is added.
* m is a mask: each coordinate is lost (0) with probability `masked`, and else 1.
* n is Gaussian with norm about `noise`. Most of it lies in directions in which places do not
  differ; there it does not change the order of places but flattens the density.
* g is a unit vector, the gap between the modalities of a contrastive model, and γ its size. An
  encoder has one such direction, which is unknown here; each training query has another one.

The setting `typical` was chosen so that GeoCLIP's own answer is right within 1/25/200/750/2500 km
about as often as published for Im2GPS3k (14/34/51/70/84 %; arXiv 2309.16020). Whether real photos
confuse it in this way was not measured: CLIP's weights were not available.
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
    """A setting of the simulator, with the symbols of the module's formula.

    Attributes:
        others: Number of places that a photo is mistaken for.
        near: Share of them that lies near the true place.
        truth_weight, other_weight: Parameters of the Dirichlet distribution of the weights w.
        noise: Norm of the noise n, varied by ±30 % between queries.
        gap: Size γ of the gap.
        nearest_km, farthest_km: Range of distances of near places in kilometres.
        along_places: Whether n has the covariance of the location embeddings instead of being
            white; then all of it changes the order of places.
        masked: Share of the coordinates that are lost, in each query others.
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
    masked: float = 0.0


TRAINING: Mapping[str, Ambiguity] = {
    "clear": Ambiguity(3, 0.7, 1.5, 0.4, 1.5, gap=0.5),
    "typical": Ambiguity(6, 0.6, 1.0, 0.5, 2.0),
    "vague": Ambiguity(8, 0.8, 0.5, 0.7, 2.5, gap=0.5),
    "noisy": Ambiguity(4, 0.5, 1.0, 0.5, 3.0, gap=1.0),
}
ALONG: Mapping[str, Ambiguity] = {
    "clear": Ambiguity(3, 0.7, 1.5, 0.4, 0.45, gap=0.5, along_places=True),
    "typical": Ambiguity(6, 0.6, 1.0, 0.5, 0.6, along_places=True),
    "vague": Ambiguity(8, 0.8, 0.5, 0.7, 0.7, gap=0.5, along_places=True),
    "noisy": Ambiguity(4, 0.5, 1.0, 0.5, 1.0, gap=1.0, along_places=True),
}
"""Settings with noise only in directions in which places differ; for the calibration."""

CROWDED: Mapping[str, Ambiguity] = {
    "many near": Ambiguity(20, 0.9, 1.0, 0.2, 0.5, gap=0.5),
    "many": Ambiguity(20, 0.5, 1.0, 0.2, 1.0),
}
"""Settings with many other places and little noise; for the calibration."""

HELD_OUT = Ambiguity(5, 0.7, 0.9, 0.6, 2.3, gap=0.7, nearest_km=50.0, farthest_km=2000.0)
"""Setting of the tests, with other numbers and another gap; nothing is trained or chosen on it."""

HELD_OUT_ALONG = Ambiguity(
    5, 0.7, 0.9, 0.6, 0.8, gap=0.7, nearest_km=50.0, farthest_km=2000.0, along_places=True
)
"""Setting of the tests with noise only in directions in which places differ."""

HELD_OUT_MASKED = Ambiguity(
    5, 0.7, 0.9, 0.6, 0.5, gap=0.7, nearest_km=50.0, farthest_km=2000.0, masked=0.6
)
"""Setting of the tests in which most coordinates are lost: noise that nothing was fitted on."""


class QuerySimulator:
    """Draws queries over a gallery.

    Args:
        vectors: Places of the gallery as unit vectors, shape ``(M, 3)``.
        embeddings: Location embeddings of these places, shape ``(M, E)``.
        gap_seed: Seed of a direction g that all queries share; None gives each query its own.
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
        """Simulates queries of photos that were taken at given places.

        Args:
            setting: Setting of the simulator.
            vectors: True places as unit vectors, shape ``(B, 3)``.
            embeddings: Location embeddings of these places, unit vectors, shape ``(B, E)``.
            rng: Random generator.

        Returns:
            Queries as unit vectors, shape ``(B, E)``.
        """
        count, width = embeddings.shape
        alpha = [setting.truth_weight] + [setting.other_weight] * setting.others
        weights = torch.from_numpy(rng.dirichlet(alpha, count)).float()
        seen = weights[:, :1] * embeddings
        for k in range(setting.others):
            mistaken = self._embeddings[self._mistaken_for(setting, vectors, rng)]
            seen = seen + weights[:, k + 1 : k + 2] * mistaken
        seen = torch.nn.functional.normalize(seen, dim=1)
        if setting.masked:
            seen = seen * torch.from_numpy(rng.random(seen.shape) >= setting.masked)
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
        """Draws one place of the gallery for each true place ``(B, 3)``."""
        count = len(vectors)
        log_km = rng.uniform(np.log(setting.nearest_km), np.log(setting.farthest_km), (count, 1))
        near = self._tree.query(moved(vectors, np.exp(log_km), rng))[1]
        anywhere = rng.integers(0, len(self._vectors), count)
        return np.where(rng.random(count) < setting.near, near, anywhere)


def moved(
    vectors: NDArray[np.float64], km: NDArray[np.float64] | float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Moves unit vectors ``(N, 3)`` by Gaussian steps of `km`, ``(N, 1)`` or one for all."""
    stepped = vectors + rng.normal(size=vectors.shape) * (km / EARTH_RADIUS_KM)
    return stepped / np.linalg.norm(stepped, axis=1, keepdims=True)


def _directions(count: int, width: int, rng: np.random.Generator) -> Tensor:
    """Draws random unit vectors ``(count, width)``."""
    drawn = torch.from_numpy(rng.normal(size=(count, width))).float()
    return torch.nn.functional.normalize(drawn, dim=1)


def _covariance_root(embeddings: Tensor) -> Tensor:
    """Computes a root ``(E, E)`` of the covariance, which is scaled to the trace E."""
    values, axes = torch.linalg.eigh(torch.cov(embeddings.T.double()))
    values = values.clamp(min=0.0)
    return ((axes * (values * len(values) / values.sum()).sqrt()) @ axes.T).float()

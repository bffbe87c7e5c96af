"""LocDiff-H: a gallery of places re-ranked inside our density's region, for fine scale.

The density knows the region and how sure it is; a gallery knows single spots. The hybrid answers
with the place of the gallery that, inside the circle around our answer, has most of

    log p(y | image) + λ · s ⟨q, g(y)⟩

p our density without its base measure (the gallery is its own), s⟨q, g(y)⟩ the gallery's
similarity as log odds. Of K samples p is the mixture. Without a place in the circle the answer
stays ours. The paper combines LocDiff with GeoCLIP as well (LocDiff-H); how exactly was not
available to us, so this is our rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.density.log_partition import mixed_log
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, unit_vectors

CANDIDATES = 64
"""Places of the circle, those of most similarity, whose density is looked up."""


@dataclass(frozen=True)
class HybridConfig:
    """How the gallery is used.

    The defaults were chosen on validation queries, from `distillation.fidelity.HYBRIDS`.

    Attributes:
        similarity_weight: λ.
        radius_factor: Radius of the circle in units of `radius_50_km`.
        least_km: Its least radius.
    """

    similarity_weight: float = 1.0
    radius_factor: float = 2.0
    least_km: float = 300.0


class HybridGallery:
    """Places with embeddings that an image embedding can be compared with.

    Args:
        places: ``(G, 2)`` latitude, longitude in degrees.
        embeddings: ``(G, E)`` unit vectors.
        scale: s, what a similarity is multiplied with to be log odds.
        max_degree: L of the densities.
        config: How it is used.
    """

    def __init__(
        self,
        places: NDArray[np.float64],
        embeddings: Tensor,
        scale: float,
        max_degree: int,
        config: HybridConfig | None = None,
    ) -> None:
        if len(places) != len(embeddings) or not len(places):
            raise ValueError(
                f"{len(places)} places for {len(embeddings)} embeddings; want as many, not none."
            )
        self.places, self.embeddings, self.scale = places, embeddings, scale
        self.config = config or HybridConfig()
        self._vectors = torch.from_numpy(unit_vectors(places[:, 0], places[:, 1]))
        self._max_degree = max_degree

    def refine(
        self,
        embeddings: Tensor,
        natural: Tensor,
        latitude: NDArray[np.float64],
        longitude: NDArray[np.float64],
        radius_50_km: NDArray[np.float64],
        log_z: Tensor | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The hybrid answers of N photos; arguments as of `find`.

        Returns:
            Latitude and longitude, ``(N,)`` each; ours where the gallery has no place in the
            circle.
        """
        places = self.find(embeddings, natural, latitude, longitude, radius_50_km, log_z)
        nowhere = np.isnan(places[0])
        return np.where(nowhere, latitude, places[0]), np.where(nowhere, longitude, places[1])

    @torch.inference_mode()
    def find(
        self,
        embeddings: Tensor,
        natural: Tensor,
        latitude: NDArray[np.float64],
        longitude: NDArray[np.float64],
        radius_50_km: NDArray[np.float64],
        log_z: Tensor | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The gallery's best places for N photos.

        Args:
            embeddings: ``(N, E)`` unit vectors of the images.
            natural: ``(N, K, d)`` their calibrated densities, mixed with equal weight.
            latitude: ``(N,)`` of our answers, in degrees.
            longitude: The same.
            radius_50_km: ``(N,)``.
            log_z: ``(N, K)`` of the densities, see `Decoder.log_normaliser`; wanted where K > 1.

        Returns:
            Latitude and longitude, ``(N,)`` each; NaN where the gallery has no place in the circle.

        Raises:
            ValueError: Several densities of a photo, and no `log_z` to mix them by.
        """
        if natural.shape[1] > 1 and log_z is None:
            raise ValueError(f"{natural.shape[1]} densities per photo without log_z; want both.")
        answers = torch.from_numpy(unit_vectors(latitude, longitude))
        found = np.full((len(embeddings), 2), np.nan)
        for i in range(len(embeddings)):
            inside, score = self._likely(embeddings[i], answers[i], radius_50_km[i])
            if len(inside):
                codes = encode_vectors(self._vectors[inside].numpy(), self._max_degree)
                code = torch.from_numpy(codes).to(natural)
                score = score + _log_density(natural[i], code, None if log_z is None else log_z[i])
                found[i] = self.places[int(inside[score.argmax()])]
        return found[:, 0], found[:, 1]

    def _likely(
        self, embedding: Tensor, answer: Tensor, radius_50_km: float
    ) -> tuple[Tensor, Tensor]:
        """Places of the circle by index, the most similar ones, and their log odds ``(C,)``."""
        config = self.config
        radius = max(config.least_km, config.radius_factor * radius_50_km)
        cosine = math.cos(min(math.pi, radius / EARTH_RADIUS_KM))
        inside = torch.nonzero(self._vectors @ answer >= cosine)[:, 0]
        score = config.similarity_weight * self.scale * (self.embeddings[inside] @ embedding)
        likely = score.topk(min(CANDIDATES, len(inside))).indices
        return inside[likely], score[likely]


def _log_density(natural: Tensor, code: Tensor, log_z: Tensor | None) -> Tensor:
    """Log p ``(C,)`` of densities ``(K, d)`` at codes ``(C, d)``, but for what is common to all."""
    if log_z is None or len(natural) == 1:  # a single log Z moves every place alike
        return code @ natural[0]
    return mixed_log(natural @ code.T - log_z.to(natural)[:, None])

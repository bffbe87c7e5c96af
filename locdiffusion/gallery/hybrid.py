"""LocDiff-H: re-ranks the places of a gallery near our answer, for accuracy at a fine scale.

The density gives the region and its uncertainty, the gallery gives single places. Inside a circle
around our answer, the hybrid chooses the place y of the gallery that maximises

    log p(y | image) + λ · s ⟨q, g(y)⟩

where p is our density without its base measure, because the places of the gallery are a base
measure of their own, and s⟨q, g(y)⟩ is the similarity of image and place as log odds. If there are
K samples, p is their mixture. If no place lies in the circle, our answer stays. The paper combines
LocDiff with GeoCLIP too (LocDiff-H); how was not available to us, so this is our rule.
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
"""Most similar places of the circle, for which the density is computed."""


@dataclass(frozen=True)
class HybridConfig:
    """How the gallery is used.

    The defaults were chosen on validation queries, in `experiments.distillation.fidelity`.

    Attributes:
        similarity_weight: Weight λ of the similarity.
        radius_factor: Radius of the circle in units of the answer's 50 % radius.
        least_km: Least radius of the circle in km.
    """

    similarity_weight: float = 1.0
    radius_factor: float = 2.0
    least_km: float = 300.0


class HybridGallery:
    """Places with embeddings that an image embedding can be compared with.

    Args:
        places: Latitude and longitude in degrees, ``(G, 2)``.
        embeddings: Embeddings of the places, unit vectors ``(G, E)``.
        scale: Factor s that makes log odds of a similarity.
        max_degree: Degree L of the densities.
        config: How the gallery is used.
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
        """Finds the gallery's best places for N photos.

        Args:
            embeddings: Image embeddings, unit vectors ``(N, E)``.
            natural: Natural parameters of the calibrated densities, ``(N, K, d)``, mixed with equal
                weight.
            latitude: Latitude of our answers in degrees, ``(N,)``.
            longitude: Longitude of our answers in degrees, ``(N,)``.
            radius_50_km: 50 % radius of our answers in km, ``(N,)``.
            log_z: Log normaliser of the densities, ``(N, K)``, see `Decoder.log_normaliser`; needed
                if K > 1.

        Returns:
            Latitude and longitude in degrees, ``(N,)`` each; NaN where the circle holds no place.

        Raises:
            ValueError: There are several densities per photo, and no `log_z` to mix them by.
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
        """Numbers of the most similar places in the circle, and their log odds ``(C,)``."""
        config = self.config
        radius = max(config.least_km, config.radius_factor * radius_50_km)
        cosine = math.cos(min(math.pi, radius / EARTH_RADIUS_KM))
        inside = torch.nonzero(self._vectors @ answer >= cosine)[:, 0]
        score = config.similarity_weight * self.scale * (self.embeddings[inside] @ embedding)
        likely = score.topk(min(CANDIDATES, len(inside))).indices
        return inside[likely], score[likely]


def _log_density(natural: Tensor, code: Tensor, log_z: Tensor | None) -> Tensor:
    """Log density ``(C,)`` of parameters ``(K, d)`` at codes ``(C, d)``, up to a constant."""
    if log_z is None or len(natural) == 1:  # one log Z is a constant
        return code @ natural[0]
    return mixed_log(natural @ code.T - log_z.to(natural)[:, None])

"""LocDiff-H: a gallery of places re-ranked inside our density's region, for fine scale.

The density knows the region and how sure it is; a gallery knows single spots. The hybrid answers
with the place of the gallery that, inside the circle around our answer, has most of

    log p(y | image) + λ · s ⟨q, g(y)⟩

p our density without its base measure (the gallery is its own), s⟨q, g(y)⟩ the gallery's
similarity as log odds. Without a place in the circle the answer stays ours. The paper combines
LocDiff with GeoCLIP as well (LocDiff-H); how exactly was not available to us, so this is our rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.shdd import encode_vectors
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, unit_vectors

CANDIDATES = 64
"""Places of the circle, those of most similarity, whose density is looked up."""


@dataclass(frozen=True)
class HybridConfig:
    """How the gallery is used; chosen on validation queries.

    Attributes:
      similarity_weight: λ.
      radius_factor: radius of the circle in units of `radius_50_km`.
      least_km: its least radius.
    """

    similarity_weight: float = 1.0
    radius_factor: float = 1.0
    least_km: float = 100.0


class HybridGallery:
    """Places with embeddings that an image embedding can be compared with.

    Args:
      places: ``(G, 2)`` latitude, longitude in degrees.
      embeddings: ``(G, E)`` unit vectors.
      scale: s, what a similarity is multiplied with to be log odds.
      max_degree: L of the densities.
      config: how it is used.
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
    def refine(
        self,
        embeddings: Tensor,
        natural: Tensor,
        latitude: NDArray[np.float64],
        longitude: NDArray[np.float64],
        radius_50_km: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The hybrid answers of N photos.

        Args:
          embeddings: ``(N, E)`` unit vectors of the images.
          natural: ``(N, d)`` their calibrated densities.
          latitude: ``(N,)`` of our answers, in degrees.
          longitude: the same.
          radius_50_km: ``(N,)``.

        Returns:
          Latitude and longitude, ``(N,)`` each; ours where the gallery has no place in the circle.
        """
        answers = unit_vectors(latitude, longitude)
        best = [
            self._best(embeddings[i], natural[i], torch.from_numpy(answers[i]), radius_50_km[i])
            for i in range(len(embeddings))
        ]
        found = np.array([index is not None for index in best], bool)
        chosen = self.places[[index or 0 for index in best]] if best else np.zeros((0, 2))
        return (
            np.where(found, chosen[:, 0], latitude),
            np.where(found, chosen[:, 1], longitude),
        )

    def _best(
        self, embedding: Tensor, natural: Tensor, answer: Tensor, radius_50_km: float
    ) -> int | None:
        config = self.config
        radius = max(config.least_km, config.radius_factor * radius_50_km)
        cosine = math.cos(min(math.pi, radius / EARTH_RADIUS_KM))
        inside = torch.nonzero(self._vectors @ answer >= cosine)[:, 0]
        if not len(inside):
            return None
        score = config.similarity_weight * self.scale * (self.embeddings[inside] @ embedding)
        likely = score.topk(min(CANDIDATES, len(inside))).indices
        inside, score = inside[likely], score[likely]
        codes = encode_vectors(self._vectors[inside].numpy(), self._max_degree)
        score = score + torch.from_numpy(codes).to(natural) @ natural
        return int(inside[score.argmax()])

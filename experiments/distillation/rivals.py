"""Rivals of the distilled checkpoint: GeoCLIP's best place, and its density decoded by mass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.distillation.teacher import Teacher
from locdiffusion.evaluate.metrics import error_summary
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, great_circle_km

BATCH = 64
CENTRES, COUNTED = 60, 3000
"""Number of likeliest places that may be the answer, and of those whose mass is summed."""
SCALES = (20.0, 40.0, 60.0, 80.0, 120.0)
RADII_KM = (25.0, 100.0, 200.0, 400.0, 750.0)

Places = tuple[NDArray[np.float64], NDArray[np.float64]]


def best_places(teacher: Teacher, embeddings: NDArray[np.float32]) -> Places:
    """Computes GeoCLIP's answer, the most similar place: latitude and longitude ``(N,)``."""
    chosen = [
        teacher.gallery_similarity(torch.from_numpy(embeddings[i : i + BATCH])).argmax(1)
        for i in range(0, len(embeddings), BATCH)
    ]
    latitude, longitude = teacher.positions[torch.cat(chosen).numpy()].T
    return latitude, longitude


@dataclass(frozen=True)
class DecodedGallery:
    """GeoCLIP's softmax over its gallery; the answer is the place with most mass around it.

    Attributes:
        scale: Scale s of the softmax.
        radius_km: Radius of the Epanechnikov kernel that weighs the mass, in kilometres.
    """

    scale: float
    radius_km: float

    def answer(self, teacher: Teacher, embeddings: NDArray[np.float32]) -> Places:
        """Finds the best of the `CENTRES` likeliest places: latitude and longitude ``(N,)``."""
        vectors = torch.from_numpy(teacher.vectors[: teacher.gallery]).float()
        parts = [
            self._batch(teacher, vectors, torch.from_numpy(embeddings[i : i + BATCH]))
            for i in range(0, len(embeddings), BATCH)
        ]
        latitude, longitude = teacher.positions[torch.cat(parts).numpy()].T
        return latitude, longitude

    def _batch(self, teacher: Teacher, vectors: Tensor, queries: Tensor) -> Tensor:
        similarity = self.scale * teacher.gallery_similarity(queries)
        likeliest = similarity.topk(min(COUNTED, similarity.shape[1]))
        probability = torch.softmax(likeliest.values, 1)
        centres = likeliest.indices[:, :CENTRES]
        cosine = vectors[centres] @ vectors[likeliest.indices].transpose(1, 2)
        # 1 - |z - y|²/c², with |z - y|² = 2 - 2 cos and c² = 2 - 2 cos ρ
        kernel = 1.0 - (1.0 - cosine) / (1.0 - math.cos(self.radius_km / EARTH_RADIUS_KM))
        mass = (kernel.clamp(min=0.0) @ probability[..., None]).squeeze(-1)
        return centres.gather(1, mass.argmax(1, keepdim=True))[:, 0]


def fit(
    teacher: Teacher,
    val: EmbeddedPhotos,
    scales: Sequence[float] = SCALES,
    radii_km: Sequence[float] = RADII_KM,
) -> DecodedGallery:
    """Chooses scale and radius by mean accuracy over the thresholds on validation queries."""
    best, best_score = DecodedGallery(scales[0], radii_km[0]), -1.0
    for scale in scales:
        for radius in radii_km:
            rival = DecodedGallery(scale, radius)
            answers = rival.answer(teacher, val.embeddings)
            within = error_summary(errors_km(answers, val))["within"].values()
            if (score := float(np.mean(list(within)))) > best_score:
                best, best_score = rival, score
    return best


def errors_km(answers: Places, photos: EmbeddedPhotos) -> NDArray[np.float64]:
    """Computes distances to the true places in kilometres, ``(N,)``."""
    return great_circle_km(*answers, photos.latitude, photos.longitude)

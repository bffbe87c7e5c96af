"""Classification by a softmax over equal-area cells of the sphere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.baselines.evidence import Evidence, fit_settings
from experiments.baselines.network import Budget, Trunk, outputs, parameter_count, train
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

Float = NDArray[np.float64]

SMOOTHING_KM = (0.0, 75.0)
"""Label smoothings that validation photos choose from; 0 is the plain one-hot label."""

PILOT = 0.2
"""Share of the steps that each smoothing is tried with."""


@dataclass(frozen=True)
class EqualAreaCells:
    """A grid of cells of equal area, about as wide as high, in bands of latitude.

    Attributes:
        bands: Number of bands from pole to pole.
    """

    bands: int = 120

    def __post_init__(self) -> None:
        """Checks the number of bands."""
        if self.bands < 2:
            raise ValueError(f"bands is {self.bands}; want at least 2.")

    @property
    def columns(self) -> NDArray[np.int64]:
        """Number of cells in each band from north to south, shape ``(bands,)``."""
        colatitude = np.pi * (np.arange(self.bands) + 0.5) / self.bands
        return np.maximum(1, np.rint(2 * self.bands * np.sin(colatitude))).astype(np.int64)

    @property
    def edges(self) -> Float:
        """Edges of the bands as z from 1 to -1, shape ``(bands + 1,)``."""
        cumulative = np.concatenate([[0], np.cumsum(self.columns)])
        return 1.0 - 2.0 * cumulative / cumulative[-1]

    def __len__(self) -> int:
        """Number of cells, about 4/π · bands²."""
        return int(self.columns.sum())

    def index(self, vectors: Float) -> NDArray[np.int64]:
        """Finds the cell ``(...)`` of each unit vector ``(..., 3)``."""
        x, y, z = np.moveaxis(vectors, -1, 0)
        band = np.clip(np.searchsorted(-self.edges, -z, side="right") - 1, 0, self.bands - 1)
        columns = self.columns
        first = np.cumsum(columns) - columns
        turn = (np.arctan2(y, x) / (2.0 * np.pi)) % 1.0
        column = np.minimum((turn * columns[band]).astype(np.int64), columns[band] - 1)
        return first[band] + column


class GridSoftmax:
    """A softmax over the cells that hold training photos; a cell answers with their mean position.

    Labels may be smoothed over neighbouring cells by distance, exp(-(d - d_own)/s) (Haas et al.
    2024, PIGEON, arXiv 2307.05845, eq. 2). Validation photos choose s.

    Attributes:
        parameters: Number of trained parameters.
        choices: Number of cells, and the smoothing s.
    """

    def __init__(self, bands: int = 120, keep: int = 256) -> None:
        """Makes a classifier over a grid; the `keep` most probable cells become kernels."""
        self.grid, self.keep = EqualAreaCells(bands), keep
        self.parameters = 0
        self.choices: dict[str, Any] = {}

    def fit(self, train_photos: EmbeddedPhotos, val: EmbeddedPhotos, budget: Budget) -> None:
        """Chooses the smoothing by short trainings, then trains with all steps."""
        _, cell = np.unique(self.grid.index(train_photos.vectors), return_inverse=True)
        total = np.stack([np.bincount(cell, column) for column in train_photos.vectors.T], 1)
        self.centres = total / np.linalg.norm(total, axis=1, keepdims=True)
        nats = {}
        for smoothing in SMOOTHING_KM:
            self._train(train_photos, budget.part(PILOT), smoothing)
            nats[smoothing] = round(fit_settings(self.evidence(val), val.vectors)[1], 4)
        best = min(nats, key=lambda smoothing: nats[smoothing])
        self._train(train_photos, budget, best)
        self.parameters = parameter_count(self.network)
        self.choices = {"cells": len(self.centres), "cells_of_the_sphere": len(self.grid)}
        self.choices["smoothing_km"] = best
        self.choices["nats_of_smoothing_km"] = {f"{k:g}": value for k, value in nats.items()}

    def _train(self, photos: EmbeddedPhotos, budget: Budget, smoothing_km: float) -> None:
        centres = torch.from_numpy(self.centres).float().to(budget.device)
        occupied = np.unique(self.grid.index(photos.vectors))

        def loss(network: Trunk, embeddings: Tensor, truth: Tensor, _: torch.Generator) -> Tensor:
            logits = network(embeddings)
            if smoothing_km:
                target = smoothed_labels(truth.to(logits), centres, smoothing_km)
                return torch.nn.functional.cross_entropy(logits, target)
            cell = np.searchsorted(occupied, self.grid.index(truth.cpu().numpy()))
            label = torch.from_numpy(cell).to(logits.device)
            return torch.nn.functional.cross_entropy(logits, label)

        def build() -> Trunk:
            width = photos.embeddings.shape[1]
            return Trunk(width, len(self.centres), budget.parameters, budget.dropout)

        label = f"grid softmax, labels smoothed by {smoothing_km:g} km"
        self.network = train(build, loss, photos, budget, label)

    def evidence(self, photos: EmbeddedPhotos) -> Evidence:
        """Gives mean positions and log probabilities of the most probable cells."""
        top = torch.log_softmax(outputs(self.network, photos), 1).topk(
            min(self.keep, len(self.centres)), dim=1
        )
        index = top.indices.numpy()
        return Evidence.alike(self.centres[index], top.values.double().numpy())


def smoothed_labels(truth: Tensor, centres: Tensor, smoothing_km: float) -> Tensor:
    """Computes label probabilities that fall off with the distance of a cell from the truth.

    Args:
        truth: True places as unit vectors, shape ``(B, 3)``.
        centres: Mean positions of the cells as unit vectors, shape ``(cells, 3)``.
        smoothing_km: Length s of exp(-d/s) in kilometres.

    Returns:
        Probabilities that sum to 1, shape ``(B, cells)``.
    """
    chord = torch.cdist(truth, centres, compute_mode="donot_use_mm_for_euclid_dist")
    distance = 2.0 * EARTH_RADIUS_KM * torch.asin((chord / 2.0).clamp(max=1.0))
    return torch.softmax(-distance / smoothing_km, 1)

"""Validation photos with their densities, and all that calibration measures on them once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

from locdiffusion.density.raster import raster_cells
from locdiffusion.inference import Answerer, decode_all, log_probability, natural_parameters
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import great_circle_km
from locdiffusion.temperature import COLDEST, CalibratedDenoiser, TemperatureModel

Float = NDArray[np.float64]

LOG_TEMPERATURES = np.linspace(np.log(COLDEST), np.log(16.0), 20)
FOLDS, FOLD_ROWS = 4, 18
"""Parts of the Earth for cross-validation, made of whole cells of 18 rows of equal area."""


@dataclass(frozen=True)
class LocatedDensities:
    """Densities of photos whose position is known.

    Attributes:
        photos: N photos.
        natural: Natural parameters of their densities, ``(N, d)``.
        weight: Weight of all N photos together in a fit over several such sets.
    """

    photos: EmbeddedPhotos
    natural: Tensor
    weight: float = 1.0

    def errors_and_radii(
        self, answerer: Answerer, temperature: float = 1.0
    ) -> tuple[Float, Float, Float]:
        """Decodes the densities at one temperature.

        Args:
            answerer: Answers the photos.
            temperature: τ by which all natural parameters are divided.

        Returns:
            Great-circle errors in km and the stated radii of 50 % and 90 %, ``(N,)`` each.
        """
        photos = self.photos
        said = decode_all(answerer, self.natural / temperature, photos.embeddings)
        error = great_circle_km(said.latitude, said.longitude, photos.latitude, photos.longitude)
        return error, said.radius_50_km, said.radius_90_km


@dataclass(frozen=True)
class LikelihoodTable:
    """Negative log likelihood of N photos over the logarithm of the temperature.

    Attributes:
        log_temperature: ``(K,)`` evenly spaced.
        nats: ``(N, K)``.
    """

    log_temperature: Tensor
    nats: Tensor

    @classmethod
    def measure(cls, densities: LocatedDensities, answerer: Answerer) -> LikelihoodTable:
        """Evaluates the true points at `LOG_TEMPERATURES`, with a cubic spline between them."""
        vectors = densities.photos.vectors
        rows = [
            -log_probability(answerer, densities.natural / float(np.exp(t)), vectors)
            for t in LOG_TEMPERATURES
        ]
        fine = np.linspace(LOG_TEMPERATURES[0], LOG_TEMPERATURES[-1], 8 * len(LOG_TEMPERATURES) - 7)
        values = CubicSpline(LOG_TEMPERATURES, np.stack(rows))(fine).T
        return cls(torch.from_numpy(fine).float(), torch.from_numpy(values).float())

    def at(self, log_temperature: Tensor) -> Tensor:
        """Interpolates linearly at one temperature per photo, ``(N,)``; constant outside."""
        low, step = self.log_temperature[0], self.log_temperature[1] - self.log_temperature[0]
        last = len(self.log_temperature) - 1
        place = ((log_temperature.to(low.device) - low) / step).clamp(0.0, last - 1e-3)
        piece = place.detach().long()
        row = torch.arange(len(place))
        share = place - piece
        return self.nats[row, piece] * (1.0 - share) + self.nats[row, piece + 1] * share


@dataclass(frozen=True)
class CalibrationPart:
    """One part of the validation data, measured once.

    Attributes:
        densities: N photos and their densities at τ = 1.
        features: Inputs of the temperature network, ``(N, F)``.
        likelihood: Likelihood of the true points over the temperature.
        fold: Number of the cross-validation fold of each photo, ``(N,)``.
    """

    densities: LocatedDensities
    features: Tensor
    likelihood: LikelihoodTable
    fold: Tensor

    @classmethod
    def measure(
        cls, densities: LocatedDensities, features: Tensor, answerer: Answerer
    ) -> CalibrationPart:
        """Measures the likelihood of densities with features ``(N, F)``."""
        likelihood = LikelihoodTable.measure(densities, answerer)
        return cls(densities, features, likelihood, spatial_folds(densities.photos.vectors))

    def weights(self, chosen: Tensor) -> Tensor:
        """Shares the weight of the part among the photos that are chosen, ``(N,)``."""
        return self.densities.weight * chosen / len(chosen)

    def calibrated(self, denoiser: CalibratedDenoiser) -> LocatedDensities:
        """Computes the densities at the temperatures of a denoiser."""
        photos = self.densities.photos
        natural = natural_parameters(denoiser, photos.embeddings)
        return LocatedDensities(photos, natural, self.densities.weight)


def spatial_folds(vectors: Float) -> Tensor:
    """Divides photos at ``(N, 3)`` into `FOLDS` folds of equal size, neighbours in the same."""
    cells = raster_cells(torch.from_numpy(vectors), FOLD_ROWS, 2 * FOLD_ROWS)
    shuffled = np.random.default_rng(0).permutation(2 * FOLD_ROWS**2)[cells.numpy()]
    found = np.empty(len(vectors), np.int64)
    for fold, rows in enumerate(np.array_split(shuffled.argsort(kind="stable"), FOLDS)):
        found[rows] = fold
    return torch.from_numpy(found)


def temperature_features(
    model: TemperatureModel, photos: EmbeddedPhotos, natural: Tensor, batch: int = 256
) -> Tensor:
    """Computes features ``(N, F)`` of photos and their densities ``(N, d)`` at τ = 1."""
    found = []
    for start in range(0, len(natural), batch):
        rows = slice(start, start + batch)
        condition = torch.from_numpy(photos.embeddings[rows]).to(natural.device)
        found.append(model.features(condition, natural[rows]))
    return torch.cat(found)

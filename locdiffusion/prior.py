r"""Base measures q₀: what is known of a photo's place before it is looked at.

A density is p(y) ∝ q₀(y) · exp F(y). Photos crowd into a small part of the Earth; with q₀ in the
loss the network spends nothing on saying so, and is not taught that places without training photos
are impossible. So q₀ can be *swapped* afterwards: trained with the places of the training photos,
answered with all land (our choice).

q₀ is kept as its logarithm on an equal-area raster: rows even in sin(latitude) from north to south,
columns even in longitude from -180°.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from locdiffusion.spectral import ProductTransform
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from locdiffusion.sphere.grids import LatLonGrid
from locdiffusion.sphere.harmonics import degrees_and_orders

ROWS, COLUMNS = 240, 480
LAND = Path(__file__).parent / "data" / "land.png"


class BaseKind(str, Enum):
    """Which q₀: where the training photos are, all land, or everywhere alike."""

    POSITIONS = "positions"
    LAND = "land"
    UNIFORM = "uniform"


@dataclass(frozen=True)
class BaseConfig:
    """The base measures of a training run.

    Attributes:
      training: q₀ of the loss.
      answers: q₀ that the finished checkpoint answers with.
      smoothing_km: of the histogram of positions.
      uniform_share: part that is spread over the whole sphere: what keeps F sane elsewhere.
    """

    training: BaseKind = BaseKind.POSITIONS
    answers: BaseKind = BaseKind.POSITIONS
    smoothing_km: float = 150.0
    uniform_share: float = 0.1

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.smoothing_km < 50.0:
            raise ValueError(f"smoothing_km is {self.smoothing_km}; the raster resolves 50 km.")
        if not 0.0 < self.uniform_share <= 1.0:
            raise ValueError(f"uniform_share is {self.uniform_share}; want above 0, at most 1.")

    def build(self, kind: BaseKind, vectors: NDArray[np.float64]) -> BaseMeasure:
        """The measure of one kind; `vectors` ``(N, 3)`` are the training photos' places."""
        if kind is BaseKind.LAND:
            return land_measure()
        if kind is BaseKind.UNIFORM:
            return uniform_measure()
        return positions_measure(vectors, self.smoothing_km, self.uniform_share)


class BaseMeasure(nn.Module):
    """q₀ as a lookup table whose mean over the sphere is 1."""

    log_weight: Tensor

    def __init__(self, weight: NDArray[np.float64]) -> None:
        """Normalises weights.

        Args:
          weight: ``(rows, columns)`` positive.

        Raises:
          ValueError: a weight is zero, negative or not finite: such places could never be an
            answer; mix a little of the uniform measure in.
        """
        super().__init__()
        weight = np.asarray(weight, np.float64)
        if weight.ndim != 2 or not np.all(np.isfinite(weight)) or np.any(weight <= 0):
            raise ValueError(
                f"Weights of shape {weight.shape} with minimum {np.min(weight, initial=np.inf)}; "
                "want positive numbers on a raster. Mix a little of the uniform measure in."
            )
        log_weight = torch.from_numpy(np.log(weight / weight.mean())).to(torch.float16)
        self.register_buffer("log_weight", log_weight.float())

    def forward(self, vectors: Tensor) -> Tensor:
        """Log q₀ ``(...)`` at unit vectors ``(..., 3)``."""
        return self.log_weight.flatten()[raster_cells(vectors, *self.log_weight.shape)]

    def on_grid(self, grid: LatLonGrid) -> Tensor:
        """Log of the mean of q₀ over the cell of each node, ``(rows·columns,)``.

        For grids coarser than the raster: a coast between two nodes is not lost.
        """
        rows, columns = grid.shape
        z, longitude = _raster_centres(*self.log_weight.shape)
        between = (grid.cos_theta[:-1] + grid.cos_theta[1:]) / 2.0
        row = np.searchsorted(-between, -z)
        column = np.rint(longitude / (2.0 * np.pi / columns)).astype(int) % columns
        node = (row[:, None] * columns + column).ravel()
        weight = self.log_weight.double().exp().flatten().cpu().numpy()
        count = np.bincount(node, minlength=rows * columns)
        total = np.bincount(node, weight, rows * columns)
        average = torch.from_numpy(np.log(total.clip(1e-30) / count.clip(1))).float()
        at_node = self(torch.from_numpy(grid.vectors).to(self.log_weight))
        return torch.where(
            torch.from_numpy(count > 0).to(at_node.device), average.to(at_node), at_node
        )


def uniform_measure() -> BaseMeasure:
    """Every place alike."""
    return BaseMeasure(np.ones((ROWS, COLUMNS)))


def land_measure(uniform_share: float = 0.05) -> BaseMeasure:
    """Land by area (Natural Earth, public domain), and a share for everywhere.

    Args:
      uniform_share: part of q₀ that is spread over the whole sphere; the sea's only part.
    """
    with Image.open(LAND) as image:
        land = np.asarray(image, np.float64) / 255.0
    return BaseMeasure(_with_uniform(land, uniform_share))


def positions_measure(
    vectors: NDArray[np.float64], smoothing_km: float = 150.0, uniform_share: float = 0.1
) -> BaseMeasure:
    """Where photos are: a histogram of positions, smoothed by heat flow, and a share everywhere.

    Args:
      vectors: ``(N, 3)`` unit vectors of the photos.
      smoothing_km: standard deviation of the smoothing.
      uniform_share: part of q₀ that is spread over the whole sphere.
    """
    if smoothing_km < 50.0:
        raise ValueError(f"smoothing_km is {smoothing_km}; the raster resolves 50 km or more.")
    cells = raster_cells(torch.from_numpy(vectors), ROWS, COLUMNS).numpy()
    counts = np.bincount(cells, minlength=ROWS * COLUMNS).reshape(ROWS, COLUMNS)
    return BaseMeasure(_with_uniform(_smoothed(counts, smoothing_km), uniform_share))


def _smoothed(counts: NDArray[np.int64], smoothing_km: float) -> NDArray[np.float64]:
    """Heat flow on the sphere: degree l is damped by exp(-l(l + 1)σ²/2)."""
    sigma = smoothing_km / EARTH_RADIUS_KM
    max_degree = min(math.ceil(4.0 / sigma), ROWS - 1)
    transform = ProductTransform(_raster_grid(), max_degree)
    degree, _ = degrees_and_orders(max_degree)
    damping = torch.from_numpy(np.exp(-0.5 * degree * (degree + 1) * sigma**2)).float()
    mass = torch.from_numpy(counts / counts.sum()).float()[None]
    smooth = transform.synthesis(transform.analysis(mass) * damping)[0]
    return smooth.clamp(min=0.0).double().numpy()


def raster_cells(vectors: Tensor, rows: int, columns: int) -> Tensor:
    """Flat index ``(...)`` of the raster's cell that holds each unit vector ``(..., 3)``."""
    x, y, z = vectors.unbind(-1)
    row = ((1.0 - z) * (rows / 2.0)).long().clamp_(0, rows - 1)
    column = ((torch.atan2(y, x) + math.pi) * (columns / (2.0 * math.pi))).long()
    return row * columns + column.clamp_(0, columns - 1)


def _raster_centres(rows: int, columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Z of each row and longitude in radians of each column of a raster's cells."""
    z = 1.0 - 2.0 * (np.arange(rows) + 0.5) / rows
    return z, 2.0 * np.pi * ((np.arange(columns) + 0.5) / columns - 0.5)


def _raster_grid() -> LatLonGrid:
    z, longitude = _raster_centres(ROWS, COLUMNS)
    return LatLonGrid(z, longitude, np.full(ROWS, 4.0 * np.pi / (ROWS * COLUMNS)))


def _with_uniform(weight: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    if not 0.0 < share <= 1.0:
        raise ValueError(f"uniform_share is {share}; want a share above 0, at most 1.")
    return (1.0 - share) * weight / weight.mean() + share

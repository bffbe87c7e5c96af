r"""Base measures q₀: where a photo may have been taken, before it is looked at.

A density is p(y) ∝ q₀(y) · exp F(y). Photos crowd into a small part of the Earth. With q₀ in the
loss the network need not learn that, and is not taught that places without training photos are
impossible. So q₀ can be *swapped* after training: for all land, or for what a user knows of an
archive, for instance polygons outside which nothing is an answer (`load_base_measure`). A base
measure that a user gives on the command line is called `--prior` there.

q₀ is kept as its logarithm on an equal-area raster: rows even in sin(latitude) from north to south,
columns even in longitude from -180°. Between the centres of the cells it is interpolated, so that a
density has no steps, which a quadrature resolves badly. Only a base measure that excludes places is
constant in each cell: its borders are those of the cells.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor, nn

from locdiffusion.config import FORMERLY
from locdiffusion.density.raster import (
    as_fine_as,
    closed,
    grid_average,
    interpolated,
    picked,
    raster_cells,
    raster_centres,
    raster_place,
)
from locdiffusion.density.shdd import heat_flow
from locdiffusion.density.transforms import ProductTransform
from locdiffusion.geography.areas import Areas, prior_file, sea_counts_little, with_sea
from locdiffusion.geography.borders import read_share
from locdiffusion.geography.polygons import file_identity, polygon_share
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from locdiffusion.sphere.grids import LatLonGrid

ROWS, COLUMNS = 240, 480
FINER = 4
"""How many times more rows and columns the raster of polygons and of land has: its cells measure 13
by 21 km at the equator."""

LAND = Path(__file__).parents[1] / "assets" / "land.png"
EXCLUDED = -1e4
"""Log q₀ where no answer may be. It is finite, so that sums stay finite, and lower than any F can
make up for: for one photo, F of the shipped `overhead` varies by up to 2,600 nats."""


class BaseKind(str, Enum):
    """Base measures of a recipe: the places of the training photos, land, or the whole sphere."""

    POSITIONS = "positions"
    LAND = "land"
    UNIFORM = "uniform"


class BaseMeasureName(str, Enum):
    """Base measures that a user can name; any other `--prior` is areas (`Areas`) or a file."""

    CHECKPOINT = "checkpoint"
    LAND = "land"
    UNIFORM = "uniform"


@dataclass(frozen=True)
class BaseConfig:
    """The base measures of a training run.

    Attributes:
        training: Base measure of the loss: positions of the training photos, land or uniform.
        answers: Base measure of the answers of the checkpoint: positions, land or uniform.
        land_exponent: Exponent t of the base measure of the answers, q₀^(1 - t) · land^t, from 0 to
            1. It helps where photos come from regions with few training photos.
        smoothing_km: Standard deviation by which the histogram of positions is smoothed.
        uniform_share: Share of the histogram that is spread evenly over the sphere.
    """

    training: BaseKind = BaseKind.POSITIONS
    answers: BaseKind = BaseKind.POSITIONS
    land_exponent: float = field(default=0.0, metadata={FORMERLY: "towards_land"})
    smoothing_km: float = 150.0
    uniform_share: float = 0.1

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.smoothing_km < 50.0:
            raise ValueError(f"smoothing_km is {self.smoothing_km}; the raster resolves 50 km.")
        if not 0.0 < self.uniform_share <= 1.0:
            raise ValueError(f"uniform_share is {self.uniform_share}; want above 0, at most 1.")
        if not 0.0 <= self.land_exponent <= 1.0:
            raise ValueError(f"land_exponent is {self.land_exponent}; want 0 to 1.")

    def for_answers(self, vectors: NDArray[np.float64]) -> BaseMeasure:
        """Builds the base measure of the answers from the training photos' places ``(N, 3)``."""
        own = self.build(self.answers, vectors)
        t = self.land_exponent
        if not t:
            return own
        logarithms = (1.0 - t) * own.log_weight.double()
        logarithms = logarithms + t * land_measure().log_weight.double()
        return BaseMeasure(logarithms.exp().numpy())

    def build(self, kind: BaseKind, vectors: NDArray[np.float64]) -> BaseMeasure:
        """Builds the base measure of a kind from the training photos' places ``(N, 3)``."""
        if kind is BaseKind.LAND:
            return land_measure()
        if kind is BaseKind.UNIFORM:
            return uniform_measure()
        return positions_measure(vectors, self.smoothing_km, self.uniform_share)


class BaseMeasure(nn.Module):
    """A base measure q₀ as a raster whose mean over the sphere is 1.

    Attributes:
        log_weight: Log q₀ of each cell, ``(rows, columns)``.
        excludes: Whether there are places where no answer may be.
    """

    log_weight: Tensor
    surface: Tensor

    def __init__(self, weight: NDArray[np.float64], excluding: bool = False) -> None:
        """Normalises weights.

        Args:
            weight: Positive weights of the cells, ``(rows, columns)``.
            excluding: Whether a weight may be zero, so that no answer may be in its cell.

        Raises:
            ValueError: A weight is negative or not finite, or it is zero without `excluding`.
        """
        super().__init__()
        weight = np.asarray(weight, np.float64)
        least = np.min(weight, initial=np.inf)
        fit = weight.ndim == 2 and np.all(np.isfinite(weight)) and np.any(weight > 0)
        if not fit or least < 0 or (least == 0 and not excluding):
            raise ValueError(
                f"Weights of shape {weight.shape} with minimum {least}; "
                "want positive numbers on a raster. Mix a little of the uniform measure in."
            )
        log_weight = torch.from_numpy(log_or_excluded(weight / weight.mean())).to(torch.float16)
        self.register_buffer("log_weight", log_weight.float())
        self.excludes = bool((self.log_weight <= EXCLUDED).any())
        self.register_buffer("surface", closed(self.log_weight.exp()), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Looks log q₀ ``(...)`` up at unit vectors ``(..., 3)``."""
        return self.at(*raster_place(vectors, *self.log_weight.shape))

    def at(self, row: Tensor, column: Tensor) -> Tensor:
        """Looks log q₀ up on the raster, bilinearly in q₀ unless places are excluded.

        Args:
            row: Rows ``(...)`` from 0 at the north pole to the number of rows at the south pole.
            column: Columns ``(...)`` from 0 at -180° to the number of columns at 180°.

        Returns:
            Log q₀ ``(...)``.
        """
        if self.excludes:
            return picked(self.log_weight, row, column)
        return interpolated(self.surface, row, column).log()

    def on_grid(self, grid: LatLonGrid) -> Tensor:
        """Takes the log of the mean of q₀ over the cell of each node, ``(rows·columns,)``.

        On grids that are coarser than the raster this keeps coasts that run between two nodes.
        """
        weight = grid_average(self.log_weight.double().exp().cpu().numpy(), grid)
        return torch.from_numpy(log_or_excluded(weight)).float().to(self.log_weight)

    def bounds(self) -> tuple[float, float]:
        """Returns the least and the greatest log q₀."""
        return float(self.log_weight.min()), float(self.log_weight.max())

    def centroids(self, grid: LatLonGrid) -> Tensor:
        """Takes the centroid of q₀ in the cell of each node: unit vectors ``(rows·columns, 3)``.

        It finds polygons that lie between the nodes of a grid.
        """
        weight = self.log_weight.double().exp().cpu().numpy()
        z, longitude = raster_centres(*weight.shape)
        centre = LatLonGrid(z, longitude, np.ones_like(z)).vectors.T.reshape(3, *weight.shape)
        # ∫ q₀ z over the cell; its node where q₀ = 0
        sums = np.stack([grid_average(weight * axis, grid) for axis in centre], -1)
        found = np.where(self.on_grid(grid).cpu().numpy()[:, None] > EXCLUDED, sums, grid.vectors)
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return torch.from_numpy(found).to(self.log_weight)


def log_or_excluded(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Takes the logarithm of weights ``(...)``, which is `EXCLUDED` where they are 0."""
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(weight), EXCLUDED)


def uniform_measure() -> BaseMeasure:
    """Builds the uniform measure, q₀ = 1."""
    return BaseMeasure(np.ones((ROWS, COLUMNS)))


def land_measure(uniform_share: float = 0.05) -> BaseMeasure:
    """Builds the measure of land by area (Natural Earth, public domain).

    Args:
        uniform_share: Part of q₀ that is spread over the whole sphere, the sea included.
    """
    land = land_share().reshape(ROWS, FINER, COLUMNS, FINER).mean((1, 3))
    return BaseMeasure(_with_uniform(land, uniform_share))


@functools.lru_cache(maxsize=1)
def land_share() -> NDArray[np.float64]:
    """Reads the share of land of each cell of the finer raster, ``(FINER·ROWS, FINER·COLUMNS)``."""
    with Image.open(LAND) as image:
        share = np.asarray(image, np.float64) / 255.0
    share.flags.writeable = False
    return share


class LandShare(nn.Module):
    """The share of land at any point."""

    share: Tensor

    def __init__(self) -> None:
        super().__init__()
        share = torch.from_numpy(land_share().astype(np.float32))
        self.register_buffer("share", share, persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Looks the share of land ``(...)`` up at unit vectors ``(..., 3)``."""
        return self.at(*raster_place(vectors, *self.share.shape))

    def at(self, row: Tensor, column: Tensor) -> Tensor:
        """Looks the share of land ``(...)`` up, at places as of `BaseMeasure.at`."""
        return picked(self.share, row, column)

    def on_grid(self, grid: LatLonGrid, base_measure: BaseMeasure | None) -> NDArray[np.float64]:
        """Computes the share of q₀ on land in the cell of each node, ``(rows·columns,)``."""
        land = self.share.double().cpu().numpy()
        weight = np.ones_like(land)
        if base_measure is not None:
            weight = base_measure.log_weight.double().exp().cpu().numpy()
            weight = as_fine_as(weight, land.shape)
            land = as_fine_as(land, weight.shape)
        # ∫ q₀ land / ∫ q₀ over the cell
        total = grid_average(weight, grid).clip(np.finfo(np.float64).tiny)
        return grid_average(weight * land, grid) / total


def polygon_measure(geometries: ArrayLike, weights: ArrayLike | None = None) -> BaseMeasure:
    """Builds the measure of polygons, which excludes every place outside them.

    Args:
        geometries: N valid (multi)polygons in degrees, within ±180.
        weights: Relative numbers of photos from each polygon, ``(N,)``, spread evenly over its
            area. None gives equal weight to every place in any of the polygons.

    Raises:
        ValueError: A weight is negative or not finite, or nothing is left.
    """
    share = polygon_share(geometries, weights, FINER * ROWS, FINER * COLUMNS)
    return BaseMeasure(share, excluding=True)


def load_base_measure(prior: str | None, own: BaseMeasure) -> BaseMeasure:
    """Loads the base measure that a run answers with.

    Args:
        prior: What the user gave: `land`, `uniform`, `checkpoint` or None for the checkpoint's own,
            areas (see `Areas.parse`), or a file of polygons, see `read_share`. The sea in a polygon
            counts little unless polygons have weights, or `;sea` follows the name of the file.
        own: Base measure of the checkpoint.

    Raises:
        AreaError: The text is meant as an area, and is none.
        PolygonError: The file cannot be used.
    """
    if prior is None or prior == BaseMeasureName.CHECKPOINT:
        return own
    if prior == BaseMeasureName.LAND:
        return land_measure()
    if prior == BaseMeasureName.UNIFORM:
        return uniform_measure()
    if (areas := Areas.parse(prior)) is not None:
        return BaseMeasure(areas.share(land_share()), excluding=True)
    path, sea = prior_file(prior)
    share, weighed = read_share(path, FINER * ROWS, FINER * COLUMNS)
    if not (weighed or sea):
        share = share * sea_counts_little(land_share())
    return BaseMeasure(share, excluding=True)


def base_measure_identity(prior: str | None) -> str:
    """Returns what a run records of its base measure: a name, areas, or a file's `file_identity`.

    Areas are recorded in one spelling and order.

    Args:
        prior: What the user gave, as for `load_base_measure`.

    Raises:
        AreaError: The text is meant as an area, and is none.
        PolygonError: There is no such file.
    """
    name = BaseMeasureName.CHECKPOINT.value if prior is None else prior
    if name in {known.value for known in BaseMeasureName}:
        return name
    areas = Areas.parse(name)
    if areas is not None:
        return str(areas)
    path, sea = prior_file(name)
    return with_sea(file_identity(path), sea)


def positions_measure(
    vectors: NDArray[np.float64], smoothing_km: float = 150.0, uniform_share: float = 0.1
) -> BaseMeasure:
    """Builds the measure of photos' places: their histogram, smoothed by heat flow.

    Args:
        vectors: Unit vectors of the photos, ``(N, 3)``.
        smoothing_km: Standard deviation of the smoothing.
        uniform_share: Part of q₀ that is spread over the whole sphere.
    """
    if smoothing_km < 50.0:
        raise ValueError(f"smoothing_km is {smoothing_km}; the raster resolves 50 km or more.")
    cells = raster_cells(torch.from_numpy(vectors), ROWS, COLUMNS).numpy()
    counts = np.bincount(cells, minlength=ROWS * COLUMNS).reshape(ROWS, COLUMNS)
    return BaseMeasure(_with_uniform(_smoothed(counts, smoothing_km), uniform_share))


def _smoothed(counts: NDArray[np.int64], smoothing_km: float) -> NDArray[np.float64]:
    sigma = smoothing_km / EARTH_RADIUS_KM
    max_degree = min(math.ceil(4.0 / sigma), ROWS - 1)
    transform = _raster_transform(max_degree)
    damping = torch.from_numpy(heat_flow(max_degree, smoothing_km)).float()
    mass = torch.from_numpy(counts / counts.sum()).float()[None]
    # c_lm ← c_lm exp(-l(l + 1)σ²/2)
    smooth = transform.synthesis(transform.analysis(mass) * damping)[0]
    return smooth.clamp(min=0.0).double().numpy()


@functools.lru_cache(1)  # a run asks for the same one up to three times
def _raster_transform(max_degree: int) -> ProductTransform:
    return ProductTransform(_raster_grid(), max_degree)


def _raster_grid() -> LatLonGrid:
    z, longitude = raster_centres(ROWS, COLUMNS)
    return LatLonGrid(z, longitude, np.full(ROWS, 4.0 * np.pi / (ROWS * COLUMNS)))


def _with_uniform(weight: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    if not 0.0 < share <= 1.0:
        raise ValueError(f"uniform_share is {share}; want a share above 0, at most 1.")
    return (1.0 - share) * weight / weight.mean() + share

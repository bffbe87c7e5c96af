r"""Masses of areas: how likely it is that a photo was taken in each country, region or district.

The mass of an area A is ∫_A p. Area and density have nothing in common that a quadrature could use,
so it is summed over many small cells, each with the mass p(y) dΩ of its centre y and the area that
holds the centre (`locdiffusion.geography.area_raster`):

1. *Points* around the answer, finer than the rings that give the radii; each decoder lays its own.
2. *Cells* of the decoder's grid of the whole sphere, for photos with mass beyond these. Their
   shares of areas are a sparse matrix, made once; within a cell, mass is spread as q₀ is.

All masses of a photo are divided by their sum, so they sum to 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from locdiffusion.decoding.answers import AreaColumns, Shares
from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.density.transforms import ProductTransform
from locdiffusion.geography.area_raster import AreaRaster
from locdiffusion.geography.regions import FIRST_ID, country_sums, region_codes, region_raster

LEAST_SHARE = 1e-4
"""Areas with less mass are left out; their masses are what is missing of 1."""

SUBDIVIDED = 8
"""Rows and columns of points by which a cell of a grid is compared with areas."""

NODES_AT_ONCE = 2048
"""Nodes of a grid whose cells are compared with areas together."""


@dataclass(frozen=True)
class PointBlock:
    """Points with masses, as many for each of some photos.

    Attributes:
        photo: Photo of each row by its number, ``(n,)``.
        vectors: Unit vectors of the points, ``(n, P, 3)``.
        mass: Mass of each point, ``(n, P)``.
    """

    photo: Tensor
    vectors: Tensor
    mass: Tensor


@dataclass(frozen=True)
class WeightedPoints:
    """The density of N photos as masses of points, and of cells of a grid; their sum may be any.

    Attributes:
        count: Number of photos, N.
        blocks: Points with their masses.
        far: Photos with mass on the grid, ``(F,)``.
        far_mass: Their mass in the cell of each node, ``(F, nodes)``.
        cells: The cells of the grid; None without photos that are far.
    """

    count: int
    blocks: Sequence[PointBlock]
    far: Tensor
    far_mass: Tensor
    cells: GridCells | None = None


class Partition(Protocol):
    """Divides the Earth into areas."""

    def shares(self, points: WeightedPoints) -> list[Shares]:
        """Sums the masses of N photos in each area."""


class RasterPartition:
    """Areas on a raster.

    Attributes:
        raster: Numbers of the areas, from 0.
        count: Number of areas.
    """

    def __init__(self, raster: AreaRaster, count: int) -> None:
        self.raster, self.count = raster, count
        self._on: dict[torch.device, AreaRaster] = {raster.ids.device: raster}

    def numbers(self, vectors: Tensor) -> Tensor:
        """Looks the numbers of the areas at unit vectors ``(..., 3)`` up, on their device."""
        device = vectors.device
        if device not in self._on:
            raster = self.raster
            self._on[device] = AreaRaster(raster.box, raster.ids.to(device), raster.outside)
        return self._on[device](vectors)

    def shares(self, points: WeightedPoints) -> list[Shares]:
        """Sums the masses of N photos in each area."""
        return kept_shares(self.sums(points))

    def sums(self, points: WeightedPoints) -> NDArray[np.float64]:
        """Sums the masses of N photos in each area, ``(N, count)``; those of a photo sum to 1."""
        total = points.far_mass.new_zeros(points.count * self.count, dtype=torch.float64)
        for block in points.blocks:
            place = self.numbers(block.vectors).long() + self.count * block.photo[:, None]
            total += torch.bincount(place.flatten(), block.mass.flatten().double(), len(total))
        sums: NDArray[np.float64] = total.cpu().numpy().reshape(points.count, self.count)
        if points.cells is not None and len(points.far):
            matrix = points.cells.matrix(self)
            mass = points.far_mass.double().cpu().numpy()
            sums[points.far.cpu().numpy()] += (matrix @ mass.T).T
        sums /= sums.sum(1, keepdims=True)
        return sums


def kept_shares(sums: NDArray[np.float64]) -> list[Shares]:
    """Keeps the areas with at least `LEAST_SHARE` of the masses ``(N, areas)`` of N photos."""
    ids = [np.flatnonzero(row >= LEAST_SHARE) for row in sums]
    return [Shares(some, row[some]) for some, row in zip(ids, sums, strict=True)]


class GridCells:
    """Cells of the nodes of a grid over the whole sphere, within which mass is spread as q₀.

    Attributes:
        stride: Only every so many rows and columns of the grid are nodes.
    """

    def __init__(
        self, grid: ProductTransform, base_measure: BaseMeasure | None, stride: int = 1
    ) -> None:
        self.stride, self._base = stride, base_measure
        nodes = grid.nodes.double().cpu().view(grid.rows, grid.columns, 3)[::stride, ::stride]
        polar = torch.atan2(nodes[:, 0, :2].norm(dim=-1), nodes[:, 0, 2]).numpy()
        self.rows, self.columns = nodes.shape[:2]
        # Cells end half way between the rows
        middle = (polar[1:] + polar[:-1]) / 2.0
        self._edges = np.concatenate([[0.0], middle, [math.pi]])
        self._matrices: dict[int, tuple[RasterPartition, csr_array]] = {}

    def points(self, node: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Returns unit vectors ``(n, S, 3)`` within the cells of nodes, and shares ``(n, S)``."""
        row, column = np.divmod(node, self.columns)
        step = (np.arange(SUBDIVIDED) + 0.5) / SUBDIVIDED
        top, bottom = np.cos(self._edges[row])[:, None], np.cos(self._edges[row + 1])[:, None]
        z = top + (bottom - top) * step
        longitude = 2.0 * math.pi * (column[:, None] + step - 0.5) / self.columns
        across = np.sqrt((1.0 - z * z).clip(0.0))[:, :, None]
        shape = (len(node), SUBDIVIDED, SUBDIVIDED)
        places = [across * np.cos(longitude)[:, None], across * np.sin(longitude)[:, None]]
        places.append(np.broadcast_to(z[:, :, None], shape))
        vectors = torch.from_numpy(np.stack(places, -1).reshape(len(node), -1, 3)).float()
        if self._base is None:
            return vectors, torch.full(vectors.shape[:2], 1.0 / SUBDIVIDED**2)
        log_q0: Tensor = self._base(vectors.to(self._base.log_weight.device)).cpu()
        share = (log_q0 - log_q0.amax(1, keepdim=True)).exp()
        return vectors, share / share.sum(1, keepdim=True)

    def matrix(self, partition: RasterPartition) -> csr_array:
        """Returns the share of each node's cell in each area, ``(areas, nodes)``."""
        known = self._matrices.get(id(partition))
        if known is None:
            known = self._matrices[id(partition)] = partition, self._made(partition)
        return known[1]

    def _made(self, partition: RasterPartition) -> csr_array:
        count = self.rows * self.columns
        parts = []
        for start in range(0, count, NODES_AT_ONCE):
            node = np.arange(start, min(start + NODES_AT_ONCE, count))
            vectors, share = self.points(node)
            number = partition.numbers(vectors).numpy().ravel()
            place = number, np.repeat(node, share.shape[1])
            values = share.double().numpy().ravel()
            parts.append(csr_array((values, place), (partition.count, count)))
        return sum(parts[1:], parts[0]).tocsr()


@dataclass(frozen=True)
class Partitions:
    """What the masses of photos are divided into.

    Attributes:
        region: Raster of `locdiffusion.geography.regions`.
        admin: A user's polygons, or None.
        h3: Cells of H3, or None.
    """

    region: RasterPartition
    admin: Partition | None = None
    h3: Partition | None = None

    def columns(self, points: WeightedPoints) -> AreaColumns:
        """Sums the masses of N photos."""
        by_region = self.region.sums(points)
        return AreaColumns(
            country=kept_shares(country_sums(by_region)),
            region=kept_shares(by_region),
            admin=None if self.admin is None else self.admin.shares(points),
            h3=None if self.h3 is None else self.h3.shares(points),
        )


@functools.lru_cache(maxsize=1)
def region_partition() -> RasterPartition:
    """Builds the regions of Natural Earth, once per process; their numbers are the raster's."""
    return RasterPartition(region_raster(), FIRST_ID + len(region_codes()))

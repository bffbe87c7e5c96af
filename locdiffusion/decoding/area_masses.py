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
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from locdiffusion.decoding.answers import AreaColumns, PhotoPoints, Shares
from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.density.transforms import ProductTransform
from locdiffusion.geography.area_raster import AreaRaster
from locdiffusion.geography.regions import FIRST_ID, country_sums, region_codes, region_raster

LEAST_SHARE = 1e-4
"""Areas with less mass are left out; their masses are what is missing of 1."""

_LEAST_MASS, _HEAVY = 1e-7, 1e-3
"""Cells of a grid that hold less of its mass have no points, or only one."""

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
        share: Share of the sphere for which each stands, ``(n, P)`` or ``(P,)``.
    """

    photo: Tensor
    vectors: Tensor
    mass: Tensor
    share: Tensor


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


class AllPoints:
    """The densities themselves, at all points that have mass."""

    def shares(self, points: WeightedPoints) -> list[PhotoPoints]:
        """Gathers the points of N photos."""
        found: list[list[PhotoPoints]] = [[] for _ in range(points.count)]
        for block in points.blocks:
            share = block.share.expand_as(block.mass)
            arrays = (x.double().cpu().numpy() for x in (block.vectors, block.mass, share))
            for photo, *row in zip(block.photo.tolist(), *arrays, strict=True):
                found[photo].append(_with_mass(PhotoPoints(*row)))
        cells = points.cells
        for photo, mass in zip(points.far.tolist(), points.far_mass.cpu(), strict=True):
            assert cells is not None
            held = (mass / mass.sum()).numpy()
            heavy = np.flatnonzero(held > _HEAVY)
            light = np.flatnonzero((held > _LEAST_MASS) & (held <= _HEAVY))
            for node, divided in ((heavy, SUBDIVIDED), (light, 1)):
                vectors, part = cells.points(node, divided)
                part_mass = (mass[node, None] * part).flatten().double().numpy()
                area = cells.area(node).repeat(divided**2) / divided**2
                on_grid = PhotoPoints(vectors.flatten(0, 1).double().numpy(), part_mass, area)
                found[photo].append(_with_mass(on_grid))
        return [PhotoPoints(*map(np.concatenate, zip(*one, strict=True))) for one in found]


def _with_mass(points: PhotoPoints) -> PhotoPoints:
    kept = points.mass > 1e-18  # more than what stands at answers lest there be none at all
    return PhotoPoints(*(column[kept] for column in points))


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

    @property
    def count(self) -> int:
        """Number of nodes."""
        return int(self.rows * self.columns)

    def area(self, node: NDArray[np.int64]) -> NDArray[np.float64]:
        """Computes the share of the sphere in the cells of nodes, ``(n,)``."""
        height = np.cos(self._edges[:-1]) - np.cos(self._edges[1:])
        area: NDArray[np.float64] = height[node // self.columns] / (2.0 * self.columns)
        return area

    def points(self, node: NDArray[np.int64], divided: int = SUBDIVIDED) -> tuple[Tensor, Tensor]:
        """Returns unit vectors ``(n, S, 3)`` within the cells of nodes, and shares ``(n, S)``."""
        row, column = np.divmod(node, self.columns)
        step = (np.arange(divided) + 0.5) / divided
        top, bottom = np.cos(self._edges[row])[:, None], np.cos(self._edges[row + 1])[:, None]
        z = top + (bottom - top) * step
        longitude = 2.0 * math.pi * (column[:, None] + step - 0.5) / self.columns
        across = np.sqrt((1.0 - z * z).clip(0.0))[:, :, None]
        shape = (len(node), divided, divided)
        places = [across * np.cos(longitude)[:, None], across * np.sin(longitude)[:, None]]
        places.append(np.broadcast_to(z[:, :, None], shape))
        vectors = torch.from_numpy(np.stack(places, -1).reshape(len(node), divided**2, 3)).float()
        if self._base is None:
            return vectors, torch.full(vectors.shape[:2], 1.0 / divided**2)
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
        parts = []
        for node in np.array_split(np.arange(self.count), 1 + self.count // NODES_AT_ONCE):
            vectors, share = self.points(node)
            number = partition.numbers(vectors).numpy().ravel()
            place = number, np.repeat(node, share.shape[1])
            values = share.double().numpy().ravel()
            parts.append(csr_array((values, place), (partition.count, self.count)))
        return sum(parts[1:], parts[0]).tocsr()


@dataclass(frozen=True)
class Partitions:
    """What the masses of photos are divided into.

    Attributes:
        region: Raster of `locdiffusion.geography.regions`.
        admin: A user's polygons, or None.
        h3: Cells of H3, or None.
        points: The densities themselves, if they are wanted.
    """

    region: RasterPartition
    admin: Partition | None = None
    h3: Partition | None = None
    points: AllPoints | None = None

    def columns(self, points: WeightedPoints) -> AreaColumns:
        """Sums the masses of N photos."""
        by_region = self.region.sums(points)
        return AreaColumns(
            country=kept_shares(country_sums(by_region)),
            region=kept_shares(by_region),
            admin=None if self.admin is None else self.admin.shares(points),
            h3=None if self.h3 is None else self.h3.shares(points),
            points=None if self.points is None else self.points.shares(points),
        )

    def of(self, photos: Sequence[PhotoPoints]) -> AreaColumns:
        """Sums the masses of photos whose density is known at points."""
        nobody = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 0)
        parts = []
        for photo in photos:
            vectors, mass, share = (torch.from_numpy(column)[None] for column in photo)
            block = PointBlock(torch.zeros(1, dtype=torch.int64), vectors, mass, share)
            parts.append(self.columns(WeightedPoints(1, [block], *nobody)))
        return AreaColumns.joined(parts)


@functools.lru_cache(maxsize=1)
def region_partition() -> RasterPartition:
    """Builds the regions of Natural Earth, once per process; their numbers are the raster's."""
    return RasterPartition(region_raster(), FIRST_ID + len(region_codes()))


def with_points(areas: Partitions | None) -> Partitions:
    """Adds the densities themselves to what is wanted."""
    return replace(areas or Partitions(region_partition()), points=AllPoints())

r"""Points around the answer of a density of degree L that carry the masses of areas.

The rings on which answers are decided are a quadrature for smooth functions, and borders are not
smooth. Here the surroundings of the answer are divided into cells between circles and meridians,
each with the density at its centre times its area.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from locdiffusion.cpu import in_cache
from locdiffusion.decoding.area_masses import GridCells, PointBlock, WeightedPoints
from locdiffusion.decoding.coarse_search import Mixtures
from locdiffusion.decoding.tables import SPHERES_AT_ONCE, DecoderTables
from locdiffusion.density.log_partition import FLOOR
from locdiffusion.density.transforms import RingTransform
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from locdiffusion.sphere.grids import LatLonGrid

ZONES_KM = (
    (0.0, 2.0, 6.0, *range(12, 217, 12)),
    tuple(range(216, 1113, 32)),
    tuple(range(1112, 2513, 56)),
)
"""Radii of the circles in each zone around an answer of a density without a map."""

ZONE_COLUMNS = (64, 96, 128)
"""Cells between two circles in each zone."""

COS_CAP = math.cos(ZONES_KM[-1][-1] / EARTH_RADIUS_KM)

NEGLIGIBLE_LOG_P = -20.0
"""Zones on which log p stays below this are left out: together they hold e^-20 of the mass."""

NOTHING = 1e-20
"""A mass that counts for nothing."""

PHOTOS_AT_ONCE = 32
"""How many photos a CPU lays points for together."""


def cell_rings(edges_km: ArrayLike, columns: int) -> LatLonGrid:
    """Builds the grid of the centres of cells around the north pole, with their areas.

    Args:
        edges_km: Radii of the circles between the cells, increasing.
        columns: Number of cells between two circles.
    """
    cosine = np.cos(np.asarray(edges_km, np.float64) / EARTH_RADIUS_KM)
    area = (cosine[:-1] - cosine[1:]) * (2.0 * math.pi / columns)
    longitude = 2.0 * np.pi * np.arange(columns) / columns
    return LatLonGrid((cosine[:-1] + cosine[1:]) / 2.0, longitude, area)


class DensityPoints(nn.Module):
    """Lays points around answers of densities of degree L."""

    def __init__(self, tables: DecoderTables) -> None:
        """Builds the zones; the tables are those of the densities."""
        super().__init__()
        self.tables = tables
        grids = [cell_rings(e, c) for e, c in zip(ZONES_KM, ZONE_COLUMNS, strict=True)]
        zones = [RingTransform(grid, tables.max_degree) for grid in grids]
        self.inner, self.middle, self.outer = zones
        self.cells = GridCells(tables.grid, tables.base_measure)

    def forward(self, mixtures: Mixtures, answer: Tensor) -> WeightedPoints:
        """Lays points for N photos.

        Args:
            mixtures: The normalised densities.
            answer: Unit vectors of the answers, ``(N, 3)``.
        """
        tables, photos = self.tables, torch.arange(len(answer), device=answer.device)
        blocks = [at_answers(answer)]
        zones = self.inner, self.middle, self.outer
        lowest = NEGLIGIBLE_LOG_P - tables.search.highest_log_q0
        for some, centre in in_cache(PHOTOS_AT_ONCE, photos, answer):
            fields = mixtures.around(tables.rotation, some, centre, *zones)
            for rings, field in zip(zones, fields, strict=True):
                kept = torch.nonzero(field.amax(1) > lowest)[:, 0]
                if not len(kept):
                    continue
                vectors = rings.around(centre[kept])
                log_p = field[kept] + tables.log_q0_at(vectors)
                area = (rings.row_weight / (4.0 * math.pi)).repeat_interleave(rings.columns)
                mass = log_p.clamp_(min=FLOOR).exp_().mul_(area)
                blocks.append(PointBlock(some[kept], vectors, mass, area))
        far = mixtures.wide
        beyond = [
            mass * (answer[photo] @ tables.grid.nodes.T).lt_(COS_CAP)
            for photo, mass in in_cache(SPHERES_AT_ONCE, far, mixtures.mass)
        ]
        return WeightedPoints(len(answer), blocks, far, torch.cat(beyond), self.cells)


def at_answers(answer: Tensor) -> PointBlock:
    """Puts a mass that counts for nothing at each answer, lest there be none at all."""
    photo = torch.arange(len(answer), device=answer.device)
    nothing = torch.full_like(answer[:, :1], NOTHING)
    return PointBlock(photo, answer[:, None], nothing, nothing)

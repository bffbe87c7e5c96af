r"""Points around the answer of a fused density that carry the masses of areas.

As `locdiffusion.decoding.area_points`, but to read the appearance map at so many points would be
too dear. a u + log m of `locdiffusion.decoding.fused_density` is interpolated between the nodes on
which the density was normalised: in each panel by the polynomial through its rings, along a ring by
its trigonometric polynomial. q₀ and the windows, which may be steep, are taken at every point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.decoding.area_masses import GridCells, PointBlock, WeightedPoints
from locdiffusion.decoding.area_points import at_answers, cell_rings
from locdiffusion.decoding.fused_density import (
    NEAR_KM,
    NODES_PER_PANEL,
    RIM_KM,
    WIDE_KM,
    WINDOW_KM,
    FusedDensity,
    Nodes,
    falling,
    km_of_chord,
)
from locdiffusion.decoding.node_masses import NodeMasses
from locdiffusion.density.log_partition import FLOOR
from locdiffusion.density.transforms import pole_frame, register_table

WIDE_STEPS, WIDE_COLUMNS = (4, 5, 6, 7, 8, 10), 96
NEAR_STEPS, NEAR_COLUMNS = (4, 5, 7, 8, 8), 72
"""Rows of cells in each panel of `fused_density.WIDE_KM` and `NEAR_KM`, and cells of each row."""

OVERSHOOT = 1.0
"""Nats by which interpolation may rise above the highest node."""


class _PanelCells(nn.Module):
    """Cells in the panels of rings, and the interpolation from the rings to their centres."""

    radial: Tensor
    around: Tensor
    nodes: Tensor
    log_area: Tensor

    def __init__(
        self, edges_km: Sequence[float], steps: Sequence[int], azimuths: int, columns: int
    ) -> None:
        super().__init__()
        x, _ = np.polynomial.legendre.leggauss(NODES_PER_PANEL)
        circles, radial = [np.zeros(1)], np.zeros((sum(steps), NODES_PER_PANEL * len(steps)))
        row = 0
        for panel, step in enumerate(steps):
            low, high = edges_km[panel], edges_km[panel + 1]
            circles.append(np.linspace(low, high, step + 1)[1:])
            at = 2.0 * (np.arange(step) + 0.5) / step - 1.0
            for node in range(NODES_PER_PANEL):
                others = np.delete(x, node)
                value = np.prod((at[:, None] - others) / (x[node] - others), axis=1)
                radial[row : row + step, NODES_PER_PANEL * panel + node] = value
            row += step
        grid = cell_rings(np.concatenate(circles), columns)
        register_table(self, "radial", radial)
        register_table(self, "around", _periodic(azimuths, columns).T)
        register_table(self, "nodes", grid.vectors)
        register_table(self, "log_area", np.log(grid.weights / (4.0 * math.pi)))

    def interpolated(self, values: Tensor) -> Tensor:
        """Interpolates values at the nodes of the rings ``(N, n)`` at the centres ``(N, P)``."""
        by_ring = values.view(len(values), self.radial.shape[1], -1)
        return (self.radial @ by_ring @ self.around).flatten(1)

    def laid(self, pole: Tensor) -> Tensor:
        """Returns the centres ``(N, P, 3)`` around poles ``(N, 3)``."""
        return (pole_frame(pole) @ self.nodes.T).transpose(-1, -2)


def _periodic(nodes: int, points: int) -> NDArray[np.float64]:
    """Returns the map from values at even nodes of a circle to even points, ``(points, nodes)``.

    The trigonometric polynomial of least degree through the nodes; `nodes` is even.
    """
    angle = 2.0 * np.pi * np.subtract.outer(np.arange(points) / points, np.arange(nodes) / nodes)
    order = np.arange(1, nodes // 2)
    waves = 1.0 + 2.0 * np.cos(order * angle[..., None]).sum(-1) + np.cos(nodes / 2 * angle)
    found: NDArray[np.float64] = waves / nodes
    return found


class FusedPoints(nn.Module):
    """Lays points around the centres and peaks of fused densities."""

    def __init__(self, density: FusedDensity) -> None:
        """Builds the cells; the density lays its own nodes."""
        super().__init__()
        self.density = density
        self.wide = _PanelCells(WIDE_KM, WIDE_STEPS, density.wide.columns, WIDE_COLUMNS)
        self.near = _PanelCells(NEAR_KM, NEAR_STEPS, density.near.columns, NEAR_COLUMNS)
        tables = density.tables
        self.cells = GridCells(tables.grid, tables.base_measure, density.stride)

    def forward(
        self, nodes: Nodes, answer: Tensor, beyond: NodeMasses, log_z: Tensor
    ) -> WeightedPoints:
        """Lays points for N photos.

        Args:
            nodes: Nodes of the densities.
            answer: Unit vectors of the answers, ``(N, 3)``.
            beyond: Masses on the grid of photos that are far, as of `FusedDensity.normalised`.
            log_z: Log Z of the densities, ``(N,)``.
        """
        density, photos = self.density, torch.arange(len(answer), device=answer.device)
        a, b = density.likelihood.exponents(nodes.photos)
        blocks = [at_answers(answer)]
        half = NEAR_KM[-1] / 2.0
        for cells, places, pole in (
            (self.wide, nodes.wide, nodes.centre),
            (self.near, nodes.near, nodes.peak),
        ):
            log_m = density.likelihood.log_factor(places, nodes.photos, b)
            field = a[:, None] * places.field + log_m
            highest = field.amax(1, keepdim=True) + OVERSHOOT
            log_p = torch.minimum(cells.interpolated(field), highest)
            vectors = cells.laid(pole)
            log_p += density.tables.log_q0_at(vectors) + cells.log_area - log_z[:, None]
            mass = log_p.clamp_(min=FLOOR).exp_()
            chi = falling(km_of_chord(nodes.peak[:, None], vectors), half, NEAR_KM[-1])
            part = chi if cells is self.near else 1.0 - chi
            mass *= part
            if len(nodes.far):
                # ∫ q₀ exp(a u) (m - 1 + ψ): the rest of the mass is on the grid
                rest = 1.0 - falling(
                    km_of_chord(nodes.centre[nodes.far, None], vectors[nodes.far]),
                    WINDOW_KM,
                    RIM_KM,
                )
                less = cells.interpolated(-log_m[nodes.far]).clamp_(max=0.0).exp_()
                mass[nodes.far] *= 1.0 - rest * less
            blocks.append(PointBlock(photos, vectors, mass, part * cells.log_area.exp()))
        return WeightedPoints(len(answer), blocks, nodes.far, beyond.mass, self.cells)

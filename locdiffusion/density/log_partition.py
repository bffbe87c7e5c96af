r"""Coefficients as a probability density on the sphere, and its normalising integral.

A vector η of d = (L + 1)² *natural parameters* means, over a base measure q₀,

    p_η(y) = q₀(y) exp(F(y)) / Z,   F(y) = ⟨η, code(y)⟩,   Z = (1/4π) ∫ q₀ exp F dΩ

a density against the uniform probability of the sphere, so that log p is in nats above the
uniform answer (divide by 4πR² for a density per km²). It is an exponential family whose
sufficient statistics are the SHDD codes: KL(δ_x0 ‖ p_η) = -log p_η(x0) + const is convex in η with
gradient E_p[code] - code(x0). Reading SHDD-KL this way is our choice; the paper's text of the loss
was not available to us.

**Z cannot be gamed.** On a fixed grid a network learns to hide mass between the nodes.
`LogPartition` joins two rules: rings around the true point, fine enough for any density the decoder
can resolve, and outside them a grid whose rows and longitudes are shifted at random in each call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.density.transforms import (
    PoleRotation,
    ProductTransform,
    pole_frame,
    turn_about_axis,
)
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from locdiffusion.sphere.grids import polar_grid, shifted_grid

LOG_SPHERE_AREA_KM2 = math.log(4.0 * math.pi * EARTH_RADIUS_KM**2)
"""Subtract from log p to get the log density per km²."""


@dataclass(frozen=True)
class PartitionConfig:
    """Quadrature of the training loss.

    Attributes:
        rows: Latitude rows of the shifted grid, which has twice as many columns.
        offsets: Number of different row offsets that are kept.
        cap_km: Radius in km of the rings around the true point.
        panels: Number of panels of the rings; the edges of the panels grow quadratically.
        nodes_per_panel: Number of rings in a panel.
        azimuths: Number of nodes on a ring.
    """

    rows: int = 80
    offsets: int = 8
    cap_km: float = 800.0
    panels: int = 6
    nodes_per_panel: int = 4
    azimuths: int = 32

    def __post_init__(self) -> None:
        """Checks the values."""
        if min(self.rows, self.offsets, self.panels, self.nodes_per_panel, self.azimuths) < 1:
            raise ValueError(f"Every count must be at least 1: {self}.")
        if not 0 < self.cap_km < math.pi * EARTH_RADIUS_KM:
            raise ValueError(f"cap_km is {self.cap_km}; want a radius between 0 and 20015 km.")


class LogPartition(nn.Module):
    """Computes log Z of densities whose true point is known, in training and evaluation."""

    def __init__(
        self,
        max_degree: int,
        config: PartitionConfig | None = None,
        base_measure: BaseMeasure | None = None,
    ) -> None:
        """Builds the tables.

        Args:
            max_degree: Degree L of the densities.
            config: Sizes of the quadrature.
            base_measure: Base measure q₀; None is the uniform measure.
        """
        super().__init__()
        config = config or PartitionConfig()
        self.base_measure = base_measure
        self.rotation = PoleRotation(max_degree)
        self.cos_cap = math.cos(config.cap_km / EARTH_RADIUS_KM)
        edges = np.linspace(0, 1, config.panels + 1) ** 2 * config.cap_km / EARTH_RADIUS_KM
        rings = polar_grid(edges, config.nodes_per_panel, config.azimuths)
        self.rings = ProductTransform(rings, max_degree)
        offsets = (np.arange(config.offsets) + 0.5) / config.offsets
        grids = [shifted_grid(config.rows, 2 * config.rows, u) for u in offsets]
        self.grids = nn.ModuleList(ProductTransform(grid, max_degree) for grid in grids)

    def forward(
        self, natural: Tensor, truth: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Computes log Z of each density.

        Args:
            natural: Natural parameters ``(B, d)``.
            truth: Unit vectors of the true points, ``(B, 3)``.
            generator: Generator of the shifts of the grid.

        Returns:
            Log Z in nats, ``(B,)``.
        """
        # Z = (1/4π) (∫_near q₀ exp F dΩ + ∫_far q₀ exp F dΩ)
        near = self._rings(natural, truth)
        far = self._outside(natural, truth, generator)
        return torch.logaddexp(near, far) - math.log(4.0 * math.pi)

    def _rings(self, natural: Tensor, truth: Tensor) -> Tensor:
        # log (q₀ exp F dΩ) at the nodes, with the true point at the pole
        field = self.rings.synthesis(self.rotation(natural, truth))
        log_mass = (field + self.rings.row_weight.log()[:, None]).flatten(1)
        if self.base_measure is not None:
            log_mass = log_mass + self.base_measure(
                self.rings.nodes @ pole_frame(truth).transpose(1, 2)
            )
        return log_sum_exp(log_mass)

    def _outside(self, natural: Tensor, truth: Tensor, generator: torch.Generator | None) -> Tensor:
        which = int(torch.randint(len(self.grids), (), generator=generator))
        # A row offset and a turn about the axis; one for the batch, so that q₀ is looked up once.
        turn = (torch.rand(1, generator=generator).to(natural) * (2.0 * math.pi)).expand(len(truth))
        grid = self.grids[which]
        assert isinstance(grid, ProductTransform)
        field = grid.synthesis(turn_about_axis(natural, turn, self.rotation.max_degree))
        log_mass = (field + grid.row_weight.log()[:, None]).flatten(1)
        if self.base_measure is not None:
            log_mass = log_mass + self.base_measure(_turned_back(grid.nodes, -turn[:1]))
        inside = _turned_back(truth, turn) @ grid.nodes.T > self.cos_cap
        return log_sum_exp(log_mass.masked_fill(inside, -torch.inf))


def _turned_back(vectors: Tensor, angle: Tensor) -> Tensor:
    """Expresses vectors ``(B, 3)`` in a frame that is turned by ``angle`` about the axis."""
    x, y, z = vectors.unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([x * cos + y * sin, y * cos - x * sin, z], -1)


FLOOR = -60.0
"""Log density in nats below which it counts as this much. Smaller densities, times a small weight,
are subnormal in float32, for which exp is 12 to 38 times slower and a matrix product ten times."""


def log_sum_exp(values: Tensor) -> Tensor:
    """Computes `logsumexp` over the last axis, each term at least e^`FLOOR` of the largest."""
    largest = values.detach().amax(-1, keepdim=True)
    return ((values - largest).clamp(min=FLOOR).exp().sum(-1)).log() + largest.squeeze(-1)


def mixed_log(log_density: Tensor) -> Tensor:
    """Computes the log of the equal-weight mixture over the last but one axis."""
    samples = log_density.shape[-2]
    if samples == 1:
        return log_density.squeeze(-2)
    return log_sum_exp(log_density.transpose(-1, -2)) - math.log(samples)

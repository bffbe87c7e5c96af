r"""Coarse search: a thin grid, the peaks of F, and rings around the highest peak.

For most photos this settles where the mass is: nothing outside the rings holds a share that shows
in an answer. Only the other photos' densities are integrated over the whole sphere
(`locdiffusion.decoding.tables`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from locdiffusion.cpu import in_cache
from locdiffusion.decoding.peaks import Peaks, climb, finest_panel, highest_nodes, panel_edges
from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.density.log_partition import FLOOR, mixed_log
from locdiffusion.density.transforms import (
    PoleRotation,
    ProductTransform,
    RingTransform,
    register_table,
)
from locdiffusion.sphere.grids import LatLonGrid, polar_grid

NEGLIGIBLE = 1e-7
"""A share of the mass that shows in no answer: 1 km on a radius is about 1e-4."""

FIELDS_AT_ONCE = 64
"""How many fields a CPU evaluates together on the thin grid."""

LOWEST_PEAK = 25.0
"""Peaks that lie more nats below the highest one are dropped."""


@dataclass(frozen=True)
class Densities:
    """What the coarse search knows of the K densities of each of N photos.

    Attributes:
        by_degree: Natural parameters ``(L + 1, N·K, 2L + 1)`` as `PoleRotation.by_degree` lays
            them out.
        peaks: The C highest peaks of each of the N·K fields F.
        log_near: Log of ∫ q₀ exp F / 4π within the rings around the highest peak, ``(N, K)``.
        ring_candidates: The highest point of q₀ exp F on these rings and the mean direction of
            the mass within them, ``(N, 2K, 3)``.
        spread: Root mean square distance from that mean direction in radians, ``(N, K)``.
        settled: Whether the rings hold all mass of the photo, ``(N,)``.
    """

    by_degree: Tensor
    peaks: Peaks
    log_near: Tensor
    ring_candidates: Tensor
    spread: Tensor
    settled: Tensor


@dataclass(frozen=True)
class Mixtures:
    """The normalised mixtures of N photos, on the whole sphere for the W photos that need it.

    Attributes:
        by_degree: Natural parameters ``(L + 1, N·K, 2L + 1)``.
        log_z: Log Z of each density, ``(N, K)``.
        wide: Which photos have mass far from their highest peak, ``(W,)``.
        log_density: Log p of these photos at the nodes of the fine grid, ``(W, nodes)``.
        mass: Probability of each node, ``(W, nodes)``.
    """

    by_degree: Tensor
    log_z: Tensor
    wide: Tensor
    log_density: Tensor
    mass: Tensor

    def around(
        self, rotation: PoleRotation, photo: Tensor, centre: Tensor, *rings: RingTransform
    ) -> list[Tensor]:
        """Evaluates log p/q₀ on rings around points.

        Args:
            rotation: Rotation of the densities' degree.
            photo: Which photo each point belongs to, ``(P,)``.
            centre: Unit vectors of the points, ``(P, 3)``.
            rings: Rings to evaluate on.

        Returns:
            Values ``(P, nodes)`` for each of the rings.
        """
        k = self.log_z.shape[1]
        row = (photo[:, None] * k + torch.arange(k, device=photo.device)).flatten()
        by_degree = self.by_degree.index_select(1, row)
        tilted = rotation.tilted(by_degree, centre.repeat_interleave(k, 0))
        # log p/q₀ = log (1/K) Σ_k exp(F_k - log Z_k)
        offset = self.log_z[photo][..., None]
        return [mixed_log(part(tilted).view(len(photo), k, -1) - offset) for part in rings]


class CoarseSearch(nn.Module):
    """Finds the peaks of densities of degree L; holds tables and no learned parameter."""

    sparse: Tensor
    sparse_area: Tensor

    def __init__(
        self,
        thin: LatLonGrid,
        rotation: PoleRotation,
        spacing: float,
        base_measure: BaseMeasure | None,
    ) -> None:
        """Builds the tables of a thin grid; `spacing` in radians is that of the fine grid."""
        super().__init__()
        degree = rotation.max_degree
        self.rotation, self.base_measure, self.spacing = rotation, base_measure, spacing
        self.thin = ProductTransform(thin, degree)
        self.radius = 8.0 * spacing
        sparse = LatLonGrid(thin.cos_theta, thin.longitude[::2], 2.0 * thin.row_weight)
        register_table(self, "sparse", sparse.vectors)
        register_table(self, "sparse_area", sparse.weights / (4.0 * math.pi))
        edges = panel_edges(self.radius, finest_panel(degree), 4.0 * spacing)
        self.rings = RingTransform(polar_grid(edges, 4, 48), degree)
        low, high = (0.0, 0.0) if base_measure is None else base_measure.bounds()
        self.log_q0_range, self.highest_log_q0 = high - low, high
        self.may_settle = base_measure is None or not base_measure.excludes

    def forward(self, natural: Tensor, candidates: int) -> Densities:
        """Searches densities.

        Args:
            natural: Natural parameters ``(N, K, d)``.
            candidates: How many peaks are kept of each density, C.
        """
        n, k, _ = natural.shape
        flat = natural.flatten(0, 1)
        # F on the thin grid, and its C highest nodes
        fields = [self.thin.synthesis(part) for (part,) in in_cache(FIELDS_AT_ONCE, flat)]
        highest = [highest_nodes(field, candidates) for field in fields]
        value, index = (torch.cat(parts) for parts in zip(*highest, strict=True))
        # The highest peak of F may lie where q₀ is least.
        lowest = value[:, :1] - (LOWEST_PEAK + self.log_q0_range)
        value = value.masked_fill(value < lowest, -torch.inf)
        by_degree = self.rotation.by_degree(flat)
        start = self.thin.nodes.index_select(0, index.flatten()).view(*index.shape, 3)
        peaks = climb(by_degree, start, value, self.rotation, 2.0 * self.spacing)
        log_near, near, spread = self._within(by_degree, peaks.vectors[:, 0])
        settled = log_near.new_zeros(n, dtype=torch.bool)
        if k == 1 and self.may_settle:
            around = (part for (part,) in in_cache(FIELDS_AT_ONCE, peaks.vectors[:, 0]))
            outside = [self._outside(*pair) for pair in zip(fields, around, strict=True)]
            # log ∫ exp F / 4π elsewhere: what the thin grid sees, and narrow peaks between nodes
            elsewhere = torch.logaddexp(torch.cat(outside), peaks.log_mass[:, 1:].logsumexp(1))
            settled = elsewhere + self.highest_log_q0 < log_near + math.log(NEGLIGIBLE)
        log_near, spread, near = log_near.view(n, k), spread.view(n, k), near.view(n, -1, 3)
        return Densities(by_degree, peaks, log_near, near, spread, settled)

    def _within(self, by_degree: Tensor, peak: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log mass, highest point and mean, and spread on the rings around ``(B, 3)``."""
        # log q₀ + F at the nodes
        field = self.rings(self.rotation.tilted(by_degree, peak)).flatten(1)
        nodes = self.rings.around(peak)
        if self.base_measure is not None:
            field = field + self.base_measure(nodes)
        # mass of each node: q₀ exp F dΩ / 4π, over that of the highest
        highest, top = field.max(1)
        weight = (field - highest[:, None]).clamp_(min=FLOOR).exp_()
        area = self.rings.row_weight / (4.0 * math.pi)
        mass = weight.mul_(area.repeat_interleave(self.rings.columns))
        # ∫ p and ∫ p z; |∫ p z| / ∫ p = 1 - (mean square chord) / 2
        total, mean = mass.sum(1), (mass[:, None] @ nodes)[:, 0]
        length = mean.norm(dim=1)
        at_top = nodes[torch.arange(len(peak), device=peak.device), top]
        near = torch.stack([at_top, mean / length[:, None]], 1)
        spread = (2.0 - 2.0 * length / total).clamp(min=0.0).sqrt()
        return total.log() + highest, near, spread

    def _outside(self, field: Tensor, peak: Tensor) -> Tensor:
        """Returns log of ∫ exp F / 4π outside the rings, by every other column of the thin grid."""
        field = field[:, :, ::2].flatten(1)
        highest = field.amax(1)
        weight = (field - highest[:, None]).clamp_(min=FLOOR).exp_()
        outside = (peak @ self.sparse.T).le_(math.cos(self.radius))
        return (weight.mul_(outside) @ self.sparse_area).log() + highest

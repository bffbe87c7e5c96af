r"""The first look at densities: a thin grid, the peaks, and rings around the highest.

Most photos are settled by it: nothing outside the rings can hold a share of the mass that shows in
an answer. Only for the others is the whole sphere integrated (`locdiffusion.decoding.decoder`).
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

FIELDS = 64
"""On the thin grid together on a CPU."""

DEEP = 25.0
"""Nats below the highest peak at which another one is not looked at."""


@dataclass(frozen=True)
class Densities:
    """K densities of each of N photos, after the first look at them.

    Attributes:
        by_degree: ``(L + 1, N·K, 2L + 1)`` natural parameters, see
            `spectral.PoleRotation.by_degree`.
        peaks: Of the N·K densities, C each.
        log_near: ``(N, K)`` log of ∫ q₀ exp F / 4π within the rings around the highest peak.
        marks: ``(N, 2K, 3)`` on these rings: where q₀ exp F is highest, and its mean direction.
        spread: ``(N, K)`` root mean square distance from that direction on them, in radians.
        settled: ``(N,)`` whether all mass is within them.
    """

    by_degree: Tensor
    peaks: Peaks
    log_near: Tensor
    marks: Tensor
    spread: Tensor
    settled: Tensor


@dataclass(frozen=True)
class Mixtures:
    """N photos, and the whole sphere for those W that need it.

    Attributes:
        by_degree: ``(L + 1, N·K, 2L + 1)`` natural parameters.
        log_z: ``(N, K)``.
        wide: ``(W,)`` which photos have mass far from the highest peak.
        log_density: ``(W, nodes)`` of their mixtures, on the decoder's grid.
        mass: ``(W, nodes)`` probability of each node.
    """

    by_degree: Tensor
    log_z: Tensor
    wide: Tensor
    log_density: Tensor
    mass: Tensor

    def around(
        self, rotation: PoleRotation, photo: Tensor, centre: Tensor, *rings: RingTransform
    ) -> list[Tensor]:
        """Log p/q₀ of photos, by index ``(P,)``, around points ``(P, 3)``: ``(P, nodes)`` each."""
        k = self.log_z.shape[1]
        row = (photo[:, None] * k + torch.arange(k, device=photo.device)).flatten()
        by_degree = self.by_degree.index_select(1, row)
        tilted = rotation.tilted(by_degree, centre.repeat_interleave(k, 0))
        offset = self.log_z[photo][..., None]
        return [mixed_log(part(tilted).view(len(photo), k, -1) - offset) for part in rings]


class Survey(nn.Module):
    """The first look at densities of degree L; holds tables, no learned parameter."""

    sparse: Tensor
    sparse_area: Tensor

    def __init__(
        self, thin: LatLonGrid, rotation: PoleRotation, spacing: float, base: BaseMeasure | None
    ) -> None:
        """Builds the tables.

        Args:
            thin: A grid for finding peaks.
            rotation: Of degree L.
            spacing: Of the grid that integrates what is not settled, in radians.
            base: q₀; None is the uniform measure.
        """
        super().__init__()
        degree = rotation.max_degree
        self.rotation, self.base, self.spacing = rotation, base, spacing
        self.thin = ProductTransform(thin, degree)
        self.radius = 8.0 * spacing
        sparse = LatLonGrid(thin.cos_theta, thin.longitude[::2], 2.0 * thin.row_weight)
        register_table(self, "sparse", sparse.vectors)
        register_table(self, "sparse_area", sparse.weights / (4.0 * math.pi))
        edges = panel_edges(self.radius, finest_panel(degree), 4.0 * spacing)
        self.rings = RingTransform(polar_grid(edges, 4, 48), degree)
        low, high = (0.0, 0.0) if base is None else base.bounds()
        self.base_range, self.most_base = high - low, high
        self.may_settle = base is None or not base.excludes

    def forward(self, natural: Tensor, candidates: int) -> Densities:
        """Looks at densities.

        Args:
            natural: ``(N, K, d)``.
            candidates: C, how many peaks are kept of each.
        """
        n, k, _ = natural.shape
        flat = natural.flatten(0, 1)
        fields = [self.thin.synthesis(part) for (part,) in in_cache(FIELDS, flat)]
        highest = [highest_nodes(field, candidates) for field in fields]
        value, index = (torch.cat(parts) for parts in zip(*highest, strict=True))
        # The highest peak of F may lie where q₀ is least.
        value = value.masked_fill(value < value[:, :1] - (DEEP + self.base_range), -torch.inf)
        by_degree = self.rotation.by_degree(flat)
        start = self.thin.nodes.index_select(0, index.flatten()).view(*index.shape, 3)
        peaks = climb(by_degree, start, value, self.rotation, 2.0 * self.spacing)
        log_near, marks, spread = self._within(by_degree, peaks.vectors[:, 0])
        settled = log_near.new_zeros(n, dtype=torch.bool)
        if k == 1 and self.may_settle:
            around = (part for (part,) in in_cache(FIELDS, peaks.vectors[:, 0]))
            outside = [self._outside(*pair) for pair in zip(fields, around, strict=True)]
            elsewhere = torch.logaddexp(torch.cat(outside), peaks.log_mass[:, 1:].logsumexp(1))
            settled = elsewhere + self.most_base < log_near + math.log(NEGLIGIBLE)
        log_near, spread, marks = log_near.view(n, k), spread.view(n, k), marks.view(n, -1, 3)
        return Densities(by_degree, peaks, log_near, marks, spread, settled)

    def _within(self, by_degree: Tensor, peak: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """On the rings around ``(B, 3)``: log of the mass, its crest and mean, its spread."""
        field = self.rings(self.rotation.tilted(by_degree, peak)).flatten(1)
        nodes = self.rings.around(peak)
        if self.base is not None:
            field = field + self.base(nodes)
        highest, crest = field.max(1)
        weight = (field - highest[:, None]).clamp_(min=FLOOR).exp_()
        area = self.rings.row_weight / (4.0 * math.pi)
        mass = weight.mul_(area.repeat_interleave(self.rings.columns))
        total, mean = mass.sum(1), (mass[:, None] @ nodes)[:, 0]
        length = mean.norm(dim=1)
        at_crest = nodes[torch.arange(len(peak), device=peak.device), crest]
        marks = torch.stack([at_crest, mean / length[:, None]], 1)
        spread = (2.0 - 2.0 * length / total).clamp(min=0.0).sqrt()
        return total.log() + highest, marks, spread

    def _outside(self, field: Tensor, peak: Tensor) -> Tensor:
        """Log of ∫ exp F / 4π outside the rings, by every other column of the thin grid."""
        field = field[:, :, ::2].flatten(1)
        highest = field.amax(1)
        weight = (field - highest[:, None]).clamp_(min=FLOOR).exp_()
        outside = (peak @ self.sparse.T).le_(math.cos(self.radius))
        return (weight.mul_(outside) @ self.sparse_area).log() + highest

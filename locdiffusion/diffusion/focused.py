r"""Mean parameter of narrow densities: quadrature on rings around each density's own peak.

At σ the density of a place has a standard deviation of about 2σ/d radians (25 km at L = 31 and
σ = 2), far below the spacing of any affordable grid over the sphere: on such a grid the mean jumps
from node to node, and every sample ends on a node. Here the field is rotated so that its peak lies
at the pole of a grid whose rings are fine there and as coarse as the degree allows elsewhere. A
second narrow peak is integrated with a larger error.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from locdiffusion.decoding.peaks import climb, finest_panel, highest_nodes, panel_edges
from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.density.transforms import (
    PoleRotation,
    ProductTransform,
    pole_frame,
    turn_about_axis,
)
from locdiffusion.diffusion.denoiser import Denoiser, MeanDenoiser
from locdiffusion.sphere.grids import gauss_legendre_grid, polar_grid


class FocusedMean(nn.Module):
    """Computes E_p[code] of natural parameters of degree L; holds no learned parameter."""

    def __init__(self, max_degree: int, base_measure: BaseMeasure | None = None) -> None:
        """Builds the tables for degree L over a base measure q₀; None is the uniform measure."""
        super().__init__()
        self.max_degree, self.base_measure = max_degree, base_measure
        rows = 2 * (max_degree + 1)
        self.spacing = math.pi / rows
        self.search = ProductTransform(gauss_legendre_grid(rows, 2 * rows), max_degree)
        self.rotation = PoleRotation(max_degree)
        edges = panel_edges(math.pi, finest_panel(max_degree), 4.0 * self.spacing)
        self.rings = ProductTransform(polar_grid(edges, 4, 2 * rows), max_degree)

    def forward(self, natural: Tensor) -> Tensor:
        """Computes mean parameters ``(B, d)`` of natural parameters ``(B, d)``."""
        value, index = highest_nodes(self.search.synthesis(natural), 1)
        start = self.search.nodes[index]
        by_degree = self.rotation.by_degree(natural)
        peak = climb(by_degree, start, value, self.rotation, self.spacing).vectors[:, 0]
        # log (q₀ exp F dΩ) at the nodes, with the peak at the pole
        field = self.rings.synthesis(self.rotation(natural, peak))
        log_mass = field + self.rings.row_weight.log()[:, None]
        if self.base_measure is not None:
            turned = self.rings.nodes @ pole_frame(peak).transpose(-1, -2)
            log_mass = log_mass + self.base_measure(turned).view_as(field)
        mass = torch.softmax(log_mass.flatten(1), 1).view_as(field)
        return self._turned_back(self.rings.analysis(mass), peak)

    def _turned_back(self, coefficients: Tensor, peak: Tensor) -> Tensor:
        """Inverts `rotation`: with R = R_z(φ) R_y(θ), R⁻¹ = R_z(π) R_y(θ) R_z(-π - φ)."""
        x, y, z = peak.unbind(-1)
        across = torch.stack([-torch.hypot(x, y), torch.zeros_like(x), z], -1)
        tilted = self.rotation(coefficients, across)
        return turn_about_axis(tilted, -math.pi - torch.atan2(y, x), self.max_degree)


def focused_mean_denoiser(denoiser: Denoiser, condition: Tensor, mean: FocusedMean) -> MeanDenoiser:
    """Builds a denoiser that returns the mean parameters E_p[code].

    They are weighted means of codes of real points and lie in the convex hull of the manifold of
    codes: the sampler cannot drift off it, and nothing needs reprojection.

    Args:
        denoiser: Denoiser in natural parameters.
        condition: Image embeddings, one for each row of x, ``(B, E)``.
        mean: Quadrature of the denoiser's degree and base measure.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        focused: Tensor = mean(denoiser(x, sigma, condition))
        return focused

    return denoise

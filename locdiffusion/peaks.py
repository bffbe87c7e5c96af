r"""Climbing on the sphere: maxima of fields, and of the probability near a point.

Both climb by Newton's method in the tangent plane, made safe: where the curvature is not that of
a maximum the step follows the slope, and no step is longer than the method can be trusted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.spectral import PoleRotation, pole_frame
from locdiffusion.sphere.grids import LatLonGrid, polar_grid
from locdiffusion.sphere.harmonics import associated_legendre


@dataclass(frozen=True)
class Peaks:
    """The highest local maxima of B fields.

    Attributes:
      vectors: ``(B, C, 3)`` unit vectors, highest first.
      log_mass: ``(B, C)`` log of ∫ exp F / 4π around the peak by Laplace's method; -inf where a
        field has fewer than C maxima.
    """

    vectors: Tensor
    log_mass: Tensor


def highest_nodes(field: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The nodes of a product grid that no neighbour exceeds, highest first.

    Args:
      field: ``(B, rows, columns)``; columns are periodic, rows go from pole to pole.
      count: C.

    Returns:
      Values ``(B, C)``, -inf where a field has fewer maxima, and flat indices ``(B, C)``.
    """
    along = torch.maximum(field, torch.maximum(field.roll(1, 2), field.roll(-1, 2)))
    highest = along.clone()
    torch.maximum(highest[:, 1:], along[:, :-1], out=highest[:, 1:])
    torch.maximum(highest[:, :-1], along[:, 1:], out=highest[:, :-1])
    # Across a pole lies the same row, half a turn away.
    across = along[:, [0, -1]].roll(field.shape[2] // 2, 2)
    highest[:, [0, -1]] = torch.maximum(highest[:, [0, -1]], across)
    return torch.where(field >= highest, field, -torch.inf).flatten(1).topk(count, dim=1)


def climb(
    natural: Tensor, nodes: Tensor, value: Tensor, rotation: PoleRotation, reach: float
) -> Peaks:
    """Newton's method on F from the highest nodes of a grid, two steps.

    Args:
      natural: ``(B, d)``.
      nodes: ``(B, C, 3)`` where to start.
      value: ``(B, C)``; -inf marks an empty place.
      rotation: of the degree of `natural`.
      reach: longest step in radians: the spacing of the grid.
    """
    batch, count, _ = nodes.shape
    repeated = natural.repeat_interleave(count, 0)
    vectors = nodes.reshape(-1, 3)
    for _ in range(2):
        jet = rotation.jet(repeated, vectors)
        gradient, hessian = jet[:, 1:3], jet[:, 3:]
        # A flat peak covers at most the whole sphere: its curvature is at least about 1.
        step, curvature = safe_newton(gradient, hessian, torch.ones_like(jet[:, 0]), reach)
        vectors = walked(vectors, step)
    height = jet[:, 0] + (gradient * step).sum(-1) / 2.0
    spread = (2.0 * math.pi / curvature.clamp(min=1e-9)).clamp(max=4.0 * math.pi)
    log_mass = (height + (spread / (4.0 * math.pi)).log()).view(batch, count)
    return Peaks(vectors.view(batch, count, 3), log_mass.masked_fill(value.isinf(), -torch.inf))


def safe_newton(
    gradient: Tensor, hessian: Tensor, floor: Tensor, reach: float
) -> tuple[Tensor, Tensor]:
    """A step uphill: Newton's where the curvature is that of a maximum.

    Args:
      gradient: ``(..., 2)``.
      hessian: ``(..., 3)``: H_11, H_12, H_22. Both eigenvalues are brought below ``-floor``.
      floor: ``(...)`` positive.
      reach: longest step.

    Returns:
      The step ``(..., 2)`` and ``(...)`` √det of the negative curvature that it used.
    """
    h11, h12, h22 = hessian.unbind(-1)
    mean, radius = (h11 + h22) / 2.0, torch.hypot((h11 - h22) / 2.0, h12)
    excess = (mean + radius + floor).clamp(min=0.0)
    h11, h22 = h11 - excess, h22 - excess
    determinant = (mean - excess - radius) * (mean - excess + radius)
    g1, g2 = gradient.unbind(-1)
    step = -torch.stack([h22 * g1 - h12 * g2, h11 * g2 - h12 * g1], -1) / determinant[..., None]
    length = step.norm(dim=-1, keepdim=True)
    return step * (reach / length.clamp(min=reach)), determinant.sqrt()


def walked(vectors: Tensor, step: Tensor) -> Tensor:
    """Where steps ``(..., 2)``, radians south and east, lead from unit vectors ``(..., 3)``."""
    length = step.norm(dim=-1, keepdim=True)
    heading = step * torch.sinc(length / math.pi)
    local = torch.cat([heading, length.cos()], -1)
    return nn.functional.normalize((pole_frame(vectors) @ local[..., None]).squeeze(-1), dim=-1)


def neighbourhood_mass(vectors: Tensor, mass: Tensor, radius: float) -> Tensor:
    """Each point's own mass and that of all points near it, weighted by the kernel of radius ρ.

    Args:
      vectors: ``(N, P, 3)``.
      mass: ``(N, P)``.
      radius: ρ in radians.

    Returns:
      ``(N, P)``.
    """
    chord2 = 2.0 - 2.0 * vectors @ vectors.transpose(1, 2)
    kernel = (1.0 - chord2 / (4.0 * math.sin(radius / 2.0) ** 2)).clamp(min=0.0)
    return (kernel @ mass[..., None]).squeeze(-1)


def spread_maxima(vectors: Tensor, score: Tensor, count: int, radius: float) -> Tensor:
    """The `count` best points, each at least ρ/2 from the better ones while there are such.

    Args:
      vectors: ``(N, P, 3)``.
      score: ``(N, P)`` not negative.
      count: how many.
      radius: ρ in radians.

    Returns:
      ``(N, count)`` indices.
    """
    remaining = score.clone()
    apart = math.cos(min(math.pi, radius / 2.0))
    chosen = []
    batch = torch.arange(len(score), device=score.device)
    for _ in range(count):
        chosen.append(remaining.argmax(1))
        point = vectors[batch, chosen[-1]]
        near = (vectors @ point[..., None]).squeeze(-1) > apart
        remaining = remaining.masked_fill(near, -1.0)
    return torch.stack(chosen, 1)


@dataclass(frozen=True)
class Ascent:
    """The probability around points.

    Attributes:
      score: ``(...)``.
      mass: ``(...)`` within ρ.
      step: ``(..., 2)`` uphill, radians south and east.
      gain: ``(...)`` what the step is expected to add to the score.
    """

    score: Tensor
    mass: Tensor
    step: Tensor
    gain: Tensor

    def at(self, row: Tensor | slice, column: Tensor | int) -> Ascent:
        """Some of the points, by index."""
        return Ascent(*(getattr(self, f.name)[row, column] for f in fields(self)))

    def put(self, row: Tensor, column: Tensor, other: Ascent) -> None:
        """Writes what is known of some points, by index."""
        for f in fields(self):
            getattr(self, f.name)[row, column] = getattr(other, f.name)

    def where(self, condition: Tensor, other: Ascent) -> Ascent:
        """These points where the condition ``(...)`` holds, the other ones elsewhere."""
        return Ascent(
            torch.where(condition, self.score, other.score),
            torch.where(condition, self.mass, other.mass),
            torch.where(condition[..., None], self.step, other.step),
            torch.where(condition, self.gain, other.gain),
        )

    def shortened(self) -> Ascent:
        """The same points with a quarter of the step, for steps that led downhill."""
        return Ascent(self.score, self.mass, self.step / 4.0, self.gain / 4.0)


class ScoreKernel(nn.Module):
    r"""The Epanechnikov kernel of radius ρ around the pole, as sums over rings of nodes.

    With c = 2 sin(ρ/2), M = {\|z - y\| < c} and a tangent t at y,

        score(y)   = ∫_M p (1 - \|z - y\|²/c²) dΩ
        t·∇score   = (2/c²) ∫_M p z·t dΩ
        t·∇²score·t = (2/c²) [ sin²ρ ∮_∂M p cos²φ dφ - ∫_M p z·y dΩ ]

    where φ is the azimuth from t: the kernel vanishes on the rim, so the rim appears first in the
    second derivative. Without the rim's term Newton's step would be the mean shift.

    Attributes:
      grid: the nodes: rings within ρ and, last, the rim.
    """

    moments: Tensor

    def __init__(self, radius: float, finest: float, spacing: float) -> None:
        super().__init__()
        azimuths = 8 * max(4, math.ceil(2.0 * math.pi * math.sin(radius) / spacing / 8.0))
        rings = polar_grid(panel_edges(radius, finest, 4.0 * spacing), 4, azimuths)
        self.radius = radius
        self.chord2 = 4.0 * math.sin(radius / 2.0) ** 2
        self.grid = LatLonGrid(
            np.append(rings.cos_theta, math.cos(radius)),
            rings.longitude,
            np.append(rings.row_weight, 0.0),
        )
        area, z = self.grid.weights / (4.0 * math.pi), self.grid.vectors
        rim = np.zeros(len(area))
        rim[-azimuths:] = math.sin(radius) ** 2 / (2.0 * azimuths)
        cos, sin = (np.tile(f(rings.longitude), len(self.grid.cos_theta)) for f in (np.cos, np.sin))
        kernel = 1.0 - 2.0 * (1.0 - z[:, 2]) / self.chord2
        inner = [kernel, np.ones_like(kernel), *z.T]
        columns = [area * f for f in inner] + [rim * cos**2, rim * cos * sin, rim * sin**2]
        table = torch.from_numpy(np.stack(columns, -1).astype(np.float32))
        self.register_buffer("moments", table, persistent=False)

    def forward(self, density: Tensor) -> Ascent:
        """Sums densities ``(..., nodes)`` at the nodes of `grid`, rotated around each point."""
        score, mass, south, east, up, h11, h12, h22 = (density @ self.moments).unbind(-1)
        unit = 2.0 / self.chord2
        gradient = unit * torch.stack([south, east], -1)
        hessian = unit * torch.stack([h11 - up, h12, h22 - up], -1)
        floor = 5e-5 * unit * mass.abs() + 1e-12
        step, _ = safe_newton(gradient, hessian, floor, self.radius / 2.0)
        return Ascent(score, mass, step, (gradient * step).sum(-1) / 2.0)


def kernel_spectrum(radius: float, max_degree: int) -> NDArray[np.float64]:
    """The kernel of radius ρ as a convolution: a factor for each degree (Funk-Hecke), ``(L + 1,)``.

    ½ ∫ K(t) P_l(t) dt over t = cos γ, from 1 down to cos ρ.
    """
    x, w = np.polynomial.legendre.leggauss(2 * max_degree + 16)
    low = math.cos(radius)
    t, w = (1.0 + low + (1.0 - low) * x) / 2.0, w * (1.0 - low) / 2.0
    degree = np.arange(max_degree + 1)
    legendre = associated_legendre(t, max_degree)[..., 0] * np.sqrt(4 * np.pi / (2 * degree + 1))
    return (w * (t - low) / (1.0 - low) / 2.0) @ legendre


def panel_edges(radius: float, finest: float, widest: float) -> NDArray[np.float64]:
    """Radii from 0 to `radius`: panels that double from `finest` until they are `widest`."""
    edges = [0.0]
    while edges[-1] < radius:
        edges.append(edges[-1] + min(max(finest, edges[-1]), widest))
    return np.array(edges) * (radius / edges[-1])

r"""Climbing on the sphere: maxima of fields, and of the probability near a point.

Both climb by Newton's method in the tangent plane, made safe: where the curvature is not that of
a maximum the step follows the slope, and no step is longer than the method can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.spectral import PoleRotation, pole_frame
from locdiffusion.sphere.grids import LatLonGrid, polar_grid
from locdiffusion.sphere.harmonics import associated_legendre

STEEP, LOWEST = 1e30, -1e10
"""A node takes this many times its drop from the highest neighbour; no true value is as low."""

CONVERGED, LOOSE, OUTDONE = 3e-7, 1e-4, 0.95
"""The share of the score that a step must promise to be tried; the same for places that will not
be the answer, since what they promise is less than this part of the best score."""

ROUGH = 1e-5
"""How much of a score may be rounding of float32."""

UNEVEN = 0.06
"""How much of a score may be the quadrature's: on a coast that runs through a narrow density q₀
falls by a factor of 20 from node to node, and up to a twentieth of the mass depends on how they
fall. The slope is a difference of nodes and is known better."""

SHORTER = (0.25, 0.0625)
"""Parts of a step that are tried with it after one was rejected: coasts make kinks in a score."""


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
    # Far below all others where a neighbour is higher by however little. Sums are several times
    # faster than `where`, and the best of the best rows than the best of all nodes.
    others = torch.add(field, field - highest, alpha=STEEP)
    best_rows = others.amax(2).topk(min(count, field.shape[1]), dim=1).indices
    kept = others.gather(1, best_rows[..., None].expand(-1, -1, field.shape[2]))
    value, index = kept.flatten(1).topk(count, dim=1)
    row = best_rows.gather(1, index // field.shape[2])
    index = row * field.shape[2] + index % field.shape[2]
    return value.masked_fill(value < LOWEST, -torch.inf), index


def climb(
    by_degree: Tensor, nodes: Tensor, value: Tensor, rotation: PoleRotation, reach: float
) -> Peaks:
    """Newton's method on F from the highest nodes of a grid, two steps.

    Args:
      by_degree: ``(L + 1, B, 2L + 1)``, see `PoleRotation.by_degree`.
      nodes: ``(B, C, 3)`` where to start.
      value: ``(B, C)``; -inf marks an empty place.
      rotation: of degree L.
      reach: longest step in radians: the spacing of the grid.
    """
    field, place = torch.nonzero(value > -torch.inf, as_tuple=True)
    by_degree, found = by_degree.index_select(1, field), nodes[field, place]
    for _ in range(2):
        jet = rotation.jet_of(by_degree, found)
        gradient, hessian = jet[:, 1:3], jet[:, 3:]
        # A flat peak covers at most the whole sphere: its curvature is at least about 1.
        step, curvature = safe_newton(gradient, hessian, torch.ones_like(jet[:, 0]), reach)
        found = walked(found, step)
    height = jet[:, 0] + (gradient * step).sum(-1) / 2.0
    spread = (2.0 * math.pi / curvature.clamp(min=1e-9)).clamp(max=4.0 * math.pi)
    vectors = nodes.clone()
    vectors[field, place] = found
    log_mass = torch.full_like(value, -torch.inf)
    log_mass[field, place] = height + (spread / (4.0 * math.pi)).log()
    return Peaks(vectors, log_mass)


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
      values: ``(..., 5)``: the columns below side by side, so that they are picked at once.
    """

    values: Tensor

    @property
    def score(self) -> Tensor:
        """``(...)``."""
        return self.values[..., 0]

    @property
    def mass(self) -> Tensor:
        """``(...)`` within ρ."""
        return self.values[..., 1]

    @property
    def gain(self) -> Tensor:
        """``(...)`` what the step is expected to add to the score."""
        return self.values[..., 2]

    @property
    def step(self) -> Tensor:
        """``(..., 2)`` uphill, radians south and east."""
        return self.values[..., 3:]

    def at(self, *index: Tensor) -> Ascent:
        """Some of the points, by index."""
        return Ascent(self.values[index])

    def spread(self, index: tuple[Tensor, ...], shape: torch.Size) -> Ascent:
        """Points ``(P,)`` at their places among others, of which nothing is known: zeros."""
        values = self.values.new_zeros(*shape, self.values.shape[-1])
        values[index] = self.values
        return Ascent(values)

    def shortened(self, factor: float) -> Ascent:
        """The same points with a part of the step, for steps that led downhill."""
        return Ascent(self.values * self.values.new_tensor([1.0, 1.0, factor, factor, factor]))


def climb_score(
    places: Tensor, at: Ascent, ascend: Callable[[Tensor, Tensor], Ascent], rounds: int
) -> tuple[Tensor, Ascent]:
    """Newton's method on the score, until no step promises anything.

    Args:
      places: ``(N, M, 3)`` where to start.
      at: what is known there; a gain of 0 marks a place to stay at.
      ascend: from photos, by index ``(P,)``, and points ``(P, 3)`` to what is known there.
      rounds: at most.

    Returns:
      The places reached and what is known there.
    """
    places, at = places.clone(), Ascent(at.values.clone())
    rejected = torch.zeros_like(at.gain, dtype=torch.bool)
    for _ in range(rounds):
        best = at.score.amax(1, keepdim=True)
        aim = torch.where(at.score + at.gain < OUTDONE * best, LOOSE, CONVERGED)
        index = torch.nonzero(at.gain > aim * at.score, as_tuple=True)
        if not len(index[0]):
            break
        here = at.at(*index)
        again = rejected[index]
        trial, there = _best_step(index[0], places[index], here, ascend, again)
        change, promise = there.score / here.score - 1.0, here.gain / here.score
        # Where two scores cannot be told apart, by rounding or by their nodes, the slope tells.
        flatter = there.gain < here.gain / 4.0
        better = (change >= -CONVERGED) | ((change > -UNEVEN) & flatter)
        better |= (change > -ROUGH) & (promise < ROUGH)
        places[index] = torch.where(better[:, None], trial, places[index])
        found = torch.where(better[:, None], there.values, here.shortened(SHORTER[0]).values)
        # Where no length holds a part of its promise there is a kink: the best place there is.
        going = (better & flatter) | (change > promise / 10.0)
        stuck = (again & ~going)[:, None]
        at.values[index] = torch.where(stuck, Ascent(found).shortened(0.0).values, found)
        rejected[index] = again | ~going
    # A last step on trust: the slope is known better than float32 can confirm by the score.
    small = at.gain <= LOOSE * at.score
    return torch.where(small[..., None], walked(places, at.step), places), at


def _best_step(
    photo: Tensor,
    place: Tensor,
    here: Ascent,
    ascend: Callable[[Tensor, Tensor], Ascent],
    again: Tensor,
) -> tuple[Tensor, Ascent]:
    """A step from ``(P, 3)``; where the last one was rejected, the best of several lengths."""
    which = torch.nonzero(again)[:, 0]
    row = torch.cat([torch.arange(len(place), device=place.device), *[which] * len(SHORTER)])
    length = place.new_ones(len(row))
    for i, part in enumerate(SHORTER):
        length[len(place) + i * len(which) :][: len(which)] = part
    trial = walked(place[row], here.step[row] * length[:, None])
    there = ascend(photo[row], trial)
    best = torch.arange(len(place), device=place.device)
    if len(which):
        shorter = torch.arange(len(place), len(row), device=place.device)
        tried = torch.cat([which[None], shorter.view(len(SHORTER), -1)])
        # Near the top the scores differ by rounding: there the whole step is right.
        highest = there.score[tried].argmax(0) * (here.gain > ROUGH * here.score)[which]
        best[which] = tried.gather(0, highest[None])[0]
    return trial[best], there.at(best)


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
        score, mass, south, east, up = (area * f for f in inner)
        unit = 2.0 / self.chord2
        slope = [unit * south, unit * east]
        curvature = [rim * cos**2 - up, rim * cos * sin, rim * sin**2 - up]
        columns = [score, mass, *slope, *(unit * c for c in curvature)]
        table = torch.from_numpy(np.stack(columns, -1).astype(np.float32))
        self.register_buffer("moments", table, persistent=False)

    def forward(self, density: Tensor) -> Ascent:
        """Sums densities ``(..., nodes)`` at the nodes of `grid`, rotated around each point."""
        moments = density @ self.moments
        mass, gradient, hessian = moments[..., 1], moments[..., 2:4], moments[..., 4:]
        floor = (1e-4 / self.chord2) * mass.abs() + 1e-12
        step, _ = safe_newton(gradient, hessian, floor, self.radius / 2.0)
        gain = (gradient * step).sum(-1, keepdim=True) / 2.0
        return Ascent(torch.cat([moments[..., :2], gain, step], -1))


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


def finest_panel(max_degree: int) -> float:
    """First panel in radians: no density of degree L is narrower than an exact code's, 2/d."""
    return 6.0 / (max_degree + 1) ** 2


def panel_edges(radius: float, finest: float, widest: float) -> NDArray[np.float64]:
    """Radii from 0 to `radius`: panels that double from `finest` until they are `widest`."""
    edges = [0.0]
    while edges[-1] < radius:
        edges.append(edges[-1] + min(max(finest, edges[-1]), widest))
    return np.array(edges) * (radius / edges[-1])

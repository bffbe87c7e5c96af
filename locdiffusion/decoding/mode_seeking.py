r"""Climbing the score: the probability near a point, nearer mass counting more.

Newton's method in the tangent plane (`locdiffusion.decoding.peaks.safe_newton`), with the
derivatives as sums over the same rings of nodes as the score.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.decoding.peaks import panel_edges, safe_newton, walked
from locdiffusion.density.transforms import register_table
from locdiffusion.sphere.grids import LatLonGrid, polar_grid
from locdiffusion.sphere.harmonics import associated_legendre

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
class Ascent:
    """The probability around points.

    Attributes:
        values: ``(..., 5)``: the columns below side by side, so that they are picked at once.
    """

    values: Tensor

    @classmethod
    def of_moments(cls, moments: Tensor, radius: float) -> Ascent:
        """From sums ``(..., 7)`` over `score_moments` of radius ρ."""
        mass, gradient, hessian = moments[..., 1], moments[..., 2:4], moments[..., 4:]
        floor = (1e-4 / _chord2(radius)) * mass.abs() + 1e-12
        step, _ = safe_newton(gradient, hessian, floor, radius / 2.0)
        gain = (gradient * step).sum(-1, keepdim=True) / 2.0
        return cls(torch.cat([moments[..., :2], gain, step], -1))

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
        at: What is known there; a gain of 0 marks a place to stay at.
        ascend: From photos, by index ``(P,)``, and points ``(P, 3)`` to what is known there.
        rounds: At most.

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
    """The Epanechnikov kernel of radius ρ around the pole, as sums over rings of nodes.

    Attributes:
        grid: The nodes: rings within ρ and, last, the rim.
    """

    moments: Tensor

    def __init__(self, radius: float, finest: float, spacing: float) -> None:
        super().__init__()
        azimuths = 8 * max(4, math.ceil(2.0 * math.pi * math.sin(radius) / spacing / 8.0))
        rings = polar_grid(panel_edges(radius, finest, 4.0 * spacing), 4, azimuths)
        self.radius = radius
        self.grid = LatLonGrid(
            np.append(rings.cos_theta, math.cos(radius)),
            rings.longitude,
            np.append(rings.row_weight, 0.0),
        )
        rim = np.zeros(len(self.grid.cos_theta))
        rim[-1] = 1.0
        table = score_moments(self.grid, radius, self.grid.row_weight, rim)
        register_table(self, "moments", table)

    def forward(self, density: Tensor) -> Ascent:
        """Sums densities ``(..., nodes)`` at the nodes of `grid`, rotated around each point."""
        return Ascent.of_moments(density @ self.moments, self.radius)


def score_moments(
    rings: LatLonGrid, radius: float, area: NDArray[np.float64], rim: NDArray[np.float64]
) -> NDArray[np.float64]:
    r"""Score, mass, slope (2) and curvature (3) as sums over the nodes of rings, ``(nodes, 7)``.

    With c = 2 sin(ρ/2), M = {\|z - y\| < c} and a tangent t at y,

        score(y)   = ∫_M p (1 - \|z - y\|²/c²) dΩ
        t·∇score   = (2/c²) ∫_M p z·t dΩ
        t·∇²score·t = (2/c²) [ sin²ρ ∮_∂M p cos²φ dφ - ∫_M p z·y dΩ ]

    where φ is the azimuth from t: the kernel vanishes on the rim, so the rim appears first in the
    second derivative. Without the rim's term Newton's step would be the mean shift.

    Args:
        rings: Around the pole.
        radius: ρ in radians.
        area: ``(rows,)`` steradians of a node, as far as it lies within ρ.
        rim: ``(rows,)`` factors that make a value at ρ of the values on rings.
    """
    z = rings.vectors
    per_node = len(rings.longitude)
    node, edge = (np.repeat(a, per_node) for a in (area / (4.0 * math.pi), rim))
    cos, sin = (np.tile(f(rings.longitude), len(rings.cos_theta)) for f in (np.cos, np.sin))
    chord2 = _chord2(radius)
    unit, around = 2.0 / chord2, edge * math.sin(radius) ** 2 / (2.0 * per_node)
    score = node * (1.0 - 2.0 * (1.0 - z[:, 2]) / chord2)
    south, east, up = (node * axis for axis in z.T)
    curvature = [around * cos**2 - up, around * cos * sin, around * sin**2 - up]
    columns = [score, node, *(unit * c for c in (south, east, *curvature))]
    return np.stack(columns, -1)


def _chord2(radius: float) -> float:
    return 4.0 * math.sin(radius / 2.0) ** 2


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

r"""Mode seeking: Newton's method on the score, the probability near a point.

A step is taken in the tangent plane (`locdiffusion.decoding.peaks.safe_newton`). The score and its
derivatives are sums over the same rings of nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.decoding.peaks import finest_panel, panel_edges, safe_newton, walked
from locdiffusion.density.transforms import RingTransform, register_table
from locdiffusion.sphere.grids import LatLonGrid, polar_grid
from locdiffusion.sphere.harmonics import associated_legendre

CONVERGED, LOOSE, OUTDONE = 3e-7, 1e-4, 0.95
"""A step is taken where its expected gain exceeds this share of the score: `CONVERGED` for points
that may become the answer, `LOOSE` for the others. These are the points whose score with the
expected gain stays below `OUTDONE` times the best score."""

ROUGH = 1e-5
"""How much of a score may be rounding of float32."""

UNEVEN = 0.06
"""How much of a score may be the error of its quadrature. On a coast that runs through a narrow
density q₀ falls by a factor of 20 from node to node, and up to a twentieth of the mass depends on
how the nodes fall. The slope is a difference of nodes and is known better."""

SHORTER = (0.25, 0.0625)
"""Lengths, as parts of a step, that are tried beside it after a step was rejected: coasts make
kinks in a score."""


@dataclass(frozen=True)
class NewtonStep:
    """The score at points and Newton's step uphill from them.

    Attributes:
        values: The properties below side by side, ``(..., 5)``, so that one index picks them all.
    """

    values: Tensor

    @classmethod
    def of_moments(cls, moments: Tensor, radius: float) -> NewtonStep:
        """Solves for the step from sums ``(..., 7)`` of `score_moments` of radius ρ in radians."""
        mass, gradient, hessian = moments[..., 1], moments[..., 2:4], moments[..., 4:]
        floor = (1e-4 / _chord2(radius)) * mass.abs() + 1e-12
        step, _ = safe_newton(gradient, hessian, floor, radius / 2.0)
        gain = (gradient * step).sum(-1, keepdim=True) / 2.0
        return cls(torch.cat([moments[..., :2], gain, step], -1))

    @property
    def score(self) -> Tensor:
        """Score ``(...)``."""
        return self.values[..., 0]

    @property
    def mass(self) -> Tensor:
        """Probability ``(...)`` within ρ."""
        return self.values[..., 1]

    @property
    def gain(self) -> Tensor:
        """Expected gain ``(...)`` of the score by the step."""
        return self.values[..., 2]

    @property
    def step(self) -> Tensor:
        """Step ``(..., 2)`` uphill in radians south and east."""
        return self.values[..., 3:]

    def at(self, *index: Tensor) -> NewtonStep:
        """Picks points by index."""
        return NewtonStep(self.values[index])

    def scattered(self, index: tuple[Tensor, ...], shape: torch.Size) -> NewtonStep:
        """Puts points ``(P,)`` at their places in an array whose other entries are zero."""
        values = self.values.new_zeros(*shape, self.values.shape[-1])
        values[index] = self.values
        return NewtonStep(values)

    def shortened(self, factor: float) -> NewtonStep:
        """Shortens the steps and their expected gains by a factor."""
        return NewtonStep(self.values * self.values.new_tensor([1.0, 1.0, factor, factor, factor]))


def climb_score(
    places: Tensor, at: NewtonStep, newton: Callable[[Tensor, Tensor], NewtonStep], rounds: int
) -> tuple[Tensor, NewtonStep]:
    """Moves points uphill by Newton's method until no step has an expected gain that matters.

    Args:
        places: Unit vectors of the starts, ``(N, M, 3)``.
        at: Scores and steps at the starts; a start whose gain is 0 stays where it is.
        newton: Function from photos, by index ``(P,)``, and points ``(P, 3)`` to their scores and
            steps.
        rounds: How many steps at most.

    Returns:
        The points reached, and their scores and steps.
    """
    places, at = places.clone(), NewtonStep(at.values.clone())
    rejected = torch.zeros_like(at.gain, dtype=torch.bool)
    for _ in range(rounds):
        # Which points go on: gain > aim · score
        best = at.score.amax(1, keepdim=True)
        aim = torch.where(at.score + at.gain < OUTDONE * best, LOOSE, CONVERGED)
        index = torch.nonzero(at.gain > aim * at.score, as_tuple=True)
        if not len(index[0]):
            break
        here = at.at(*index)
        again = rejected[index]
        trial, there = _best_step(index[0], places[index], here, newton, again)
        change, expected = there.score / here.score - 1.0, here.gain / here.score
        # Where two scores cannot be told apart, by rounding or by their nodes, the slope tells.
        flatter = there.gain < here.gain / 4.0
        better = (change >= -CONVERGED) | ((change > -UNEVEN) & flatter)
        better |= (change > -ROUGH) & (expected < ROUGH)
        places[index] = torch.where(better[:, None], trial, places[index])
        found = torch.where(better[:, None], there.values, here.shortened(SHORTER[0]).values)
        # Where no length gains a tenth of what is expected there is a kink: no place is better.
        going = (better & flatter) | (change > expected / 10.0)
        stuck = (again & ~going)[:, None]
        at.values[index] = torch.where(stuck, NewtonStep(found).shortened(0.0).values, found)
        rejected[index] = again | ~going
    # A last step without a check: the slope is known better than float32 scores can confirm.
    small = at.gain <= LOOSE * at.score
    return torch.where(small[..., None], walked(places, at.step), places), at


def _best_step(
    photo: Tensor,
    place: Tensor,
    here: NewtonStep,
    newton: Callable[[Tensor, Tensor], NewtonStep],
    again: Tensor,
) -> tuple[Tensor, NewtonStep]:
    """Takes a step from points ``(P, 3)``, of the best of several lengths after a rejected one."""
    # One row for each point, and one more for each shorter length of the points that try again
    which = torch.nonzero(again)[:, 0]
    row = torch.cat([torch.arange(len(place), device=place.device), *[which] * len(SHORTER)])
    length = place.new_ones(len(row))
    for i, part in enumerate(SHORTER):
        length[len(place) + i * len(which) :][: len(which)] = part
    trial = walked(place[row], here.step[row] * length[:, None])
    there = newton(photo[row], trial)
    best = torch.arange(len(place), device=place.device)
    if len(which):
        shorter = torch.arange(len(place), len(row), device=place.device)
        tried = torch.cat([which[None], shorter.view(len(SHORTER), -1)])
        # Near the top the scores differ by rounding: there the whole step is right.
        highest = there.score[tried].argmax(0) * (here.gain > ROUGH * here.score)[which]
        best[which] = tried.gather(0, highest[None])[0]
    return trial[best], there.at(best)


class ScoreKernel(nn.Module):
    """The Epanechnikov kernel of radius ρ around a point, as sums over rings of nodes.

    Attributes:
        radius: Radius ρ in radians.
        rings: The nodes: rings within ρ and, last, one at ρ itself.
    """

    moments: Tensor

    def __init__(self, radius: float, max_degree: int, spacing: float) -> None:
        """Builds the tables of radius ρ; a spacing in radians is fine enough for degree L."""
        super().__init__()
        azimuths = 8 * max(4, math.ceil(2.0 * math.pi * math.sin(radius) / spacing / 8.0))
        edges = panel_edges(radius, finest_panel(max_degree), 4.0 * spacing)
        inner = polar_grid(edges, 4, azimuths)
        grid = LatLonGrid(
            np.append(inner.cos_theta, math.cos(radius)),
            inner.longitude,
            np.append(inner.row_weight, 0.0),
        )
        rim = np.zeros(len(grid.cos_theta))
        rim[-1] = 1.0
        self.radius = radius
        self.rings = RingTransform(grid, max_degree)
        register_table(self, "moments", score_moments(grid, radius, grid.row_weight, rim))

    def forward(self, density: Tensor) -> NewtonStep:
        """Sums densities ``(..., nodes)`` at the nodes of `rings` around each point."""
        return NewtonStep.of_moments(density @ self.moments, self.radius)


def score_moments(
    rings: LatLonGrid, radius: float, area: NDArray[np.float64], rim: NDArray[np.float64]
) -> NDArray[np.float64]:
    r"""Weights whose sums over nodes are score, mass, slope and curvature.

    With c = 2 sin(ρ/2), M = {\|z - y\| < c} and a tangent t at y,

        score(y)   = ∫_M p (1 - \|z - y\|²/c²) dΩ
        t·∇score   = (2/c²) ∫_M p z·t dΩ
        t·∇²score·t = (2/c²) [ sin²ρ ∮_∂M p cos²φ dφ - ∫_M p z·y dΩ ]

    where φ is the azimuth from t: the kernel vanishes on the rim, so the rim appears first in the
    second derivative. Without the rim's term Newton's step would be the mean shift.

    Args:
        rings: Rings around the pole.
        radius: Radius ρ in radians.
        area: Area of a node of each ring in steradians, as far as it lies within ρ, ``(rows,)``.
        rim: Factors that make the value at ρ of the values on the rings, ``(rows,)``.

    Returns:
        Weights ``(nodes, 7)``: score, mass, slope south and east, curvature SS, SE and EE.
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
    """Returns the factor of each degree by which the kernel of radius ρ convolves, ``(L + 1,)``.

    By the formula of Funk and Hecke it is ½ ∫ K(t) P_l(t) dt over t = cos γ from cos ρ to 1.
    """
    x, w = np.polynomial.legendre.leggauss(2 * max_degree + 16)
    low = math.cos(radius)
    t, w = (1.0 + low + (1.0 - low) * x) / 2.0, w * (1.0 - low) / 2.0
    degree = np.arange(max_degree + 1)
    legendre = associated_legendre(t, max_degree)[..., 0] * np.sqrt(4 * np.pi / (2 * degree + 1))
    return (w * (t - low) / (1.0 - low) / 2.0) @ legendre

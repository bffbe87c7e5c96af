"""Maxima of fields on the sphere.

Newton's method in the tangent plane finds them, with two safeguards: where the curvature is not
that of a maximum the step follows the slope, and no step is longer than a given reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.density.transforms import PoleRotation, pole_frame

DROP_FACTOR, LOWEST = 1e30, -1e10
"""What multiplies a node's drop below its highest neighbour, so that every node that is no maximum
falls below `LOWEST`, which no true value does."""


@dataclass(frozen=True)
class Peaks:
    """The highest local maxima of B fields.

    Attributes:
        vectors: Unit vectors, highest first, ``(B, C, 3)``.
        log_mass: Log of ∫ exp F / 4π around each peak by Laplace's method, ``(B, C)``; -inf where a
            field has fewer than C maxima.
    """

    vectors: Tensor
    log_mass: Tensor


def highest_nodes(field: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Finds the nodes of a product grid that no neighbour exceeds, highest first.

    Args:
        field: Values ``(B, rows, columns)``; columns are periodic, rows go from pole to pole.
        count: How many maxima are returned of each field, C.

    Returns:
        Values ``(B, C)``, -inf where a field has fewer maxima, and flat indices ``(B, C)``.
    """
    # Maximum of the eight neighbours: of pairs of columns, then of pairs of these, then of rows; in
    # place and without `roll`, which copies.
    pair, along = torch.empty_like(field), torch.empty_like(field)
    torch.maximum(field[:, :, 1:], field[:, :, :-1], out=pair[:, :, 1:])
    torch.maximum(field[:, :, 0], field[:, :, -1], out=pair[:, :, 0])
    torch.maximum(pair[:, :, 1:], pair[:, :, :-1], out=along[:, :, :-1])
    torch.maximum(pair[:, :, 0], pair[:, :, -1], out=along[:, :, -1])
    down = torch.maximum(along[:, 1:], along[:, :-1])
    # Across a pole lies the same row, half a turn away.
    across = along[:, [0, -1]].roll(field.shape[2] // 2, 2)
    highest = pair
    torch.maximum(down[:, 1:], down[:, :-1], out=highest[:, 1:-1])
    torch.maximum(down[:, 0], across[:, 0], out=highest[:, 0])
    torch.maximum(down[:, -1], across[:, 1], out=highest[:, -1])
    # F + DROP_FACTOR · (F - max(F, neighbours)): F at maxima, below LOWEST elsewhere. Sums are
    # several times faster than `where`, and a choice from the best rows than one from all nodes.
    others = torch.sub(field, highest, out=highest).mul_(DROP_FACTOR).add_(field)
    best_rows = others.amax(2).topk(min(count, field.shape[1]), dim=1).indices
    kept = others.gather(1, best_rows[..., None].expand(-1, -1, field.shape[2]))
    value, index = kept.flatten(1).topk(count, dim=1)
    row = best_rows.gather(1, index // field.shape[2])
    index = row * field.shape[2] + index % field.shape[2]
    return value.masked_fill(value < LOWEST, -torch.inf), index


def climb(
    by_degree: Tensor, nodes: Tensor, value: Tensor, rotation: PoleRotation, reach: float
) -> Peaks:
    """Takes two steps of Newton's method on F from the highest nodes of a grid.

    Args:
        by_degree: Coefficients ``(L + 1, B, 2L + 1)``, see `PoleRotation.by_degree`.
        nodes: Unit vectors of the starts, ``(B, C, 3)``.
        value: F at the starts, ``(B, C)``; -inf marks an entry that is no start.
        rotation: Rotation of degree L.
        reach: Longest step in radians: the spacing of the grid.
    """
    field, place = torch.nonzero(value > -torch.inf, as_tuple=True)
    by_degree, found = by_degree.index_select(1, field), nodes[field, place]
    for _ in range(2):
        # F ≈ f + g·u + uᵀHu/2
        jet = rotation.jet(by_degree, found)
        gradient, hessian = jet[:, 1:3], jet[:, 3:]
        # A flat peak covers at most the whole sphere: its curvature is at least about 1.
        step, curvature = safe_newton(gradient, hessian, torch.ones_like(jet[:, 0]), reach)
        found = walked(found, step)
    # Laplace: ∫ exp F dΩ ≈ exp F(peak) · 2π / √det(-H), at most over the whole sphere
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
    """Computes a step uphill, which is Newton's where the curvature is that of a maximum.

    Args:
        gradient: Gradient g, ``(..., 2)``.
        hessian: H_11, H_12, H_22 of the curvature H, ``(..., 3)``.
        floor: Positive numbers ``(...)``: H is shifted until both eigenvalues are below ``-floor``.
        reach: Longest step.

    Returns:
        The step ``(..., 2)`` and √det(-H) of the shifted H, ``(...)``.
    """
    # Eigenvalues of H: mean ± radius
    h11, h12, h22 = hessian.unbind(-1)
    mean, radius = (h11 + h22) / 2.0, torch.hypot((h11 - h22) / 2.0, h12)
    excess = (mean + radius + floor).clamp(min=0.0)
    h11, h22 = h11 - excess, h22 - excess
    determinant = (mean - excess - radius) * (mean - excess + radius)
    # u = -H⁻¹ g
    g1, g2 = gradient.unbind(-1)
    step = -torch.stack([h22 * g1 - h12 * g2, h11 * g2 - h12 * g1], -1) / determinant[..., None]
    length = step.norm(dim=-1, keepdim=True)
    return step * (reach / length.clamp(min=reach)), determinant.sqrt()


def walked(vectors: Tensor, step: Tensor) -> Tensor:
    """Moves unit vectors ``(..., 3)`` by steps ``(..., 2)`` in radians to the south and east."""
    length = step.norm(dim=-1, keepdim=True)
    heading = step * torch.sinc(length / math.pi)
    local = torch.cat([heading, length.cos()], -1)
    return nn.functional.normalize((pole_frame(vectors) @ local[..., None]).squeeze(-1), dim=-1)


def neighbourhood_mass(vectors: Tensor, mass: Tensor, radius: float) -> Tensor:
    """Sums the mass of all points around each point, weighted by the kernel of radius ρ.

    Args:
        vectors: Unit vectors of the points, ``(N, P, 3)``.
        mass: Their masses, ``(N, P)``.
        radius: Radius ρ in radians.

    Returns:
        Weighted sums ``(N, P)``.
    """
    # Σ_j m_j (1 - |z_i - z_j|²/c²)₊
    chord2 = 2.0 - 2.0 * vectors @ vectors.transpose(1, 2)
    kernel = (1.0 - chord2 / (4.0 * math.sin(radius / 2.0) ** 2)).clamp(min=0.0)
    return (kernel @ mass[..., None]).squeeze(-1)


def spread_maxima(vectors: Tensor, score: Tensor, count: int, radius: float) -> Tensor:
    """Chooses the best points, each at least ρ/2 from the better ones as long as there are such.

    Args:
        vectors: Unit vectors of the points, ``(N, P, 3)``.
        score: Scores of the points, not negative, ``(N, P)``.
        count: How many points are chosen.
        radius: Radius ρ in radians.

    Returns:
        Indices ``(N, count)``.
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


def finest_panel(max_degree: int) -> float:
    """Returns the first panel in radians: no density of degree L is narrower than a code's, 2/d."""
    return 6.0 / (max_degree + 1) ** 2


def panel_edges(radius: float, finest: float, widest: float) -> NDArray[np.float64]:
    """Divides 0 to `radius` into panels that double in width from `finest` up to `widest`."""
    edges = [0.0]
    while edges[-1] < radius:
        edges.append(edges[-1] + min(max(finest, edges[-1]), widest))
    return np.array(edges) * (radius / edges[-1])

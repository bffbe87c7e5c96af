"""Maxima of fields on the sphere.

They are climbed by Newton's method in the tangent plane, made safe: where the curvature is not that
of a maximum the step follows the slope, and no step is longer than the method can be trusted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.density.transforms import PoleRotation, pole_frame

STEEP, LOWEST = 1e30, -1e10
"""A node takes this many times its drop from the highest neighbour; no true value is as low."""


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
    # In place and without `roll`, which copies: pairs of neighbours first, then pairs of pairs.
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
    # Far below all others where a neighbour is higher by however little. Sums are several times
    # faster than `where`, and the best of the best rows than the best of all nodes.
    others = torch.sub(field, highest, out=highest).mul_(STEEP).add_(field)
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
        rotation: Of degree L.
        reach: Longest step in radians: the spacing of the grid.
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
        reach: Longest step.

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
        count: How many.
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


def finest_panel(max_degree: int) -> float:
    """First panel in radians: no density of degree L is narrower than an exact code's, 2/d."""
    return 6.0 / (max_degree + 1) ** 2


def panel_edges(radius: float, finest: float, widest: float) -> NDArray[np.float64]:
    """Radii from 0 to `radius`: panels that double from `finest` until they are `widest`."""
    edges = [0.0]
    while edges[-1] < radius:
        edges.append(edges[-1] + min(max(finest, edges[-1]), widest))
    return np.array(edges) * (radius / edges[-1])

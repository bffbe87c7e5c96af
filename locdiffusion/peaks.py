"""Maxima of fields on a product grid, refined between the nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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


def find_peaks(field: Tensor, nodes: Tensor, count: int) -> Peaks:
    """Local maxima with a parabola through the neighbours.

    The grid is several times finer than the band limit, so the parabola meets the peak to a
    small fraction of the spacing.

    Args:
      field: ``(B, rows, columns)`` on a product grid; columns are periodic.
      nodes: ``(rows·columns, 3)`` its unit vectors.
      count: C.

    Returns:
      The C highest maxima.
    """
    batch, rows, columns = field.shape
    candidates = torch.where(field >= _highest_nearby(field), field, -torch.inf).flatten(1)
    value, index = candidates.topk(count, dim=1)
    row, column = index // columns, index % columns
    points = nodes.view(rows, columns, 3)
    # Neighbours of the first and last row lie across the pole; there the peak stays on its node.
    inner = row.clamp(1, rows - 2)
    batch_index = torch.arange(batch, device=field.device)[:, None]

    def at(i: int, j: int) -> Tensor:
        return field[batch_index, inner + i, (column + j) % columns]

    step_row = _angle(points[inner + 1, column], points[inner - 1, column]) / 2.0
    step_column = _angle(points[inner, (column + 1) % columns], points[inner, column])
    g_row = (at(1, 0) - at(-1, 0)) / 2.0
    g_column = (at(0, 1) - at(0, -1)) / 2.0
    h_row = (at(1, 0) + at(-1, 0) - 2.0 * at(0, 0)).clamp(max=-1e-6)
    h_column = (at(0, 1) + at(0, -1) - 2.0 * at(0, 0)).clamp(max=-1e-6)
    cross = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4.0
    determinant = h_row * h_column - cross**2
    sound = (determinant > 0.05 * h_row * h_column) & (row == inner)
    determinant = torch.where(sound, determinant, h_row * h_column)
    cross = torch.where(sound, cross, 0.0)
    d_row = (-(h_column * g_row - cross * g_column) / determinant).clamp(-1, 1)
    d_column = (-(h_row * g_column - cross * g_row) / determinant).clamp(-1, 1)
    d_row, d_column = torch.where(sound, d_row, 0.0), torch.where(sound, d_column, 0.0)
    rise = (g_row * d_row + g_column * d_column) / 2.0
    curvature = determinant.sqrt() / (step_row * step_column).clamp(min=1e-9)
    # A flat peak covers at most the whole sphere.
    spread = (2.0 * math.pi / curvature).clamp(max=4.0 * math.pi)
    log_mass = value + torch.where(sound, rise, 0.0) + (spread / (4.0 * math.pi)).log()
    vectors = _moved(points, row, column, d_row, d_column)
    return Peaks(vectors, log_mass)


def _highest_nearby(field: Tensor) -> Tensor:
    """Maximum over each node and its eight neighbours (torch's max_pool2d is 10 times slower)."""
    along = torch.maximum(field, torch.maximum(field.roll(1, 2), field.roll(-1, 2)))
    highest = along.clone()
    torch.maximum(highest[:, 1:], along[:, :-1], out=highest[:, 1:])
    torch.maximum(highest[:, :-1], along[:, 1:], out=highest[:, :-1])
    return highest


def _moved(points: Tensor, row: Tensor, column: Tensor, d_row: Tensor, d_column: Tensor) -> Tensor:
    """The node moved by fractions of a row and a column."""
    rows, columns, _ = points.shape
    theta = torch.arccos(points[:, 0, 2].clamp(-1, 1))
    following = (row + torch.where(d_row >= 0, 1, -1)).clamp(0, rows - 1)
    angle = theta[row] + d_row.abs() * (theta[following] - theta[row])
    longitude = (column + d_column) * (2.0 * math.pi / columns)
    sin = angle.sin()
    return torch.stack([sin * longitude.cos(), sin * longitude.sin(), angle.cos()], -1)


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
      ``(N, count, 3)``.
    """
    remaining = score.clone()
    apart = math.cos(min(math.pi, radius / 2.0))
    chosen = []
    batch = torch.arange(len(score), device=score.device)
    for _ in range(count):
        point = vectors[batch, remaining.argmax(1)]
        chosen.append(point)
        near = (vectors @ point[..., None]).squeeze(-1) > apart
        remaining = remaining.masked_fill(near, -1.0)
    return torch.stack(chosen, 1)


def _angle(u: Tensor, v: Tensor) -> Tensor:
    return 2.0 * torch.asin(((u - v).norm(dim=-1) / 2.0).clamp(max=1.0))

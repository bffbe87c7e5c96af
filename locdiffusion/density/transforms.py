"""Fast transforms between coefficients and fields, in torch.

Coefficients are kept flat, ``(B, d)``, outside; inside they are *padded*, ``(B, L + 1, 2L + 1)``
with order m at column L + m, so that every transform is one batched matrix product:

    F(θ_i, φ_j) = Σ_m [ Σ_l c_lm P̄_l|m|(θ_i) ] T_m(φ_j)      O(L³) instead of O(L⁴)

and a rotation is ``J Z(-θ₀) J Z(φ₀)`` with J of `sphere.harmonics.axis_swap` and Z diagonal in
pairs (m, -m). Plain references: `shdd.field` and `shdd.encode`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.sphere.grids import LatLonGrid
from locdiffusion.sphere.harmonics import (
    associated_legendre,
    axis_swap,
    degrees_and_orders,
    trigonometric,
)

SUBNORMAL_GUARD = 1e-20
"""Factors that are smaller are set to zero: their products may be subnormal, which is slow, and
add nothing to sums whose terms are about one."""

NEGLIGIBLE_ORDER = 1e-8
"""Orders whose functions stay below this share of the largest on all rings are left out of sums."""


def pad(coefficients: Tensor, max_degree: int) -> Tensor:
    """Lays flat ``(B, d)`` out as padded ``(B, L + 1, 2L + 1)``, with zeros where abs(m) > l."""
    # index_select is 4 times faster than an indexed assignment; empty places read an added zero.
    source = torch.from_numpy(_padding(max_degree)[1]).to(coefficients.device)
    padded = nn.functional.pad(coefficients, (0, 1)).index_select(1, source)
    return padded.view(len(coefficients), max_degree + 1, 2 * max_degree + 1)


def unpad(padded: Tensor, max_degree: int) -> Tensor:
    """Inverts `pad`."""
    target = torch.from_numpy(_padding(max_degree)[0]).to(padded.device)
    return padded.flatten(1).index_select(1, target)


@lru_cache(maxsize=8)
def _padding(max_degree: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the padded place of each coefficient and the coefficient, or d, of each place."""
    degree, order = degrees_and_orders(max_degree)
    target = degree * (2 * max_degree + 1) + max_degree + order
    source = np.full((max_degree + 1) * (2 * max_degree + 1), len(target))
    source[target] = np.arange(len(target))
    return target, source


def register_table(module: nn.Module, name: str, value: NDArray[np.floating]) -> None:
    """Registers a table in float32 that moves with a module and that no checkpoint stores."""
    table = torch.from_numpy(np.ascontiguousarray(value, np.float32))
    module.register_buffer(name, table, persistent=False)


class ProductTransform(nn.Module):
    """Synthesis and its adjoint on rows of constant colatitude with even longitudes.

    Attributes:
        rows, columns: Size of the grid.
        row_weight: Area of a node of each row in steradians, ``(rows,)``.
        nodes: Unit vectors of the nodes, row by row, ``(rows·columns, 3)``.
    """

    legendre: Tensor
    trigonometric: Tensor
    row_weight: Tensor
    nodes: Tensor

    def __init__(self, grid: LatLonGrid, max_degree: int) -> None:
        super().__init__()
        self.max_degree = max_degree
        self.rows, self.columns = grid.shape
        order = np.arange(-max_degree, max_degree + 1)
        # (2L+1, L+1, rows): √4π P̄_l|m| of each row, ready for a product batched over m.
        table = np.sqrt(4.0 * np.pi) * associated_legendre(grid.cos_theta, max_degree)
        table = table[:, :, np.abs(order)].transpose(2, 1, 0)
        self._buffer("legendre", table)
        self._buffer("trigonometric", trigonometric(grid.longitude, max_degree).T)
        self._buffer("row_weight", grid.row_weight)
        self._buffer("nodes", grid.vectors)

    def _buffer(self, name: str, value: NDArray[np.float64]) -> None:
        tensor = torch.from_numpy(np.ascontiguousarray(value, np.float32))
        self.register_buffer(name, _without_subnormals(tensor), persistent=False)

    def synthesis(self, coefficients: Tensor) -> Tensor:
        """Evaluates F ``(B, rows, columns)`` of flat coefficients ``(B, d)``."""
        # W_m(θ_i) = Σ_l c_lm P̄_l|m|(θ_i), then F = Σ_m W_m(θ_i) T_m(φ_j)
        # Contiguous: otherwise torch multiplies matrix by matrix, five times slower for few fields.
        by_order = pad(coefficients, self.max_degree).permute(2, 0, 1).contiguous()
        waves = (by_order @ self.legendre).flatten(1)
        return (waves.T @ self.trigonometric).view(-1, self.rows, self.columns)

    def analysis(self, mass: Tensor) -> Tensor:
        """Computes Σ_nodes mass · code(node), flat ``(B, d)``: the adjoint of `synthesis`.

        If `mass` is the probability of each node, this is the mean parameter E_p[code].
        """
        mass = _without_subnormals(mass)
        waves = (self.trigonometric @ mass.flatten(0, 1).T).view(-1, len(mass), self.rows)
        by_order = waves @ self.legendre.transpose(1, 2)
        return unpad(by_order.permute(1, 2, 0), self.max_degree)


def _without_subnormals(values: Tensor) -> Tensor:
    """Sets values below `SUBNORMAL_GUARD` to zero."""
    return torch.where(values.abs() < SUBNORMAL_GUARD, 0.0, values)


class PoleRotation(nn.Module):
    """Rotates fields so that a chosen point comes to the north pole.

    In the rotated frame colatitude is the distance from that point, longitude 0 is the direction
    *south* of it and longitude 90° is east.
    """

    swap: Tensor
    order: Tensor
    jet_table: Tensor

    def __init__(self, max_degree: int) -> None:
        super().__init__()
        self.max_degree = max_degree
        register_table(self, "swap", axis_swap(max_degree))
        register_table(self, "order", np.arange(-max_degree, max_degree + 1.0))
        register_table(self, "jet_table", _jet_table(max_degree))

    def forward(self, coefficients: Tensor, vectors: Tensor) -> Tensor:
        """Computes the coefficients of u ↦ F(R u), where R takes the pole to the given point.

        Args:
            coefficients: Coefficients of F, ``(B, d)``.
            vectors: Unit vectors of the points, ``(B, 3)``.

        Returns:
            Coefficients ``(B, d)``.
        """
        by_degree = self.tilted(self.by_degree(coefficients), vectors) @ self.swap
        return unpad(by_degree.transpose(0, 1), self.max_degree)

    def jet(self, by_degree: Tensor, vectors: Tensor) -> Tensor:
        """Computes value and derivatives of F at points: F ≈ f + g·u + uᵀHu/2 for a step u.

        Args:
            by_degree: Coefficients of F as `by_degree` lays them out.
            vectors: Unit vectors of the points, ``(B, 3)``.

        Returns:
            f, g_south, g_east, H_ss, H_se, H_ee for steps in radians, ``(B, 6)``.
        """
        return (self.tilted(by_degree, vectors) @ self.jet_table).sum(0)

    def by_degree(self, coefficients: Tensor) -> Tensor:
        """Lays flat coefficients out as ``(L + 1, B, 2L + 1)``, with fields on the second axis."""
        return pad(coefficients, self.max_degree).transpose(0, 1).contiguous()

    def tilted(self, by_degree: Tensor, vectors: Tensor) -> Tensor:
        """Rotates but for the last swap J, which `RingTransform` applies.

        Args:
            by_degree: Coefficients ``(L + 1, B, 2L + 1)``.
            vectors: Unit vectors of the points that come to the pole, ``(B, 3)``.

        Returns:
            Tilted coefficients ``(L + 1, B, 2L + 1)``.
        """
        # Z(-θ₀) J Z(φ₀)
        x, y, z = vectors.unbind(-1)
        by_degree = _turn(by_degree, torch.atan2(y, x), self.order) @ self.swap
        return _turn(by_degree, -torch.atan2(torch.hypot(x, y), z), self.order)


class RingTransform(nn.Module):
    """Evaluates fields on rings around a point, from what `PoleRotation.tilted` returns.

    Near its pole a harmonic of order m goes with the m-th power of the distance: it takes all
    orders to evaluate wide rings, but only four within 50 km. The others are left out.

    Attributes:
        rows, columns: How many rings, and how many nodes on each.
        row_weight: Area of a node of each ring in steradians, ``(rows,)``.
        nodes: Unit vectors of the nodes in the frame of the point, ``(rows·columns, 3)``.
    """

    swap: Tensor
    legendre: Tensor
    trigonometric: Tensor
    row_weight: Tensor
    nodes: Tensor

    def __init__(self, grid: LatLonGrid, max_degree: int) -> None:
        """Builds the tables of rings around the north pole for fields of degree L."""
        super().__init__()
        whole = ProductTransform(grid, max_degree)
        self.rows, self.columns = grid.shape
        height = whole.legendre.abs().amax((1, 2))
        seen = height > NEGLIGIBLE_ORDER * height.max()
        swap = torch.from_numpy(axis_swap(max_degree).astype(np.float32))
        for name, table in {
            "swap": swap[:, :, seen],
            "legendre": whole.legendre[seen],
            "trigonometric": whole.trigonometric[seen],
            "row_weight": whole.row_weight,
            "nodes": whole.nodes,
        }.items():
            self.register_buffer(name, table.contiguous(), persistent=False)

    def forward(self, tilted: Tensor) -> Tensor:
        """Evaluates F ``(B, rows, columns)`` of tilted coefficients ``(L + 1, B, 2L + 1)``."""
        by_order = (tilted @ self.swap).permute(2, 1, 0).contiguous()  # as in `ProductTransform`
        waves = (by_order @ self.legendre).flatten(1)
        return (waves.T @ self.trigonometric).view(-1, self.rows, self.columns)

    def around(self, centre: Tensor) -> Tensor:
        """Returns the nodes ``(..., nodes, 3)`` around points ``(..., 3)``."""
        # A transposed product: each coordinate is contiguous.
        return (pole_frame(centre) @ self.nodes.T).transpose(-1, -2)


def _jet_table(max_degree: int) -> NDArray[np.float64]:
    """Returns the map from tilted coefficients to the jet of F at the pole, ``(L + 1, 2L + 1, 6)``.

    Only orders up to 2 have derivatives there: with u = θ(cos φ, sin φ) and n = l(l + 1),

        code_l0   = √(2l + 1) (1 - nθ²/4 + …)
        code_l,±1 = √(2l + 1) √(n/2) θ (cos φ, sin φ) + …
        code_l,±2 = √(2l + 1) √(n(n - 2)/32) θ² (cos 2φ, sin 2φ) + …
    """
    degree = np.arange(max_degree + 1)
    n = degree * (degree + 1.0)
    root = np.sqrt(2.0 * degree + 1.0)
    first, second = root * np.sqrt(n / 2.0), root * np.sqrt(np.maximum(n * (n - 2.0), 0.0) / 8.0)
    jets = np.zeros((max_degree + 1, 2 * max_degree + 1, 6))
    jets[:, max_degree, 0] = root
    jets[:, max_degree, 3] = jets[:, max_degree, 5] = -root * n / 2.0
    jets[:, max_degree + 1, 1] = jets[:, max_degree - 1, 2] = first
    if max_degree >= 2:
        jets[:, max_degree + 2, 3] = jets[:, max_degree - 2, 4] = second
        jets[:, max_degree + 2, 5] = -second
    return np.matmul(axis_swap(max_degree), jets)


def turn_about_axis(coefficients: Tensor, angle: Tensor, max_degree: int) -> Tensor:
    """Computes the coefficients of F(θ, φ + angle).

    Args:
        coefficients: Coefficients of F, ``(B, d)``.
        angle: Angles in radians, ``(B,)``.
        max_degree: Degree L.
    """
    order = torch.arange(-max_degree, max_degree + 1, device=angle.device, dtype=angle.dtype)
    by_degree = pad(coefficients, max_degree).transpose(0, 1)
    return unpad(_turn(by_degree, angle, order).transpose(0, 1), max_degree)


def _turn(by_degree: Tensor, angle: Tensor, order: Tensor) -> Tensor:
    # c_m ← c_m cos(mα) + c_{-m} sin(mα)
    phase = angle[:, None] * order
    return (by_degree * phase.cos()).addcmul_(by_degree.flip(-1), phase.sin())


def pole_frame(vectors: Tensor) -> Tensor:
    """Returns the rotation R of `PoleRotation` as matrices ``(..., 3, 3)``: south, east, up."""
    x, y, z = vectors.unbind(-1)
    horizontal = torch.hypot(x, y)
    phi = torch.atan2(y, x)
    cos_phi, sin_phi = torch.cos(phi), torch.sin(phi)
    south = torch.stack([z * cos_phi, z * sin_phi, -horizontal], -1)
    east = torch.stack([-sin_phi, cos_phi, torch.zeros_like(phi)], -1)
    return torch.stack([south, east, vectors], -1)

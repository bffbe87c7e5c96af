"""Fast transforms between coefficients and fields, in torch: the one place where they are written.

Coefficients are kept flat, ``(B, d)``, outside; inside they are *padded*, ``(B, L + 1, 2L + 1)``
with order m at column L + m, so that every transform is one batched matrix product:

    F(θ_i, φ_j) = Σ_m [ Σ_l c_lm P̄_l|m|(θ_i) ] T_m(φ_j)      O(L³) instead of O(L⁴)

and a rotation is ``J Z(-θ₀) J Z(φ₀)`` with J of `sphere.harmonics.axis_swap` and Z diagonal in
pairs (m, -m). Plain references: `shdd.field` and `shdd.encode`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.sphere.grids import LatLonGrid
from locdiffusion.sphere.harmonics import associated_legendre, axis_swap, degrees_and_orders


def pad(coefficients: Tensor, max_degree: int) -> Tensor:
    """Flat ``(B, d)`` to padded ``(B, L + 1, 2L + 1)``; zeros where abs(m) > l."""
    index = _padded_index(max_degree, coefficients.device)
    padded = coefficients.new_zeros(len(coefficients), (max_degree + 1) * (2 * max_degree + 1))
    padded[:, index] = coefficients
    return padded.view(len(coefficients), max_degree + 1, 2 * max_degree + 1)


def unpad(padded: Tensor, max_degree: int) -> Tensor:
    """Inverse of `pad`."""
    return padded.flatten(1)[:, _padded_index(max_degree, padded.device)]


def _padded_index(max_degree: int, device: torch.device) -> Tensor:
    degree, order = degrees_and_orders(max_degree)
    flat = degree * (2 * max_degree + 1) + max_degree + order
    return torch.from_numpy(flat).to(device)


class ProductTransform(nn.Module):
    """Synthesis and its adjoint on rows of constant colatitude with even longitudes.

    Attributes:
      rows, columns: size of the grid.
      row_weight: ``(rows,)`` area in steradians of one node.
    """

    legendre: Tensor
    trigonometric: Tensor
    row_weight: Tensor

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

    def _buffer(self, name: str, value: NDArray[np.float64]) -> None:
        tensor = torch.from_numpy(np.ascontiguousarray(value, np.float32))
        self.register_buffer(name, tensor, persistent=False)

    def synthesis(self, coefficients: Tensor) -> Tensor:
        """Field ``(B, rows, columns)`` of flat coefficients ``(B, d)``."""
        padded = pad(coefficients, self.max_degree)
        return (padded.permute(2, 0, 1) @ self.legendre).permute(1, 2, 0) @ self.trigonometric

    def analysis(self, mass: Tensor) -> Tensor:
        """Σ_nodes mass · code(node), flat ``(B, d)``: the adjoint of `synthesis`.

        With `mass` the probabilities of the nodes this is the mean parameter E_p[code].
        """
        rows = mass @ self.trigonometric.T
        return unpad((self.legendre @ rows.permute(2, 1, 0)).permute(2, 1, 0), self.max_degree)


def trigonometric(longitude: NDArray[np.float64], max_degree: int) -> NDArray[np.float64]:
    """``(columns, 2L + 1)``: √2 sin(-mφ), 1, √2 cos(mφ) for m = -L..L."""
    multiples = np.outer(longitude, np.arange(1, max_degree + 1))
    sine, cosine = np.sqrt(2.0) * np.sin(multiples), np.sqrt(2.0) * np.cos(multiples)
    return np.concatenate([sine[:, ::-1], np.ones((len(longitude), 1)), cosine], axis=1)


class PoleRotation(nn.Module):
    """Rotates fields so that a chosen point comes to the north pole.

    In the rotated frame colatitude is the distance from that point, longitude 0 is the direction
    *south* of it and longitude 90° is east.
    """

    swap: Tensor
    order: Tensor

    def __init__(self, max_degree: int) -> None:
        super().__init__()
        self.max_degree = max_degree
        swap = torch.from_numpy(axis_swap(max_degree).astype(np.float32))
        self.register_buffer("swap", swap, persistent=False)
        order = torch.arange(-max_degree, max_degree + 1, dtype=torch.float32)
        self.register_buffer("order", order, persistent=False)

    def forward(self, coefficients: Tensor, vectors: Tensor) -> Tensor:
        """Coefficients of u ↦ F(R u) with R (pole) = the given point.

        Args:
          coefficients: ``(B, d)``.
          vectors: ``(B, 3)`` unit vectors.

        Returns:
          ``(B, d)``.
        """
        x, y, z = vectors.unbind(-1)
        padded = pad(coefficients, self.max_degree)
        padded = self._about_z(padded, torch.atan2(y, x))
        padded = self._swapped(padded)
        padded = self._about_z(padded, -torch.atan2(torch.hypot(x, y), z))
        return unpad(self._swapped(padded), self.max_degree)

    def _about_z(self, padded: Tensor, angle: Tensor) -> Tensor:
        return _turn(padded, angle, self.order)

    def _swapped(self, padded: Tensor) -> Tensor:
        return (padded.transpose(0, 1) @ self.swap).transpose(0, 1)


def turn_about_axis(coefficients: Tensor, angle: Tensor, max_degree: int) -> Tensor:
    """Coefficients of F(θ, φ + angle).

    Args:
      coefficients: ``(B, d)``.
      angle: ``(B,)`` radians.
      max_degree: L.
    """
    order = torch.arange(-max_degree, max_degree + 1, device=angle.device, dtype=angle.dtype)
    return unpad(_turn(pad(coefficients, max_degree), angle, order), max_degree)


def _turn(padded: Tensor, angle: Tensor, order: Tensor) -> Tensor:
    phase = (angle[:, None] * order)[:, None, :]
    return padded * phase.cos() + padded.flip(-1) * phase.sin()


def pole_frame(vectors: Tensor) -> Tensor:
    """The rotation R of `PoleRotation` as a matrix, ``(B, 3, 3)``: columns south, east, up."""
    x, y, z = vectors.unbind(-1)
    horizontal = torch.hypot(x, y)
    phi = torch.atan2(y, x)
    cos_phi, sin_phi = torch.cos(phi), torch.sin(phi)
    south = torch.stack([z * cos_phi, z * sin_phi, -horizontal], -1)
    east = torch.stack([-sin_phi, cos_phi, torch.zeros_like(phi)], -1)
    return torch.stack([south, east, vectors], -1)

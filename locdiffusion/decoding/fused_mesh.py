"""Fused mesh: the fused density of one photo on a grid of meridians and parallels, for regions.

Lines around the highest node are close within the 90 % radius and wider and wider up to the rim of
the wide rings. Where mass may lie beyond the rim, or the rim reaches over a pole, they are joined
with the lines of the network's density (`locdiffusion.decoding.adaptive_mesh`).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.decoding.adaptive_mesh import AdaptiveDensity, Mesh, cell_mean
from locdiffusion.decoding.fused_density import REACH_KM, RIM_KM, FusedDensity, Nodes
from locdiffusion.density.log_partition import mixed_log
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, latitude_longitude, unit_vectors

Float = NDArray[np.float64]

LINES = 4
"""Lines between the highest node and the 50 % radius; areas are within 1 % of those of 20 lines."""

CLOSEST_KM, GROWTH, MARGIN = 1.0, 1.5, 1.2
"""Least distance of two lines, how it grows beyond `MARGIN` times the 90 % radius."""

_DEGREE_KM = math.pi * EARTH_RADIUS_KM / 180.0
_MOST_TURN = 175.0  # degrees of longitude to either side, so that lines do not overlap


class FusedMesh:
    """Measures fused densities on grids."""

    def __init__(self, mesh: Mesh, density: FusedDensity) -> None:
        """Takes the mesh of the network's densities, and the fused density."""
        self.mesh, self.density = mesh, density

    @torch.inference_mode()
    def measure(self, natural: Tensor, nodes: Nodes, row: int, radii_km: Float) -> AdaptiveDensity:
        """Measures the density of one photo.

        Args:
            natural: Natural parameters ``(K, d)``.
            nodes: Nodes of this photo and others.
            row: Which of them it is.
            radii_km: 50 % and 90 % radius around the highest node, ``(2,)``.
        """
        a = float(self.density.likelihood.exponents(nodes.photos)[0][row])
        mesh, (x, y) = self.mesh, self._lines(a * natural, nodes, row, radii_km)
        log_ratio = self._log_ratio(natural, nodes, row, a, x, y)
        middle_x, middle_y = (x[1:] + x[:-1]) / 2.0, (y[1:] + y[:-1]) / 2.0
        at_centre = self._log_ratio(natural, nodes, row, a, middle_x, middle_y)
        area, q0 = mesh.area(x, y), mesh.q0(x, y)
        top = max(log_ratio.max(where=_touched(area), initial=-np.inf), -1e300)
        density = np.exp((log_ratio - top).clip(max=3.0)) * q0
        centre = np.exp((at_centre - top).clip(max=3.0)) * cell_mean(q0)
        # Corners and centres, weighed so that their errors cancel
        mass = (cell_mean(density) + 2.0 * centre) * (area / 3.0)
        total = mass.sum()
        log_density = np.log((density / total).clip(np.finfo(float).tiny))
        return AdaptiveDensity(x, y, np.broadcast_to(log_density, log_ratio.shape), mass / total)

    def _lines(
        self, natural: Tensor, nodes: Nodes, row: int, radii_km: Float
    ) -> tuple[Float, Float]:
        """Returns meridians and parallels for a photo with natural parameters times a."""
        peak = nodes.peak[row].double().cpu().numpy()
        latitude, longitude = (float(degrees) for degrees in latitude_longitude(peak))
        offset = _offsets_km(radii_km)
        parallels = latitude + offset / _DEGREE_KM
        turn = offset / (_DEGREE_KM * max(math.cos(math.radians(latitude)), 1e-3))
        meridians = longitude + turn[np.abs(turn) < _MOST_TURN]
        edges = np.array([-180.0, 180.0]), np.array([-90.0, 90.0])
        if not nodes.whole[row] or np.abs(parallels).max() >= 90.0:
            coarse = self.mesh.measure(natural)
            edges = coarse.longitude, coarse.latitude
        x = _joined(edges[0], (meridians + 180.0) % 360.0 - 180.0)
        return x, _joined(edges[1], parallels[np.abs(parallels) < 90.0])

    def _log_ratio(
        self, natural: Tensor, nodes: Nodes, row: int, a: float, longitude: Float, latitude: Float
    ) -> Float:
        """Computes a·log p/q₀ + log m on a grid, ``(Y, X)``."""
        field = torch.from_numpy(self.mesh.field(natural, longitude, latitude))
        log_z = nodes.mixtures.log_z[row].double().cpu()
        found: Float = a * mixed_log(field.flatten(1) - log_z[:, None]).view_as(field[0]).numpy()
        centre = nodes.centre[row].double().cpu().numpy()
        on_equator = unit_vectors(np.zeros_like(longitude), longitude) @ centre
        phi = np.radians(latitude)
        cosine = np.outer(np.cos(phi), on_equator) + np.sin(phi)[:, None] * centre[2]
        i, j = np.nonzero(cosine > math.cos(REACH_KM / EARTH_RADIUS_KM))
        if len(i):
            at = torch.from_numpy(unit_vectors(latitude[i], longitude[j])).to(nodes.centre)
            one = slice(row, row + 1)
            photo = nodes.compared.take(one), nodes.centre[one], nodes.photos.take(one)
            log_m = self.density.log_factor_at(*photo, at[None])[0]
            found[i, j] += log_m.double().cpu().numpy()
        return found


def _offsets_km(radii_km: Float) -> Float:
    """Returns distances of lines from the highest node, symmetric about 0."""
    step = max(CLOSEST_KM, float(radii_km[0]) / LINES)
    offsets, fine = [0.0], min(MARGIN * float(radii_km[1]), REACH_KM)
    while offsets[-1] < RIM_KM:
        if offsets[-1] > fine:
            step *= GROWTH
        offsets.append(offsets[-1] + step)
    positive = np.array(offsets[1:])
    return np.concatenate([-positive[::-1], [0.0], positive])


def _joined(lines: Float, more: Float) -> Float:
    """Joins increasing lines; of two that nearly coincide one is kept, the outermost always."""
    both = np.sort(np.concatenate([lines, more[(more > lines[0]) & (more < lines[-1])]]))
    kept = np.diff(both, prepend=-np.inf) > 1e-4
    kept[-1] = True
    kept[-2] &= both[-1] - both[-2] > 1e-4
    return both[kept]


def _touched(area: Float) -> NDArray[np.bool_]:
    """Tells which corners touch a cell that has an area."""
    around = np.pad(area > 0.0, 1)
    return around[1:, 1:] | around[:-1, 1:] | around[1:, :-1] | around[:-1, :-1]

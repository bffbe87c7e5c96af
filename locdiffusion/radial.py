"""How far off an answer may be: the distribution of the distance from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from locdiffusion.sphere.grids import LatLonGrid, polar_grid
from schemas.geotags import THRESHOLDS_KM

INNER_KM = (0.0, 1.0, 8.0, 25.0, 60.0, 120.0, 200.0)
OUTER_KM = (200.0, 320.0, 500.0, 750.0, 1100.0, 1550.0, 2000.0, 2500.0)
"""Edges of the panels of rings around an answer; every reported threshold is one of them."""

CAP_KM = OUTER_KM[-1]
_NODES, _PARTS, _FAR_BINS = 4, 8, 256


def ring_grids() -> tuple[LatLonGrid, LatLonGrid]:
    """The rings within 200 km, and those from there to 2500 km, which need more azimuths."""
    inner = polar_grid(np.array(INNER_KM) / EARTH_RADIUS_KM, _NODES, 32)
    return inner, polar_grid(np.array(OUTER_KM) / EARTH_RADIUS_KM, _NODES, 96)


@dataclass(frozen=True)
class RadialProfile:
    """Cumulative probability by distance.

    Attributes:
      radius_km: ``(edges,)`` increasing from 0 to half the circumference.
      cumulative: ``(N, edges)`` float64, from 0 to 1.
    """

    radius_km: NDArray[np.float64]
    cumulative: NDArray[np.float64]

    @classmethod
    def from_masses(cls, rings: Tensor, beyond: Tensor) -> RadialProfile:
        """Sums masses outwards.

        Args:
          rings: ``(N, rings)`` mass on each ring of `ring_grids`, as its quadrature weighs it.
          beyond: `far_masses`.

        Returns:
          The profile, scaled to sum to one.
        """
        n = len(rings)
        panels = rings.double().cpu().numpy().reshape(n, -1, _NODES)
        within = panels.sum(-1, keepdims=True)
        partial = np.cumsum(within, 1) - within + panels @ _PARTIAL
        parts = [np.zeros((n, 1)), partial.reshape(n, -1)]
        parts.append(parts[-1][:, -1:] + np.cumsum(beyond.double().cpu().numpy(), 1))
        cumulative = np.maximum.accumulate(np.concatenate(parts, 1), axis=1)
        return cls(_EDGES_KM, cumulative / cumulative[:, -1:])

    def quantile_km(self, probability: float) -> NDArray[np.float64]:
        """``(N,)`` radius that holds the given probability; linear in area between edges."""
        area = np.sin(self.radius_km / (2.0 * EARTH_RADIUS_KM)) ** 2
        above = np.clip((self.cumulative < probability).sum(1), 1, len(area) - 1)
        row = np.arange(len(self.cumulative))
        low, high = self.cumulative[row, above - 1], self.cumulative[row, above]
        share = np.clip((probability - low) / np.maximum(high - low, 1e-300), 0.0, 1.0)
        value = area[above - 1] + share * (area[above] - area[above - 1])
        return 2.0 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(value, 1.0)))

    def threshold_probability(self) -> NDArray[np.float32]:
        """``(N, 5)`` probability within each of `THRESHOLDS_KM`."""
        columns = [int(np.argmin(np.abs(self.radius_km - t))) for t in THRESHOLDS_KM]
        return self.cumulative[:, columns].astype(np.float32)


def far_masses(mass: Tensor, cos_distance: Tensor, spread: Tensor) -> Tensor:
    """Mass in bins of the distance beyond `CAP_KM`, ``(N, bins)``.

    Args:
      mass: ``(N, nodes)`` of nodes beyond `CAP_KM`, 0 at the others.
      cos_distance: ``(N, nodes)`` of all nodes.
      spread: `far_spread` of these nodes.
    """
    n = len(mass)
    edge = math.cos(CAP_KM / EARTH_RADIUS_KM)
    # Bins of equal area: an index without an arc cosine.
    bins = ((edge - cos_distance) * (_FAR_BINS / (1.0 + edge))).clamp_(0, _FAR_BINS - 1).int()
    bins += _FAR_BINS * torch.arange(n, dtype=torch.int32, device=bins.device)[:, None]
    counted = torch.bincount(bins.flatten(), mass.flatten(), n * _FAR_BINS)
    return counted.view(n, _FAR_BINS) @ spread


def far_spread(spacing: float) -> NDArray[np.float64]:
    """Spreads what a bin beyond `CAP_KM` counted over the width of a node, ``(bins, bins)``.

    Seen from a pole, whole rows of the grid lie at one distance; counted as points they would
    make a staircase of the distribution.

    Args:
      spacing: of the grid, radians.
    """
    edges = _EDGES_KM[-_FAR_BINS - 1 :] / EARTH_RADIUS_KM
    centre = (edges[:-1] + edges[1:]) / 2.0
    low, high = np.maximum(centre - spacing / 2, edges[0]), np.minimum(centre + spacing / 2, np.pi)
    share = (edges - low[:, None]) / (high - low)[:, None]
    return np.diff(np.clip(share, 0.0, 1.0), axis=1)


def _partial_sums() -> NDArray[np.float64]:
    """``(nodes, parts)``: from the masses of a panel's rings to the mass up to parts of it.

    The ring masses over their weights are values of a smooth function of the radius; its
    interpolating polynomial is integrated from the panel's inner edge. The last column is 1.
    """
    x, w = np.polynomial.legendre.leggauss(_NODES)
    ends = np.linspace(-1.0, 1.0, _PARTS + 1)[1:]
    columns = []
    for i in range(_NODES):
        cardinal = np.polynomial.Polynomial.fit(x, np.eye(_NODES)[i], _NODES - 1, domain=[-1, 1])
        integral = cardinal.integ()
        columns.append((integral(ends) - integral(-1.0)) / w[i])
    return np.array(columns)


def _edges_km() -> NDArray[np.float64]:
    panels = np.array([*INNER_KM, *OUTER_KM[1:]])
    fractions = np.arange(1, _PARTS + 1) / _PARTS
    near = (panels[:-1, None] + fractions * np.diff(panels)[:, None]).ravel()
    edge = math.cos(CAP_KM / EARTH_RADIUS_KM)
    cos_far = edge - (1.0 + edge) * np.arange(1, _FAR_BINS + 1) / _FAR_BINS
    far = 2.0 * EARTH_RADIUS_KM * np.arcsin(np.sqrt((1.0 - cos_far.clip(-1.0, 1.0)) / 2.0))
    return np.concatenate([[0.0], near, far])


_PARTIAL = _partial_sums()
_EDGES_KM = _edges_km()

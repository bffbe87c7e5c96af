"""How far off an answer may be: the distribution of the distance from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from locdiffusion.sphere.grids import LatLonGrid, polar_grid
from schemas.geotags import THRESHOLDS_KM

ZONES_KM = (
    (0.0, 1.0, 8.0, 25.0, 60.0, 120.0, 200.0),
    (200.0, 320.0, 500.0, 750.0, 1100.0),
    (1100.0, 1550.0, 2000.0, 2500.0),
)
"""Edges of the panels of rings around an answer; every reported threshold is one of them."""

CAP_KM = ZONES_KM[-1][-1]
COS_CAP = math.cos(CAP_KM / EARTH_RADIUS_KM)
_AZIMUTHS, _NODES, _PARTS, _FAR_BINS = (32, 96, 96), 4, 8, 256


def ring_grids() -> list[LatLonGrid]:
    """The rings of each zone of `ZONES_KM`; wider ones need more azimuths."""
    return [
        polar_grid(np.array(edges) / EARTH_RADIUS_KM, _NODES, azimuths)
        for edges, azimuths in zip(ZONES_KM, _AZIMUTHS, strict=True)
    ]


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
    # Bins of equal area: an index without an arc cosine.
    bins = ((COS_CAP - cos_distance) * (_FAR_BINS / (1.0 + COS_CAP))).clamp_(0, _FAR_BINS - 1).int()
    bins += _FAR_BINS * torch.arange(n, dtype=torch.int32, device=bins.device)[:, None]
    counted = torch.bincount(bins.flatten(), mass.flatten(), n * _FAR_BINS)
    return counted.view(n, _FAR_BINS) @ spread


def far_spread(spacing: float) -> NDArray[np.float64]:
    """Spreads what a bin beyond `CAP_KM` counted over the width of a node, ``(bins, bins)``.

    Seen from a pole, whole rows of the grid lie at one distance; counted as points they would
    make a staircase of the distribution.

    Args:
        spacing: Of the grid, radians.
    """
    edges = _EDGES_KM[-_FAR_BINS - 1 :] / EARTH_RADIUS_KM
    centre = (edges[:-1] + edges[1:]) / 2.0
    low, high = np.maximum(centre - spacing / 2, edges[0]), np.minimum(centre + spacing / 2, np.pi)
    share = (edges - low[:, None]) / (high - low)[:, None]
    return np.diff(np.clip(share, 0.0, 1.0), axis=1)


def disc_weights(
    radius_km: float, edges_km: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rings of `ring_grids` as far as they lie within a radius.

    Between the rings of a panel everything is the polynomial through them, as in Gauss's rule.

    Args:
        radius_km: Any.
        edges_km: Of one of `ZONES_KM`.

    Returns:
        ``(rings,)`` shares of the rings' weights: from 1 in panels within to 0 in those outside;
        and ``(rings,)`` factors of the values on the rings whose sum is the value at the radius
        itself.
    """
    panels = np.array([edges_km[:-1], edges_km[1:]], np.float64)
    end = np.clip(2.0 * (radius_km - panels[0]) / (panels[1] - panels[0]) - 1.0, -1.0, 1.0)
    holds = (panels[0] < radius_km) & (radius_km <= panels[1])
    rim = np.stack([cardinal(end) * holds for cardinal in _cardinals()], -1)
    return _shares(end).ravel(), rim.ravel()


def _cardinals() -> list[np.polynomial.Polynomial]:
    """Polynomials on [-1, 1] that are 1 at one of a panel's rings and 0 at its others."""
    x, _ = np.polynomial.legendre.leggauss(_NODES)
    fit = np.polynomial.Polynomial.fit
    return [fit(x, row, _NODES - 1, domain=[-1, 1]) for row in np.eye(_NODES)]


def _shares(ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(n, nodes)``: from the masses of a panel's rings to the mass up to places in [-1, 1].

    The ring masses over their weights are values of a smooth function of the radius; its
    interpolating polynomial is integrated from the panel's inner edge. At 1 all are 1.
    """
    _, w = np.polynomial.legendre.leggauss(_NODES)
    integrals = [cardinal.integ() for cardinal in _cardinals()]
    columns = [(f(ends) - f(-1.0)) / w[i] for i, f in enumerate(integrals)]
    return np.stack(columns, -1)


def _edges_km() -> NDArray[np.float64]:
    panels = np.array([0.0, *(edge for edges in ZONES_KM for edge in edges[1:])])
    fractions = np.arange(1, _PARTS + 1) / _PARTS
    near = (panels[:-1, None] + fractions * np.diff(panels)[:, None]).ravel()
    cos_far = COS_CAP - (1.0 + COS_CAP) * np.arange(1, _FAR_BINS + 1) / _FAR_BINS
    far = 2.0 * EARTH_RADIUS_KM * np.arcsin(np.sqrt((1.0 - cos_far.clip(-1.0, 1.0)) / 2.0))
    return np.concatenate([[0.0], near, far])


_PARTIAL = _shares(np.linspace(-1.0, 1.0, _PARTS + 1)[1:]).T
_EDGES_KM = _edges_km()

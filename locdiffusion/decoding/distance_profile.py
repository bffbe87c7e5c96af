"""Distance profile: the distribution of the distance of a photo from its answer."""

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
    """Builds the rings of each zone of `ZONES_KM`; wider rings need more azimuths."""
    return [
        polar_grid(np.array(edges) / EARTH_RADIUS_KM, _NODES, azimuths)
        for edges, azimuths in zip(ZONES_KM, _AZIMUTHS, strict=True)
    ]


@dataclass(frozen=True)
class DistanceProfile:
    """Cumulative probability by distance.

    Attributes:
        radius_km: Distances that increase from 0 to half the circumference, ``(edges,)``.
        cumulative: Probability within each distance in float64, ``(N, edges)``.
    """

    radius_km: NDArray[np.float64]
    cumulative: NDArray[np.float64]

    @classmethod
    def from_masses(cls, rings: Tensor, beyond: Tensor) -> DistanceProfile:
        """Sums masses outwards.

        Args:
            rings: Mass on each ring of `ring_grids` as its quadrature weighs it, ``(N, rings)``.
            beyond: Mass beyond the rings, as of `far_masses`.

        Returns:
            The profile, scaled so that it ends at 1.
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
        """Finds the radius ``(N,)`` that holds a probability; linear in area between edges."""
        area = np.sin(self.radius_km / (2.0 * EARTH_RADIUS_KM)) ** 2
        above = np.clip((self.cumulative < probability).sum(1), 1, len(area) - 1)
        row = np.arange(len(self.cumulative))
        low, high = self.cumulative[row, above - 1], self.cumulative[row, above]
        share = np.clip((probability - low) / np.maximum(high - low, 1e-300), 0.0, 1.0)
        value = area[above - 1] + share * (area[above] - area[above - 1])
        return 2.0 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(value, 1.0)))

    def threshold_probability(self) -> NDArray[np.float32]:
        """Returns the probability within each of `THRESHOLDS_KM`, ``(N, 5)``."""
        columns = [int(np.argmin(np.abs(self.radius_km - t))) for t in THRESHOLDS_KM]
        return self.cumulative[:, columns].astype(np.float32)


def far_masses(mass: Tensor, cos_distance: Tensor, spread: Tensor) -> Tensor:
    """Sums mass in bins of the distance beyond `CAP_KM`, ``(N, bins)``.

    Args:
        mass: Mass of nodes beyond `CAP_KM` and 0 at the others, ``(N, nodes)``.
        cos_distance: Cosine of the distance of each node, ``(N, nodes)``.
        spread: Table `far_spread` of the nodes' grid.
    """
    n = len(mass)
    # Bins of equal area: an index without an arc cosine.
    bins = ((COS_CAP - cos_distance) * (_FAR_BINS / (1.0 + COS_CAP))).clamp_(0, _FAR_BINS - 1).int()
    bins += _FAR_BINS * torch.arange(n, dtype=torch.int32, device=bins.device)[:, None]
    counted = torch.bincount(bins.flatten(), mass.flatten(), n * _FAR_BINS)
    return counted.view(n, _FAR_BINS) @ spread


def far_spread(spacing: float) -> NDArray[np.float64]:
    """Builds the table that spreads the mass of a bin over the width of a node, ``(bins, bins)``.

    From a pole whole rows of the grid lie at one distance; counted as points they would make steps
    in the distribution.

    Args:
        spacing: Spacing of the grid in radians.
    """
    edges = _EDGES_KM[-_FAR_BINS - 1 :] / EARTH_RADIUS_KM
    centre = (edges[:-1] + edges[1:]) / 2.0
    low, high = np.maximum(centre - spacing / 2, edges[0]), np.minimum(centre + spacing / 2, np.pi)
    share = (edges - low[:, None]) / (high - low)[:, None]
    return np.diff(np.clip(share, 0.0, 1.0), axis=1)


def disc_weights(
    radius_km: float, edges_km: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Computes weights with which the rings of a zone integrate over a disc.

    Within a panel a function is the polynomial through its rings, as in Gauss's rule.

    Args:
        radius_km: Radius of the disc, any.
        edges_km: Edges of the panels of the zone.

    Returns:
        Shares of the rings' weights ``(rings,)``, from 1 in panels within the disc to 0 in those
        outside; and factors ``(rings,)`` of the values on the rings whose sum is the value at the
        radius itself.
    """
    panels = np.array([edges_km[:-1], edges_km[1:]], np.float64)
    end = np.clip(2.0 * (radius_km - panels[0]) / (panels[1] - panels[0]) - 1.0, -1.0, 1.0)
    holds = (panels[0] < radius_km) & (radius_km <= panels[1])
    rim = np.stack([cardinal(end) * holds for cardinal in _cardinals()], -1)
    return _shares(end).ravel(), rim.ravel()


def _cardinals() -> list[np.polynomial.Polynomial]:
    """Returns polynomials on [-1, 1] that are 1 at one ring of a panel and 0 at its others."""
    x, _ = np.polynomial.legendre.leggauss(_NODES)
    fit = np.polynomial.Polynomial.fit
    return [fit(x, row, _NODES - 1, domain=[-1, 1]) for row in np.eye(_NODES)]


def _shares(ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns factors ``(n, nodes)`` that sum a panel's ring masses up to places in [-1, 1].

    The masses over their weights are values of a smooth function of the radius; its interpolating
    polynomial is integrated from the panel's inner edge. At 1 all factors are 1.
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

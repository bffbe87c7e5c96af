"""Checks log Z of fused densities against a grid that is far finer than their nodes.

The dense grid has `SPACING_KM` between nodes within reach of the answer, and `FAR_SPACING_KM` on
the rest of the sphere, where the density is the network's alone. A density whose log Z is too small
has too large a likelihood: what the fit would learn to exploit is found here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from locdiffusion.calibrate.fused_fitting import FusedPart
from locdiffusion.decoding.fused_decoder import FusedDecoder
from locdiffusion.decoding.fused_density import REACH_KM
from locdiffusion.density.log_partition import log_sum_exp
from locdiffusion.density.transforms import RingTransform
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from locdiffusion.sphere.grids import polar_grid

SPACING_KM, FAR_SPACING_KM = 4.0, 40.0
_PANELS_AT_ONCE = 10


@dataclass(frozen=True)
class Gap:
    """Differences of log Z in nats.

    Attributes:
        photos: Number of photos.
        mean: Mean absolute difference.
        worst: Largest absolute difference.
        bias: Mean difference; below 0 the nodes miss mass.
        times_denser: Nodes of the dense grid over those of the fused density.
    """

    photos: int
    mean: float
    worst: float
    bias: float
    times_denser: float


@torch.no_grad()
def gap(fused: FusedDecoder, part: FusedPart, spacing_km: float = SPACING_KM) -> Gap:
    """Compares log Z of photos with that of a dense grid around their centres."""
    density = fused.density
    rings = _dense_rings(density.tables.max_degree, spacing_km)
    found, dense = [], []
    for row in range(len(part)):
        one = part.take(slice(row, row + 1))
        nodes, _ = fused.laid(*fused.checked(one.natural[:, None], one.appearance, one.trust))
        ours, _, log_z = density.normalised(nodes)
        a, b = density.likelihood.exponents(nodes.photos)
        sums = []
        for zone in rings:
            places = density.around(zone, nodes, nodes.centre)
            values, _ = density.likelihood.log_density(places, nodes.photos, a, b)
            area = (zone.row_weight / (4.0 * np.pi)).log().repeat_interleave(zone.columns)
            sums.append(log_sum_exp(values + area))
        found.append(float(log_z))
        dense.append(float(torch.cat(sums).logsumexp(0)))
    difference = np.subtract(found, dense)
    count = sum(zone.rows * zone.columns for zone in rings)
    return Gap(
        len(part),
        float(np.abs(difference).mean()),
        float(np.abs(difference).max()),
        float(difference.mean()),
        count / ours.vectors.shape[1],
    )


def _dense_rings(max_degree: int, spacing_km: float) -> list[RingTransform]:
    """Builds rings over the whole sphere in groups of panels."""
    half = np.pi * EARTH_RADIUS_KM
    zones = ((0.0, REACH_KM, spacing_km), (REACH_KM, half, max(spacing_km, FAR_SPACING_KM)))
    rings = []
    for low, high, spacing in zones:
        edges = np.linspace(low, high, int(np.ceil((high - low) / (4.0 * spacing))) + 1)
        for first in range(0, len(edges) - 1, _PANELS_AT_ONCE):
            some = edges[first : first + _PANELS_AT_ONCE + 1] / EARTH_RADIUS_KM
            widest = EARTH_RADIUS_KM * np.sin(np.clip(np.pi / 2.0, some[0], some[-1]))
            azimuths = int(np.ceil(2.0 * np.pi * widest / spacing))
            rings.append(RingTransform(polar_grid(some, 4, azimuths), max_degree))
    return rings

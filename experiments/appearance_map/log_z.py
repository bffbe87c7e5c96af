"""Checks log Z of fused densities against a grid that is far finer than their nodes.

The dense grid has `SPACING_KM` between nodes within reach of the answer, and `FAR_SPACING_KM` on
the rest of the sphere, where the density is the network's alone. A density whose log Z is too small
has too large a likelihood: what the fit would learn to exploit is found here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from experiments.appearance_map.decoding import masses
from experiments.appearance_map.fused_density import REACH_KM, FusedDensity
from experiments.appearance_map.photos import LocatedPhotos
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
def gap(fused: FusedDensity, photos: LocatedPhotos, spacing_km: float = SPACING_KM) -> Gap:
    """Compares log Z of photos with that of a dense grid around their answers."""
    rings = _dense_rings(fused.tables.max_degree, spacing_km)
    found, dense = [], []
    for row in range(len(photos)):
        photo = photos.take(slice(row, row + 1))
        ours = masses(fused, photo)
        residuals = fused.map.residuals(photo.appearance)
        terms, parts = ours.nodes, []
        for part in rings:
            places = fused.around(part, photo.natural, residuals, photo.answer, photo.answer)
            values, _ = fused.likelihood.log_density(places, terms.photos, terms.a, terms.b)
            area = (part.row_weight / (4.0 * np.pi)).log().repeat_interleave(part.columns)
            parts.append(log_sum_exp(values + area))
        found.append(float(ours.log_z))
        dense.append(float(torch.cat(parts).logsumexp(0)))
    difference = np.subtract(found, dense)
    nodes = sum(part.rows * part.columns for part in rings)
    return Gap(
        len(photos),
        float(np.abs(difference).mean()),
        float(np.abs(difference).max()),
        float(difference.mean()),
        nodes / ours.vectors.shape[1],
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

r"""Shifts the exponents until the radii hold as many truths as they say.

A maximum of the likelihood does not fix how many truths the radii hold. Both log a and log b are
therefore shifted by d₀ + d₁·x afterwards, with x the standardised 50 % radius of the density: it
tells known ground from unknown. Shifts above 0 make radii smaller.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.appearance_map.decoding import Rule, decode
from experiments.appearance_map.fused_density import PHOTOS_AT_ONCE, FusedDensity
from experiments.appearance_map.photos import LocatedPhotos
from locdiffusion.appearance.likelihood import FARTHEST, FEATURES
from locdiffusion.calibrate.coverage import LEVELS, CoverageTable
from locdiffusion.evaluate.scores import errors_km
from locdiffusion.sphere.geodesy import latitude_longitude

KNOTS = np.linspace(-0.9, 0.6, 6)
"""Shifts at which photos are decoded."""

_SHIFTS, _SLOPES = np.linspace(-0.6, 0.4, 41), np.linspace(-0.3, 0.3, 25)
_RADIUS = FEATURES.index("log_radius_50")


def fit_radii(
    fused: FusedDensity, parts: Sequence[tuple[LocatedPhotos, float]], radius_km: float
) -> tuple[float, float]:
    """Fits d₀ and d₁ in place, on photos that fitted the gates.

    Args:
        fused: Fused density whose gates are fitted.
        parts: Photos of each validation set with its weight.
        radius_km: Radius ρ of the answers.

    Returns:
        d₀ and d₁.
    """
    tables = [_table(fused, photos, weight, radius_km) for photos, weight in parts]
    best, least = (0.0, 0.0), np.inf
    for shift in _SHIFTS:
        for slope in _SLOPES:
            loss = sum(
                table.weight
                * np.square(table.coverage(shift + slope * table.log_temperature) - LEVELS).sum()
                for table in tables
            )
            if loss < least:
                best, least = (float(shift), float(slope)), loss
    gates = fused.likelihood.gates
    with torch.no_grad():
        gates.bias.add_(best[0])
        gates.weight[:, _RADIUS].add_(best[1])
    return best


def _table(
    fused: FusedDensity, photos: LocatedPhotos, weight: float, radius_km: float
) -> CoverageTable:
    """Decodes photos at all `KNOTS`; the table's log temperature is x."""
    gates, margins = fused.likelihood.gates, []
    before = gates.bias.detach().clone()
    for knot in KNOTS:
        with torch.no_grad():
            gates.bias.copy_(before + float(knot))
        found = decode(fused, photos, radius_km, [Rule.BALL])[Rule.BALL]
        error = errors_km(found, *latitude_longitude(photos.truth.double().numpy()))
        radii = (found.radius_50_km, found.radius_90_km)
        margins.append([np.log((radius + 1e-6) / (error + 1e-6)) for radius in radii])
    with torch.no_grad():
        gates.bias.copy_(before)
    margin: NDArray[np.float64] = np.moveaxis(np.array(margins), 0, -1)
    return CoverageTable(KNOTS, margin, _standard_radius(fused, photos), weight)


def _standard_radius(fused: FusedDensity, photos: LocatedPhotos) -> NDArray[np.float64]:
    likelihood = fused.likelihood
    features = torch.cat(
        [
            fused.nodes_of(photos.take(slice(start, start + PHOTOS_AT_ONCE))).photos.features
            for start in range(0, len(photos), PHOTOS_AT_ONCE)
        ]
    )
    standard = (features - likelihood.feature_mean) / likelihood.feature_spread
    found: NDArray[np.float64] = standard[:, _RADIUS].clamp(-FARTHEST, FARTHEST).double().numpy()
    return found

"""How far off an answer may be: the distribution of the distance from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from schemas.geotags import THRESHOLDS_KM

# fmt: off
NEAR_EDGES_KM = (
    0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 20.0, 25.0, 32.0, 40.0, 50.0, 62.0, 75.0, 90.0, 110.0, 135.0,
    165.0, 200.0, 240.0, 290.0, 350.0, 420.0, 500.0, 600.0, 750.0, 900.0, 1100.0, 1350.0, 1650.0,
    2000.0, 2500.0,
)
# fmt: on
"""Edges of the rings around an answer; every reported threshold is one of them."""

FAR_EDGES_KM = tuple(np.linspace(2500.0, math.pi * EARTH_RADIUS_KM, 72))
_EDGES_KM = np.array([*NEAR_EDGES_KM, *FAR_EDGES_KM[1:]])


@dataclass(frozen=True)
class RadialProfile:
    """Cumulative probability by distance.

    Attributes:
      cumulative: ``(N, edges)`` float64, from 0 to 1, at `NEAR_EDGES_KM` then `FAR_EDGES_KM`.
      information_nats: ``(N,)`` float32, KL of the density from the uniform sphere.
    """

    cumulative: NDArray[np.float64]
    information_nats: NDArray[np.float32]

    @classmethod
    def from_nodes(
        cls,
        near_log_density: Tensor,
        near_area: Tensor,
        far_log_density: Tensor,
        far_area: Tensor,
        far_distance_km: Tensor,
    ) -> RadialProfile:
        """Sums node masses.

        Args:
          near_log_density: ``(N, panels, nodes)`` log p on the rings of each panel.
          near_area: ``(panels, nodes)`` steradians.
          far_log_density: ``(N, nodes)`` log p on a grid over the whole sphere.
          far_area: ``(nodes,)`` steradians.
          far_distance_km: ``(N, nodes)``; nodes nearer than 2500 km are left to the rings.
        """
        near = near_log_density.exp() * (near_area / (4.0 * math.pi))
        outside = far_distance_km >= NEAR_EDGES_KM[-1]
        far = torch.where(outside, far_log_density.exp() * (far_area / (4.0 * math.pi)), 0.0)
        width = FAR_EDGES_KM[1] - FAR_EDGES_KM[0]
        which = ((far_distance_km - FAR_EDGES_KM[0]) / width).long()
        which = which.clamp(0, len(FAR_EDGES_KM) - 2)
        bins = far.new_zeros(len(far), len(FAR_EDGES_KM) - 1).scatter_add_(1, which, far)
        mass = torch.cat([near.sum(-1), bins], 1).double()
        total = mass.sum(1, keepdim=True)
        entropy = (near * near_log_density).flatten(1).sum(1) + (
            torch.where(far > 0, far * far_log_density, 0.0).sum(1)
        )
        # p was normalised by rings around the peak; these nodes differ a little: make it sum to 1.
        information = entropy / total[:, 0] - total[:, 0].log()
        cumulative = torch.cat([torch.zeros_like(total), mass.cumsum(1)], 1) / total
        return cls(
            cumulative.clamp(0.0, 1.0).cpu().numpy(),
            information.clamp(min=0.0).float().cpu().numpy(),
        )

    def quantile_km(self, probability: float) -> NDArray[np.float64]:
        """``(N,)`` radius that holds the given probability; linear in area between edges."""
        area = np.sin(_EDGES_KM / (2.0 * EARTH_RADIUS_KM)) ** 2
        result = np.empty(len(self.cumulative))
        for i, cumulative in enumerate(self.cumulative):
            j = int(np.searchsorted(cumulative, probability, side="left"))
            j = min(max(j, 1), len(area) - 1)
            low, high = cumulative[j - 1], cumulative[j]
            share = (probability - low) / (high - low) if high > low else 1.0
            value = area[j - 1] + np.clip(share, 0.0, 1.0) * (area[j] - area[j - 1])
            result[i] = 2.0 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(min(value, 1.0)))
        return result

    def threshold_probability(self) -> NDArray[np.float32]:
        """``(N, 5)`` probability within each of `THRESHOLDS_KM`."""
        columns = [NEAR_EDGES_KM.index(float(t)) for t in THRESHOLDS_KM]
        return self.cumulative[:, columns].astype(np.float32)

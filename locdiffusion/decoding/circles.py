"""Circles around a place, on which densities are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.decoding.tables import DecoderTables
from locdiffusion.density.log_partition import mixed_log
from locdiffusion.density.transforms import ProductTransform, pole_frame
from locdiffusion.sphere.geodesy import unit_vectors
from locdiffusion.sphere.grids import LatLonGrid


@dataclass(frozen=True)
class Circles:
    """Points on circles around a place.

    Attributes:
        centre: Unit vector of the place, ``(1, 3)``.
        nodes: The points with the place at the north pole.
        places: Unit vectors of the points, ``(T·B, 3)``, circle by circle.
    """

    centre: Tensor
    nodes: LatLonGrid
    places: NDArray[np.float64]

    @classmethod
    def around(
        cls, centre: tuple[float, float], distance_deg: NDArray[np.float64], bearings: int
    ) -> Circles:
        """Lays points on T circles.

        Args:
            centre: Latitude and longitude of the place in degrees.
            distance_deg: Radii of the circles in degrees, ``(T,)``.
            bearings: Number B of points on each circle, clockwise from the north.
        """
        vector = torch.from_numpy(unit_vectors(*centre))[None]
        # The frame's columns are south, east and up: its longitude counts from south to east.
        longitude = np.pi - 2.0 * np.pi * np.arange(bearings) / bearings
        nodes = LatLonGrid(np.cos(np.radians(distance_deg)), longitude, np.ones(len(distance_deg)))
        return cls(vector, nodes, nodes.vectors @ pole_frame(vector)[0].numpy().T)

    def log_density(self, tables: DecoderTables, natural: Tensor) -> NDArray[np.float64]:
        """Evaluates log p of K mixed densities ``(K, d)`` at the points, ``(T·B,)``."""
        circles = ProductTransform(self.nodes, tables.max_degree).to(natural.device)
        at_pole = tables.rotation(natural, self.centre.expand(len(natural), 3).to(natural))
        # log p = log q₀ + log (1/K) Σ_k exp(F_k - log Z_k)
        field = circles.synthesis(at_pole).flatten(1) - tables.log_normaliser(natural[:, None])
        log_p = mixed_log(field) + tables.log_q0_at(torch.from_numpy(self.places).to(natural))
        found: NDArray[np.float64] = log_p.double().cpu().numpy()
        return found

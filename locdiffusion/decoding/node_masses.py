r"""Decides from nodes with masses: points, radii, probabilities, other places and information.

A density that is no band-limited field (one times an appearance map, one mixed with kernels around
the places of a gallery) is known at nodes. Each node is a small disc over which its mass is spread
evenly. Answers are made in three steps:

    nodes = NodeMasses(vectors, mass, log_density, radius_km)   # mass sums to 1 for each photo
    answer = nodes.most_within(start, 750.0)                    # or nodes.most_thresholds(points)
    columns = nodes.columns(answer, others, land, radius_km=750.0, modes=3)

For the area A in km² that a node of a quadrature stands for, its radius is √(A/π). A kernel, such
as a Gaussian around a place, is laid out as several nodes of equal mass at its quantiles: the
nearer together, the more exact. Where nodes lie all over the sphere their vectors are float64:
float32 tells cosines of places apart from 2 km on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.decoding.answers import GeotagColumns, distinct_modes
from locdiffusion.density.base_measure import LandShare
from locdiffusion.density.transforms import pole_frame
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, latitude_longitude
from schemas.geotags import THRESHOLDS_KM

SHIFTS = 3
"""How many mean shifts `NodeMasses.most_within` takes."""

REFINED, STRIP = 3, 1.05
"""Steps by which a radius is refined, and how wide the strip is whose mass gives the slope."""

DISC_POINTS = 8
"""Points over which the mass of a node is spread where it is divided among areas."""

THRESHOLD_WEIGHTS = (0.3, 0.3, 0.2, 0.1, 0.1)
"""What it is worth that an answer lies within each of `THRESHOLDS_KM`."""


@dataclass(frozen=True)
class NodeMasses:
    """Probabilities of N photos on n nodes each.

    Attributes:
        vectors: Unit vectors of the nodes, ``(N, n, 3)``.
        mass: Probability of each node, ``(N, n)``; the sum over a photo's nodes is 1.
        log_density: Log density at each node in nats against the uniform sphere, ``(N, n)``.
        radius_km: Radius of the disc over which the mass of each node is spread, ``(N, n)`` or
            ``(1, n)``.
    """

    vectors: Tensor
    mass: Tensor
    log_density: Tensor
    radius_km: Tensor

    def take(self, rows: Tensor | slice) -> NodeMasses:
        """Selects photos."""
        radius = self.radius_km if len(self.radius_km) == 1 else self.radius_km[rows]
        return NodeMasses(self.vectors[rows], self.mass[rows], self.log_density[rows], radius)

    def joined(self, other: NodeMasses) -> NodeMasses:
        """Adds nodes to those of the same photos."""
        radii = [part.radius_km.expand_as(part.mass) for part in (self, other)]
        vectors, mass, log_density = (
            torch.cat([getattr(self, name), getattr(other, name)], 1)
            for name in ("vectors", "mass", "log_density")
        )
        return NodeMasses(vectors, mass, log_density, torch.cat(radii, 1))

    def points(self) -> tuple[Tensor, Tensor]:
        """Spreads the mass of each node over points of its disc.

        Returns:
            Unit vectors ``(N, n·DISC_POINTS, 3)`` and masses ``(N, n·DISC_POINTS)``.
        """
        # Points of equal area, each turned by the golden angle from the one before
        number = torch.arange(DISC_POINTS, device=self.mass.device).to(self.vectors)
        share = ((number + 0.5) / DISC_POINTS).sqrt()
        turn = number * (math.pi * (3.0 - math.sqrt(5.0)))
        south, east, _ = pole_frame(self.vectors).unbind(-1)
        step = (share * turn.cos())[:, None] * south[:, :, None]
        step = step + (share * turn.sin())[:, None] * east[:, :, None]
        radius = (self.radius_km / EARTH_RADIUS_KM)[..., None, None]
        vectors = nn.functional.normalize(self.vectors[:, :, None] + radius * step, dim=-1)
        mass = (self.mass / DISC_POINTS).repeat_interleave(DISC_POINTS, 1)
        return vectors.flatten(1, 2), mass

    def km_from(self, points: Tensor) -> Tensor:
        """Computes chords in km between points ``(N, P, 3)`` and all nodes, ``(N, P, n)``."""
        # Relative to one of the points the numbers are small, and so are their rounding errors.
        origin = points[:, :1]
        nodes, points = self.vectors - origin, points - origin
        square = nodes.square().sum(-1)[:, None] + points.square().sum(-1)[..., None]
        square = torch.baddbmm(square, points, nodes.transpose(1, 2), alpha=-2.0)
        return square.clamp_(min=0.0).sqrt_().mul_(EARTH_RADIUS_KM)

    def within(self, points: Tensor, radius_km: float) -> Tensor:
        """Computes the probability within a distance of points ``(N, P, 3)``, ``(N, P)``."""
        return self._within(self.km_from(points), _chord_km(radius_km))

    def _within(self, km: Tensor, radius_km: float | Tensor) -> Tensor:
        """Sums masses within radii: ``(N, P)`` of chords ``(N, P, n)``, all lengths chords."""
        # Overlap of two discs: all of the smaller one, or nothing, and a ramp as wide as it
        disc = self.radius_km[:, None]
        radius = torch.as_tensor(radius_km, dtype=disc.dtype, device=disc.device)
        small, large = torch.minimum(disc, radius), torch.maximum(disc, radius)
        slope = 0.5 / small
        share = (large * slope + 0.5).sub(km * slope).clamp_(0.0, 1.0)
        return torch.linalg.vecdot(share, self.mass[:, None] * (small / disc).square())

    def most_within(self, start: Tensor, radius_km: float) -> Tensor:
        """Finds the points ``(N, 3)`` with most mass within a radius, nearer mass counting more.

        The kernel is that of `locdiffusion.decoding.decoder`; each mean shift goes to the mean of
        the mass within the radius.

        Args:
            start: Unit vectors near the points, ``(N, 3)``.
            radius_km: Radius ρ of the kernel.
        """
        place, rim = start, _chord_km(radius_km)
        for _ in range(SHIFTS):
            # A node leaves little by little, so that rounding does not move the answer.
            inside = (rim - self.km_from(place[:, None])[:, 0]) / (2.0 * self.radius_km) + 0.5
            weight = self.mass * inside.clamp_(0.0, 1.0)
            mean = (weight[:, None] @ self.vectors)[:, 0]
            place = torch.where(
                weight.any(1, keepdim=True), nn.functional.normalize(mean, dim=1), place
            )
        return place

    def most_thresholds(
        self, points: Tensor, weights: Sequence[float] = THRESHOLD_WEIGHTS
    ) -> Tensor:
        """Finds which of the points ``(N, P, 3)`` meets most of the thresholds, ``(N,)``.

        Args:
            points: Unit vectors of the candidates; the first one wins among equals.
            weights: What it is worth that the truth lies within each of `THRESHOLDS_KM`.
        """
        km = self.km_from(points)
        expected = [
            weight * self._within(km, _chord_km(threshold))
            for weight, threshold in zip(weights, THRESHOLDS_KM, strict=True)
        ]
        return torch.stack(expected).sum(0).argmax(1)

    def columns(
        self,
        answer: Tensor,
        others: Tensor,
        land: LandShare,
        radius_km: float,
        modes: int,
        at_answer: Tensor | None = None,
    ) -> GeotagColumns:
        """Makes the columns of answers.

        Args:
            answer: Unit vectors of the answers, ``(N, 3)``.
            others: Unit vectors of other places that may be reported, ``(N, M, 3)``.
            land: Share of land at any place.
            radius_km: Radius ρ within which the probability of a place is counted.
            modes: How many places are reported at most, the answer included.
            at_answer: Log density at the answers in nats, ``(N,)``, for nodes that are farther
                apart than the smallest threshold: within it the density is that of its centre.
        """
        km = self.km_from(answer[:, None])
        chords = km.new_tensor([_chord_km(threshold) for threshold in THRESHOLDS_KM])
        probability = self._within(km, chords[:, None])
        if at_answer is not None:
            share = math.sin(THRESHOLDS_KM[0] / EARTH_RADIUS_KM / 2.0) ** 2
            probability[:, 0] = at_answer.exp() * share
        probability = probability.clamp(0.0, 1.0).cummax(1).values
        places = torch.cat([answer[:, None], others], 1)
        within = self.within(places, radius_km).clamp(0.0, 1.0)
        on_land = self.mass * land(self.vectors)
        radius_50, radius_90 = self.quantiles_km(km[:, 0], (0.5, 0.9)).T
        latitude, longitude = latitude_longitude(answer.double().cpu().numpy())
        information = torch.linalg.vecdot(self.mass, self.log_density).clamp(min=0.0)
        numbers = [probability, information, on_land.sum(1).clamp(0.0, 1.0)]
        shares, nats, land_share = (values.float().cpu().numpy() for values in numbers)
        found, mass = (values.double().cpu().numpy() for values in (places, within))
        others_too = distinct_modes(found, mass, radius_km, modes)
        return GeotagColumns(
            latitude, longitude, radius_50, radius_90, shares, nats, land_share, others_too
        )

    def quantiles_km(self, km: Tensor, levels: Sequence[float]) -> NDArray[np.float64]:
        """Finds the distances ``(N, levels)`` within which shares of the mass lie.

        Args:
            km: Chords of the nodes from a point of each photo in km, ``(N, n)``.
            levels: Shares of the mass.
        """
        nearer, order = km.sort(1)
        mass = self.mass.gather(1, order)
        below = mass.cumsum(1) / mass.sum(1, keepdim=True)
        wanted = below.new_tensor(list(levels)).expand(len(km), -1).contiguous()
        index = torch.searchsorted(below, wanted).clamp(max=km.shape[1] - 1)
        chord = self._refined(km[:, None], nearer.gather(1, index), wanted)
        share = chord.double() / (2.0 * EARTH_RADIUS_KM)
        found: NDArray[np.float64] = (2.0 * EARTH_RADIUS_KM) * share.clamp(
            max=1.0
        ).asin().cpu().numpy()
        return found

    def _refined(self, km: Tensor, chord: Tensor, levels: Tensor) -> Tensor:
        """Refines quantiles ``(N, P)``: the discs of nodes may lie within them in part."""
        wanted, chord = levels * self.mass.sum(1, keepdim=True), chord.clamp(min=1.0)
        best, least = chord, torch.full_like(chord, math.inf)
        for _ in range(REFINED + 1):
            both = torch.cat([chord, STRIP * chord], 1)
            held, more = self._within(km, both[..., None]).chunk(2, 1)
            # Where there is no mass at this distance a step may lead anywhere.
            nearer = (wanted - held).abs() < least
            best, least = torch.where(nearer, chord, best), (wanted - held).abs().minimum(least)
            step = (wanted - held) * ((STRIP - 1.0) * chord) / (more - held).clamp(min=1e-6)
            chord = chord + torch.minimum(torch.maximum(step, -chord / 2.0), chord / 2.0)
        return best


def _chord_km(arc_km: float) -> float:
    """Computes the chord in km of a distance along the sphere."""
    return 2.0 * EARTH_RADIUS_KM * math.sin(min(math.pi, arc_km / EARTH_RADIUS_KM) / 2.0)

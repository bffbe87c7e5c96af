"""What is around answers: the distribution of the distance, knowledge, land, and the last step.

The rings that give the radii are finer than those on which the score was climbed
(`locdiffusion.decoding.mode_seeking`), above all where coasts run through a density. They say once
more which way is up: the answer goes there, and where that is far for a radius, they are laid anew
around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.cpu import in_cache
from locdiffusion.decoding.coarse_search import Mixtures
from locdiffusion.decoding.distance_profile import (
    CAP_KM,
    COS_CAP,
    ZONES_KM,
    RadialProfile,
    disc_weights,
    far_masses,
    far_spread,
    ring_grids,
)
from locdiffusion.decoding.mode_seeking import Ascent, score_moments
from locdiffusion.decoding.peaks import walked
from locdiffusion.density.base_measure import BaseMeasure, LandShare
from locdiffusion.density.log_partition import FLOOR
from locdiffusion.density.raster import raster_place
from locdiffusion.density.transforms import (
    PoleRotation,
    ProductTransform,
    RingTransform,
    register_table,
)
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from locdiffusion.sphere.grids import LatLonGrid

NEAR_KM = 0.5
"""A step that changes no radius enough to measure it again."""

ROUNDS = 3
"""Steps of more than `NEAR_KM`, at most."""

SPHERES, PHOTOS = 16, 64
"""Whole spheres that are summed together on a CPU, and photos measured."""

DEAD = -25.0
"""Log p below which nodes add nothing that shows, at most e^-25 of the mass together."""

_SUMS = 9
_UPHILL, _KNOWLEDGE, _LAND, _RINGS = slice(0, 5), 5, 6, slice(7, None)


@dataclass(frozen=True)
class Vicinity:
    """What is around N answers.

    Attributes:
        answer: ``(N, 3)`` unit vectors: the places asked for, after the last step uphill.
        mass: ``(N,)`` probability within ρ, as far as the rings reach.
        profile: Of the distance.
        information: ``(N,)`` nats against q = 1 everywhere.
        on_land: ``(N,)`` probability of land.
    """

    answer: Tensor
    mass: Tensor
    profile: RadialProfile
    information: NDArray[np.float32]
    on_land: NDArray[np.float32]


class _Zone(nn.Module):
    """Some of the rings, and what is summed on them."""

    moments: Tensor
    weight: Tensor

    def __init__(
        self, rings: LatLonGrid, edges_km: tuple[float, ...], radius: float, max_degree: int
    ) -> None:
        super().__init__()
        self.rings = RingTransform(rings, max_degree)
        share, rim = disc_weights(radius * EARTH_RADIUS_KM, edges_km)
        moments = score_moments(rings, radius, share * rings.row_weight, rim)
        register_table(self, "moments", moments)
        register_table(self, "weight", rings.weights / (4.0 * math.pi))

    def forward(self, log_p: Tensor, land: Tensor) -> Tensor:
        """Sums of densities and shares of land on the nodes, ``(P, nodes)`` each.

        Returns:
            ``(P, _SUMS + rings)``: `score_moments`, knowledge, land, and the mass of each ring.
        """
        p = log_p.clamp_(min=FLOOR).exp()
        moments = p @ self.moments
        mass = p.mul_(self.weight)
        sums = torch.linalg.vecdot(mass, log_p), torch.linalg.vecdot(mass, land)
        within = mass.view(len(p), -1, self.rings.columns).sum(-1)
        return torch.cat([moments, torch.stack(sums, 1), within], 1)


class VicinityRings(nn.Module):
    """Rings around answers, and the decoder's grid beyond them; no learned parameter."""

    far_spread: Tensor
    land_share: Tensor

    def __init__(
        self,
        radius: float,
        rotation: PoleRotation,
        grid: ProductTransform,
        land_share: NDArray[np.float64],
        base: BaseMeasure | None,
    ) -> None:
        """Builds the tables.

        Args:
            radius: ρ of the score in radians.
            rotation: Of the densities' degree.
            grid: For what lies beyond the rings.
            land_share: Of its nodes.
            base: q₀; None is the uniform measure.
        """
        super().__init__()
        self.radius, self.base, self.rotation, self.grid = radius, base, rotation, grid
        self.land = LandShare()
        self.inner, self.middle, self.outer = (
            _Zone(rings, edges, radius, rotation.max_degree)
            for rings, edges in zip(ring_grids(), ZONES_KM, strict=True)
        )
        self.most_base = 0.0 if base is None else base.bounds()[1]
        register_table(self, "far_spread", far_spread(math.pi / grid.rows))
        register_table(self, "land_share", land_share)

    @property
    def polishes(self) -> bool:
        """Whether answers are moved: not where ρ is wider than the rings."""
        return self.radius * EARTH_RADIUS_KM <= CAP_KM

    def forward(self, mixtures: Mixtures, answer: Tensor) -> Vicinity:
        """Measures the surroundings of answers.

        Args:
            mixtures: Densities of N photos.
            answer: ``(N, 3)`` maxima of their scores, to a few kilometres.
        """
        everyone = torch.arange(len(answer), device=answer.device)
        found = self._measured(mixtures, everyone, answer)
        if self.polishes:
            answer, found = self._polished(mixtures, answer, found)
        mass = Ascent(found[:, _UPHILL]).mass
        knowledge, on_land = found[:, _KNOWLEDGE].clone(), found[:, _LAND].clone()
        within, beyond = found[:, _RINGS], answer.new_zeros(len(answer), len(self.far_spread))
        total = within.sum(1)
        wide = mixtures.wide
        everywhere = in_cache(SPHERES, wide, mixtures.mass, mixtures.log_density)
        for photo, node, log_density in everywhere:
            if not len(photo):
                break
            cosine = answer[photo] @ self.grid.nodes.T
            far = node * torch.lt(cosine, COS_CAP, out=torch.empty_like(cosine))
            knowledge[photo] += torch.linalg.vecdot(far, log_density)
            on_land[photo] += far @ self.land_share
            # p was normalised around its peak; these nodes differ a little: make it sum to 1.
            total[photo] += far.sum(1)
            beyond[photo] = far_masses(far, cosine, self.far_spread)
        information = (knowledge / total - total.log()).clamp(min=0.0)
        return Vicinity(
            answer,
            mass,
            RadialProfile.from_masses(within, beyond),
            information.float().cpu().numpy(),
            (on_land / total).float().cpu().numpy(),
        )

    def _polished(self, mixtures: Mixtures, answer: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        """Answers after steps uphill, and what is around them."""
        near, answer = NEAR_KM / EARTH_RADIUS_KM, answer.clone()
        going = torch.arange(len(answer), device=answer.device)
        for _ in range(ROUNDS):
            going = going[Ascent(found[going, _UPHILL]).step.norm(dim=1) > near]
            if not len(going):
                break
            here = Ascent(found[going, _UPHILL])
            trial = walked(answer[going], here.step)
            there = self._measured(mixtures, going, trial)
            # Two scores so close differ by rounding: the slope tells which place is higher.
            flatter = Ascent(there[:, _UPHILL]).gain < here.gain
            going = going[flatter]
            answer[going], found[going] = trial[flatter], there[flatter]
        step = Ascent(found[:, _UPHILL]).step
        small = step.norm(dim=1, keepdim=True) <= near
        return torch.where(small, walked(answer, step), answer), found

    def _measured(self, mixtures: Mixtures, photo: Tensor, centre: Tensor) -> Tensor:
        """Rings of photos, by index ``(P,)``, around points ``(P, 3)``.

        Returns:
            ``(P, columns)``: an `Ascent`, knowledge, probability of land, mass of each ring.
        """
        parts = in_cache(PHOTOS, photo, centre)
        return torch.cat([self._around(mixtures, *part) for part in parts])

    def _around(self, mixtures: Mixtures, photo: Tensor, centre: Tensor) -> Tensor:
        zones = self.inner, self.middle, self.outer
        fields = mixtures.around(self.rotation, photo, centre, *(zone.rings for zone in zones))
        sums, within = centre.new_zeros(len(photo), _SUMS), []
        for zone, log_p in zip(zones, fields, strict=True):
            found = centre.new_zeros(len(photo), _SUMS + zone.rings.rows)
            alive = torch.nonzero(log_p.amax(1) > DEAD - self.most_base)[:, 0]
            if len(alive):
                place = raster_place(zone.rings.around(centre[alive]), *self.land.share.shape)
                log_p = log_p[alive]
                if self.base is not None:
                    log_p += self._log_base(self.base, *place)
                found[alive] = zone(log_p, self.land.at(*place))
            sums += found[:, :_SUMS]
            within.append(found[:, _SUMS:])
        uphill = Ascent.of_moments(sums[:, :-2], self.radius).values
        return torch.cat([uphill, sums[:, -2:], *within], 1)

    def _log_base(self, base: BaseMeasure, row: Tensor, column: Tensor) -> Tensor:
        """Log q₀ at places on the raster of land."""
        shapes = zip(base.log_weight.shape, self.land.share.shape, strict=True)
        rows, columns = (ours / lands for ours, lands in shapes)
        return base.at(row * rows, column * columns)

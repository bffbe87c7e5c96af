"""Rings around answers: distribution of the distance, information, land, and a last step uphill.

The rings that give the radii are finer than those on which the score was climbed
(`locdiffusion.decoding.mode_seeking`), above all where coasts run through a density. Their sums
give the slope of the score once more: the answer takes a last step uphill, and where that step is
long for a radius, the rings are laid anew around the new answer.
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
    DistanceProfile,
    disc_weights,
    far_masses,
    ring_grids,
)
from locdiffusion.decoding.mode_seeking import NewtonStep, score_moments
from locdiffusion.decoding.peaks import walked
from locdiffusion.decoding.tables import SPHERES_AT_ONCE, DecoderTables
from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.density.log_partition import FLOOR
from locdiffusion.density.raster import raster_place
from locdiffusion.density.transforms import register_table
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from locdiffusion.sphere.grids import LatLonGrid

SHORT_STEP_KM = 0.5
"""A step that changes no radius enough to measure it again."""

LONG_STEPS = 3
"""How many steps longer than `SHORT_STEP_KM` an answer takes at most."""

PHOTOS_AT_ONCE = 64
"""How many photos a CPU measures together."""

NEGLIGIBLE_LOG_P = -25.0
"""Rings on which log p stays below this are left out: together they hold e^-25 of the mass."""

_SUMS = 9
_STEP, _INFORMATION, _LAND, _RINGS = slice(0, 5), 5, 6, slice(7, None)


@dataclass(frozen=True)
class Surroundings:
    """What the rings around N answers say.

    Attributes:
        answer: Unit vectors of the answers after the last step uphill, ``(N, 3)``.
        mass: Probability within ρ as far as the rings reach, ``(N,)``.
        profile: Distribution of the distance from the answers.
        information: Information against the uniform sphere in nats, ``(N,)``.
        on_land: Probability of land, ``(N,)``.
    """

    answer: Tensor
    mass: Tensor
    profile: DistanceProfile
    information: NDArray[np.float32]
    on_land: NDArray[np.float32]


class _ZoneSums(nn.Module):
    """Sums over the rings of one zone."""

    moments: Tensor
    weight: Tensor

    def __init__(self, grid: LatLonGrid, edges_km: tuple[float, ...], radius: float) -> None:
        super().__init__()
        share, rim = disc_weights(radius * EARTH_RADIUS_KM, edges_km)
        self.rows = len(grid.cos_theta)
        register_table(self, "moments", score_moments(grid, radius, share * grid.row_weight, rim))
        register_table(self, "weight", grid.weights / (4.0 * math.pi))

    def forward(self, log_p: Tensor, land: Tensor) -> Tensor:
        """Sums `score_moments`, information, land and the mass of each ring; overwrites log p."""
        p = log_p.clamp_(min=FLOOR).exp()
        moments = p @ self.moments
        # ∫ p log p and ∫ p land over the zone, and ∫ p over each of its rings
        mass = p.mul_(self.weight)
        sums = torch.linalg.vecdot(mass, log_p), torch.linalg.vecdot(mass, land)
        within = mass.view(len(p), self.rows, -1).sum(-1)
        return torch.cat([moments, torch.stack(sums, 1), within], 1)


class AnswerRings(nn.Module):
    """Measures the surroundings of answers on rings and, beyond these, on the fine grid."""

    def __init__(self, tables: DecoderTables, radius: float) -> None:
        """Adds what depends on the radius ρ of the score, in radians, to tables."""
        super().__init__()
        self.tables, self.radius = tables, radius
        self.inner, self.middle, self.outer = (
            _ZoneSums(grid, edges, radius)
            for grid, edges in zip(ring_grids(), ZONES_KM, strict=True)
        )

    @property
    def polishes(self) -> bool:
        """Whether answers take a last step: not where ρ is wider than the rings."""
        return self.radius * EARTH_RADIUS_KM <= CAP_KM

    def forward(self, mixtures: Mixtures, answer: Tensor) -> Surroundings:
        """Measures the surroundings of answers.

        Args:
            mixtures: Densities of N photos.
            answer: Unit vectors ``(N, 3)`` within a few kilometres of maxima of the score.
        """
        everyone = torch.arange(len(answer), device=answer.device)
        found = self._measured(mixtures, everyone, answer)
        if self.polishes:
            answer, found = self._polished(mixtures, answer, found)
        mass = NewtonStep(found[:, _STEP]).mass
        information, on_land = found[:, _INFORMATION].clone(), found[:, _LAND].clone()
        within, tables = found[:, _RINGS], self.tables
        beyond = answer.new_zeros(len(answer), len(tables.far_spread))
        total = within.sum(1)
        everywhere = in_cache(SPHERES_AT_ONCE, mixtures.wide, mixtures.mass, mixtures.log_density)
        for photo, node, log_density in everywhere:
            if not len(photo):
                break
            # mass of the nodes beyond the rings: cos γ < cos cap
            cosine = answer[photo] @ tables.grid.nodes.T
            far = node * torch.lt(cosine, COS_CAP, out=torch.empty_like(cosine))
            information[photo] += torch.linalg.vecdot(far, log_density)
            on_land[photo] += far @ tables.land_share
            # p was normalised around its peak; these nodes differ a little: make it sum to 1.
            total[photo] += far.sum(1)
            beyond[photo] = far_masses(far, cosine, tables.far_spread)
        # ∫ p log p for p / total
        information = (information / total - total.log()).clamp(min=0.0)
        return Surroundings(
            answer,
            mass,
            DistanceProfile.from_masses(within, beyond),
            information.float().cpu().numpy(),
            (on_land / total).float().cpu().numpy(),
        )

    def _polished(self, mixtures: Mixtures, answer: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        """Returns answers after their last steps uphill, and the sums around them."""
        short, answer = SHORT_STEP_KM / EARTH_RADIUS_KM, answer.clone()
        going = torch.arange(len(answer), device=answer.device)
        for _ in range(LONG_STEPS):
            going = going[NewtonStep(found[going, _STEP]).step.norm(dim=1) > short]
            if not len(going):
                break
            here = NewtonStep(found[going, _STEP])
            trial = walked(answer[going], here.step)
            there = self._measured(mixtures, going, trial)
            # Two scores so close differ by rounding: the slope tells which place is higher.
            flatter = NewtonStep(there[:, _STEP]).gain < here.gain
            going = going[flatter]
            answer[going], found[going] = trial[flatter], there[flatter]
        step = NewtonStep(found[:, _STEP]).step
        last = step.norm(dim=1, keepdim=True) <= short
        return torch.where(last, walked(answer, step), answer), found

    def _measured(self, mixtures: Mixtures, photo: Tensor, centre: Tensor) -> Tensor:
        """Sums over the rings around points ``(P, 3)`` of photos, by index ``(P,)``.

        The columns are those of a `NewtonStep`, information, land and the mass of each ring.
        """
        parts = in_cache(PHOTOS_AT_ONCE, photo, centre)
        return torch.cat([self._around(mixtures, *part) for part in parts])

    def _around(self, mixtures: Mixtures, photo: Tensor, centre: Tensor) -> Tensor:
        tables = self.tables
        zones = tables.inner, tables.middle, tables.outer
        fields = mixtures.around(tables.rotation, photo, centre, *zones)
        sums, within = centre.new_zeros(len(photo), _SUMS), []
        lowest = NEGLIGIBLE_LOG_P - tables.search.highest_log_q0
        both = zip(zones, (self.inner, self.middle, self.outer), strict=True)
        for (rings, summed), log_p in zip(both, fields, strict=True):
            found = centre.new_zeros(len(photo), _SUMS + rings.rows)
            kept = torch.nonzero(log_p.amax(1) > lowest)[:, 0]
            if len(kept):
                place = raster_place(rings.around(centre[kept]), *tables.land.share.shape)
                log_p = log_p[kept]
                if tables.base_measure is not None:
                    log_p += self._log_q0(tables.base_measure, *place)
                found[kept] = summed(log_p, tables.land.at(*place))
            sums += found[:, :_SUMS]
            within.append(found[:, _SUMS:])
        step = NewtonStep.of_moments(sums[:, :-2], self.radius).values
        return torch.cat([step, sums[:, -2:], *within], 1)

    def _log_q0(self, base_measure: BaseMeasure, row: Tensor, column: Tensor) -> Tensor:
        """Looks log q₀ up at places on the raster of land."""
        shapes = zip(base_measure.log_weight.shape, self.tables.land.share.shape, strict=True)
        rows, columns = (ours / lands for ours, lands in shapes)
        return base_measure.at(row * rows, column * columns)

"""From fused densities to answers, radii and probabilities.

Two rules choose the point. `Rule.BALL` is that of the product: most mass within ρ, nearer mass
counting more, found by mean shift (the kernel is Epanechnikov's, so each step goes to the mean of
the mass within ρ). `Rule.THRESHOLDS` takes the place with the largest expected number of reported
thresholds met, among nodes and the answer of the first rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from experiments.appearance_map.fused_density import PHOTOS_AT_ONCE, FusedDensity, Nodes
from experiments.appearance_map.photos import LocatedPhotos
from locdiffusion.decoding.answers import Predictions
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2, log_sum_exp
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, latitude_longitude
from schemas.geotags import THRESHOLDS_KM

SHIFTS, CANDIDATES = 3, 24
SOFTNESS = 0.15
"""Width of the edge of a threshold, as a share of it: masses sit on nodes and not between them."""

NEGLIGIBLE = 1e-3
"""Mass beyond the rings that shows in no 90 % radius to 1 km."""


class Rule(str, Enum):
    """How the point is chosen."""

    BALL = "ball"
    THRESHOLDS = "thresholds"


@dataclass(frozen=True)
class Masses:
    """Probabilities of nodes of N photos.

    Attributes:
        vectors: Unit vectors of the nodes, ``(N, n, 3)``.
        mass: Probabilities of the nodes, ``(N, n)``.
        density: Densities of the nodes against the uniform sphere, ``(N, n)``.
        beyond: Probability of the nodes of the thin grid together, ``(N,)``.
        log_beyond: Logarithm of the mass of each node of the thin grid, ``(N, nodes)``.
        log_z: Log Z, ``(N,)``.
        nodes: What the masses were computed from.
    """

    vectors: Tensor
    mass: Tensor
    density: Tensor
    beyond: Tensor
    log_beyond: Tensor
    log_z: Tensor
    nodes: Nodes


@torch.no_grad()
def masses(fused: FusedDensity, photos: LocatedPhotos) -> Masses:
    """Normalises the fused densities of a batch."""
    nodes, likelihood = fused.nodes_of(photos), fused.likelihood
    wide, near = (
        likelihood.log_density(places, nodes.photos, nodes.a, nodes.b)
        for places in (nodes.wide, nodes.near)
    )
    areas = fused.log_areas(nodes.wide, nodes.near, nodes.peak)
    inside = torch.cat([wide[1] + areas[0], near[1] + areas[1]], 1)
    field, log_mass = fused.beyond(photos.natural, photos.answer)
    log_beyond = field.mul_(nodes.a[:, None]).add_(log_mass)
    log_z = torch.logaddexp(log_sum_exp(inside), log_sum_exp(log_beyond))
    log_beyond -= log_z[:, None]
    return Masses(
        torch.cat([nodes.wide.vectors, nodes.near.vectors], 1),
        (inside - log_z[:, None]).exp(),
        (torch.cat([wide[0], near[0]], 1) - log_z[:, None]).exp(),
        log_sum_exp(log_beyond).exp(),
        log_beyond,
        log_z,
        nodes,
    )


def decode(
    fused: FusedDensity, photos: LocatedPhotos, radius_km: float, rules: Sequence[Rule]
) -> dict[Rule, Predictions]:
    """Answers photos.

    Args:
        fused: Fitted fused density.
        photos: Photos with known position.
        radius_km: Radius ρ of `Rule.BALL`.
        rules: Rules of which each gives answers.
    """
    parts: dict[Rule, list[dict[str, np.ndarray]]] = {rule: [] for rule in rules}
    for start in range(0, len(photos), PHOTOS_AT_ONCE):
        some = photos.take(slice(start, start + PHOTOS_AT_ONCE))
        for rule, columns in answered(fused, some, radius_km, rules).items():
            parts[rule].append(columns)
    return {
        rule: Predictions(
            **{name: np.concatenate([part[name] for part in found]) for name in found[0]}
        )
        for rule, found in parts.items()
    }


@torch.no_grad()
def answered(
    fused: FusedDensity, photos: LocatedPhotos, radius_km: float, rules: Sequence[Rule]
) -> dict[Rule, dict[str, np.ndarray]]:
    """Answers a batch: the columns of `Predictions` for each rule."""
    found = masses(fused, photos)
    residuals = fused.map.residuals(photos.appearance)
    truth = fused.points(photos.natural, residuals, photos.truth, photos.answer)
    nodes = found.nodes
    values, _ = fused.likelihood.log_density(truth, nodes.photos, nodes.a, nodes.b)
    log_p = values[:, 0] - found.log_z
    ball = _ball(found, radius_km)
    columns = {}
    for rule in rules:
        point = ball if rule is Rule.BALL else _most_thresholds(found, ball)
        latitude, longitude = latitude_longitude(point.double().numpy())
        radii, probability = _distances(fused, found, point)
        columns[rule] = {
            "latitude": latitude,
            "longitude": longitude,
            "radius_50_km": radii[:, 0],
            "radius_90_km": radii[:, 1],
            "probability": probability,
            "log_density_km2": log_p.double().numpy() - LOG_SPHERE_AREA_KM2,
        }
    return columns


def _ball(found: Masses, radius_km: float) -> Tensor:
    """Finds the points ``(N, 3)`` with most mass within a radius, by mean shift."""
    place = found.nodes.peak
    rim = np.cos(radius_km / EARTH_RADIUS_KM)
    for _ in range(SHIFTS):
        inside = (found.vectors @ place[:, :, None])[..., 0] > rim
        mean = ((found.mass * inside)[:, None] @ found.vectors)[:, 0]
        place = torch.nn.functional.normalize(mean, dim=1)
    return place


def _most_thresholds(found: Masses, ball: Tensor) -> Tensor:
    """Finds the points ``(N, 3)`` with the largest expected number of thresholds met."""
    # The densest nodes, thinned: neighbours on a ring are nearly the same place.
    top = found.density.topk(4 * CANDIDATES, 1).indices[:, ::4]
    points = found.vectors.gather(1, top[..., None].expand(-1, -1, 3))
    density = torch.cat([found.density.gather(1, top), torch.zeros(len(ball), 1)], 1)
    points = torch.cat([points, ball[:, None]], 1)
    cosine = points @ found.vectors.transpose(1, 2)
    km = EARTH_RADIUS_KM * (2.0 - 2.0 * cosine).clamp(min=0.0).sqrt()
    # A disc of the smallest threshold lies between nodes: its area times the density.
    score = density * (np.pi * THRESHOLDS_KM[0] ** 2 / np.exp(LOG_SPHERE_AREA_KM2))
    for threshold in THRESHOLDS_KM[1:]:
        met = torch.sigmoid((threshold - km) / (SOFTNESS * threshold))
        score = score + torch.linalg.vecdot(met, found.mass[:, None])
    best = score.argmax(1)
    return points[torch.arange(len(best)), best]


def _distances(fused: FusedDensity, found: Masses, point: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Computes 50 % and 90 % radii ``(N, 2)`` and probabilities within the thresholds."""
    km, mass = km_between(found.vectors, point[:, None]), found.mass
    radii = np.zeros((len(point), 2))
    probability = torch.stack([(mass * (km <= t)).sum(1) for t in THRESHOLDS_KM], 1)
    far = found.beyond > NEGLIGIBLE
    near = torch.nonzero(~far)[:, 0]
    radii[near.numpy()] = _quantiles(km[near], mass[near])
    far = torch.nonzero(far)[:, 0]
    if len(far):
        thin = fused.tables.search.thin.nodes
        beyond_km = km_between(thin[None], point[far, None])
        beyond = found.log_beyond[far].exp()
        more = torch.stack([(beyond * (beyond_km <= t)).sum(1) for t in THRESHOLDS_KM], 1)
        probability[far] += more
        both = torch.cat([km[far], beyond_km], 1), torch.cat([mass[far], beyond], 1)
        radii[far.numpy()] = _quantiles(*both)
    return radii, probability.clamp(max=1.0).numpy()


def _quantiles(km: Tensor, mass: Tensor) -> np.ndarray:
    """Finds the distances ``(N, 2)`` within which 50 % and 90 % of masses ``(N, n)`` lie."""
    km, order = km.sort(1)
    mass = mass.gather(1, order).double()
    below = mass.cumsum(1) - mass / 2.0
    below = below / mass.sum(1, keepdim=True)
    levels = below.new_tensor([0.5, 0.9]).expand(len(km), 2).contiguous()
    index = torch.searchsorted(below, levels).clamp(1, km.shape[1] - 1)
    low, high = below.gather(1, index - 1), below.gather(1, index)
    share = ((levels - low) / (high - low).clamp(min=1e-12)).clamp(0.0, 1.0)
    near, far = km.gather(1, index - 1), km.gather(1, index)
    found: np.ndarray = (near + share * (far - near)).numpy()
    return found


def km_between(vectors: Tensor, others: Tensor) -> Tensor:
    """Computes distances in km of unit vectors ``(..., 3)``, accurate for short ones."""
    half = (vectors - others).norm(dim=-1) / 2.0
    return 2.0 * EARTH_RADIUS_KM * torch.asin(half.clamp(max=1.0))

r"""Mixes what a photo shows with a hint that may be wrong.

Somebody says that a photo was taken in an area, as a catalogue does, and is right with probability
1 - ε. Knowing nothing of the picture, the photo was then taken at y with the density q₀(y) h(y),

    h(y) = ε + (1 - ε) w(y) / ∫ q₀ w

where w says how much y counts in the area (`locdiffusion.decoding.hint_area`), and with the picture
p'(y) ∝ p(y) h(y). A picture that finds the area a thousand times less likely than q₀ does outweighs
the hint; what it finds by itself, ∫ p over the area, is the `prior_mass`.

p is known at points around its own answer, which may be far from the area or coarser than it, so
there are points laid over the area too; of both those are taken that are finer where p lies.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.decoding.answers import GeotagColumns, PhotoPoints
from locdiffusion.decoding.area_masses import Partitions
from locdiffusion.decoding.decoder import DecodeConfig
from locdiffusion.decoding.hint_area import HintArea
from locdiffusion.decoding.node_masses import NodeMasses
from locdiffusion.decoding.tables import DecoderTables
from locdiffusion.density.base_measure import LandShare
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from schemas.geotags import HINTS_RIGHT

Float = NDArray[np.float64]

DENSEST, SPREAD = 6, 42
"""Densest points, and points at even steps of the mass, among which the answer is chosen."""

LEFT_OUT = 1e-4
"""Mass of the lightest points together, which are left out of answers."""

_NOTHING = 1e-30


@dataclass(frozen=True)
class Hint:
    """Where somebody says that a photo was taken.

    Attributes:
        area: The area.
        right: Probability that this is right, above 0 and below 1.
    """

    area: HintArea
    right: float = HINTS_RIGHT

    @classmethod
    def told(cls, told: tuple[str, float] | None) -> Hint | None:
        """Reads an area, as of `HintArea.parse`, and a probability; None stays None.

        Raises:
            AreaError: The area is none.
            ValueError: The probability is not above 0 and below 1.
        """
        return None if told is None else cls(HintArea.parse(told[0]), told[1])

    def __post_init__(self) -> None:
        """Checks the probability."""
        if not 0.0 < self.right < 1.0:
            raise ValueError(
                f"a hint is right with probability {self.right!r}, wanted above 0 and below 1; "
                "what is certain is a prior"
            )


def nodes_of(photo: PhotoPoints) -> NodeMasses:
    """Makes points nodes of one photo, whose masses sum to 1."""
    rising = np.sort(photo.mass)
    least = rising[np.searchsorted(np.cumsum(rising), LEFT_OUT * rising.sum())]
    photo = PhotoPoints(*(column[photo.mass >= least] for column in photo))
    mass = photo.mass / photo.mass.sum()
    log_density = np.log(np.maximum(mass, _NOTHING) / photo.share)
    radius_km = 2.0 * EARTH_RADIUS_KM * np.sqrt(photo.share)
    parts = (photo.vectors, mass, log_density, radius_km)
    return NodeMasses(*(torch.from_numpy(np.asarray(part, np.float64))[None] for part in parts))


@dataclass(frozen=True)
class HintedPhoto:
    """What picture and hint say together.

    Attributes:
        points: The density.
        prior_mass: Mass that the picture alone gives to the area of the hint.
    """

    points: PhotoPoints
    prior_mass: float


def hinted(
    photo: PhotoPoints,
    hint: Hint,
    log_density: Callable[[Float], Float],
    log_q0: Callable[[Float], Float],
) -> HintedPhoto:
    """Mixes the density of a photo with its hint.

    Args:
        photo: The density that the picture alone gives.
        hint: What is said of the place.
        log_density: Function from unit vectors ``(n, 3)`` to its logarithm, in nats against the
            uniform sphere.
        log_q0: The same for the base measure.
    """
    laid, area = hint.area.laid, hint.area
    weight = area.weight(laid.vectors)
    expected = float((np.exp(log_q0(laid.vectors)) * weight * laid.share).sum())
    mass = photo.mass / photo.mass.sum()
    around = area.weight(photo.vectors)
    inside = around > 0.0
    found = float(mass[inside].sum())
    # Mean radius of what a point stands for, where the mass is
    coarse = (np.sqrt(photo.share) * mass)[inside].sum() / max(found, _NOTHING)
    if found < _NOTHING or coarse > math.sqrt(laid.share.mean()):
        there = np.exp(log_density(laid.vectors)) * laid.share * (weight > 0.0)
        found, mass = float(there.sum()), np.where(inside, 0.0, mass)
        both = (photo.vectors, laid.vectors), (mass, there), (photo.share, laid.share)
        photo = PhotoPoints(*map(np.concatenate, both))
        mass, around = photo.mass, np.concatenate([around, weight])
    h = 1.0 - hint.right + hint.right * around / max(expected, _NOTHING)
    return HintedPhoto(PhotoPoints(photo.vectors, mass * h, photo.share), min(1.0, found))


def with_hints(
    columns: GeotagColumns,
    hints: Sequence[Hint | None],
    areas: Partitions | None,
    log_density: Callable[[int, Float], Float],
    tables: DecoderTables,
    config: DecodeConfig,
) -> GeotagColumns:
    """Mixes the answers of N photos with the hints that some have; the others stay as they are.

    Args:
        columns: What the pictures alone say, with `with_points(areas)`.
        hints: Hints of the photos, None for those without.
        areas: Areas whose masses are wanted; None wants none.
        log_density: Function from the number of a photo and unit vectors ``(n, 3)`` to the
            logarithm of its density, in nats against the uniform sphere.
        tables: Tables of the densities.
        config: How densities become answers.
    """
    assert columns.areas is not None and columns.areas.points is not None
    points = columns.areas.points

    def log_q0(vectors: Float) -> Float:
        found: Float = tables.log_q0_at(torch.from_numpy(vectors).to(tables.area)).cpu().numpy()
        return found.astype(np.float64)

    columns = replace(
        columns,
        areas=None if areas is None else replace(columns.areas, points=None),
        prior_mass=[None] * len(hints),
    )
    rows = []
    for row, hint in enumerate(hints):
        one = columns.take(slice(row, row + 1))
        if hint is not None:
            both = hinted(points[row], hint, functools.partial(log_density, row), log_q0)
            one = replace(
                answered(both.points, tables.land, config),
                familiarity=one.familiarity,
                areas=None if areas is None else areas.of([both.points]),
                prior_mass=[both.prior_mass],
            )
        rows.append(one)
    return GeotagColumns.joined(rows)


def answered(photo: PhotoPoints, land: LandShare, config: DecodeConfig) -> GeotagColumns:
    """Answers one photo whose density is known at points."""
    nodes = nodes_of(photo)
    places = candidates(nodes)
    best = int(nodes.most_thresholds(places)[0])
    others = places[:, DENSEST:]
    return nodes.columns(places[:, best], others, land, config.radius_km, config.modes)


def candidates(nodes: NodeMasses) -> Tensor:
    """Takes the densest points of one photo and those at even steps of the mass, ``(1, C, 3)``."""
    mass = nodes.mass[0]
    dense = nodes.log_density[0].topk(min(DENSEST, len(mass))).indices
    # Neighbours stand together, so that modes of little height and much mass are among them
    even = (torch.arange(SPREAD, dtype=mass.dtype) + 0.5) / SPREAD
    spread = torch.searchsorted(mass.cumsum(0), even * mass.sum()).clamp(max=len(mass) - 1)
    return nodes.vectors[:, torch.cat([dense, spread])]

r"""Fits the likelihood of an appearance map, and the radii that follow, on validation photos.

1. Constants and gates maximise the likelihood of the true points (L-BFGS). Fields are evaluated
   once, on the nodes of `locdiffusion.decoding.fused_density`. The near rings lie where the density
   was highest before, so nodes and fit take turns.
2. A maximum of the likelihood does not fix how many truths the radii hold. log a and log b are
   therefore both shifted by d₀ + d₁·x, with x the standardised 50 % radius of the network's
   density, which tells known ground from unknown. Shifts above 0 make radii smaller.

Densities that miss mass between their nodes would have too large a likelihood, which a fit learns
to exploit: `experiments.appearance_map.log_z` compares log Z with a dense grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.appearance.likelihood import (
    FARTHEST,
    FEATURES,
    LOG_A,
    AppearanceLikelihood,
    PhotoTerms,
    Places,
)
from locdiffusion.calibrate.coverage import LEVELS, CoverageTable
from locdiffusion.decoding.fused_decoder import PHOTOS_AT_ONCE, FusedDecoder
from locdiffusion.density.log_partition import log_sum_exp
from locdiffusion.sphere.geodesy import great_circle_km, latitude_longitude

ROUNDS, STEPS = 2, 30
"""How often the near rings are laid anew, and how many steps of L-BFGS follow each time."""

PENALTY = 1e-3
"""Weight of the squared weights of the gates."""

MOST_PHOTOS = 1000
"""Photos of a part that are used, evenly spaced."""

SHIFT_KNOTS = np.linspace(-0.9, 0.6, 6)
"""Shifts at which photos are decoded."""

_CHUNK = 256  # photos whose gradient is computed at a time, which bounds the memory
_LOG_A_KNOTS = torch.linspace(*LOG_A, 12)
_SHIFTS, _SLOPES = np.linspace(-0.6, 0.4, 41), np.linspace(-0.3, 0.3, 25)
_RADIUS = FEATURES.index("log_radius_50")
_NOTHING = -1e4


@dataclass(frozen=True)
class FusedPart:
    """Photos of known position of one part of the validation data.

    Attributes:
        natural: Natural parameters at the fitted temperatures, ``(N, d)``.
        appearance: Discriminants, ``(N, C)``.
        trust: Share of the map's say that counts, ``(N,)``.
        truth: Unit vectors of the true positions, ``(N, 3)``.
        weight: Weight of all N photos together.
    """

    natural: Tensor
    appearance: Tensor
    trust: Tensor
    truth: NDArray[np.float64]
    weight: float = 1.0

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.natural)

    def take(self, rows: NDArray[np.int64] | slice) -> FusedPart:
        """Selects photos; the weight of all together stays."""
        natural, appearance, trust = self.natural[rows], self.appearance[rows], self.trust[rows]
        return FusedPart(natural, appearance, trust, self.truth[rows], self.weight)

    def thinned(self, most: int) -> FusedPart:
        """Keeps evenly spaced photos, at most so many."""
        count = min(most, len(self))
        return self.take(np.arange(count) * len(self) // max(1, count))


@dataclass(frozen=True)
class FusedFit:
    """What a fit found.

    Attributes:
        nats: Mean log likelihood of the true points after each round.
        shift: d₀ of the radii.
        slope: d₁ of the radii.
    """

    nats: tuple[float, ...]
    shift: float
    slope: float


def fit(fused: FusedDecoder, parts: Sequence[FusedPart]) -> FusedFit:
    """Fits constants, gates and radii in place.

    Args:
        fused: Decoder with the map.
        parts: Validation photos, those of the training regions first.

    Raises:
        ValueError: The fit diverged, as it may with few photos.
    """
    some = [part.thinned(MOST_PHOTOS) for part in parts]
    nats = fit_likelihood(fused, some)
    return FusedFit(tuple(nats), *fit_radii(fused, some))


@dataclass(frozen=True)
class LikelihoodFields:
    """All that the likelihood of N true points depends on.

    Attributes:
        photos: Inputs of the likelihood besides places.
        nodes: Fields of the wide and the near nodes, ``(N, n)`` each.
        log_area: log(dΩ/4π) of the nodes, with their windows, ``(N, n)``.
        truth: Fields at the true points, ``(N, 1)`` each.
        log_beyond: Log of the second integral of Z at even steps of log a, ``(N, knots)``.
        weight: Weight of each photo, ``(N,)``.
    """

    photos: PhotoTerms
    nodes: Places
    log_area: Tensor
    truth: Places
    log_beyond: Tensor
    weight: Tensor

    def take(self, rows: slice) -> LikelihoodFields:
        """Selects photos."""
        return LikelihoodFields(
            self.photos.take(rows),
            self.nodes.take(rows),
            self.log_area[rows],
            self.truth.take(rows),
            self.log_beyond[rows],
            self.weight[rows],
        )

    @classmethod
    @torch.no_grad()
    def measure(cls, fused: FusedDecoder, part: FusedPart) -> LikelihoodFields:
        """Evaluates all fields; the photos share their weight."""
        starts = range(0, len(part), PHOTOS_AT_ONCE)
        each = part.weight / len(part)
        some = (part.take(slice(start, start + PHOTOS_AT_ONCE)) for start in starts)
        return cls.joined([cls._measured(fused, photos, each) for photos in some])

    @classmethod
    def _measured(cls, fused: FusedDecoder, part: FusedPart, weight: float) -> LikelihoodFields:
        density = fused.density
        checked = fused.checked(part.natural[:, None], part.appearance, part.trust)
        # The exponents change: mass beyond the rings is measured for every photo.
        found, _ = fused.laid(*checked, whole_sphere=True)
        truth = density.points(found, torch.from_numpy(part.truth).to(checked[0])[:, None])
        knots = _LOG_A_KNOTS.exp().tolist()
        beyond = [log_sum_exp(a * found.far_field + found.far_log_area) for a in knots]
        nodes = Places(
            *(
                torch.cat([getattr(one, name) for one in (found.wide, found.near)], 1)
                for name in Places.__dataclass_fields__
            )
        )
        weights = torch.full((len(part),), weight)
        log_area = density.log_areas(found)
        return cls(found.photos, nodes, log_area, truth, torch.stack(beyond, 1), weights)

    @classmethod
    def joined(cls, parts: Sequence[LikelihoodFields]) -> LikelihoodFields:
        """Joins the fields of several photos."""

        def together(name: str, kind: type[Places] | type[PhotoTerms]) -> dict[str, Tensor]:
            some = [getattr(part, name) for part in parts]
            return {
                field: torch.cat([getattr(one, field) for one in some])
                for field in kind.__dataclass_fields__
            }

        return cls(
            PhotoTerms(**together("photos", PhotoTerms)),
            Places(**together("nodes", Places)),
            torch.cat([part.log_area for part in parts]),
            Places(**together("truth", Places)),
            torch.cat([part.log_beyond for part in parts]),
            torch.cat([part.weight for part in parts]),
        )

    def log_probability(self, likelihood: AppearanceLikelihood) -> Tensor:
        """Computes log p' at the true points, ``(N,)`` in nats against the uniform sphere."""
        a, b = likelihood.exponents(self.photos)
        _, on_rings = likelihood.log_density(self.nodes, self.photos, a, b)
        beyond = _interpolated(self.log_beyond, a.log())
        log_z = torch.logaddexp(log_sum_exp(on_rings + self.log_area), beyond)
        return likelihood.log_density(self.truth, self.photos, a, b)[0][:, 0] - log_z


def _interpolated(values: Tensor, log_a: Tensor) -> Tensor:
    """Interpolates ``(N, knots)`` linearly at one log a per photo."""
    step = (_LOG_A_KNOTS[1] - _LOG_A_KNOTS[0]).item()
    place = ((log_a - LOG_A[0]) / step).clamp(0.0, len(_LOG_A_KNOTS) - 1.001)
    piece = place.detach().long()[:, None]
    share = place - piece[:, 0]
    low, high = values.gather(1, piece)[:, 0], values.gather(1, piece + 1)[:, 0]
    return low + share * (high - low)


def fit_likelihood(fused: FusedDecoder, parts: Sequence[FusedPart]) -> list[float]:
    """Fits constants and gates in place; returns the mean log likelihood after each round."""
    likelihood, history = fused.density.likelihood, []
    for turn in range(ROUNDS):
        fields = LikelihoodFields.joined([LikelihoodFields.measure(fused, part) for part in parts])
        if not turn:
            likelihood.standardise(fields.photos)
        history.append(_climb(likelihood, fields))
    return history


def _climb(likelihood: AppearanceLikelihood, fields: LikelihoodFields) -> float:
    parameters = list(likelihood.parameters())
    likelihood.requires_grad_(True)
    total = float(fields.weight.sum())
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=STEPS, line_search_fn="strong_wolfe", history_size=10
    )

    def loss() -> Tensor:
        if not all(parameter.isfinite().all() for parameter in parameters):
            raise ValueError("The fit of the gates diverged; use more photos of each part.")
        optimizer.zero_grad()
        sum_ = torch.zeros(())
        for start in range(0, len(fields.weight), _CHUNK):
            part = fields.take(slice(start, start + _CHUNK))
            nats = -(part.weight @ part.log_probability(likelihood)) / total
            nats.backward()
            sum_ = sum_ + nats.detach()
        penalty = PENALTY * likelihood.gates.weight.square().sum()
        penalty.backward()
        return sum_ + penalty.detach()

    optimizer.step(loss)
    found = -float(loss())
    likelihood.requires_grad_(False)
    return found


def fit_radii(fused: FusedDecoder, parts: Sequence[FusedPart]) -> tuple[float, float]:
    """Fits d₀ and d₁ in place, on photos that fitted the likelihood; returns them."""
    tables = [_coverage_table(fused, part) for part in parts]

    def miss(shift: float, slope: float) -> float:
        return sum(
            table.weight
            * np.square(table.coverage(shift + slope * table.log_temperature) - LEVELS).sum()
            for table in tables
        )

    shift, slope = min(
        ((float(d), float(e)) for d in _SHIFTS for e in _SLOPES), key=lambda pair: miss(*pair)
    )
    gates = fused.density.likelihood.gates
    with torch.no_grad():
        gates.bias.add_(shift)
        gates.weight[:, _RADIUS].add_(slope)
    return shift, slope


def _coverage_table(fused: FusedDecoder, part: FusedPart) -> CoverageTable:
    """Decodes photos at all `SHIFT_KNOTS`; the table's log temperature is x."""
    gates, margins = fused.density.likelihood.gates, []
    before = gates.bias.detach().clone()
    for knot in SHIFT_KNOTS:
        with torch.no_grad():
            gates.bias.copy_(before + float(knot))
        found = fused(part.natural[:, None], part.appearance, part.trust)
        truth = latitude_longitude(part.truth)
        error = great_circle_km(found.latitude, found.longitude, *truth)
        radii = found.radius_50_km, found.radius_90_km
        margins.append([np.log((radius + 1e-6) / (error + 1e-6)) for radius in radii])
    with torch.no_grad():
        gates.bias.copy_(before)
    margin: NDArray[np.float64] = np.moveaxis(np.array(margins), 0, -1)
    return CoverageTable(SHIFT_KNOTS, margin, _standard_radius(fused, part), part.weight)


@torch.no_grad()
def _standard_radius(fused: FusedDecoder, part: FusedPart) -> NDArray[np.float64]:
    """Computes the standardised 50 % radius of the network's density, ``(N,)``."""
    likelihood, found = fused.density.likelihood, []
    for start in range(0, len(part), PHOTOS_AT_ONCE):
        some = part.take(slice(start, start + PHOTOS_AT_ONCE))
        nodes, _ = fused.laid(*fused.checked(some.natural[:, None], some.appearance, some.trust))
        found.append(nodes.photos.features)
    standard = (torch.cat(found) - likelihood.feature_mean) / likelihood.feature_spread
    numbers: NDArray[np.float64] = standard[:, _RADIUS].clamp(-FARTHEST, FARTHEST).double().numpy()
    return numbers

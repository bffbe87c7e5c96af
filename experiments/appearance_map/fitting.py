"""Fits the constants and gates of the fused density by likelihood on validation photos.

Fields are evaluated once, on the nodes of `FusedDensity`. The near rings lie where the density
was highest before the fit, so nodes and fit take turns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.appearance_map.fused_density import PHOTOS_AT_ONCE, FusedDensity, Places
from experiments.appearance_map.photos import LocatedPhotos
from locdiffusion.appearance.likelihood import LOG_A, AppearanceLikelihood, PhotoTerms
from locdiffusion.density.log_partition import log_sum_exp

ROUNDS, STEPS = 2, 30
"""How often the near rings are laid anew, and how many steps of L-BFGS follow each time."""

PENALTY = 1e-3
"""Weight of the squared weights of the gates."""

CHUNK = 256
"""Photos whose gradient is computed at a time, which bounds the memory."""

_KNOTS = torch.linspace(*LOG_A, 12)


@dataclass(frozen=True)
class FitTable:
    """All that the likelihood of N photos depends on.

    Attributes:
        photos: Inputs of the gates.
        nodes: Fields of the wide and the near nodes, ``(N, n)`` each.
        log_area: log(dΩ/4π) of the nodes, with their windows, ``(N, n)``.
        truth: Fields at the true points, ``(N, 1)`` each.
        log_beyond: Log of the second integral of Z at `_KNOTS` of log a, ``(N, knots)``.
        weight: Weight of each photo, ``(N,)``.
    """

    photos: PhotoTerms
    nodes: Places
    log_area: Tensor
    truth: Places
    log_beyond: Tensor
    weight: Tensor

    def take(self, rows: slice) -> FitTable:
        """Selects photos."""
        return FitTable(
            self.photos.take(rows),
            self.nodes.take(rows),
            self.log_area[rows],
            self.truth.take(rows),
            self.log_beyond[rows],
            self.weight[rows],
        )

    @classmethod
    @torch.no_grad()
    def measure(cls, fused: FusedDensity, photos: LocatedPhotos, weight: float) -> FitTable:
        """Evaluates all fields; the photos share a weight."""
        parts = []
        for start in range(0, len(photos), PHOTOS_AT_ONCE):
            some = photos.take(slice(start, start + PHOTOS_AT_ONCE))
            parts.append(cls._measured(fused, some, weight / len(photos)))
        return cls.joined(parts)

    @classmethod
    def _measured(cls, fused: FusedDensity, photos: LocatedPhotos, weight: float) -> FitTable:
        found = fused.nodes_of(photos)
        residuals = fused.map.residuals(photos.appearance)
        truth = fused.points(photos.natural, residuals, photos.truth, photos.answer)
        field, log_mass = fused.beyond(photos.natural, photos.answer)
        beyond = [log_sum_exp(float(t.exp()) * field + log_mass) for t in _KNOTS]
        log_area = fused.log_areas(found.wide, found.near, found.peak)
        columns = {
            name: torch.cat([getattr(one, name) for one in (found.wide, found.near)], 1)
            for name in Places.__dataclass_fields__
            if name != "vectors"
        }
        nothing = torch.empty(len(photos), 0)
        nodes = Places(vectors=nothing, **columns)
        return cls(
            found.photos,
            nodes,
            torch.cat(log_area, 1),
            truth,
            torch.stack(beyond, 1),
            torch.full((len(photos),), weight),
        )

    @classmethod
    def joined(cls, parts: Sequence[FitTable]) -> FitTable:
        """Joins tables."""
        nodes, truth = (
            Places(
                *(
                    torch.cat([getattr(getattr(part, which), name) for part in parts])
                    for name in Places.__dataclass_fields__
                )
            )
            for which in ("nodes", "truth")
        )
        return cls(
            PhotoTerms(
                torch.cat([part.photos.features for part in parts]),
                torch.cat([part.photos.norm for part in parts]),
            ),
            nodes,
            torch.cat([part.log_area for part in parts]),
            truth,
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
    step = (_KNOTS[1] - _KNOTS[0]).item()
    place = ((log_a - LOG_A[0]) / step).clamp(0.0, len(_KNOTS) - 1.001)
    piece = place.detach().long()[:, None]
    share = place - piece[:, 0]
    low, high = values.gather(1, piece)[:, 0], values.gather(1, piece + 1)[:, 0]
    return low + share * (high - low)


def fit(fused: FusedDensity, parts: Sequence[tuple[LocatedPhotos, float]]) -> list[float]:
    """Fits in place.

    Args:
        fused: Fused density with the map.
        parts: Validation photos of each part with its weight.

    Returns:
        Mean log likelihood in nats after each round.
    """
    history = []
    for turn in range(ROUNDS):
        table = FitTable.joined([FitTable.measure(fused, *part) for part in parts])
        if not turn:
            fused.likelihood.standardise(table.photos)
        history.append(_climb(fused.likelihood, table))
    return history


def _climb(likelihood: AppearanceLikelihood, table: FitTable) -> float:
    parameters = list(likelihood.parameters())
    likelihood.requires_grad_(True)
    total = float(table.weight.sum())
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=STEPS, line_search_fn="strong_wolfe", history_size=10
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        sum_ = torch.zeros(())
        for start in range(0, len(table.weight), CHUNK):
            part = table.take(slice(start, start + CHUNK))
            nats = -(part.weight @ part.log_probability(likelihood)) / total
            nats.backward()
            sum_ = sum_ + nats.detach()
        penalty = PENALTY * likelihood.gates.weight.square().sum()
        penalty.backward()
        return sum_ + penalty.detach()

    optimizer.step(loss)
    found = -float(loss())
    likelihood.requires_grad_(False)
    if not math.isfinite(found):
        raise ValueError("The fit of the gates diverged; use more photos of each validation set.")
    return found

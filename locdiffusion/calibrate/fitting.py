"""Fitted on validation photos only: temperatures, the decoding radius ρ, and coverage.

1. The network of `locdiffusion.temperature` minimises the negative log likelihood over all parts of
   the validation data; the first part, of the regions of training, counts `FIRST_COUNTS` times. It
   starts from one temperature for all photos, and how far it may leave that is decided by
   cross-validation over parts of the Earth: where its features tell nothing, it stays.
2. ρ is the one with the best mean accuracy over the thresholds, the parts weighted in the same way,
   on a tie the smallest.
3. All log temperatures are moved and stretched (`locdiffusion.calibrate.coverage`), so that the
   50 % and 90 % radii hold as many truths as they say: on the first part above all, where
   likelihood alone would widen them to insure against the other parts, and on those as nearly as
   that allows.

Never run this on tests.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize_scalar
from torch import Tensor

from locdiffusion.calibrate.coverage import RadiiTable, fit_stretch
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.density.raster import raster_cells
from locdiffusion.evaluate.metrics import coverage, error_summary
from locdiffusion.inference import decode_all, log_probability, natural_parameters
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import great_circle_km
from locdiffusion.temperature import COLDEST, CalibratedDenoiser, TemperatureModel

RADII_KM = (25.0, 50.0, 100.0, 150.0, 200.0, 300.0, 500.0, 750.0)
LOG_TEMPERATURES = np.linspace(np.log(COLDEST), np.log(16.0), 20)
RADII_LOG_TEMPERATURES = np.linspace(np.log(COLDEST), np.log(8.0), 14)
FIRST_COUNTS = 4.0
FIT_STEPS = (0, 25, 50, 100, 200, 400)
"""How long the network of temperatures may learn: one of these, by cross-validation."""

FIT_RATE, FIT_DECAY = 5e-3, 0.05
"""Chosen by cross-validation over the validation cells."""

FOLDS, FOLD_ROWS = 4, 18
"""Parts of the Earth for cross-validation, made of whole cells of 18 rows of equal area."""


@dataclass(frozen=True)
class LikelihoodTable:
    """Negative log likelihood of N photos over the logarithm of the temperature.

    Attributes:
        log_temperature: ``(K,)`` evenly spaced.
        nats: ``(N, K)``.
    """

    log_temperature: Tensor
    nats: Tensor

    @classmethod
    def measure(
        cls, natural: Tensor, vectors: NDArray[np.float64], decoder: Decoder
    ) -> LikelihoodTable:
        """Evaluates the likelihood of the true points at `LOG_TEMPERATURES`, a spline between."""
        rows = [
            -log_probability(decoder, natural / float(np.exp(t)), vectors) for t in LOG_TEMPERATURES
        ]
        fine = np.linspace(LOG_TEMPERATURES[0], LOG_TEMPERATURES[-1], 8 * len(LOG_TEMPERATURES) - 7)
        values = CubicSpline(LOG_TEMPERATURES, np.stack(rows))(fine).T
        return cls(torch.from_numpy(fine).float(), torch.from_numpy(values).float())

    def at(self, log_temperature: Tensor) -> Tensor:
        """``(N,)`` at one temperature per photo; outside the table, those of its ends."""
        low, step = self.log_temperature[0], self.log_temperature[1] - self.log_temperature[0]
        last = len(self.log_temperature) - 1
        place = ((log_temperature - low) / step).clamp(0.0, last - 1e-3)
        piece = place.detach().long()
        row = torch.arange(len(place))
        share = place - piece
        return self.nats[row, piece] * (1.0 - share) + self.nats[row, piece + 1] * share


def fit_temperature(table: LikelihoodTable) -> float:
    """The one τ of least mean negative log likelihood."""
    best = int(table.nats.mean(0).argmin())
    return float(table.log_temperature[best].exp())


def fit_temperatures(
    model: TemperatureModel,
    tables: Sequence[LikelihoodTable],
    features: Sequence[NDArray[np.float64]],
    vectors: Sequence[NDArray[np.float64]],
) -> int:
    """Fits the network of temperatures in place by likelihood.

    Args:
        model: To fit.
        tables: Of each part of the validation data.
        features: ``(N, F)`` of each part.
        vectors: ``(N, 3)`` where the photos of each part were taken.

    Returns:
        The number of steps, one of `FIT_STEPS`; 0 is one temperature for all photos.
    """
    joined_features = np.concatenate(list(features))
    spread = joined_features.std(0)
    model.feature_mean.copy_(torch.from_numpy(joined_features.mean(0)))
    model.feature_spread.copy_(torch.from_numpy(np.where(spread > 1e-6, spread, 1.0)))
    inputs = [torch.from_numpy(part).to(model.feature_mean) for part in features]
    folds = [_folds(part) for part in vectors]
    held_out = torch.zeros(len(FIT_STEPS))
    for fold in range(FOLDS):
        kept = [of_photo != fold for of_photo in folds]
        held_out += _held_out(copy.deepcopy(model), tables, inputs, kept)
    steps = FIT_STEPS[int(held_out.argmin())]
    weights = _weights([torch.ones(len(part), dtype=torch.bool) for part in inputs])
    for _ in _descent(model, tables, inputs, weights, steps):
        pass
    return steps


def _folds(vectors: NDArray[np.float64]) -> Tensor:
    """Which fold each photo is of ``(N,)``: as many photos in each, neighbours in the same."""
    cells = raster_cells(torch.from_numpy(vectors), FOLD_ROWS, 2 * FOLD_ROWS)
    shuffled = np.random.default_rng(0).permutation(2 * FOLD_ROWS**2)[cells.numpy()]
    found = np.empty(len(vectors), np.int64)
    for fold, rows in enumerate(np.array_split(shuffled.argsort(kind="stable"), FOLDS)):
        found[rows] = fold
    return torch.from_numpy(found)


def _weights(chosen: Sequence[Tensor]) -> list[Tensor]:
    """What the chosen photos ``(N,)`` of each part count; `FIRST_COUNTS` together in the first."""
    counts = part_weights(len(chosen))
    return [count * rows / len(rows) for count, rows in zip(counts, chosen, strict=True)]


def part_weights(parts: int) -> list[float]:
    """What each part of the validation data counts, the first one `FIRST_COUNTS` times."""
    return [FIRST_COUNTS, *[1.0] * (parts - 1)]


def _held_out(
    model: TemperatureModel,
    tables: Sequence[LikelihoodTable],
    inputs: Sequence[Tensor],
    kept: Sequence[Tensor],
) -> Tensor:
    """What photos ``(N,)`` that are not kept say after each of `FIT_STEPS`: ``(steps,)`` nats."""
    weights, others = _weights(kept), _weights([~rows for rows in kept])
    nats = []
    for step in _descent(model, tables, inputs, weights, FIT_STEPS[-1]):
        if step in FIT_STEPS:
            with torch.no_grad():
                nats.append(_loss(model, tables, inputs, others))
    return torch.stack(nats)


def _descent(
    model: TemperatureModel,
    tables: Sequence[LikelihoodTable],
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    steps: int,
) -> Iterator[int]:
    """Fits in place, from one temperature for all; yields how many steps were taken, 0 first."""
    weighted = torch.cat([w[:, None] * t.nats for w, t in zip(weights, tables, strict=True)])
    with torch.no_grad():
        model.out.weight.zero_()
        start = fit_temperature(LikelihoodTable(tables[0].log_temperature, weighted))
        model.out.bias.fill_(float(np.log(start)))
    parameters = [*model.hidden.parameters(), *model.out.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=FIT_RATE, weight_decay=FIT_DECAY)
    for parameter in parameters:
        parameter.requires_grad_(True)
    yield 0
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        _loss(model, tables, inputs, weights).backward()
        optimizer.step()
        yield step
    for parameter in parameters:
        parameter.requires_grad_(False)


def _loss(
    model: TemperatureModel,
    tables: Sequence[LikelihoodTable],
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> Tensor:
    parts = zip(tables, inputs, weights, strict=True)
    return torch.stack([w @ table.at(model.log_temperature(x)) for table, x, w in parts]).sum()


def fit_factor(
    natural: Tensor,
    photos: EmbeddedPhotos,
    degree: int,
    config: DecodeConfig,
    base: BaseMeasure | None = None,
) -> float:
    """The factor on all temperatures that puts the coverage of both radii right, 1/5 to 5.

    Args:
        natural: ``(N, d)`` calibrated densities of the photos.
        photos: N photos with truth.
        degree: L.
        config: With ρ.
        base: q₀ of the answers.
    """
    decoder = Decoder(degree, config, base).to(natural.device)

    def miss(log_factor: float) -> float:
        tempered = natural / float(np.exp(log_factor))
        latitude, longitude, radius_50, radius_90 = decode_all(decoder, tempered)
        distance = great_circle_km(latitude, longitude, photos.latitude, photos.longitude)
        shares = np.mean(distance <= radius_50), np.mean(distance <= radius_90)
        return float((shares[0] - 0.5) ** 2 + (shares[1] - 0.9) ** 2)

    bound = float(np.log(5.0))
    options = {"xatol": 0.02, "maxiter": 12}
    best = minimize_scalar(miss, bounds=(-bound, bound), method="bounded", options=options)
    return float(np.exp(best.x))


def fit_radius(
    naturals: Sequence[Tensor],
    parts: Sequence[EmbeddedPhotos],
    degree: int,
    config: DecodeConfig,
    base: BaseMeasure | None = None,
) -> float:
    """ρ in km of best mean accuracy over the thresholds, the first part weighted, of `RADII_KM`.

    Args:
        naturals: ``(N, d)`` calibrated densities of the photos of each part.
        parts: N photos with truth each.
        degree: L.
        config: Of the decoder but for ρ.
        base: q₀ of the answers.
    """
    best, best_score = RADII_KM[0], -1.0
    for radius in RADII_KM:
        score = 0.0
        for natural, photos, weight in zip(naturals, parts, part_weights(len(parts)), strict=True):
            decoder = Decoder(degree, replace(config, radius_km=radius), base).to(natural.device)
            latitude, longitude, *_ = decode_all(decoder, natural)
            distance = great_circle_km(latitude, longitude, photos.latitude, photos.longitude)
            score += weight * float(np.mean(list(error_summary(distance)["within"].values())))
        if score > best_score + 1e-9:
            best, best_score = radius, score
    return best


def fit(
    denoiser: CalibratedDenoiser, parts: list[EmbeddedPhotos], base: BaseMeasure | None = None
) -> DecodeConfig:
    """Fits the temperatures in place, and ρ; see the module's docstring.

    Args:
        denoiser: The network with its temperature model.
        parts: Validation photos, those of the regions of training first.
        base: q₀ of the answers.

    Returns:
        The decoder's configuration.
    """
    config, degree = DecodeConfig(), denoiser.network.config.max_degree
    decoder = Decoder(degree, config, base)
    temperatures = denoiser.temperatures
    naturals, tables, features = [], [], []
    for part in parts:
        natural = natural_parameters(denoiser.network, part.embeddings)
        decoder.to(natural.device)
        naturals.append(natural)
        tables.append(LikelihoodTable.measure(natural, part.vectors, decoder))
        features.append(temperature_features(temperatures, part, natural))
    fit_temperatures(temperatures, tables, features, [part.vectors for part in parts])
    calibrated = [natural_parameters(denoiser, part.embeddings) for part in parts]
    config = replace(config, radius_km=fit_radius(calibrated, parts, degree, config, base))
    _stretch(temperatures, naturals, features, parts, Decoder(degree, config, base))
    return config


def _stretch(
    temperatures: TemperatureModel,
    naturals: Sequence[Tensor],
    features: Sequence[NDArray[np.float64]],
    parts: Sequence[EmbeddedPhotos],
    decoder: Decoder,
) -> None:
    """Moves and stretches the temperatures in place for the radii's sake."""
    found = [
        temperatures.log_temperature(torch.from_numpy(part).to(temperatures.feature_mean))
        for part in features
    ]
    logs = [part.double().cpu().numpy() for part in found]
    tables = [
        RadiiTable.measure(natural, photos, decoder.to(natural.device), RADII_LOG_TEMPERATURES)
        for natural, photos in zip(naturals, parts, strict=True)
    ]
    stretch = fit_stretch(tables, logs, part_weights(len(parts)))
    temperatures.out.weight.mul_(stretch.factor)
    temperatures.out.bias.copy_(
        torch.from_numpy(stretch(temperatures.out.bias.double().cpu().numpy()))
    )


def temperature_features(
    model: TemperatureModel, photos: EmbeddedPhotos, natural: Tensor, batch: int = 256
) -> NDArray[np.float64]:
    """``(N, F)`` features of photos and their densities ``(N, d)`` at τ = 1."""
    found = []
    for start in range(0, len(natural), batch):
        rows = slice(start, start + batch)
        condition = torch.from_numpy(photos.embeddings[rows]).to(natural.device)
        found.append(model.features(condition, natural[rows]).double().cpu().numpy())
    return np.concatenate(found)


def measure(
    natural: Tensor,
    photos: EmbeddedPhotos,
    degree: int,
    config: DecodeConfig,
    base: BaseMeasure | None = None,
) -> dict[str, Any]:
    """Accuracy, coverage of the radii and likelihood on photos with truth.

    Returns:
        `metrics.error_summary` plus ``coverage_50``, ``coverage_90`` and ``nats`` (mean -log p of
        the truth against the uniform sphere; lower is better).
    """
    decoder = Decoder(degree, config, base).to(natural.device)
    latitude, longitude, radius_50, radius_90 = decode_all(decoder, natural)
    distance = great_circle_km(latitude, longitude, photos.latitude, photos.longitude)
    return {
        **error_summary(distance),
        "coverage_50": coverage(distance, radius_50),
        "coverage_90": coverage(distance, radius_90),
        "nats": float(-log_probability(decoder, natural, photos.vectors).mean()),
    }

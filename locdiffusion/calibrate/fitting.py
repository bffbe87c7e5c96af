"""Fits the temperatures, the decoding radius ρ and the coverage of the radii on validation photos.

1. The network of `locdiffusion.temperature` minimises the negative log likelihood over all parts of
   the validation data; the first part, from the regions of training, has the weight `FIRST_WEIGHT`.
   Training starts from one temperature for all photos. Cross-validation over parts of the Earth
   chooses the number of steps; it is 0 where the features predict nothing.
2. ρ maximises the mean accuracy over the thresholds, with the same weights; of equal values the
   smallest is taken.
3. All log temperatures are shifted and stretched (`locdiffusion.calibrate.coverage`) until the 50 %
   and 90 % radii hold as many truths as they say. Likelihood alone would widen the radii of the
   first part to insure against the others.
4. The familiarity is fitted to the photos of all parts, see `temperature.familiarity`.

The fits must never see test photos.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from locdiffusion.calibrate import fused_fitting
from locdiffusion.calibrate.coverage import FACTOR_KNOTS, WIDEST, CoverageTable, fit_stretch
from locdiffusion.calibrate.fused_fitting import FusedPart
from locdiffusion.calibrate.parts import (
    FOLDS,
    CalibrationPart,
    LikelihoodTable,
    LocatedDensities,
    temperature_features,
)
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.evaluate.metrics import coverage, error_summary
from locdiffusion.inference import Answerer, log_probability, natural_parameters
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.temperature import COLDEST, FEATURES, CalibratedDenoiser, TemperatureModel

RADII_KM = (25.0, 50.0, 100.0, 150.0, 200.0, 300.0, 500.0, 750.0)
COVERAGE_LOG_TEMPERATURES = np.linspace(np.log(COLDEST), np.log(8.0), 14)
FIRST_WEIGHT = 4.0
FIT_STEPS = (0, 25, 50, 100, 200, 400)
"""Numbers of training steps of the temperature network, one of which cross-validation chooses."""

FIT_RATE, FIT_DECAY = 5e-3, 0.05
"""Learning rate and weight decay, chosen by cross-validation over the validation cells."""

CHANCE, CHANCE_FACTORS = 3.0, (1.0, 2.2, WIDEST)
"""Standard errors above the base measure that do not come about by chance, and factors tried."""

Weighted = Sequence[tuple[CalibrationPart, Tensor]]
"""Parts with the weights ``(N,)`` of their photos."""


def fit(
    denoiser: CalibratedDenoiser, validation: Sequence[EmbeddedPhotos], decoder: Decoder
) -> Decoder:
    """Fits the temperatures and familiarity in place, and ρ; see the module's docstring.

    Args:
        denoiser: Network with its temperature model.
        validation: Parts of the validation data, the one from the regions of training first.
        decoder: Decoder with the base measure of the answers.

    Returns:
        The decoder with the fitted ρ.
    """
    weights = [FIRST_WEIGHT, *[1.0] * (len(validation) - 1)]
    temperatures, parts = denoiser.temperatures, []
    for photos, weight in zip(validation, weights, strict=True):
        natural = natural_parameters(denoiser.network, photos.embeddings)
        features = temperature_features(temperatures, photos, natural)
        densities = LocatedDensities(photos, natural, weight)
        parts.append(CalibrationPart.measure(densities, features, Answerer(decoder)))
    fit_temperatures(temperatures, parts)
    radius = fit_radius([part.calibrated(denoiser) for part in parts], decoder)
    decoder = decoder.with_config(replace(decoder.config, radius_km=radius))
    answerer = Answerer(decoder)
    stretch = fit_stretch([_coverage_table(temperatures, part, answerer) for part in parts])
    bias = stretch(temperatures.out.bias.double().cpu().numpy())
    temperatures.out.weight.mul_(stretch.factor)
    temperatures.out.bias.copy_(torch.from_numpy(bias))
    if temperatures.config.unfamiliar:
        unlike = FEATURES.index("dissimilarity")
        temperatures.familiarity.fit([part.features[:, unlike] for part in parts])
    return decoder


def _coverage_table(
    model: TemperatureModel, part: CalibrationPart, answerer: Answerer
) -> CoverageTable:
    log_temperature = model.log_temperature(part.features).double().cpu().numpy()
    knots = COVERAGE_LOG_TEMPERATURES
    return CoverageTable.measure(part.densities, log_temperature, answerer, knots)


def fit_temperature(table: LikelihoodTable) -> float:
    """The one τ with the least mean negative log likelihood."""
    best = int(table.nats.mean(0).argmin())
    return float(table.log_temperature[best].exp())


def fit_temperatures(model: TemperatureModel, parts: Sequence[CalibrationPart]) -> int:
    """Fits the temperature network in place by likelihood.

    Args:
        model: Temperature model; its standardisation of the features is set too.
        parts: Parts of the validation data.

    Returns:
        Number of training steps, one of `FIT_STEPS`; 0 leaves one temperature for all photos.
    """
    features = np.concatenate([part.features.double().cpu().numpy() for part in parts])
    spread = features.std(0)
    model.feature_mean.copy_(torch.from_numpy(features.mean(0)))
    model.feature_spread.copy_(torch.from_numpy(np.where(spread > 1e-6, spread, 1.0)))
    held_out = torch.zeros(len(FIT_STEPS))
    for fold in range(FOLDS):
        held_out += _held_out_loss(copy.deepcopy(model), parts, fold)
    steps = FIT_STEPS[int(held_out.argmin())]
    everybody = [(part, part.weights(part.fold >= 0)) for part in parts]
    for _ in _descent(model, everybody, steps):
        pass
    return steps


def _held_out_loss(model: TemperatureModel, parts: Sequence[CalibrationPart], fold: int) -> Tensor:
    """Trains without one fold; returns its loss after each number of `FIT_STEPS`."""
    kept = [(part, part.weights(part.fold != fold)) for part in parts]
    held_out = [(part, part.weights(part.fold == fold)) for part in parts]
    nats = []
    for step in _descent(model, kept, FIT_STEPS[-1]):
        if step in FIT_STEPS:
            with torch.no_grad():
                nats.append(_loss(model, held_out))
    return torch.stack(nats)


def _descent(model: TemperatureModel, weighted: Weighted, steps: int) -> Iterator[int]:
    """Fits in place, from one temperature for all photos; yields the number of steps done."""
    nats = torch.cat([weight[:, None] * part.likelihood.nats for part, weight in weighted])
    log_temperature = weighted[0][0].likelihood.log_temperature
    with torch.no_grad():
        model.out.weight.zero_()
        start = fit_temperature(LikelihoodTable(log_temperature, nats))
        model.out.bias.fill_(float(np.log(start)))
    parameters = [*model.hidden.parameters(), *model.out.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=FIT_RATE, weight_decay=FIT_DECAY)
    for parameter in parameters:
        parameter.requires_grad_(True)
    yield 0
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        _loss(model, weighted).backward()
        optimizer.step()
        yield step
    for parameter in parameters:
        parameter.requires_grad_(False)


def _loss(model: TemperatureModel, weighted: Weighted) -> Tensor:
    """Weighted negative log likelihood Σᵢ wᵢ nᵢ(log τ(xᵢ)) of all parts."""
    terms = [
        weight @ part.likelihood.at(model.log_temperature(part.features))
        for part, weight in weighted
    ]
    return torch.stack(terms).sum()


def fit_radius(parts: Sequence[LocatedDensities], decoder: Decoder) -> float:
    """Finds the ρ of `RADII_KM` with the best mean accuracy over the thresholds.

    Args:
        parts: Calibrated densities of each part of the validation data.
        decoder: Decoder of the answers but for ρ.

    Returns:
        ρ in km.
    """
    best, best_score = RADII_KM[0], -1.0
    for radius in RADII_KM:
        answerer = Answerer(decoder.with_config(replace(decoder.config, radius_km=radius)))
        score = 0.0
        for part in parts:
            within = error_summary(part.errors_and_radii(answerer)[0])["within"]
            score += part.weight * float(np.mean(list(within.values())))
        if score > best_score + 1e-9:
            best, best_score = radius, score
    return best


def fit_appearance(
    answerer: Answerer, denoiser: CalibratedDenoiser, validation: Sequence[EmbeddedPhotos]
) -> None:
    """Fits constants and gates of the appearance map in place, see `calibrate.fused_fitting`.

    Args:
        answerer: Answers the photos, with a map.
        denoiser: Network with its fitted temperatures.
        validation: Parts of the validation data, the one from the regions of training first.
    """
    parts = []
    assert answerer.fused is not None
    for number, photos in enumerate(validation):
        natural = natural_parameters(denoiser, photos.embeddings)
        seen = answerer.seen(torch.from_numpy(photos.embeddings).to(natural))
        assert seen is not None
        weight = 1.0 if number else FIRST_WEIGHT
        parts.append(FusedPart(natural, seen.appearance, seen.trust, photos.vectors, weight))
    fused_fitting.fit(answerer.fused, parts)


def better_than_chance(densities: LocatedDensities, answerer: Answerer) -> bool:
    """Whether densities know more of where photos are from than the base measure alone.

    At some factor on all temperatures, which calibration is to find, the mean log likelihood of the
    truths must be larger by more than `CHANCE` standard errors.
    """
    natural, vectors = densities.natural, densities.photos.vectors
    blind = log_probability(answerer, torch.zeros_like(natural), vectors)
    gains = [log_probability(answerer, natural / by, vectors) - blind for by in CHANCE_FACTORS]
    error = [gain.std() / len(gain) ** 0.5 for gain in gains]
    return any(g.mean() > CHANCE * e for g, e in zip(gains, error, strict=True))


def factor_table(densities: LocatedDensities, answerer: Answerer) -> CoverageTable:
    """Decodes photos at the factors from which `coverage.fit_factor` chooses.

    Args:
        densities: N photos with their calibrated densities.
        answerer: Answers the photos.
    """
    unchanged = np.zeros(len(densities.natural))
    return CoverageTable.measure(densities, unchanged, answerer, FACTOR_KNOTS)


def measure(
    densities: LocatedDensities, answerer: Answerer, temperature: float = 1.0
) -> dict[str, Any]:
    """Measures accuracy, coverage and likelihood on photos with known position.

    Args:
        densities: Photos with their calibrated densities.
        answerer: Answers the photos.
        temperature: Further factor on all temperatures.

    Returns:
        Figures of `error_summary`, and ``coverage_50``, ``coverage_90`` and ``nats``: the mean of
        -log p at the truth against the uniform sphere, lower is better.
    """
    error, radius_50, radius_90 = densities.errors_and_radii(answerer, temperature)
    natural, photos = densities.natural / temperature, densities.photos
    log_p = log_probability(answerer, natural, photos.vectors, photos.embeddings)
    return {
        **error_summary(error),
        "coverage_50": coverage(error, radius_50),
        "coverage_90": coverage(error, radius_90),
        "nats": float(-log_p.mean()),
    }

"""Measures a trained variant on validation photos.

A variant that gives a density answers as the product does: one call at σ = ∞, decoded by mode
seeking. Its temperature stays 1, as in training. A variant that estimates x₀ has two answers: (i)
its posterior mean at σ = ∞, decoded to the nearest place; (ii) a vote: of several DDIM samples the
one with most others within `VOTE_KM`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.ablations.encodings import dimension, noise_range, points
from experiments.ablations.fitting import Fitted, as_natural
from experiments.ablations.plan import Budget, Encoding, Loss
from experiments.ablations.sampled import sample, subset, vote
from locdiffusion.decoding.answers import Predictions
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2
from locdiffusion.diffusion.schedules import geometric_sigmas
from locdiffusion.evaluate.metrics import error_summary
from locdiffusion.inference import Answerer, log_probability, predictions
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between, great_circle_km

ANSWER_RADII_KM = (25.0, 50.0, 100.0, 200.0, 350.0, 500.0, 750.0, 1000.0, 1500.0, 2000.0)
TEMPERATURES = (0.2, 0.28, 0.4, 0.57, 0.8, 1.0, 1.13, 1.6, 2.26)
DENSITY_DEGREE = 23
"""Degree of the decoder for densities of degree 1; its tables resolve 100 km."""


def measure(fitted: Fitted, photos: EmbeddedPhotos, budget: Budget) -> dict[str, Any]:
    """Computes the accuracy of every answer of a variant, and the likelihood of a density.

    Returns:
        `error_summary` by name of the answer (``density``, or ``mean`` and ``vote``). ``density``
        also has ``nll_km2``, the mean -log density of the truth in nats per km², and
        ``tempered_nll_km2``, the least one that one temperature for all photos gives.
    """
    part = subset(photos, budget.measured, budget.seed)
    if fitted.variant.loss is Loss.KL:
        natural = density(fitted, part)
        said = predictions(Answerer(_decoder(fitted)), natural, part.vectors)
        summary = error_summary(_error_km(said, part))
        nll = {
            "nll_km2": -float(said.log_density_km2.mean()),
            "tempered_nll_km2": _tempered_nll_km2(fitted, natural, part),
        }
        return {"density": summary | nll}
    means = points(_at_infinity(fitted, part), fitted.variant)
    voters = subset(part, budget.voters, budget.seed)
    config = noise_range(fitted.variant, budget.pure_fraction)
    levels = [float(sigma) for sigma in geometric_sigmas(budget.sample_steps, config)]
    votes = vote(sample(fitted, voters, budget.samples, levels))
    return {
        "mean": error_summary(unit_error_km(means, part)),
        "vote": error_summary(unit_error_km(votes, voters)),
    }


def _tempered_nll_km2(fitted: Fitted, natural: Tensor, photos: EmbeddedPhotos) -> float:
    """Computes the least mean -log density that one of `TEMPERATURES` gives."""
    answerer = Answerer(_decoder(fitted))
    nats = [-log_probability(answerer, natural / t, photos.vectors).mean() for t in TEMPERATURES]
    return float(min(nats)) + LOG_SPHERE_AREA_KM2


@torch.inference_mode()
def density(fitted: Fitted, photos: EmbeddedPhotos) -> Tensor:
    """Computes natural parameters ``(N, d)`` in one call, of the degree that `_decoder` takes."""
    natural = as_natural(_at_infinity(fitted, photos), fitted.variant)
    if fitted.variant.encoding is Encoding.SHDD:
        return natural
    missing = (DENSITY_DEGREE + 1) ** 2 - natural.shape[1]
    return torch.nn.functional.pad(natural, (0, missing))


def accuracy_by_radius(
    fitted: Fitted, photos: EmbeddedPhotos, budget: Budget
) -> list[dict[str, Any]]:
    """Computes `error_summary` and ``radius_km`` for each ρ of `ANSWER_RADII_KM`."""
    part = subset(photos, budget.voters, budget.seed)
    natural = density(fitted, part)
    rows, decoder = [], _decoder(fitted)
    for radius in ANSWER_RADII_KM:
        answerer = Answerer(decoder.with_config(DecodeConfig(radius)))
        said = predictions(answerer, natural, part.vectors)
        rows.append({"radius_km": radius} | error_summary(_error_km(said, part)))
    return rows


def _error_km(said: Predictions, photos: EmbeddedPhotos) -> NDArray[np.float64]:
    return great_circle_km(said.latitude, said.longitude, photos.latitude, photos.longitude)


def unit_error_km(answers: NDArray[np.float64], photos: EmbeddedPhotos) -> NDArray[np.float64]:
    """Computes great-circle errors ``(N,)`` in km of answers ``(N, 3)``, unit vectors."""
    error: NDArray[np.float64] = EARTH_RADIUS_KM * angle_between(answers, photos.vectors)
    return error


def _decoder(fitted: Fitted) -> Decoder:
    is_code = fitted.variant.encoding is Encoding.SHDD
    degree = fitted.variant.max_degree if is_code else DENSITY_DEGREE
    return Decoder(degree, base_measure=fitted.base_measure)


@torch.inference_mode()
def _at_infinity(fitted: Fitted, photos: EmbeddedPhotos, batch: int = 512) -> Tensor:
    """Calls the network at σ = ∞, where only the image counts: ``(N, numbers)``."""
    numbers, parts = dimension(fitted.variant), []
    for start in range(0, len(photos), batch):
        condition = torch.from_numpy(photos.embeddings[start : start + batch])
        level = torch.full((len(condition),), torch.inf)
        parts.append(fitted.network(torch.zeros(len(condition), numbers), level, condition))
    return torch.cat(parts)

"""Decoder settings fitted on validation photos: the temperature, then the radius ρ.

Temperature τ (p ∝ exp(F/τ); Guo et al. 2017, arXiv 1706.04599, §4.2) minimises the negative log
likelihood. ρ is the one with the best mean accuracy over the thresholds; on a tie, the smallest.
Never run this on test photos.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from locdiffusion.data import EmbeddedPhotos
from locdiffusion.decoding import DecodeConfig, Decoder
from locdiffusion.metrics import coverage, error_summary
from locdiffusion.posterior import decode_all, log_probability
from locdiffusion.prior import BaseMeasure
from locdiffusion.sphere.geodesy import great_circle_km

RADII_KM = (25.0, 50.0, 100.0, 150.0, 200.0, 300.0, 500.0, 750.0)


def fit_temperature(
    natural: Tensor,
    photos: EmbeddedPhotos,
    degree: int,
    config: DecodeConfig,
    base: BaseMeasure | None = None,
) -> float:
    """τ of least negative log likelihood, by golden-section search over log τ.

    Args:
      natural: ``(N, d)`` densities of the photos, as trained (τ = 1).
      photos: N photos with truth.
      degree: L.
      config: the other settings.
      base: q₀ of the answers; None is the uniform measure.
    """
    decoder = Decoder(degree, replace(config, temperature=1.0), base).to(natural.device)

    def nats(log_temperature: float) -> float:
        tempered = natural / float(np.exp(log_temperature))
        return float(-log_probability(decoder, tempered, photos.vectors).mean())

    low, high = np.log(0.3), np.log(4.0)
    golden = (np.sqrt(5.0) - 1.0) / 2.0
    a, b = high - golden * (high - low), low + golden * (high - low)
    at_a, at_b = nats(a), nats(b)
    while high - low > 0.01:
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - golden * (high - low)
            at_a = nats(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + golden * (high - low)
            at_b = nats(b)
    return round(float(np.exp((low + high) / 2.0)), 4)


def fit_radius(
    natural: Tensor,
    photos: EmbeddedPhotos,
    degree: int,
    config: DecodeConfig,
    base: BaseMeasure | None = None,
) -> float:
    """ρ in km of best mean accuracy over the thresholds, among `RADII_KM`."""
    best, best_score = RADII_KM[0], -1.0
    for radius in RADII_KM:
        decoder = Decoder(degree, replace(config, radius_km=radius), base).to(natural.device)
        latitude, longitude, *_ = decode_all(decoder, natural)
        distance = great_circle_km(latitude, longitude, photos.latitude, photos.longitude)
        score = float(np.mean(list(error_summary(distance)["within"].values())))
        if score > best_score + 1e-9:
            best, best_score = radius, score
    return best


def fit(
    natural: Tensor, photos: EmbeddedPhotos, degree: int, base: BaseMeasure | None = None
) -> DecodeConfig:
    """Both settings; see the module's docstring."""
    config = DecodeConfig()
    config = replace(config, temperature=fit_temperature(natural, photos, degree, config, base))
    return replace(config, radius_km=fit_radius(natural, photos, degree, config, base))


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

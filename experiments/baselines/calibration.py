"""Calibrates a rival as our own model is calibrated, on the same validation photos.

1. Three settings for all photos, by likelihood (`experiments.baselines.evidence`).
2. One temperature per photo, from the features, the network and the fit of
   `locdiffusion.temperature` and `locdiffusion.calibrate.fitting`. The features compare a photo
   with the same training photos as ours. What they need of a density is measured on the rival's:
   its answer, its information, the mean log density of training photos under it, and, in place of
   the norm of our natural parameters, the height of its peak. Every rival has a density here, as
   its kernels make one.
3. A decision rule: the ball of a radius, or the most thresholds met, of the density with or without
   its temperature, by mean accuracy. (A temperature that widens neighbours also blurs their place.)
4. The stretch of `locdiffusion.calibrate.coverage`, so that the radii hold as many truths as said.

The parts of the validation photos have the weights that they have for ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.baselines.evidence import Evidence, fit_settings
from experiments.baselines.kernel_mixture import KernelMixture
from locdiffusion.calibrate.coverage import CoverageTable, fit_stretch
from locdiffusion.calibrate.fitting import (
    COVERAGE_LOG_TEMPERATURES,
    FIRST_WEIGHT,
    RADII_KM,
    fit_temperatures,
)
from locdiffusion.calibrate.parts import (
    CalibrationPart,
    LikelihoodTable,
    LocatedDensities,
    spatial_folds,
)
from locdiffusion.decoding.answers import Predictions
from locdiffusion.density.base_measure import uniform_measure
from locdiffusion.density.raster import looked_up
from locdiffusion.evaluate.metrics import within_thresholds
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between
from locdiffusion.temperature import COLDEST, TemperatureModel
from locdiffusion.temperature.model import HOTTEST

Float = NDArray[np.float64]

LOG_TEMPERATURES = np.linspace(np.log(COLDEST), np.log(16.0), 61)
FEATURE_RADIUS_KM = 150.0
"""Radius of the ball whose fullest place is the answer that the features look at."""

CANDIDATES_KM = (25.0, 100.0, 200.0, 750.0)
"""Radii whose answers the rule of thresholds chooses from."""

COVERAGE_PHOTOS = 500
"""Most photos of a part that are decoded for the stretch."""


@dataclass(frozen=True)
class Rule:
    """A decision rule.

    Attributes:
        radius_km: Radius of the ball that is to hold most mass; None takes of the answers of
            `CANDIDATES_KM` the one with the most thresholds met, as expected.
        tempered: Whether the density has its temperature.
    """

    radius_km: float | None = None
    tempered: bool = True

    def answers(self, mixture: KernelMixture) -> Float:
        """Finds the answers ``(N, 3)``."""
        if self.radius_km is not None:
            return mixture.answers(self.radius_km)
        return mixture.most_thresholds(np.stack([mixture.answers(r) for r in CANDIDATES_KM], 1))


class Calibration:
    """Settings, temperatures and decision rule of one rival.

    Attributes:
        settings: Settings of all photos.
        temperatures: Temperature model; its network is fitted to the rival.
        rule: Decision rule.
        nats: Mean negative log likelihood of the validation photos before there are temperatures.
        steps: Training steps of the temperature network; 0 is one temperature for all photos.
    """

    def __init__(
        self,
        evidence: Sequence[Evidence],
        photos: Sequence[EmbeddedPhotos],
        temperatures: TemperatureModel,
    ) -> None:
        """Fits everything.

        Args:
            evidence: Evidence of each part of the validation photos.
            photos: These parts, the one from the regions of training first.
            temperatures: Temperature model of the training photos, which is fitted in place.
        """
        counts = balanced_counts(photos)
        self.settings, self.nats = fit_settings(
            joined([e.take(slice(n)) for e, n in zip(evidence, counts, strict=True)]),
            np.concatenate([p.vectors[:n] for p, n in zip(photos, counts, strict=True)]),
        )
        self.temperatures = temperatures
        parts = [self._part(*pair) for pair in zip(evidence, photos, _weights(photos), strict=True)]
        self.steps = fit_temperatures(temperatures, parts)
        self.rule = self._fit_rule(evidence, parts)
        stretch = fit_stretch([self._coverage(*pair) for pair in zip(evidence, parts, strict=True)])
        bias = stretch(temperatures.out.bias.double().numpy())
        temperatures.out.weight.mul_(stretch.factor)
        temperatures.out.bias.copy_(torch.from_numpy(bias))

    def predictions(self, evidence: Evidence, photos: EmbeddedPhotos) -> Predictions:
        """Answers photos from their evidence."""
        log_temperature = self._log_temperature(self._features(evidence, photos))
        mixture = evidence.mixture(self.settings, np.exp(log_temperature))
        return mixture.predictions_at(self._places(evidence, mixture), photos.vectors)

    def _places(self, evidence: Evidence, tempered: KernelMixture) -> Float:
        """Answers ``(N, 3)`` of the rule."""
        return self.rule.answers(tempered if self.rule.tempered else self._untempered(evidence))

    def _untempered(self, evidence: Evidence) -> KernelMixture:
        return evidence.mixture(self.settings)

    @property
    def record(self) -> dict[str, Any]:
        """What was chosen, as JSON values."""
        rule = (
            "thresholds" if self.rule.radius_km is None else f"ball of {self.rule.radius_km:g} km"
        )
        of = "" if self.rule.tempered else " of the density at temperature 1"
        return {**asdict(self.settings), "rule": rule + of, "temperature_steps": self.steps}

    def _part(self, evidence: Evidence, photos: EmbeddedPhotos, weight: float) -> CalibrationPart:
        truth, nats = photos.vectors[:, None], []
        for log_temperature in LOG_TEMPERATURES:
            tau = np.full(len(photos), np.exp(log_temperature))
            nats.append(-evidence.mixture(self.settings, tau).log_density(truth)[:, 0])
        table = LikelihoodTable(
            torch.from_numpy(LOG_TEMPERATURES).float(), torch.from_numpy(np.stack(nats, 1)).float()
        )
        features = self._features(evidence, photos)
        densities = LocatedDensities(photos, torch.zeros(len(photos), 0), weight)
        return CalibrationPart(densities, features, table, spatial_folds(photos.vectors))

    def _features(self, evidence: Evidence, photos: EmbeddedPhotos) -> torch.Tensor:
        mixture = evidence.mixture(self.settings)
        answer = mixture.answers(FEATURE_RADIUS_KM)
        compared = self.temperatures.compared(
            torch.from_numpy(photos.embeddings), torch.from_numpy(answer).float()
        )

        def sparse(places: Float) -> Float:
            rarity = looked_up(
                self.temperatures.negative_log_density, torch.from_numpy(places).float()
            )
            return rarity.double().numpy()

        information, rarity = mixture.means(sparse).T
        height = mixture.log_density(answer[:, None])[:, 0]
        own = torch.from_numpy(np.stack([rarity, information, height], 1)).float()
        return torch.cat([compared, own], 1)

    def _log_temperature(self, features: torch.Tensor) -> Float:
        log_temperature = self.temperatures.log_temperature(features).double().numpy()
        return np.clip(log_temperature, np.log(COLDEST), np.log(HOTTEST))

    def _fit_rule(self, evidence: Sequence[Evidence], parts: Sequence[CalibrationPart]) -> Rule:
        """Chooses the rule with the best weighted mean accuracy over the thresholds."""
        rules = [
            Rule(radius, tempered) for tempered in (True, False) for radius in (*RADII_KM, None)
        ]
        score = np.zeros(len(rules))
        for known, part in zip(evidence, parts, strict=True):
            tau = np.exp(self._log_temperature(part.features))
            truth, plain = part.densities.photos.vectors, self._untempered(known)
            tempered = known.mixture(self.settings, tau)
            for number, rule in enumerate(rules):
                places = rule.answers(tempered if rule.tempered else plain)
                distance = EARTH_RADIUS_KM * angle_between(places, truth)
                score[number] += part.densities.weight * within_thresholds(distance).mean()
        return rules[int(np.flatnonzero(score >= score.max() - 1e-9)[0])]

    def _coverage(self, evidence: Evidence, part: CalibrationPart) -> CoverageTable:
        rows = slice(COVERAGE_PHOTOS)
        some, truth = evidence.take(rows), part.densities.photos.vectors[rows]
        margins = []
        for knot in COVERAGE_LOG_TEMPERATURES:
            mixture = some.mixture(self.settings, np.full(len(truth), np.exp(knot)))
            places = self._places(some, mixture)
            said = mixture.predictions_at(places, truth)
            error = EARTH_RADIUS_KM * angle_between(places, truth)
            radii = (said.radius_50_km, said.radius_90_km)
            margins.append([np.log((radius + 1e-6) / (error + 1e-6)) for radius in radii])
        return CoverageTable(
            COVERAGE_LOG_TEMPERATURES,
            np.moveaxis(np.array(margins), 0, -1),
            self._log_temperature(part.features[rows]),
            part.densities.weight,
        )


def temperatures_of(train: EmbeddedPhotos, seed: int) -> TemperatureModel:
    """Makes an unfitted temperature model with the training photos that ours compares with."""
    # The degree is that of densities that no rival has: the smallest tables do.
    return TemperatureModel.of_training(
        train.embeddings, train.vectors, 1, uniform_measure(), seed=seed
    )


def balanced(parts: Sequence[EmbeddedPhotos]) -> EmbeddedPhotos:
    """Takes as many photos of each part as its weight asks for, so that all count alike."""
    kept = [p.take(np.arange(n)) for p, n in zip(parts, balanced_counts(parts), strict=True)]
    return EmbeddedPhotos(
        [key for part in kept for key in part.keys],
        *(
            np.concatenate([getattr(part, name) for part in kept])
            for name in ("embeddings", "latitude", "longitude")
        ),
    )


def balanced_counts(parts: Sequence[EmbeddedPhotos]) -> list[int]:
    """Computes how many photos of each part `balanced` takes."""
    weights = _weights(parts)
    unit = min(len(part) / weight for part, weight in zip(parts, weights, strict=True))
    return [max(1, int(unit * weight)) for weight in weights]


def _weights(parts: Sequence[EmbeddedPhotos]) -> list[float]:
    return [FIRST_WEIGHT, *[1.0] * (len(parts) - 1)]


def joined(parts: Sequence[Evidence]) -> Evidence:
    """Joins evidence of the same number of points per photo."""
    return Evidence(
        *(
            np.concatenate([getattr(p, name) for p in parts])
            for name in ("points", "logits", "kappa")
        )
    )

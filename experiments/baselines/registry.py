"""Lists all rivals by name, and fits and asks one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from experiments.baselines.cells import GridSoftmax
from experiments.baselines.evidence import Evidence, fit_radius, fit_settings
from experiments.baselines.flow_matching import FlowMatching
from experiments.baselines.harmonic_regression import HarmonicRegression
from experiments.baselines.neighbours import NEIGHBOURS, Neighbours
from experiments.baselines.network import Budget
from experiments.baselines.regression import DirectRegression, MixtureDensity
from locdiffusion.decoding.answers import Predictions
from locdiffusion.photos.embedding_cache import EmbeddedPhotos


class Rival(Protocol):
    """A method that is fitted on training photos and then locates other photos.

    Attributes:
        parameters: Number of trained parameters; 0 before `fit`.
        choices: Settings that are fixed or were chosen on validation photos, as JSON values.
    """

    parameters: int
    choices: dict[str, Any]

    def fit(self, train_photos: EmbeddedPhotos, val: EmbeddedPhotos, budget: Budget, /) -> None:
        """Trains on `train_photos`; `val` only chooses hyper-parameters."""

    def evidence(self, photos: EmbeddedPhotos, /) -> Evidence:
        """Gives the evidence of photos; their positions are never used."""
        ...


RIVALS: Mapping[str, Callable[[], Rival]] = {
    "nearest_neighbour": lambda: Neighbours((1,)),
    "neighbours_kde": lambda: Neighbours(NEIGHBOURS),
    "grid_softmax": GridSoftmax,
    "direct_regression": DirectRegression,
    "vmf_mixture": MixtureDensity,
    "harmonic_regression": HarmonicRegression,
    "flow_matching": FlowMatching,
}
"""Each rival's factory; the names are those of the report."""


def fit_and_predict(
    name: str,
    train: EmbeddedPhotos,
    val: EmbeddedPhotos,
    tests: Mapping[str, EmbeddedPhotos],
    budget: Budget,
    rival: Rival | None = None,
) -> tuple[dict[str, Predictions], dict[str, Any]]:
    """Fits a rival, calibrates it on validation photos and asks it about test photos.

    Args:
        name: Name of the rival in `RIVALS`.
        train: Training photos.
        val: Validation photos, which choose hyper-parameters, settings and ρ.
        tests: Test photos by split; their positions enter only the density at the truth.
        budget: Budget of the training.
        rival: Rival that replaces the one in `RIVALS`, for example of another size.

    Returns:
        Predictions by split, and a record with ``rival``, ``parameters``, ``train_seconds``
        (choices included), ``predict_seconds`` by split, ``choices`` with settings and ρ, and
        ``val_nats``.

    Raises:
        KeyError: There is no such rival.
    """
    if name not in RIVALS:
        raise KeyError(f"No rival {name!r}; there are {sorted(RIVALS)}.")
    rival = rival or RIVALS[name]()
    start = time.perf_counter()
    rival.fit(train, val, budget)
    train_seconds = time.perf_counter() - start
    evidence = rival.evidence(val)
    settings, nats = fit_settings(evidence, val.vectors)
    radius_km = fit_radius(evidence.mixture(settings), val.vectors)
    predictions: dict[str, Predictions] = {}
    predict_seconds = {}
    for split, photos in tests.items():
        start = time.perf_counter()
        mixture = rival.evidence(photos).mixture(settings)
        predictions[split] = mixture.predictions(photos.vectors, radius_km)
        predict_seconds[split] = round(time.perf_counter() - start, 2)
    record = {
        "rival": name,
        "parameters": rival.parameters,
        "train_seconds": round(train_seconds, 2),
        "predict_seconds": predict_seconds,
        "choices": {**rival.choices, **asdict(settings), "radius_km": radius_km},
        "val_nats": nats,
    }
    return predictions, record

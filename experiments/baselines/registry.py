"""Lists all rivals by name, and fits and asks one."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from experiments.baselines.calibration import Calibration, balanced
from experiments.baselines.cells import GridSoftmax
from experiments.baselines.evidence import Evidence
from experiments.baselines.flow_matching import FlowMatching
from experiments.baselines.harmonic_regression import HarmonicRegression
from experiments.baselines.neighbours import NEIGHBOURS, Neighbours
from experiments.baselines.network import Budget
from experiments.baselines.regression import DirectRegression, MixtureDensity
from locdiffusion.decoding.answers import Predictions
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.temperature import TemperatureModel


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


@dataclass(frozen=True)
class Fitted:
    """A trained rival.

    Attributes:
        rival: The rival.
        record: ``rival``, ``parameters``, ``train_seconds`` (choices included) and ``choices``, as
            JSON values.
    """

    rival: Rival
    record: dict[str, Any]


def fit(
    name: str,
    train: EmbeddedPhotos,
    calibration: Sequence[EmbeddedPhotos],
    budget: Budget,
    rival: Rival | None = None,
) -> Fitted:
    """Trains a rival.

    Args:
        name: Name of the rival in `RIVALS`.
        train: Training photos.
        calibration: Parts of the validation photos, the one from the regions of training first.
            They choose hyper-parameters.
        budget: Budget of the training.
        rival: Rival that replaces the one in `RIVALS`, for example of another size.

    Raises:
        KeyError: There is no such rival.
    """
    if name not in RIVALS:
        raise KeyError(f"No rival {name!r}; there are {sorted(RIVALS)}.")
    rival = rival or RIVALS[name]()
    start = time.perf_counter()
    rival.fit(train, balanced(calibration), budget)
    record = {
        "rival": name,
        "parameters": rival.parameters,
        "train_seconds": round(time.perf_counter() - start, 2),
        "choices": rival.choices,
    }
    return Fitted(rival, record)


@dataclass(frozen=True)
class Said:
    """What a trained rival says about photos, which needs no more training.

    Attributes:
        calibration: Evidence of each part of the validation photos.
        tests: Evidence of the test photos by split.
        record: Record of the rival, see `Fitted`.
    """

    calibration: list[Evidence]
    tests: dict[str, Evidence]
    record: dict[str, Any]


def answer(
    said: Said,
    calibration: Sequence[EmbeddedPhotos],
    tests: Mapping[str, EmbeddedPhotos],
    temperatures: TemperatureModel,
) -> tuple[dict[str, Predictions], dict[str, Any]]:
    """Calibrates a trained rival on validation photos and answers test photos.

    Args:
        said: What the rival says about them.
        calibration: Parts of the validation photos.
        tests: Test photos by split; their positions enter only the density at the truth.
        temperatures: Unfitted temperature model of the training photos, see `temperatures_of`.

    Returns:
        Predictions by split, and the record of the rival with all that calibration chose and its
        ``val_nats``.
    """
    own = copy.deepcopy(temperatures)
    calibrated = Calibration(said.calibration, calibration, own)
    found = {
        split: calibrated.predictions(said.tests[split], photos) for split, photos in tests.items()
    }
    choices = {**said.record["choices"], **calibrated.record}
    return found, {**said.record, "choices": choices, "val_nats": calibrated.nats}

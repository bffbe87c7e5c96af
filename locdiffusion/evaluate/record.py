"""Reads and writes `scores.json`, the result of an evaluation and what is needed to repeat it.

    format            1
    model             id of the model; model_sha256 of its checkpoint (null if unknown)
    thresholds_km     distances of the lists `within` and `reliability`, in their order
    bootstrap         resamples, level and seed of the intervals
    training          number and positions_sha256 of the training photos to which distances were
                      measured; null if none were given
    splits            for each: name, source (patterns), data_sha256, without_truth (photos left
                      out), by_kind (scored photos whose position is from a document beside them,
                      `truth`, or from their `exif`), estimates (photos left out because an
                      earlier run wrote their position), scores (see `scores.Scores`), strata (see
                      `proximity.Stratum`), missing (photos of a benchmark list not found or not
                      readable; not part of n), unfamiliar (number of the n photos that are unlike
                      those that the model is for), familiar (scores of the others, if both kinds
                      are there)

A number with an interval is {"value": ..., "low": ..., "high": ...}. Shares are 0 to 1. Scores that
a method does not state are null. There is no NaN and no infinity.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from locdiffusion.config import from_dict, to_dict
from locdiffusion.evaluate.bootstrap import Bootstrap
from locdiffusion.evaluate.proximity import Stratum
from locdiffusion.evaluate.scores import Scores
from locdiffusion.files import write_json
from schemas.geotags import THRESHOLDS_KM

FORMAT = 1


@dataclass(frozen=True)
class Training:
    """Number and fingerprint of the photos to which distances were measured."""

    photos: int
    positions_sha256: str


@dataclass(frozen=True)
class SplitRecord:
    """Scores of one split; see the module's docstring."""

    name: str
    source: tuple[str, ...]
    data_sha256: str
    without_truth: int
    scores: Scores
    strata: tuple[Stratum, ...] = ()
    missing: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    estimates: int = 0
    unfamiliar: int = 0
    familiar: Scores | None = None


@dataclass(frozen=True)
class Evaluation:
    """Content of `scores.json`; see the module's docstring."""

    model: str
    model_sha256: str | None
    bootstrap: Bootstrap
    training: Training | None
    splits: tuple[SplitRecord, ...]
    thresholds_km: tuple[float, ...] = tuple(map(float, THRESHOLDS_KM))
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Refuses a file of another version."""
        if self.format != FORMAT:
            raise ValueError(
                f"format is {self.format}; this version reads {FORMAT}. Evaluate again."
            )

    def write(self, path: Path) -> None:
        """Writes the record; the file appears whole or not at all."""
        write_json(path, to_dict(self))

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """Reads what `write` wrote.

        Raises:
            ConfigError: The file holds something else.
        """
        return from_dict(cls, json.loads(path.read_text(encoding="utf-8")))

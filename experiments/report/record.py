"""Defines `main_table.json`: every method on every split, and each rival against our model.

    format      2
    model       id of our checkpoint; model_sha256 of its files; checkpoint: its settings and recipe
    budget      steps and size of the rivals' trainings; environment: versions, threads
    bootstrap   resamples, level and seed of all intervals
    data        train, the parts of calibration and every split: photos, fingerprint, how made
    roles       for each split: whether its verdicts count, and if not, why
    nearness    for each split: how far its photos are from the nearest training photo
    methods     for each: name, parameters, what was chosen for it, scores by split
    duels       for each split and other method: ours minus the other on the same photos, paired
    strata      for each pool of splits and each method: scores by distance to training photos

A number with an interval is {"value": ..., "low": ..., "high": ...}; shares are 0 to 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from experiments.report.comparison import Comparison
from locdiffusion.config import from_dict, to_dict
from locdiffusion.evaluate.bootstrap import Bootstrap
from locdiffusion.evaluate.proximity import Stratum
from locdiffusion.evaluate.scores import Scores
from locdiffusion.files import write_json
from schemas.geotags import THRESHOLDS_KM

FORMAT = 2
OURS = "locdiffusion"
MAIN_TABLE = "main_table.json"

POOLS = {
    "validation": ("val", "val_regions"),
    "July": ("seen", "unseen"),
    "unseen month": ("seen_may", "unseen_may"),
}
"""Splits that differ only in place; together they cover all distances to the training photos."""


FAR = ("val_regions", "unseen", "unseen_may")
"""Splits of new ground, whose photos farthest from training also stand as a split of their own."""


class Role(str, Enum):
    """Whether verdicts on a split count as wins and losses.

    TEST: they count. CALIBRATION: settings, ours or the rivals', were fitted on some of its photos.
    PART: its photos are also in another split, where they count.
    """

    TEST = "test"
    CALIBRATION = "seen by calibration"
    PART = "part of another split"


@dataclass(frozen=True)
class Nearness:
    """Distances from the photos of a split to the nearest training photo.

    Attributes:
        split: Name of the split.
        n: Number of photos.
        quantiles_km: Distances at the shares `NEARNESS_SHARES` of the photos, in km.
        over_km: Least distance of the photos of a far split, in km; 0 for other splits.
    """

    split: str
    n: int
    quantiles_km: tuple[float, ...]
    over_km: float = 0.0


MADE = ("split", "seed", "count", "augmentation", "mosaics")
"""What tells photos of `dataset.json` from others of the same recipe."""


def how_made(descriptions: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Summarises descriptions as `dataset.json` has them."""
    return [{name: one[name] for name in MADE if name in one} for one in descriptions]


NEARNESS_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class SplitData:
    """One set of photos.

    Attributes:
        name: Name of the split; "train" and "calibration" for photos that methods were fitted on.
        photos, sha256: Number of photos, and their fingerprint.
        made: Summary of `dataset.json` beside the shards.
    """

    name: str
    photos: int
    sha256: str
    made: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class SplitScores:
    """Scores of one method on one split."""

    split: str
    scores: Scores


@dataclass(frozen=True)
class MethodRow:
    """One method.

    Attributes:
        name: `OURS`, the name of a rival, or that of a form of ours with a part taken away.
        parameters: Number of trained parameters.
        details: Settings that were chosen, seconds and the like.
        splits: Scores by split.
        is_rival: Whether it is somebody else's method.
    """

    name: str
    parameters: int
    details: dict[str, Any]
    splits: tuple[SplitScores, ...]
    is_rival: bool = True

    def on(self, split: str) -> Scores:
        """Returns the scores on a split."""
        return next(s.scores for s in self.splits if s.split == split)


@dataclass(frozen=True)
class Duel:
    """Our model minus another method, `rival`, on the photos of a split."""

    split: str
    rival: str
    comparison: Comparison


@dataclass(frozen=True)
class PoolStrata:
    """Scores of a method by distance to the nearest training photo, over a pool of splits."""

    pool: str
    method: str
    strata: tuple[Stratum, ...]


@dataclass(frozen=True)
class MainTable:
    """The content of `main_table.json`, which the module's docstring describes."""

    model: str
    model_sha256: str
    checkpoint: dict[str, Any]
    budget: dict[str, Any]
    environment: str
    bootstrap: Bootstrap
    data: tuple[SplitData, ...]
    methods: tuple[MethodRow, ...]
    duels: tuple[Duel, ...]
    strata: tuple[PoolStrata, ...] = ()
    roles: dict[str, Role] = field(default_factory=dict)
    nearness: tuple[Nearness, ...] = ()
    thresholds_km: tuple[float, ...] = tuple(map(float, THRESHOLDS_KM))
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Refuses a file of another format version."""
        if self.format != FORMAT:
            raise ValueError(
                f"format is {self.format}; this version reads {FORMAT}. Make the table again."
            )

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in order."""
        return tuple(s.split for s in self.methods[0].splits)

    @property
    def ours(self) -> MethodRow:
        """Row of our model."""
        return next(row for row in self.methods if row.name == OURS)

    @property
    def rivals(self) -> tuple[MethodRow, ...]:
        """Rows of the rivals."""
        return tuple(row for row in self.methods if row.is_rival and row.name != OURS)

    @property
    def forms(self) -> tuple[MethodRow, ...]:
        """Rows of our model with a part taken away."""
        return tuple(row for row in self.methods if row.name != OURS and not row.is_rival)

    def role(self, split: str) -> Role:
        """Tells whether verdicts on a split count."""
        return Role(self.roles.get(split, Role.TEST))

    def duel(self, split: str, other: str) -> Comparison:
        """Returns the paired differences of our model and another method on a split."""
        return next(d.comparison for d in self.duels if (d.split, d.rival) == (split, other))

    def write(self, path: Path) -> None:
        """Writes the record; the file appears whole or not at all."""
        write_json(path, to_dict(self))

    @classmethod
    def read(cls, path: Path) -> MainTable:
        """Reads a record that `write` wrote.

        Raises:
            ConfigError: The file does not hold such a record.
        """
        return from_dict(cls, json.loads(path.read_text(encoding="utf-8")))

"""Stores answers of one method on one split as Parquet, for figures and comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from locdiffusion.decoding.answers import Predictions
from locdiffusion.evaluate.scores import errors_km
from locdiffusion.files import atomic_path
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from schemas.geotags import PROBABILITY_COLUMNS

FOLDER = "answers"
_NUMBERS = ("latitude", "longitude", "radius_50_km", "radius_90_km", "log_density_km2")
_TRUTH = ("truth_latitude", "truth_longitude")


@dataclass(frozen=True)
class Answered:
    """Photos of a split with a method's answers.

    Attributes:
        keys: Keys of the N photos.
        latitude, longitude: True places in degrees, shape ``(N,)``.
        predictions: Answers for the N photos.
    """

    keys: list[str]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    predictions: Predictions

    def take(self, rows: NDArray[np.int64]) -> Answered:
        """Selects photos by their numbers."""
        return Answered(
            [self.keys[row] for row in rows],
            self.latitude[rows],
            self.longitude[rows],
            self.predictions.take(rows),
        )

    @property
    def errors_km(self) -> NDArray[np.float64]:
        """Computes distances between answer and truth in kilometres, shape ``(N,)``."""
        return errors_km(self.predictions, self.latitude, self.longitude)


def path_of(output: Path, method: str, split: str) -> Path:
    """Path of the file with a method's answers on a split."""
    return output / FOLDER / f"{method}-{split}.parquet"


def write(path: Path, photos: EmbeddedPhotos, predictions: Predictions) -> None:
    """Writes answers; the file appears whole or not at all."""
    columns = {name: getattr(predictions, name) for name in _NUMBERS}
    columns |= dict(zip(PROBABILITY_COLUMNS, predictions.probability.T, strict=True))
    columns |= dict(zip(_TRUTH, (photos.latitude, photos.longitude), strict=True))
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({"key": photos.keys, **columns}), temporary, compression="zstd")


def read(path: Path) -> Answered:
    """Reads answers that `write` wrote."""
    table = pq.read_table(path)
    column = {name: table[name].to_numpy() for name in table.column_names if name != "key"}
    latitude, longitude = (column[name] for name in _TRUTH)
    return Answered(table["key"].to_pylist(), latitude, longitude, Predictions.from_numbers(column))

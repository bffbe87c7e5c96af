"""Gets the answers that are scored: of a checkpoint, or rows that the pipeline wrote."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from locdiffusion.cli.terminal import progress_bar
from locdiffusion.decoding.answers import SCORED_COLUMNS, Predictions
from locdiffusion.evaluate.known_positions import POSITION_COLUMNS, SOURCE_COLUMNS, known_positions
from locdiffusion.isolation.parquet import ParquetError, read_parquets
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.photos.labelled_samples import read_samples
from locdiffusion.photos.patterns import expand_patterns
from locdiffusion.photos.storage import DataError
from schemas.geotags import FAMILIARITY, UNFAMILIAR

if TYPE_CHECKING:
    from locdiffusion.checkpoint import Checkpoint

Float = NDArray[np.float64]

PARTS = "predictions/*.parquet"
_OF_LATER = {
    **dict.fromkeys(POSITION_COLUMNS[2:], pa.float64()),
    **dict.fromkeys(SOURCE_COLUMNS, pa.string()),
    FAMILIARITY: pa.float64(),
}
"""Columns that older files lack, and their types."""
_CHUNK = 256


@dataclass(frozen=True)
class Answers:
    """Answers of one model for photos with known position.

    Attributes:
        predictions: Answers for n photos.
        latitude, longitude: True positions in degrees, ``(n,)``.
        model: Id of the model.
        model_sha256: SHA-256 of the checkpoint; None if unknown.
        data_sha256: Fingerprint of the photos or, for stored answers, of the rows.
        without_truth: Number of photos that were left out because their position is unknown.
        by_kind: Number of the n photos by the source of their position (`known_positions.KINDS`);
            empty where it is one list or set of documents.
        estimates: Number of photos that were left out because an earlier run wrote their position.
        missing: Ids of photos of a benchmark list that were not found or not readable.
        unfamiliar: Which photos are unlike those that the model is for, ``(n,)``; None if it
            was not asked.
    """

    predictions: Predictions
    latitude: Float
    longitude: Float
    model: str
    model_sha256: str | None
    data_sha256: str
    without_truth: int = 0
    by_kind: Mapping[str, int] = field(default_factory=dict)
    estimates: int = 0
    missing: tuple[str, ...] = ()
    unfamiliar: NDArray[np.bool_] | None = None


def predicted(
    checkpoint: Checkpoint, photos: EmbeddedPhotos, device: str = "cpu", label: str = "photos"
) -> Answers:
    """Answers photos with a checkpoint in density mode, with a progress bar on stderr.

    Args:
        checkpoint: Checkpoint of the model.
        photos: n photos with known position, embedded by the checkpoint's own encoder.
        device: Torch device.
        label: Text of the progress bar.
    """
    from locdiffusion.cpu import torch_threads
    from locdiffusion.inference import predict

    parts = []
    bar = progress_bar(total=len(photos), desc=f"answering {label}", unit="photo")
    with bar, torch_threads(1):
        for start in range(0, len(photos), _CHUNK):
            rows = slice(start, start + _CHUNK)
            chunk = EmbeddedPhotos(
                photos.keys[rows],
                photos.embeddings[rows],
                photos.latitude[rows],
                photos.longitude[rows],
            )
            parts.append(predict(checkpoint, chunk, device))
            bar.update(len(chunk))
    return Answers(
        Predictions.joined(parts),
        photos.latitude,
        photos.longitude,
        checkpoint.model_id,
        checkpoint.sha256,
        photos.fingerprint,
    )


def stored(places: Sequence[str]) -> Answers:
    """Reads the answers that `locdiffusion geotag` wrote, of the photos whose position is known.

    The position is the truth, else that of the photo's EXIF (`known_positions`). Those files state
    no density at the truth: `log_density_km2` is NaN.

    Args:
        places: Output directories of runs, or globs of their Parquet files.

    Raises:
        DataError: Nothing there, not such files, several models, or no row with a known position.
    """
    files = list(dict.fromkeys(file for place in places for file in _parquet_files(place)))
    place = ", ".join(places)
    wanted = [*SCORED_COLUMNS, *POSITION_COLUMNS[:2], "model_id"]
    tables = list(read_predictions(files, wanted))
    table = pa.concat_tables(tables)
    columns = {name: table[name].to_numpy() for name in table.column_names if name != "model_id"}
    places_known = known_positions(columns)
    known, estimates = places_known.known, int(places_known.estimated.sum())
    if not known.any():
        ours = f" ({estimates:,} were written by an earlier run, and count as none)" * bool(
            estimates
        )
        raise DataError(
            f"None of the {len(known):,} rows of {place} has a known position{ours}; want photos "
            'with GPS in their EXIF, or put <key>.json with {"latitude": ..., "longitude": ...} '
            "beside them, and geotag them again."
        )
    models = table["model_id"].unique().to_pylist()
    if len(models) > 1:
        raise DataError(f"{place} holds answers of {sorted(models)}; want one model at a time.")
    answers = Predictions.from_numbers(columns)
    digest = hashlib.sha256()
    for name in (*SCORED_COLUMNS, *POSITION_COLUMNS):
        digest.update(np.ascontiguousarray(columns[name], np.float64).tobytes())
    digest.update(str(models).encode())
    return Answers(
        answers.take(known),
        places_known.latitude[known],
        places_known.longitude[known],
        models[0],
        _checkpoint_hash(tables[0]),
        digest.hexdigest(),
        int(np.sum(~known)),
        {kind: count for kind, count in places_known.by_kind().items() if count},
        estimates,
        unfamiliar=columns[FAMILIARITY][known] < UNFAMILIAR,
    )


def training_positions(shards: Sequence[str]) -> tuple[Float, Float]:
    """Latitude and longitude in degrees of the photos of shards, without decoding a pixel.

    Args:
        shards: Paths of webdataset tars whose samples carry truth.

    Raises:
        DataError: A shard cannot be read or a sample has no truth.
    """
    bar = progress_bar(shards, desc="reading training positions", unit="shard")
    truths = (truth for shard in bar for _, truth in read_samples(shard))
    places = [(truth.latitude, truth.longitude) for truth in truths]
    if not places:
        raise DataError("The training shards hold no sample; want at least one.")
    latitude, longitude = np.array(places, np.float64).T
    return latitude, longitude


def positions_sha256(latitude: Float, longitude: Float) -> str:
    """Fingerprint of positions."""
    return hashlib.sha256(np.stack([latitude, longitude]).tobytes()).hexdigest()


def _parquet_files(place: str) -> list[str]:
    directory = Path(os.path.abspath(place))
    wanted = f"the output directory of `locdiffusion geotag` with {PARTS}, or a quoted glob"
    try:
        files = directory.glob(PARTS) if directory.is_dir() else expand_patterns([place])
    except DataError as error:
        raise DataError(f"No predictions at {place!r} ({error}); want {wanted}.") from error
    if not (found := sorted(map(str, files))):
        raise DataError(f"No predictions at {place!r}; want {wanted}.")
    return found


def read_predictions(files: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Reads files of predictions, which may come from anywhere, one after the other.

    Args:
        files: Paths of the files; at least one.
        columns: Names of the columns. Sources and the positions of EXIF are read too; those that an
            older file lacks are empty.

    Raises:
        DataError: A file cannot be read, or lacks a column.
    """
    done = 0
    try:
        for table in read_parquets(files, [*columns, *_OF_LATER]):
            if missing := sorted(set(columns) - set(table.column_names)):
                raise DataError(
                    f"{files[done]} lacks the columns {missing}; want the predictions of "
                    "`locdiffusion geotag` (schemas.geotags)."
                )
            for name in set(_OF_LATER) - set(table.column_names):
                table = table.append_column(name, pa.nulls(len(table), _OF_LATER[name]))
            yield table.select([*columns, *_OF_LATER])
            done += 1
    except (ParquetError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{files[done]} cannot be read ({reason}); want GeoParquet of `locdiffusion geotag`."
        ) from error


def _checkpoint_hash(table: pa.Table) -> str | None:
    found = (table.schema.metadata or {}).get(b"checkpoint_hash")
    return None if found is None else found.decode("utf-8", "replace")

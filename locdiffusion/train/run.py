"""One run of `locdiffusion train`: load the photos and train; `finish` does the rest."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from locdiffusion.appearance.training_photos import DATASET, TrainingFile, is_augmented
from locdiffusion.model.deferred_encoder import DeferredEncoder
from locdiffusion.photos.embedding_cache import (
    EmbeddedPhotos,
    cached_fingerprint,
    embed_shards,
    read_embedded,
)
from locdiffusion.photos.patterns import expand_patterns
from locdiffusion.train.distributed import Processes, check_bf16
from locdiffusion.train.finish import CHECKPOINT, RunData
from locdiffusion.train.photo_statistics import Statistics
from locdiffusion.train.recipe import TrainConfig
from locdiffusion.train.streaming import StreamedPhotos, StreamOrder
from locdiffusion.train.tensorboard import FOLDER as SCALARS
from locdiffusion.train.tensorboard import MISSING, Scalars
from locdiffusion.train.trainer import Trainer
from locdiffusion.train.training_state import PROGRESS, STATE

Patterns = Mapping[str, Sequence[str]]


def completed(config: TrainConfig, device: torch.device) -> tuple[TrainConfig, DeferredEncoder]:
    """Fills in the settings that follow from others, and finds the image encoder.

    Args:
        config: The recipe.
        device: Device of the encoder and of the training.

    Returns:
        The recipe with the size of the encoder's embeddings and a warm-up of at most a tenth of
        all steps, and the encoder.

    Raises:
        ValueError: A setting makes no sense, or not on this device.
        EncoderWeightsError: The encoder's package or file is missing.
    """
    encoder = DeferredEncoder(config.encoder, str(device))
    config = replace(
        config,
        model=replace(config.model, embedding_dim=encoder.spec.embedding_dim),
        warmup=min(config.warmup, config.steps // 10 + 1),
    )
    if config.bf16:
        check_bf16(device)
    return config, encoder


def load(
    patterns: Patterns,
    tests: Patterns,
    config: TrainConfig | None,
    encoder: DeferredEncoder,
    cache: Path,
    group: Processes,
    val_photos: int | None = None,
) -> RunData:
    """Embeds all photos, each process its share of the shards, and opens them.

    Args:
        patterns: Shards of `train` and `val`, and optionally of `val_regions` and `val_looks`.
        tests: Shards of each test set by its name.
        config: The recipe; None if no network is trained, which needs no training photos in memory.
        encoder: Frozen image encoder.
        cache: Directory of the embeddings.
        group: This process and the others that train with it.
        val_photos: Largest number of photos in a validation part; None is no limit.

    Raises:
        DataError: There is no such shard, or one is unusable.
    """
    share = group.share

    def embedded(globs: Sequence[str]) -> list[Path]:
        shards = expand_patterns(globs)
        return embed_shards(shards, encoder, cache, part=share.rank, parts=share.world)

    files = {name: embedded(globs) for name, globs in patterns.items() if globs}
    test_files = {name: embedded(globs) for name, globs in tests.items()}
    group.wait()
    fingerprint = cached_fingerprint([path for paths in files.values() for path in paths])
    augmented = map(is_augmented, expand_patterns(patterns["train"]))
    training = [*map(TrainingFile, files.pop("train"), augmented)]
    train = None if config is None else _training_photos([f.path for f in training], config, group)
    validation = {n: _thinned(read_embedded(paths), val_photos) for n, paths in files.items()}
    if group.is_first:
        counts = ", ".join(f"{len(part):,} {name}" for name, part in validation.items())
        photos = sum(pq.read_metadata(file.path).num_rows for file in training)
        print(f"{photos:,} training photos; validation: {counts}", flush=True)
    sources = {name: _describe(globs) for name, globs in patterns.items()}
    return RunData(train, validation, test_files, sources, fingerprint, training)


def _thinned(photos: EmbeddedPhotos, most: int | None) -> EmbeddedPhotos:
    """Takes evenly spaced photos, at most so many."""
    if most is None or len(photos) <= most:
        return photos
    return photos.take(np.arange(most) * len(photos) // most)


def _training_photos(
    files: Sequence[Path], config: TrainConfig, group: Processes
) -> EmbeddedPhotos | StreamedPhotos:
    if config.stream is None:
        return read_embedded(files)
    if group.is_first:
        Statistics.of(files)
    group.wait()
    statistics = Statistics.of(files)
    order = StreamOrder(statistics.counts, config.batch_size, config.stream, config.seed)
    return StreamedPhotos(files, statistics, order, group.share)


def _describe(patterns: Sequence[str]) -> list[dict[str, Any]]:
    """Reads the `dataset.json` beside the shards, which says how the data were made."""
    found = []
    for directory in dict.fromkeys(Path(p).parent for p in patterns):
        file = directory / DATASET
        if file.is_file():
            found.append(json.loads(file.read_text()))
    return found


def remove(output: Path, group: Processes) -> None:
    """Deletes a run except for its embeddings."""
    if group.is_first:
        for name in (PROGRESS, STATE, CHECKPOINT, SCALARS):
            target = output / name
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    group.wait()


def train(
    config: TrainConfig,
    data: RunData,
    output: Path,
    group: Processes,
    save_every_minutes: float,
    log_every: int,
) -> Trainer:
    """Trains to the end, from the state that the directory holds.

    Args:
        config: The recipe.
        data: The photos.
        output: Directory of the run.
        group: This process and the others that train with it.
        save_every_minutes: Minutes between saved states, besides one after each validation.
        log_every: Steps between TensorBoard scalars; 0 writes none.

    Raises:
        Stopped: A signal arrived; the state is saved.
        ValueError: The directory holds another run.
    """
    assert data.train is not None
    trainer = Trainer(config, data.train, data.validation["val"], output, group)
    resumed = trainer.resume()
    scalars = None
    if group.is_first:
        if resumed:
            print(f"resuming at step {trainer.step}", flush=True)
        if log_every:
            scalars = Scalars.open(output, log_every, trainer.step)
            if scalars is None:
                print(MISSING, flush=True)
    try:
        _train_until_told(trainer, 60.0 * save_every_minutes, scalars)
    finally:
        trainer.close()
        if isinstance(data.train, StreamedPhotos):
            data.train.close()
        if scalars:
            scalars.close()
    return trainer


def _train_until_told(trainer: Trainer, save_every_s: float, scalars: Scalars | None) -> None:
    """Trains to the end, or until Ctrl-C or `kill` sends a signal."""
    steps = trainer.config.steps
    stop: list[bool] = []
    previous = {
        number: signal.signal(number, lambda *_: stop.append(True))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    began, first = time.monotonic(), trainer.step

    def report(figures: dict[str, float]) -> None:
        rate = (figures["step"] - first) / max(1e-9, time.monotonic() - began)
        left = (steps - figures["step"]) / max(1e-9, rate) / 60.0
        print(
            f"step {figures['step']:.0f}/{steps}  train {figures['train_nats']:.3f} nats  "
            f"val {figures['val_nats']:.3f} nats, median {figures['val_median_km']:.0f} km, "
            f"{100 * figures['val_within_25']:.0f} % within 25 km, "
            f"{100 * figures['val_within_200']:.0f} % within 200 km  "
            f"({rate:.1f} steps/s, {left:.0f} min left)",
            flush=True,
        )

    try:
        trainer.run(report, lambda: bool(stop), save_every_s, scalars)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

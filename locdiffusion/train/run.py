"""One run of `locdiffusion train`: load the photos, train, calibrate, write the checkpoint."""

from __future__ import annotations

import json
import platform
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from locdiffusion import checkpoint, model_card
from locdiffusion.calibrate import fitting
from locdiffusion.calibrate.parts import LocatedDensities
from locdiffusion.config import to_dict
from locdiffusion.files import write_atomically
from locdiffusion.inference import Answerer, natural_parameters
from locdiffusion.model.deferred_encoder import DeferredEncoder
from locdiffusion.model.weights import EncoderWeightsError
from locdiffusion.photos.embedding_cache import (
    EmbeddedPhotos,
    cached_fingerprint,
    embed_shards,
    read_embedded,
)
from locdiffusion.photos.patterns import expand_patterns
from locdiffusion.temperature import CalibratedDenoiser, TemperatureConfig, TemperatureModel
from locdiffusion.train.batches import PhotoSource
from locdiffusion.train.distributed import Processes, check_bf16
from locdiffusion.train.photo_statistics import Statistics
from locdiffusion.train.recipe import TrainConfig
from locdiffusion.train.streaming import StreamedPhotos, StreamOrder
from locdiffusion.train.tensorboard import FOLDER as SCALARS
from locdiffusion.train.tensorboard import MISSING, Scalars
from locdiffusion.train.trainer import Trainer
from locdiffusion.train.training_state import PROGRESS, STATE

CHECKPOINT = "checkpoint"
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


@dataclass(frozen=True)
class RunData:
    """The photos of a run.

    Attributes:
        train: Training photos, in memory, streamed, or from another source.
        validation: Validation photos by the name of the part, `val` first.
        tests: Test photos, or files of the embedding cache, by the name of the set.
        sources: Descriptions of how the photos were made, by the name of the part.
        fingerprint: Fingerprint of the encoder that embedded them here; empty if none was.
    """

    train: EmbeddedPhotos | PhotoSource
    validation: dict[str, EmbeddedPhotos]
    tests: Mapping[str, list[Path] | EmbeddedPhotos]
    sources: dict[str, list[dict[str, Any]]]
    fingerprint: str = ""


def load(
    patterns: Patterns,
    tests: Patterns,
    config: TrainConfig,
    encoder: DeferredEncoder,
    cache: Path,
    group: Processes,
    val_photos: int | None = None,
) -> RunData:
    """Embeds all photos, each process its share of the shards, and opens them.

    Args:
        patterns: Shards of `train` and `val`, and optionally of `val_regions` and `val_looks`.
        tests: Shards of each test set by its name.
        config: The recipe.
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
    train = _training_photos(files.pop("train"), config, group)
    validation = {n: _thinned(read_embedded(paths), val_photos) for n, paths in files.items()}
    if group.is_first:
        counts = ", ".join(f"{len(part):,} {name}" for name, part in validation.items())
        print(f"{len(train):,} training photos; validation: {counts}", flush=True)
    sources = {name: _describe(globs) for name, globs in patterns.items()}
    return RunData(train, validation, test_files, sources, fingerprint)


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
        file = directory / "dataset.json"
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


def finish(
    trainer: Trainer,
    data: RunData,
    encoder: DeferredEncoder,
    about: str | None,
    temperature: TemperatureConfig | None = None,
) -> Path:
    """Calibrates, measures and writes the checkpoint.

    Args:
        trainer: Trainer at the end of its run.
        data: The photos.
        encoder: Encoder that embedded them. Its weights are loaded only if none embedded them here.
        about: Markdown that opens the model card; None writes a title only.
        temperature: Sizes of the temperature model; None takes the defaults.

    Returns:
        Directory of the checkpoint.
    """
    config = trainer.config
    base_measure = trainer.base_measure
    denoiser = _with_temperatures(trainer, data.train, temperature)
    decoder = fitting.fit(denoiser, list(data.validation.values()), trainer.decoder)
    decode = decoder.config
    print(f"fitted on validation: temperatures, ρ {decode.radius_km:g} km", flush=True)
    tests = {
        name: part if isinstance(part, EmbeddedPhotos) else read_embedded(part)
        for name, part in data.tests.items()
    }
    metrics, answerer = {}, Answerer(decoder, denoiser.temperatures)
    for name, part in (data.validation | tests).items():
        natural = natural_parameters(denoiser, part.embeddings)
        metrics[name] = fitting.measure(LocatedDensities(part, natural), answerer)
    _print_metrics(metrics)
    saved = checkpoint.CheckpointConfig(
        config.name,
        config.model,
        config.noise,
        decode,
        encoder.spec,
        denoiser.temperatures.config,
        _record(trainer, metrics, data) | {"activation_told_by": encoder.activation_told_by},
        fingerprint=data.fingerprint or _fingerprint(encoder),
        purpose=config.purpose,
        unlike=config.unlike,
    )
    directory = trainer.directory / CHECKPOINT
    checkpoint.save(directory, saved, denoiser, base_measure)
    about = f"# Model card: `{saved.name}`" if about is None else about
    write_atomically(directory / model_card.CARD, model_card.render(saved, about))
    return directory


def _fingerprint(encoder: DeferredEncoder) -> str:
    """Takes the fingerprint of an encoder; empty if its weights are not on this machine."""
    try:
        return encoder.fingerprint
    except EncoderWeightsError as error:
        print(f"the checkpoint gets no fingerprint of its encoder: {error}", flush=True)
        return ""


def _with_temperatures(
    trainer: Trainer, train: EmbeddedPhotos | PhotoSource, temperature: TemperatureConfig | None
) -> CalibratedDenoiser:
    """Joins the averaged network, as a checkpoint stores it, with an unfitted temperature model."""
    config = trainer.config
    temperatures = TemperatureModel.of_training(
        train.embeddings,
        train.vectors,
        config.model.max_degree,
        trainer.base_measure,
        temperature,
        seed=config.seed,
    )
    return CalibratedDenoiser(
        checkpoint.as_stored(trainer.average), temperatures.to(trainer.device)
    )


def _record(trainer: Trainer, metrics: dict[str, Any], data: RunData) -> dict[str, Any]:
    """The record of the run that `config.json` keeps."""
    world = trainer.processes.share.world
    return {
        "environment": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"{trainer.device}, {torch.get_num_threads()} threads"
        + (f", {world} processes" if world > 1 else ""),
        "parameters": sum(p.numel() for p in trainer.average.parameters()),
        "recipe": to_dict(trainer.config),
        "metrics": metrics,
        "history": trainer.history,
        "data": {
            name: {"photos": len(part), "sha256": part.fingerprint, "source": data.sources[name]}
            for name, part in ({"train": data.train} | data.validation).items()
        },
    }


def _print_metrics(metrics: dict[str, dict[str, Any]]) -> None:
    print(f"{'split':<12}{'n':>7}{'median km':>11}   within 1/25/200/750/2500 km   cover 50/90")
    for name, m in metrics.items():
        within = "/".join(f"{100 * v:.0f}" for v in m["within"].values())
        cover = f"{100 * m['coverage_50']:.0f}/{100 * m['coverage_90']:.0f}"
        print(f"{name:<12}{m['n']:>7}{m['median_km']:>11.0f}   {within:<28}  {cover}")

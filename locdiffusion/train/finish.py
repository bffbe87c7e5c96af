"""The end of a training: calibrate, make the map, measure, and write the checkpoint."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from locdiffusion import checkpoint, model_card
from locdiffusion.appearance.model import AppearanceModel
from locdiffusion.appearance.training_photos import (
    AppearanceConfig,
    Projection,
    TrainingFile,
    fitted_map,
)
from locdiffusion.calibrate import fitting
from locdiffusion.calibrate.parts import LocatedDensities
from locdiffusion.config import to_dict
from locdiffusion.files import write_atomically
from locdiffusion.inference import Answerer, natural_parameters
from locdiffusion.model.deferred_encoder import DeferredEncoder
from locdiffusion.model.weights import EncoderWeightsError
from locdiffusion.photos.embedding_cache import EmbeddedPhotos, read_embedded
from locdiffusion.temperature import CalibratedDenoiser, TemperatureConfig, TemperatureModel
from locdiffusion.train.batches import PhotoSource
from locdiffusion.train.trainer import Trainer

CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class RunData:
    """The photos of a run.

    Attributes:
        train: Training photos, in memory, streamed, or from another source; None if no network is
            trained.
        validation: Validation photos by the name of the part, `val` first.
        tests: Test photos, or files of the embedding cache, by the name of the set.
        sources: Descriptions of how the photos were made, by the name of the part.
        fingerprint: Fingerprint of the encoder that embedded them here; empty if none was.
        files: Files of the embedding cache that hold the training photos; empty if none do.
    """

    train: EmbeddedPhotos | PhotoSource | None
    validation: dict[str, EmbeddedPhotos]
    tests: Mapping[str, list[Path] | EmbeddedPhotos]
    sources: dict[str, list[dict[str, Any]]]
    fingerprint: str = ""
    files: Sequence[TrainingFile] = ()


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
    assert data.train is not None
    config = trainer.config
    denoiser = _with_temperatures(trainer, data.train, temperature)
    decoder = fitting.fit(denoiser, list(data.validation.values()), trainer.decoder)
    print(f"fitted on validation: temperatures, ρ {decoder.config.radius_km:g} km", flush=True)
    unmapped = checkpoint.Checkpoint(
        checkpoint.CheckpointConfig(
            config.name,
            config.model,
            config.noise,
            decoder.config,
            encoder.spec,
            denoiser.temperatures.config,
            _record(trainer, data) | {"activation_told_by": encoder.activation_told_by},
            fingerprint=data.fingerprint or _fingerprint(encoder),
            purpose=config.purpose,
            unlike=config.unlike,
        ),
        denoiser,
        trainer.base_measure,
        sha256="",
    )
    return write(with_map(unmapped, data, config.appearance), data, trainer.directory, about)


def with_map(
    base: checkpoint.Checkpoint, data: RunData, config: AppearanceConfig | None
) -> checkpoint.Checkpoint:
    """Adds the appearance map of the training photos, fitted on validation photos.

    Args:
        base: Checkpoint with fitted temperatures.
        data: The photos.
        config: Settings of the map; None, or training photos that lie in no file, add none.
    """
    if config is None or not data.files:
        return base
    temperatures = base.denoiser.temperatures
    project = Projection(temperatures.mean.cpu().numpy(), temperatures.projection.cpu().numpy())
    model = AppearanceModel(fitted_map(data.files, project, config))
    made = replace(base, appearance=model)
    device = next(made.network.parameters()).device
    answerer = Answerer.of_checkpoint(made, device)
    fitting.fit_appearance(answerer, made.denoiser, list(data.validation.values()))
    photos = [pq.read_metadata(file.path).num_rows for file in data.files]
    varied = [n for n, file in zip(photos, data.files, strict=True) if file.augmented]
    record = {
        "settings": to_dict(config),
        "photos": sum(photos),
        "augmented_photos": sum(varied),
        "cells": len(model.map.held),
        "fitted_on": {
            name: {"photos": len(part), "sha256": part.fingerprint}
            for name, part in data.validation.items()
        },
    }
    print(f"appearance map: {len(model.map.held):,} cells from {sum(photos):,} photos", flush=True)
    return replace(
        made, config=replace(made.config, record=made.config.record | {"appearance": record})
    )


def write(made: checkpoint.Checkpoint, data: RunData, directory: Path, about: str | None) -> Path:
    """Measures a checkpoint on validation and test photos, and writes it with its card.

    Args:
        made: The checkpoint; its record gets the figures.
        data: The photos.
        directory: Directory of the run.
        about: Markdown that opens the model card; None writes a title only.

    Returns:
        Directory of the checkpoint.
    """
    answerer = Answerer.of_checkpoint(made, next(made.network.parameters()).device)
    tests = {
        name: part if isinstance(part, EmbeddedPhotos) else read_embedded(part)
        for name, part in data.tests.items()
    }
    metrics = {}
    for name, part in (data.validation | tests).items():
        natural = natural_parameters(made.denoiser, part.embeddings)
        metrics[name] = fitting.measure(LocatedDensities(part, natural), answerer)
    _print_metrics(metrics)
    saved = replace(made.config, record=made.config.record | {"metrics": metrics})
    target = directory / CHECKPOINT
    checkpoint.save(target, saved, made.denoiser, made.base_measure, made.appearance)
    about = f"# Model card: `{saved.name}`" if about is None else about
    write_atomically(target / model_card.CARD, model_card.render(saved, about))
    return target


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


def _record(trainer: Trainer, data: RunData) -> dict[str, Any]:
    """The record of the run that `config.json` keeps."""
    world = trainer.processes.share.world
    return {
        "environment": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"{trainer.device}, {torch.get_num_threads()} threads"
        + (f", {world} processes" if world > 1 else ""),
        "parameters": sum(p.numel() for p in trainer.average.parameters()),
        "recipe": to_dict(trainer.config),
        "history": trainer.history,
        "data": {
            name: {"photos": len(part), "sha256": part.fingerprint, "source": data.sources[name]}
            for name, part in ({"train": data.train} | data.validation).items()
            if part is not None
        },
    }


def _print_metrics(metrics: dict[str, dict[str, Any]]) -> None:
    print(f"{'split':<12}{'n':>7}{'median km':>11}   within 1/25/200/750/2500 km   cover 50/90")
    for name, m in metrics.items():
        within = "/".join(f"{100 * v:.0f}" for v in m["within"].values())
        cover = f"{100 * m['coverage_50']:.0f}/{100 * m['coverage_90']:.0f}"
        print(f"{name:<12}{m['n']:>7}{m['median_km']:>11.0f}   {within:<28}  {cover}")

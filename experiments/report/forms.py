"""Forms of our model with a part taken away, which say what each part is worth.

one_temperature     one temperature for all photos in place of one per photo
without_map         the density alone, where the checkpoint has a map of what photos look like
small_mlp           a plain residual MLP in place of CS-UNet, with our loss, base measure, scattered
                    places and calibration, trained on `SMALL_PHOTOS` photos in as many steps
paper               a checkpoint of the recipe `paper`, which answers by sampling

The first two change the shipped checkpoint; they are computed anew with it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from experiments.ablations.fitting import fit as fit_variant
from experiments.ablations.plan import Budget, Network, Variant
from experiments.ablations.sampled import subset
from experiments.baselines.calibration import COVERAGE_PHOTOS
from experiments.baselines.network import Budget as RivalBudget
from locdiffusion.calibrate import fitting
from locdiffusion.calibrate.coverage import LEVELS
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.config import from_dict
from locdiffusion.decoding.answers import Predictions
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2
from locdiffusion.evaluate.scores import errors_km
from locdiffusion.geotagger import Geotagger
from locdiffusion.inference import predict
from locdiffusion.model.cs_unet import CSUNet
from locdiffusion.model.image_encoder import UnloadedEncoder
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.settings import GeotaggerSettings, PosteriorMode
from locdiffusion.temperature import CalibratedDenoiser, TemperatureModel
from locdiffusion.train.label_smoothing import SmoothingConfig

ONE_TEMPERATURE, SMALL_MLP, PAPER = "one_temperature", "small_mlp", "paper"
WITHOUT_MAP = "without_map"

SMALL_PHOTOS = 8000
LOG_TEMPERATURES = np.linspace(np.log(0.05), np.log(8.0), 26)
SAMPLING = GeotaggerSettings(mode=PosteriorMode.SAMPLING, samples=8, steps=4)


def one_temperature(checkpoint: Checkpoint, calibration: Sequence[EmbeddedPhotos]) -> Checkpoint:
    """Gives all photos the one temperature whose radii hold as many truths as they say.

    Args:
        checkpoint: Our checkpoint.
        calibration: Parts of the validation photos, the one from the regions of training first.
    """
    some = [part.take(np.arange(min(len(part), COVERAGE_PHOTOS))) for part in calibration]
    weights = [fitting.FIRST_WEIGHT, *[1.0] * (len(some) - 1)]
    changed = replace(checkpoint, denoiser=copy.deepcopy(checkpoint.denoiser))
    temperatures = changed.denoiser.temperatures
    temperatures.out.weight.zero_()
    best, least = 0.0, np.inf
    for log_temperature in LOG_TEMPERATURES:
        temperatures.out.bias.fill_(float(log_temperature))
        missed = [np.square(np.subtract(_coverage(changed, part), LEVELS)).sum() for part in some]
        if (miss := float(np.dot(weights, missed))) < least:
            best, least = float(log_temperature), miss
    temperatures.out.bias.fill_(best)
    return changed


def without_map(checkpoint: Checkpoint) -> Checkpoint:
    """Takes the map away: the density alone answers."""
    return replace(checkpoint, appearance=None)


def _coverage(checkpoint: Checkpoint, photos: EmbeddedPhotos) -> tuple[float, float]:
    said = predict(checkpoint, photos)
    error = errors_km(said, photos.latitude, photos.longitude)
    return float(np.mean(error <= said.radius_50_km)), float(np.mean(error <= said.radius_90_km))


def small_mlp(
    checkpoint: Checkpoint,
    train: EmbeddedPhotos,
    calibration: Sequence[EmbeddedPhotos],
    budget: RivalBudget,
) -> Checkpoint:
    """Trains a residual MLP with our loss on few photos, and calibrates it as ours is.

    Args:
        checkpoint: Our checkpoint, whose recipe gives degree and scattering.
        train: Training photos, of which `SMALL_PHOTOS` are taken.
        calibration: Parts of the validation photos, the one from the regions of training first.
        budget: Budget whose steps, batches, learning rate and seed are taken.
    """
    recipe = checkpoint.config.record.get("recipe", {})
    places = from_dict(SmoothingConfig, recipe.get("smoothing", {}))
    variant = Variant(
        network=Network.MLP,
        max_degree=checkpoint.config.model.max_degree,
        smoothing_km=places.km,
        broad_share=places.broad_share,
    )
    same = ("steps", "batch_size", "learning_rate", "seed")
    small = Budget(**{name: getattr(budget, name) for name in same})
    few = subset(train, SMALL_PHOTOS, 0)
    fitted = fit_variant(variant, small, few)
    network, base_measure = fitted.network, fitted.base_measure
    assert isinstance(network, CSUNet) and base_measure is not None
    temperatures = TemperatureModel.of_training(
        few.embeddings, few.vectors, variant.max_degree, base_measure
    )
    denoiser = CalibratedDenoiser(network, temperatures)
    decoder = fitting.fit(
        denoiser, calibration, Decoder(variant.max_degree, base_measure=base_measure)
    )
    config = replace(
        checkpoint.config,
        name=SMALL_MLP,
        model=network.config,
        decode=decoder.config,
        temperature=temperatures.config,
    )
    return Checkpoint(config, denoiser, base_measure, sha256="")


def sampled(checkpoint: Checkpoint, photos: EmbeddedPhotos) -> Predictions:
    """Answers photos by sampling: `SAMPLING.samples` reverse diffusions each.

    Args:
        checkpoint: Checkpoint of the model.
        photos: N photos with known position, embedded by the checkpoint's own encoder.
    """
    geotagger = Geotagger(checkpoint, UnloadedEncoder(checkpoint.config.encoder, "cpu"), SAMPLING)
    tables, parts = checkpoint.decoder().tables, []
    for start in range(0, len(photos), 64):
        some = photos.take(np.arange(start, min(start + 64, len(photos))))
        natural = geotagger.sample(some.embeddings, some.keys)
        columns = geotagger.decode(natural, some.embeddings)
        log_p = tables.log_probability(torch.from_numpy(natural), some.vectors)
        log_density = {"log_density_km2": log_p - LOG_SPHERE_AREA_KM2}
        parts.append(Predictions.from_numbers({**columns.numbers(), **log_density}))
    return Predictions.joined(parts)

"""Posteriors of many photos at once, in memory: what training, calibration and evaluation share."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.checkpoint import Checkpoint
from locdiffusion.data import EmbeddedPhotos
from locdiffusion.decoding import Decoder
from locdiffusion.density import LOG_SPHERE_AREA_KM2
from locdiffusion.model.cs_unet import CSUNet
from locdiffusion.predictions import Predictions
from locdiffusion.temperature import CalibratedDenoiser


@torch.inference_mode()
def natural_parameters(
    network: CSUNet | CalibratedDenoiser, embeddings: NDArray[np.float32], batch: int = 256
) -> Tensor:
    """Density mode of many photos: ``(N, d)`` on the network's device."""
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(embeddings), batch):
        condition = torch.from_numpy(embeddings[start : start + batch]).to(device)
        parts.append(network.from_image(condition))
    return torch.cat(parts)


def decode_all(
    decoder: Decoder, natural: Tensor, batch: int = 128
) -> tuple[NDArray[np.float64], ...]:
    """Latitude, longitude, 50 % and 90 % radius of many densities ``(N, d)``."""
    parts = [decoder(natural[i : i + batch, None]) for i in range(0, len(natural), batch)]
    names = ("latitude", "longitude", "radius_50_km", "radius_90_km")
    return tuple(np.concatenate([getattr(p, name) for p in parts]) for name in names)


def log_probability(
    decoder: Decoder, natural: Tensor, vectors: NDArray[np.float64], batch: int = 128
) -> NDArray[np.float64]:
    """Log p of the true points ``(N, 3)`` in nats against the uniform sphere, ``(N,)``."""
    parts = [
        decoder.log_probability(natural[i : i + batch, None], vectors[i : i + batch])
        for i in range(0, len(natural), batch)
    ]
    return np.concatenate(parts)


def predict(checkpoint: Checkpoint, photos: EmbeddedPhotos, device: str = "cpu") -> Predictions:
    """What a checkpoint says about photos, in density mode: as the pipeline answers.

    Args:
      checkpoint: the model.
      photos: N photos with truth, embedded by the checkpoint's own encoder.
      device: where to compute.
    """
    config = checkpoint.config
    decoder = Decoder(config.model.max_degree, config.decode, checkpoint.base).to(device)
    natural = natural_parameters(checkpoint.denoiser.to(device), photos.embeddings)
    return predictions(decoder, natural, photos.vectors)


def predictions(
    decoder: Decoder, natural: Tensor, vectors: NDArray[np.float64], batch: int = 128
) -> Predictions:
    """Answers of densities ``(N, d)`` whose true points are ``(N, 3)`` unit vectors."""
    parts = [decoder(natural[i : i + batch, None]) for i in range(0, len(natural), batch)]

    def column(name: str) -> NDArray[np.float64]:
        return np.concatenate([getattr(part, name) for part in parts]).astype(np.float64)

    return Predictions(
        latitude=column("latitude"),
        longitude=column("longitude"),
        radius_50_km=column("radius_50_km"),
        radius_90_km=column("radius_90_km"),
        probability=column("probability"),
        log_density_km2=log_probability(decoder, natural, vectors) - LOG_SPHERE_AREA_KM2,
    )

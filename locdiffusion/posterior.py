"""Posteriors of many photos at once, in memory: what training, calibration and evaluation share."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.decoding import Decoder
from locdiffusion.model.cs_unet import CSUNet


@torch.inference_mode()
def natural_parameters(
    network: CSUNet, embeddings: NDArray[np.float32], batch: int = 512
) -> Tensor:
    """Density mode of many photos: ``(N, d)`` on the network's device."""
    device = network.embedding_mean.device
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

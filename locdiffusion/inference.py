"""Computes densities and answers of many photos in memory: for training and evaluation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.checkpoint import Checkpoint
from locdiffusion.decoding.answers import GeotagColumns, Predictions
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2, mixed_log
from locdiffusion.density.transforms import ProductTransform, pole_frame
from locdiffusion.model.cs_unet import CSUNet
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import unit_vectors
from locdiffusion.sphere.grids import LatLonGrid
from locdiffusion.temperature import CalibratedDenoiser


@torch.inference_mode()
def natural_parameters(
    network: CSUNet | CalibratedDenoiser, embeddings: NDArray[np.float32], batch: int = 256
) -> Tensor:
    """Computes density mode of many photos.

    Args:
        network: Network, with or without temperatures.
        embeddings: Image embeddings, ``(N, E)``.
        batch: Number of photos in a batch.

    Returns:
        Natural parameters ``(N, d)`` on the network's device.
    """
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(embeddings), batch):
        condition = torch.from_numpy(embeddings[start : start + batch]).to(device)
        parts.append(network.from_image(condition))
    return torch.cat(parts)


def decode_all(
    decoder: Decoder, natural: Tensor, batch: int = 128
) -> tuple[NDArray[np.float64], ...]:
    """Decodes densities ``(N, d)``: latitudes, longitudes, 50 % and 90 % radii, each ``(N,)``."""
    columns = _columns(decoder, natural, batch)
    return columns.latitude, columns.longitude, columns.radius_50_km, columns.radius_90_km


def _columns(decoder: Decoder, natural: Tensor, batch: int) -> GeotagColumns:
    starts = range(0, len(natural), batch)
    return GeotagColumns.joined([decoder(natural[i : i + batch, None]) for i in starts])


def log_probability(
    decoder: Decoder, natural: Tensor, vectors: NDArray[np.float64], batch: int = 128
) -> NDArray[np.float64]:
    """Computes log p at one point per photo.

    Args:
        decoder: Decoder of the densities.
        natural: Natural parameters, ``(N, d)``.
        vectors: Unit vectors of the points, ``(N, 3)``.
        batch: Number of photos in a batch.

    Returns:
        Log densities ``(N,)`` in nats against the uniform sphere.
    """
    parts = [
        decoder.tables.log_probability(natural[i : i + batch, None], vectors[i : i + batch])
        for i in range(0, len(natural), batch)
    ]
    return np.concatenate(parts)


def predict(checkpoint: Checkpoint, photos: EmbeddedPhotos, device: str = "cpu") -> Predictions:
    """Answers photos in density mode, as the pipeline does.

    Args:
        checkpoint: Checkpoint of the model.
        photos: N photos with known position, embedded by the checkpoint's own encoder.
        device: Torch device.
    """
    natural = natural_parameters(checkpoint.denoiser.to(device), photos.embeddings)
    return predictions(checkpoint.decoder(device), natural, photos.vectors)


def predictions(
    decoder: Decoder, natural: Tensor, vectors: NDArray[np.float64], batch: int = 128
) -> Predictions:
    """Answers densities ``(N, d)`` whose true points are the unit vectors ``(N, 3)``."""
    columns = _columns(decoder, natural, batch)
    log_density = log_probability(decoder, natural, vectors) - LOG_SPHERE_AREA_KM2
    return Predictions.from_numbers({**columns.numbers(), "log_density_km2": log_density})


@torch.inference_mode()
def log_density_around(
    decoder: Decoder,
    natural: Tensor,
    centre: tuple[float, float],
    distance_deg: NDArray[np.float64],
    bearings: int,
) -> NDArray[np.float64]:
    """Computes the log density of one photo on circles around a point, for maps.

    Args:
        decoder: Decoder of the densities.
        natural: Natural parameters of K densities, which are mixed with equal weight, ``(K, d)``.
        centre: Latitude and longitude of the point in degrees.
        distance_deg: Radii of the circles in degrees, ``(T,)``.
        bearings: Number B of points on each circle, clockwise from the north.

    Returns:
        Log densities ``(T, B)`` in nats per km².
    """
    vector = torch.from_numpy(unit_vectors(*centre))[None]
    frame = pole_frame(vector)[0]
    # The frame's columns are south, east and up: its longitude counts from south to east.
    longitude = np.pi - 2.0 * np.pi * np.arange(bearings) / bearings
    nodes = LatLonGrid(np.cos(np.radians(distance_deg)), longitude, np.ones(len(distance_deg)))
    tables = decoder.tables
    circles = ProductTransform(nodes, tables.max_degree).to(natural.device)
    at_pole = tables.rotation(natural, vector.expand(len(natural), 3).to(natural))
    places = torch.from_numpy(nodes.vectors) @ frame.T
    # log p = log q₀ + log (1/K) Σ_k exp(F_k - log Z_k)
    field = circles.synthesis(at_pole).flatten(1) - tables.log_normaliser(natural[:, None])
    log_p = mixed_log(field) + tables.log_q0_at(places.to(natural))
    density: NDArray[np.float64] = log_p.double().cpu().numpy() - LOG_SPHERE_AREA_KM2
    return density.reshape(len(distance_deg), bearings)

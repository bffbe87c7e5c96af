"""Places as numbers and back, and the noise that suits each."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.ablations.plan import Encoding, Noise, Variant
from locdiffusion.decoding.peaks import climb, highest_nodes
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.density.transforms import PoleRotation, ProductTransform
from locdiffusion.diffusion.schedules import (
    STANDARD_LEVELS,
    NoiseConfig,
    standard_sigmas,
    training_sigmas,
)
from locdiffusion.sphere.geodesy import latitude_longitude, unit_vectors
from locdiffusion.sphere.grids import gauss_legendre_grid

CODE_RANGE, SMALL_RANGE = (3.0, 60.0), (0.02, 20.0)
"""σ of SHDD codes, and of two or three numbers: from where some 70 km are left to all the Earth."""


def dimension(variant: Variant) -> int:
    """How many numbers a place becomes."""
    sizes = {Encoding.LATLON: 2, Encoding.XYZ: 3, Encoding.SHDD: (variant.max_degree + 1) ** 2}
    return sizes[variant.encoding]


def encode(vectors: NDArray[np.float64], variant: Variant) -> Tensor:
    """Numbers of about unit root-mean-square ``(N, numbers)`` of unit vectors ``(N, 3)``."""
    if variant.encoding is Encoding.LATLON:
        latitude, longitude = latitude_longitude(vectors)
        code = np.sqrt(3.0) * np.stack([latitude / 90.0, longitude / 180.0], -1)
    elif variant.encoding is Encoding.XYZ:
        code = encode_vectors(vectors, 1)[:, 1:]  # √3 (y, z, x)
    else:
        code = encode_vectors(vectors, variant.max_degree)
    return torch.from_numpy(code.astype(np.float32))


def points(code: Tensor, variant: Variant) -> NDArray[np.float64]:
    """The place whose code lies nearest, as unit vectors ``(N, 3)``.

    Args:
        code: ``(N, numbers)``, clean or not: any vector of numbers has a nearest place.
        variant: Which encoding.
    """
    if variant.encoding is Encoding.SHDD:
        return highest_points(code, variant.max_degree)
    values = code.double().cpu().numpy()
    if variant.encoding is Encoding.LATLON:
        scaled = values / np.sqrt(3.0)
        return unit_vectors(90.0 * scaled[:, 0].clip(-1.0, 1.0), 180.0 * scaled[:, 1])
    turned = values[:, [2, 0, 1]]
    length = np.linalg.norm(turned, axis=1, keepdims=True)
    return turned / np.maximum(length, 1e-12)


def highest_points(field: Tensor, max_degree: int, batch: int = 512) -> NDArray[np.float64]:
    """Where fields ``(N, d)`` are highest, as unit vectors ``(N, 3)``: a grid, then Newton."""
    rows = 2 * (max_degree + 1) + 8
    grid = ProductTransform(gauss_legendre_grid(rows, 2 * rows), max_degree)
    rotation = PoleRotation(max_degree)
    found = []
    for start in range(0, len(field), batch):
        part = field[start : start + batch].float()
        value, index = highest_nodes(grid.synthesis(part), 1)
        by_degree = rotation.by_degree(part)
        peaks = climb(by_degree, grid.nodes[index], value, rotation, 2.0 * math.pi / rows)
        found.append(peaks.vectors[:, 0].double().numpy())
    return np.concatenate(found)


def noise_range(variant: Variant, pure_fraction: float) -> NoiseConfig:
    """σ from least to most, and the share of rows without any information but the image's."""
    low, high = CODE_RANGE if variant.encoding is Encoding.SHDD else SMALL_RANGE
    return NoiseConfig(sigma_min=low, sigma_max=high, pure_fraction=pure_fraction)


def draw_sigmas(
    count: int, variant: Variant, config: NoiseConfig, generator: torch.Generator
) -> Tensor:
    """``(count,)`` noise levels of a training batch; ``inf`` for the pure share."""
    if variant.noise is Noise.RECENTRED:
        return training_sigmas(count, dimension(variant), config, generator)
    levels = torch.from_numpy(standard_sigmas(STANDARD_LEVELS - 1)).float()
    sigma = levels[torch.randint(len(levels), (count,), generator=generator)]
    pure = torch.rand(count, generator=generator) < config.pure_fraction
    # Below the range x/σ² would drown f in float32; there the place is known anyway.
    return sigma.clamp(min=config.sigma_min).masked_fill(pure, torch.inf)

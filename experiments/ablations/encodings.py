"""Encodes places as numbers, decodes them, and gives the noise levels of each encoding."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.ablations.plan import Encoding, Noise, Variant
from experiments.standard_diffusion import STANDARD_LEVELS, standard_sigmas
from locdiffusion.decoding.peaks import climb, highest_nodes
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.density.transforms import PoleRotation, ProductTransform
from locdiffusion.diffusion.schedules import NoiseConfig, training_sigmas
from locdiffusion.sphere.geodesy import latitude_longitude, unit_vectors
from locdiffusion.sphere.grids import gauss_legendre_grid

CODE_RANGE, SMALL_RANGE = (3.0, 60.0), (0.02, 20.0)
"""Least and largest σ, for SHDD codes and for two or three numbers.

At the least, about 70 km of uncertainty are left; at the largest, the whole Earth."""


def dimension(variant: Variant) -> int:
    """Counts the numbers of one encoded place."""
    sizes = {Encoding.LATLON: 2, Encoding.XYZ: 3, Encoding.SHDD: (variant.max_degree + 1) ** 2}
    return sizes[variant.encoding]


def encode(vectors: NDArray[np.float64], variant: Variant) -> Tensor:
    """Encodes unit vectors ``(N, 3)`` as ``(N, numbers)`` of about unit root-mean-square."""
    if variant.encoding is Encoding.LATLON:
        latitude, longitude = latitude_longitude(vectors)
        code = np.sqrt(3.0) * np.stack([latitude / 90.0, longitude / 180.0], -1)
    elif variant.encoding is Encoding.XYZ:
        code = encode_vectors(vectors, 1)[:, 1:]  # √3 (y, z, x)
    else:
        code = encode_vectors(vectors, variant.max_degree)
    return torch.from_numpy(code.astype(np.float32))


def points(code: Tensor, variant: Variant) -> NDArray[np.float64]:
    """Finds the place whose code is nearest, as unit vectors ``(N, 3)``.

    Args:
        code: Codes, shape ``(N, numbers)``; they may be noisy.
        variant: Variant whose encoding is used.
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
    """Finds the maximum of fields ``(N, d)`` on a grid, then by Newton's method: ``(N, 3)``."""
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
    """Gives the range of σ, and the share of rows at σ = ∞, where only the image counts."""
    low, high = CODE_RANGE if variant.encoding is Encoding.SHDD else SMALL_RANGE
    return NoiseConfig(sigma_min=low, sigma_max=high, pure_fraction=pure_fraction)


def draw_sigmas(
    count: int, variant: Variant, config: NoiseConfig, generator: torch.Generator
) -> Tensor:
    """Draws noise levels ``(count,)`` of a training batch; ``inf`` for the share at σ = ∞."""
    if variant.noise is Noise.RECENTRED:
        return training_sigmas(count, dimension(variant), config, generator)
    levels = torch.from_numpy(standard_sigmas(STANDARD_LEVELS - 1)).float()
    sigma = levels[torch.randint(len(levels), (count,), generator=generator)]
    pure = torch.rand(count, generator=generator) < config.pure_fraction
    # Below this range x/σ² exceeds f by more than float32 resolves; the place is known there.
    return sigma.clamp(min=config.sigma_min).masked_fill(pure, torch.inf)

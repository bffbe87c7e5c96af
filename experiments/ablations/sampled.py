"""Samples a trained variant by reverse diffusion, and measures how many steps it needs."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.ablations.encodings import dimension, noise_range, points
from experiments.ablations.fitting import Fitted
from experiments.ablations.plan import Budget, Loss, Noise
from experiments.sampling_steps import in_trained_range
from experiments.standard_diffusion import mean_denoiser, standard_sigmas
from locdiffusion.density.transforms import ProductTransform
from locdiffusion.diffusion.denoiser import MeanDenoiser
from locdiffusion.diffusion.samplers import ddim
from locdiffusion.diffusion.schedules import geometric_sigmas
from locdiffusion.evaluate.metrics import error_summary
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between
from locdiffusion.sphere.grids import gauss_legendre_grid

VOTE_KM = 200.0
SWEEP_STEPS = (1, 2, 4, 8, 16, 32, 64, 250)
SWEEP_SAMPLES, SWEEP_PHOTOS = 4, 96


def subset(photos: EmbeddedPhotos, count: int, seed: int) -> EmbeddedPhotos:
    """Draws at most `count` photos without replacement, the same for every run."""
    names = [hashlib.sha256(f"{seed}/{key}".encode()).digest() for key in photos.keys]
    rows = np.sort(np.argsort(np.array(names), kind="stable")[:count])
    return photos.take(rows)


@torch.inference_mode()
def sample(
    fitted: Fitted, photos: EmbeddedPhotos, samples: int, sigmas: list[float], batch: int = 32
) -> NDArray[np.float64]:
    """Samples places ``(N, K, 3)`` by DDIM; the noise of a photo depends on its key alone."""
    numbers = dimension(fitted.variant)
    found = []
    for start in range(0, len(photos), batch):
        keys = photos.keys[start : start + batch]
        noise = np.stack([_noise(key, samples, numbers) for key in keys])
        condition = torch.from_numpy(photos.embeddings[start : start + batch])
        condition = condition.repeat_interleave(samples, 0)
        x = torch.from_numpy(noise).view(-1, numbers) * sigmas[0]
        x = ddim(_denoiser(fitted, condition), x, sigmas)
        last = fitted.network(x, torch.full((len(x),), sigmas[-1]), condition)
        found.append(points(last, fitted.variant).reshape(len(keys), samples, 3))
    return np.concatenate(found)


def _denoiser(fitted: Fitted, condition: Tensor) -> MeanDenoiser:
    """Makes the function x̂₀: the output of an L2 network, or the mean of a density."""
    if fitted.variant.loss is Loss.L2:

        def estimate(x: Tensor, sigma: Tensor) -> Tensor:
            out: Tensor = fitted.network(x, sigma, condition)
            return out

        return estimate
    degree = fitted.variant.max_degree
    rows = 4 * (degree + 1)
    grid = gauss_legendre_grid(rows, 2 * rows)
    assert fitted.base_measure is not None
    log_q0 = fitted.base_measure.on_grid(grid).view(grid.shape)
    # A standard schedule starts above the noise that the re-centred training has seen.
    known = in_trained_range(fitted.network, noise_range(fitted.variant, 0.0))
    return mean_denoiser(known, condition, ProductTransform(grid, degree), log_q0)


def _noise(key: str, samples: int, numbers: int) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    generator = np.random.Generator(np.random.Philox(seed))
    return generator.standard_normal((samples, numbers), dtype=np.float32)


def vote(places: NDArray[np.float64], radius_km: float = VOTE_KM) -> NDArray[np.float64]:
    """Selects, of samples ``(N, K, 3)``, the one with most others within a radius: ``(N, 3)``.

    Of equals it takes the one whose mean cosine to all samples is largest.
    """
    cosine = places @ places.transpose(0, 2, 1)
    near = (cosine >= np.cos(radius_km / EARTH_RADIUS_KM)).sum(-1)
    score = near + cosine.mean(-1) / 4.0
    chosen: NDArray[np.float64] = places[np.arange(len(places)), score.argmax(1)]
    return chosen


def accuracy_by_steps(
    fitted: Fitted, photos: EmbeddedPhotos, budget: Budget
) -> list[dict[str, Any]]:
    """Computes the accuracy of a vote for each number of steps, for both schedules.

    Below the least σ of training, a standard schedule only sharpens a place that is decided. These
    steps are counted but not computed.

    Returns:
        `error_summary` with ``schedule``, ``steps`` and ``calls`` (steps that were computed).
    """
    part = subset(photos, min(SWEEP_PHOTOS, budget.voters), budget.seed)
    config = noise_range(fitted.variant, budget.pure_fraction)
    samples = min(SWEEP_SAMPLES, budget.samples)
    rows = []
    for schedule in Noise:
        for steps in SWEEP_STEPS:
            if schedule is Noise.RECENTRED:
                sigmas = [float(s) for s in geometric_sigmas(steps, config)]
            else:
                above = [float(s) for s in standard_sigmas(steps) if s > config.sigma_min]
                sigmas = [*above, config.sigma_min]
            answer = vote(sample(fitted, part, samples, sigmas))
            error_km = EARTH_RADIUS_KM * angle_between(answer, part.vectors)
            row = {"schedule": schedule.value, "steps": steps, "calls": len(sigmas) - 1}
            rows.append(row | error_summary(error_km))
    return rows

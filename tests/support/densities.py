"""Densities of degree 11 that are hard to decode, and the decoder's answers to them."""

from __future__ import annotations

import functools

import numpy as np
import torch

from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.density import shdd
from locdiffusion.sphere.geodesy import destination

L = 11
D = (L + 1) ** 2


@functools.lru_cache
def decoder(max_degree: int = L, **settings: float) -> Decoder:
    return Decoder(max_degree, DecodeConfig(**settings))


def decode(natural, max_degree: int = L, **settings: float):
    """Columns of ``(N, K, d)`` or ``(N, d)`` natural parameters."""
    natural = np.asarray(natural, np.float32)
    if natural.ndim == 2:
        natural = natural[:, None]
    return decoder(max_degree, **settings)(torch.from_numpy(natural))


def peak(latitude, longitude, height=10.0, max_degree: int = L):
    """η of one peak, `height` nats above the level far away."""
    return height / (max_degree + 1) ** 2 * shdd.encode(latitude, longitude, max_degree)


def noise(seed, height):
    return height / D * np.random.default_rng(seed).normal(size=D)


def ridge():
    """A chain of peaks along a great circle, the eastern ones a little higher."""
    _, longitude = destination(0.0, 60.0, 90.0, np.linspace(0, 5000, 12))
    return sum(peak(0.0, lon, 3.0 + 0.1 * i) for i, lon in enumerate(longitude))


HARD = {
    "one peak": [peak(48.2, 16.4)],
    "one broad peak": [peak(-30.0, 140.0, 3.0)],
    "two peaks far apart": [peak(35.7, 139.7) + peak(-12.0, -77.0, 9.5)],
    "two peaks grown together": [peak(10.0, 20.0, 5.0) + peak(14.0, 26.0, 5.0)],
    "two peaks side by side": [peak(50.0, 0.0, 6.0) + peak(50.0, 22.0, 6.2)],
    "a ridge": [ridge()],
    "almost flat": [noise(1, 0.5)],
    "noise": [noise(2, 7.0)],
    "80 km from the pole": [peak(89.3, 50.0)],
    "on the south pole": [peak(-90.0, 0.0)],
    "on the antimeridian": [peak(-17.0, 179.99) + noise(3, 2.0)],
    "three samples": [
        peak(40.0, -100.0),
        peak(45.0, -90.0) + noise(4, 3.0),
        peak(-25.0, 28.0, 8.0),
    ],
}


RADII_KM = {
    "one peak": 50.0,
    "a ridge": 1000.0,
    "80 km from the pole": 50.0,
    "two peaks side by side": 1500.0,
    "noise": 2500.0,
    "three samples": 700.0,
}


def scattered(rng, count, max_degree=L):
    """Densities with one to four peaks of different heights, on a bed of noise."""
    d = (max_degree + 1) ** 2
    natural = 1.5 / d * rng.normal(size=(count, 1, d))
    for row in natural:
        for _ in range(rng.integers(1, 5)):
            latitude = np.degrees(np.arcsin(rng.uniform(-1, 1)))
            row += peak(latitude, rng.uniform(-180, 180), rng.uniform(3, 14), max_degree)
    return natural

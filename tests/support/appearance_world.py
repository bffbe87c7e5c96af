"""A small world of which every photo's appearance is known, its map, and photos of Europe."""

from __future__ import annotations

import functools

import numpy as np
import torch

from locdiffusion.appearance.appearance_map import AppearanceMap
from locdiffusion.appearance.gaussian_process import Kriging, KrigingConfig
from locdiffusion.appearance.model import AppearanceModel
from locdiffusion.appearance.places import Observations
from locdiffusion.calibrate.fused_fitting import FusedPart, fit_likelihood
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.decoding.fused_decoder import FusedDecoder
from locdiffusion.density import shdd
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, unit_vectors
from support import tiny

L, COMPONENTS, NOISE, WIDTH_KM = 31, 12, 1.0, 150.0
AXES = 25.0 * tiny.random_points(COMPONENTS, 7)
"""Waves of the appearance, about 1,600 km long."""


def appearance_at(vectors):
    return 4.0 * np.sin(vectors @ AXES.T)


def bump(vectors, width_km=WIDTH_KM, max_degree=L):
    """Natural parameters ``(n, d)`` of von Mises-Fisher densities: F = κ cos γ, of degree 1."""
    natural = np.zeros((len(vectors), (max_degree + 1) ** 2), np.float32)
    codes = shdd.encode_vectors(vectors, 1)[:, 1:]
    natural[:, 1:4] = (EARTH_RADIUS_KM / width_km) ** 2 / 3.0 * codes
    return natural


def photos(count, seed, latitude=(42.0, 52.0), longitude=(5.0, 30.0), width_km=WIDTH_KM):
    """Photos in Europe whose density is as wide as it is wrong."""
    rng = np.random.default_rng(seed)
    latitude, longitude = rng.uniform(*latitude, count), rng.uniform(*longitude, count)
    truth = unit_vectors(latitude, longitude)
    off = np.degrees(width_km / EARTH_RADIUS_KM) * rng.normal(size=(2, count))
    centre = unit_vectors(latitude + off[0], longitude + off[1] / np.cos(np.radians(latitude)))
    appearance = appearance_at(truth) + NOISE * rng.normal(size=(count, COMPONENTS))
    return FusedPart(
        torch.from_numpy(bump(centre, width_km)),
        torch.from_numpy(appearance).float(),
        torch.ones(count),
        truth,
    )


@functools.lru_cache
def decoder() -> Decoder:
    return Decoder(L, DecodeConfig(radius_km=750.0))


@functools.lru_cache
def appearance_map(cell_km=100.0) -> AppearanceMap:
    rng = np.random.default_rng(5)
    vectors = unit_vectors(rng.uniform(38.0, 56.0, 1500), rng.uniform(-2.0, 38.0, 1500))
    seen = appearance_at(vectors).astype(np.float32)
    observed = Observations(vectors, seen, np.full(1500, 0.02), 1500)
    return AppearanceMap.fit(Kriging(observed, KrigingConfig(neighbours=60)), cell_km)


@functools.lru_cache
def fused() -> FusedDecoder:
    """Decoder whose likelihood is fitted; who changes it takes `fused_copy`."""
    made = unfitted()
    fit_likelihood(made, [photos(50, 1)])
    return made


def fused_copy() -> FusedDecoder:
    """A copy of `fused` without what that has computed by now, some of which cannot be copied."""
    made = unfitted()
    made.density.likelihood.load_state_dict(fused().density.likelihood.state_dict())
    return made


def unfitted(of: Decoder | None = None) -> FusedDecoder:
    return FusedDecoder(of or decoder(), AppearanceModel(appearance_map()))


def without_map(made: FusedDecoder) -> FusedDecoder:
    """Sets a = 1 and m = 1, in place."""
    likelihood = made.density.likelihood
    with torch.no_grad():
        likelihood.gates.bias.copy_(torch.tensor([0.0, -100.0]))
        likelihood.gates.weight.zero_()
        likelihood.floor.fill_(1e4)
    return made


def answers(made: FusedDecoder, part: FusedPart):
    return made(part.natural[:, None], part.appearance, part.trust)

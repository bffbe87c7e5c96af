"""Fixtures for the tests of the pipelines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from locdiffusion.checkpoint import CheckpointConfig, save
from locdiffusion.decoding.decoder import DecodeConfig
from locdiffusion.density.base_measure import uniform_measure
from locdiffusion.diffusion.schedules import NoiseConfig
from locdiffusion.model.cs_unet import CSUNet, CSUNetConfig
from locdiffusion.model.image_encoder import load_image_encoder
from locdiffusion.temperature import CalibratedDenoiser, TemperatureConfig, TemperatureModel
from support.tiny import mapped, random_points


@pytest.fixture(scope="session", autouse=True)
def jobs_start_quickly(quick_beam: None) -> None:
    """All jobs of these tests: most of them are over before Beam has looked at them."""


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real checkpoint of a network that has learnt nothing but has opinions."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    spec = load_image_encoder("efficientnet_lite0").spec
    config = CSUNetConfig(max_degree=7, condition_dim=16, widths=(16, 8))
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():  # the same weights whatever tests ran before
        torch.manual_seed(1)
        network = CSUNet(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    size = TemperatureConfig(gallery=1, components=2, neighbours=1, hidden=1)
    temperatures = TemperatureModel(size, 7, config.embedding_dim, uniform_measure())
    temperatures.projection.copy_(0.1 * torch.randn(config.embedding_dim, 2, generator=generator))
    vectors = random_points(200, seed=1)
    appearance = mapped(vectors[:, :2].astype(np.float32), vectors)
    whole = CheckpointConfig("tiny", config, NoiseConfig(), DecodeConfig(), spec)
    save(path, whole, CalibratedDenoiser(network, temperatures), appearance=appearance)
    return path

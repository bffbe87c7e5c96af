"""Joins a network with its temperature model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from locdiffusion.model.cs_unet import CSUNet
from locdiffusion.temperature.model import TemperatureModel


class CalibratedDenoiser(nn.Module):
    """Divides the network's densities by their temperatures, in density and sampling mode."""

    def __init__(self, network: CSUNet, temperatures: TemperatureModel) -> None:
        super().__init__()
        self.network = network
        self.temperatures = temperatures

    @torch.inference_mode()
    def temperature(self, condition: Tensor) -> Tensor:
        """Computes the temperatures ``(B,)`` of photos with embeddings ``(B, E)``."""
        found: Tensor = self.temperatures(condition, self.network.from_image(condition))
        return found

    @torch.inference_mode()
    def familiarity(self, condition: Tensor) -> Tensor:
        """Computes familiarities ``(B,)`` of embeddings ``(B, E)``; they must be known."""
        unlike = self.temperatures.dissimilarity(condition)
        found: Tensor = self.temperatures.familiarity(unlike)
        return found

    def forward(
        self, x: Tensor, sigma: Tensor, condition: Tensor, temperature: Tensor | None = None
    ) -> Tensor:
        """Computes natural parameters, as `CSUNet.forward` does.

        Args:
            x: Noisy codes, ``(B, d)``.
            sigma: Noise levels or ``inf``, ``(B,)``.
            condition: Image embeddings, ``(B, E)``.
            temperature: Temperatures of the photos, ``(B,)``; None computes them.

        Returns:
            Natural parameters, ``(B, d)``.
        """
        if temperature is None:
            temperature = self.temperature(condition)
        natural: Tensor = self.network(x, sigma, condition, temperature)
        return natural

    def from_image(self, condition: Tensor) -> Tensor:
        """Computes density mode: natural parameters ``(B, d)`` of embeddings ``(B, E)``."""
        natural = self.network.from_image(condition)
        temperature: Tensor = self.temperatures(condition, natural)
        return natural / temperature[:, None]

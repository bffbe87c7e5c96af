"""Implements CS-UNet, the conditional SirenNet-UNet that denoises SHDD codes.

The paper describes a conditional SirenNet inside a UNet over the coefficient vector, conditioned on
the image and the time step. Everything else is our choice:

* **Degree-aware levels.** The way down keeps only the degrees up to L, L/2, L/4 (low degrees are
  the coarse scale); the way up has a skip from each level and writes each level's coefficients.
* **Bayes skip.** For a prior p(x₀ | image) ∝ exp⟨η, code⟩ the exact posterior given
  x_σ = code + σε is p(x₀ | x_σ, image) ∝ exp⟨η + x_σ/σ², code⟩, since |code|² is constant. So the
  network returns ``η = x_σ/σ² + f(x_σ, σ, image)`` and f only has to learn the image's part and
  what the exponential family cannot say. At σ = ∞ only f is left: p(x₀ | image).
* **Trunk** (optional): residual blocks between the image branch and the output of the levels, a
  path that bypasses the sines.
* **Linear skip** (optional): f has a part that is linear in the embedding. A model that compares an
  image with places by scalar products, as CLIP does, has such an exponent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from locdiffusion.model.siren import ConditionedSine, NoiseLevelFeatures

MAX_DEGREE = 255
"""Largest degree L: its coefficients resolve 80 km, and tables of harmonics grow with L³."""


@dataclass(frozen=True)
class CSUNetConfig:
    """Size of a CS-UNet.

    Attributes:
        max_degree: Maximum degree L of the codes: a higher one resolves finer detail.
        embedding_dim: Size E of the image embedding; training takes it from the encoder.
        condition_dim: Width of the condition vector.
        widths: Hidden width of each level, finest first.
        dropout: Dropout rate on the image embedding and on the condition.
        natural_scale: Typical size of one natural parameter, the unit of the output.
        linear_skip: Whether f has a part that is linear in the embedding. It starts at zero.
        trunk_blocks: Number of residual blocks between the image branch and the output. They start
            as the identity.
    """

    max_degree: int = 31
    embedding_dim: int = 1280
    condition_dim: int = 640
    widths: tuple[int, ...] = (320, 160, 80)
    dropout: float = 0.1
    natural_scale: float = 0.05
    linear_skip: bool = False
    trunk_blocks: int = 0

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.max_degree < 1 or self.embedding_dim < 1 or self.condition_dim < 1:
            raise ValueError(f"max_degree, embedding_dim and condition_dim must be ≥ 1: {self}.")
        if self.max_degree > MAX_DEGREE:
            raise ValueError(f"max_degree is {self.max_degree}; want at most {MAX_DEGREE}.")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths is {self.widths}; want one positive width per level.")
        if self.max_degree >> (len(self.widths) - 1) < 1:
            raise ValueError(
                f"{len(self.widths)} levels halve max_degree = {self.max_degree} below 1; "
                "use fewer widths."
            )
        if self.trunk_blocks < 0:
            raise ValueError(f"trunk_blocks is {self.trunk_blocks}; want 0 or more.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; want [0, 1).")

    @property
    def dimension(self) -> int:
        """The number of coefficients d = (L + 1)²."""
        return (self.max_degree + 1) ** 2

    @property
    def level_dimensions(self) -> tuple[int, ...]:
        """Number of coefficients seen at each level, finest first."""
        return tuple(((self.max_degree >> i) + 1) ** 2 for i in range(len(self.widths)))


class CSUNet(nn.Module):
    """Maps (x_σ, σ, image embedding) to natural parameters η; see the module's docstring."""

    embedding_mean: Tensor
    embedding_std: Tensor

    def __init__(self, config: CSUNetConfig) -> None:
        super().__init__()
        self.config = config
        c, widths, sizes = config.condition_dim, config.widths, config.level_dimensions
        self.register_buffer("embedding_mean", torch.zeros(config.embedding_dim))
        self.register_buffer("embedding_std", torch.ones(config.embedding_dim))
        self.level_features = NoiseLevelFeatures()
        self.image = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(config.embedding_dim, c),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(c, c),
            nn.GELU(),
            nn.Dropout(config.dropout),
        )
        self.noise = nn.Linear(self.level_features.outputs, c)
        self.condition_norm = nn.LayerNorm(c, elementwise_affine=False)
        below = (0, *widths[:-1])
        self.down = nn.ModuleList(
            ConditionedSine(size + previous, width, c)
            for size, previous, width in zip(sizes, below, widths, strict=True)
        )
        self.bottom = ConditionedSine(widths[-1], widths[-1], c)
        above = (*widths[1:], widths[-1])
        self.up = nn.ModuleList(
            ConditionedSine(width + deeper, width, c)
            for width, deeper in zip(widths, above, strict=True)
        )
        self.heads = nn.ModuleList(
            nn.Linear(width + c, size) for size, width in zip(sizes, widths, strict=True)
        )
        self.trunk = nn.ModuleList(_block(c, config.dropout) for _ in range(config.trunk_blocks))
        self._start_from_the_image_alone()
        self.linear: nn.Linear | None = None
        if config.linear_skip:
            self.linear = nn.Linear(config.embedding_dim, config.dimension, bias=False)
            nn.init.zeros_(self.linear.weight)

    def _start_from_the_image_alone(self) -> None:
        """Sets the contributions of x and σ to f to zero.

        The Bayes skip alone is exact for densities of this family, and in our experiments noise
        that entered f from the start kept it from learning the part of the image.
        """
        nn.init.zeros_(self.noise.weight)
        for width, head in zip(self.config.widths, self.heads, strict=True):
            assert isinstance(head, nn.Linear)
            nn.init.normal_(head.weight, std=0.1 / head.in_features**0.5)
            nn.init.zeros_(head.bias)
            with torch.no_grad():
                head.weight[:, :width] = 0.0

    def standardise(self, embeddings: Tensor) -> None:
        """Stores mean and standard deviation of training embeddings ``(N, E)``."""
        self.embedding_mean.copy_(embeddings.mean(0))
        self.embedding_std.copy_(embeddings.std(0).clamp(min=1e-3 * float(embeddings.std())))

    def forward(
        self, x: Tensor, sigma: Tensor, condition: Tensor, temperature: Tensor | None = None
    ) -> Tensor:
        """Computes η of p(x₀ | x_σ, image).

        Args:
            x: Noisy codes, ``(B, d)``; ignored where sigma is infinite.
            sigma: Noise levels or ``inf``, ``(B,)``.
            condition: Image embeddings, ``(B, E)``.
            temperature: Temperatures τ, ``(B,)``. They divide f and not x_σ/σ², which gives exactly
                the posterior of the prior p(x₀ | image)^(1/τ). None is τ = 1.

        Returns:
            Natural parameters η, ``(B, d)``.
        """
        # x_σ / √(1 + σ²), which has about unit variance; 0 at σ = ∞
        pure = torch.isinf(sigma)[:, None]
        level = torch.where(pure, 1.0, sigma[:, None])
        scaled = (x / torch.sqrt(1.0 + level**2)).masked_fill(pure, 0.0)
        # c: the condition of every level, from image and noise level
        image = self.image((condition - self.embedding_mean) / self.embedding_std)
        c = self.condition_norm(image + self.noise(self.level_features(sigma)))
        # η = f(x_σ, σ, image) / τ + x_σ / σ²
        learned = self._unet(scaled, self._told(image, c), c)
        if self.linear is not None:
            learned = learned + self.linear(condition)
        learned = self.config.natural_scale * learned
        if temperature is not None:
            learned = learned / temperature[:, None]
        return learned + (x / level**2).masked_fill(pure, 0.0)

    def _told(self, image: Tensor, c: Tensor) -> Tensor:
        """Computes the input ``(B, c)`` of the image to the output of every level."""
        if not len(self.trunk):
            return image
        for block in self.trunk:
            c = c + block(c)
        return nn.functional.layer_norm(c, c.shape[-1:])

    def from_image(self, condition: Tensor, temperature: Tensor | None = None) -> Tensor:
        """Computes η of p(x₀ | image): density mode, one call at σ = ∞.

        Args:
            condition: Image embeddings, ``(B, E)``.
            temperature: Temperatures as in `forward`, ``(B,)``.

        Returns:
            Natural parameters η, ``(B, d)``.
        """
        x = condition.new_zeros(len(condition), self.config.dimension)
        level = torch.full((len(condition),), torch.inf, device=condition.device)
        natural: Tensor = self(x, level, condition, temperature)
        return natural

    def _unet(self, x: Tensor, image: Tensor, c: Tensor) -> Tensor:
        skips = []
        hidden = x[:, :0]
        for layer, size in zip(self.down, self.config.level_dimensions, strict=True):
            hidden = layer(torch.cat([x[:, :size], hidden], -1), c)
            skips.append(hidden)
        hidden = self.bottom(hidden, c)
        out = torch.zeros_like(x)
        for i in reversed(range(len(skips))):
            hidden = self.up[i](torch.cat([skips[i], hidden], -1), c)
            part = self.heads[i](torch.cat([hidden, image], -1))
            out = out + nn.functional.pad(part, (0, out.shape[-1] - part.shape[-1]))
        return out


def _block(width: int, dropout: float) -> nn.Sequential:
    """Makes a residual branch ``(B, width)`` that starts at zero."""
    last = nn.Linear(width, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), last
    )

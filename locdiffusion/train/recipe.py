"""The training recipe: every setting that decides which weights a run ends with."""

from __future__ import annotations

from dataclasses import dataclass, field

from locdiffusion.appearance.training_photos import AppearanceConfig
from locdiffusion.config import FORMERLY
from locdiffusion.density.base_measure import BaseConfig
from locdiffusion.density.log_partition import PartitionConfig
from locdiffusion.diffusion.schedules import NoiseConfig
from locdiffusion.model.cs_unet import CSUNetConfig
from locdiffusion.train.label_smoothing import SmoothingConfig
from locdiffusion.train.streaming import StreamConfig


@dataclass(frozen=True)
class TrainConfig:
    """A training recipe.

    Attributes:
        name: Name of the checkpoint, the first part of its model id.
        purpose: Photos that the checkpoint is for, in a few words that follow "is for".
        unlike: What to do with other photos, in a few words.
        encoder: Frozen image encoder, see `locdiffusion.model.image_encoder`.
        model: Size of the network.
        noise: Noise levels of the diffusion.
        partition: Quadrature of the loss.
        base_measure: Base measures of the loss and of the answers.
        steps: Number of training steps.
        batch_size: Photos per step, of all processes together.
        learning_rate: Peak learning rate of AdamW. It warms up linearly and then falls to zero as
            half a cosine.
        warmup: Steps of the linear warm-up; at most a tenth of all steps.
        weight_decay: Weight decay of AdamW.
        ema_decay: Decay of the moving average of the weights. The average is what is evaluated and
            saved.
        gradient_clip: Largest norm of a gradient.
        evaluate_every: Steps between validations. Each validation also saves the state.
        seed: Seed of weights, batches, noise and dropout.
        smoothing: Smoothing of the learned positions.
        bf16: Whether the network computes in bfloat16, on a GPU. The loss stays in float32.
        stream: Reading of training photos from disk while training: none keeps all in memory,
            default streams them.
        appearance: Map of what photos look like by place, made from the training photos after the
            training: none makes none.
    """

    name: str = "overhead"
    encoder: str = "efficientnet_lite0"
    model: CSUNetConfig = field(default_factory=CSUNetConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    base_measure: BaseConfig = field(default_factory=BaseConfig, metadata={FORMERLY: "base"})
    steps: int = 3000
    batch_size: int = 256
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.02
    ema_decay: float = 0.999
    gradient_clip: float = 1.0
    evaluate_every: int = 500
    seed: int = 0
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    bf16: bool = False
    stream: StreamConfig | None = None
    appearance: AppearanceConfig | None = None
    purpose: str = ""
    unlike: str = ""

    def __post_init__(self) -> None:
        """Checks the values."""
        if min(self.steps, self.batch_size, self.evaluate_every) < 1 or self.warmup < 0:
            raise ValueError(
                "steps, batch_size and evaluate_every must be at least 1, warmup at least 0; "
                f"found {self.steps}, {self.batch_size}, {self.evaluate_every}, {self.warmup}."
            )
        if self.learning_rate <= 0 or self.gradient_clip <= 0 or self.weight_decay < 0:
            raise ValueError(
                "learning_rate and gradient_clip must be positive, weight_decay not negative; "
                f"found {self.learning_rate}, {self.gradient_clip}, {self.weight_decay}."
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; want [0, 1).")

"""The training loop: SHDD-KL over noise levels, an averaged model, exact resume.

All randomness of step t comes from (seed, t), so a run that was stopped and resumed sees the same
batches, noise and dropout as one that was not.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from locdiffusion.config import to_dict
from locdiffusion.data import EmbeddedPhotos
from locdiffusion.decoding import Decoder
from locdiffusion.density import LogPartition, PartitionConfig
from locdiffusion.diffusion.losses import shdd_kl
from locdiffusion.diffusion.schedules import NoiseConfig, training_sigmas
from locdiffusion.metrics import error_summary
from locdiffusion.model.cs_unet import CSUNet, CSUNetConfig
from locdiffusion.posterior import decode_all, log_probability, natural_parameters
from locdiffusion.prior import BaseConfig
from locdiffusion.shdd import encode_vectors
from locdiffusion.sphere.geodesy import great_circle_km

STATE, PROGRESS = "training_state.safetensors", "training_state.json"


@dataclass(frozen=True)
class TrainConfig:
    """A training recipe.

    Attributes:
      name: of the checkpoint.
      encoder: image encoder, see `locdiffusion.model.image_encoder`.
      model, noise, partition, base: network, diffusion, loss quadrature and base measures.
      steps, batch_size: length of the run.
      learning_rate: peak of AdamW; linear warm-up, then cosine to zero.
      warmup: steps.
      weight_decay: of AdamW.
      ema_decay: of the averaged weights, which are what is evaluated and saved.
      gradient_clip: largest gradient norm.
      evaluate_every: steps between validations, which also save the state.
      seed: of everything.
    """

    name: str = "overhead"
    encoder: str = "efficientnet_lite0"
    model: CSUNetConfig = field(default_factory=CSUNetConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    steps: int = 3000
    batch_size: int = 256
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.02
    ema_decay: float = 0.999
    gradient_clip: float = 1.0
    evaluate_every: int = 500
    seed: int = 0

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


class Stopped(Exception):
    """Training was asked to stop; its state is saved."""


class Trainer:
    """Trains one network on embedded photos."""

    def __init__(
        self,
        config: TrainConfig,
        train: EmbeddedPhotos,
        val: EmbeddedPhotos,
        directory: Path,
        device: str = "cpu",
    ) -> None:
        self.config, self.directory, self.val = config, directory, val
        self.device = torch.device(device)
        torch.manual_seed(config.seed)
        self.network = CSUNet(config.model).to(self.device)
        self.embeddings = torch.from_numpy(train.embeddings)
        self.vectors = train.vectors
        self.network.standardise(self.embeddings)
        self.average = CSUNet(config.model).to(self.device)
        self.average.load_state_dict(self.network.state_dict())
        self.average.eval().requires_grad_(False)
        degree, base = config.model.max_degree, config.base
        trained_over = base.build(base.training, self.vectors)
        self.partition = LogPartition(degree, config.partition, trained_over).to(self.device)
        self.answer_base = base.build(base.answers, self.vectors)
        self.decoder = Decoder(degree, base=self.answer_base).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._losses: list[float] = []  # since the last validation
        self._identity = {"config": to_dict(config), "data": [train.fingerprint, val.fingerprint]}

    def run(
        self, report: Callable[[dict[str, float]], None], should_stop: Callable[[], bool]
    ) -> None:
        """Trains to the end.

        Args:
          report: called with each validation's figures.
          should_stop: asked after each step.

        Raises:
          Stopped: after saving the state, when asked to stop.
        """
        while self.step < self.config.steps:
            self._losses.append(self._train_step(self.step))
            self.step += 1
            due = self.step % self.config.evaluate_every == 0 or self.step == self.config.steps
            if due:
                figures = {"step": self.step, "train_nats": float(np.mean(self._losses))}
                self._losses.clear()
                self.history.append(figures | self.validate())
                self.save_state()
                report(self.history[-1])
            if should_stop():
                self.save_state()
                raise Stopped(f"stopped after step {self.step} of {self.config.steps}")

    def validate(self, limit: int = 1000) -> dict[str, float]:
        """Accuracy and likelihood of the averaged network's density mode on validation photos."""
        natural = natural_parameters(self.average, self.val.embeddings[:limit])
        answer = decode_all(self.decoder, natural)
        truth = self.val.latitude[:limit], self.val.longitude[:limit]
        summary = error_summary(great_circle_km(answer[0], answer[1], *truth))
        log_p = log_probability(self.decoder, natural, self.val.vectors[:limit])
        return {
            "val_nats": float(-log_p.mean()),
            "val_median_km": summary["median_km"],
            "val_within_25": summary["within"]["25"],
            "val_within_200": summary["within"]["200"],
        }

    def _train_step(self, step: int) -> float:
        config = self.config
        generator = torch.Generator().manual_seed(_mixed(config.seed, step))
        torch.manual_seed(_mixed(config.seed, step) + 1)  # dropout
        rows = batch_rows(step, len(self.vectors), config.batch_size, config.seed)
        vectors = self.vectors[rows]
        code = torch.from_numpy(encode_vectors(vectors, config.model.max_degree)).float()
        code = code.to(self.device)
        truth = torch.from_numpy(vectors).float().to(self.device)
        sigma = training_sigmas(len(rows), config.model.dimension, config.noise, generator)
        noise = torch.randn(code.shape, generator=generator).to(self.device)
        sigma = sigma.to(self.device)
        x = code + torch.where(torch.isinf(sigma), 0.0, sigma)[:, None] * noise
        self.network.train()
        natural = self.network(x, sigma, self.embeddings[rows].to(self.device))
        loss = shdd_kl(natural, code, truth, self.partition, generator).mean()
        self._update(loss, step)
        return loss.item()

    def _update(self, loss: Tensor, step: int) -> None:
        config = self.config
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss.item()} at step {step}; lower learning_rate (now "
                f"{config.learning_rate})."
            )
        rate = config.learning_rate * learning_rate_factor(step, config.steps, config.warmup)
        descend(loss, self.network, self.optimizer, rate, config.gradient_clip)
        follow(self.average, self.network, step, config.ema_decay)

    def save_state(self) -> None:
        """Writes what a resumed run needs: one file, replaced at once; the JSON is for people."""
        self.directory.mkdir(parents=True, exist_ok=True)
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        progress = {"step": self.step, "history": self.history, "losses": self._losses}
        text = json.dumps(progress | self._identity, indent=1)
        part = self.directory / (STATE + ".part")
        copies = {k: v.contiguous().clone() for k, v in tensors.items()}
        save_file(copies, part, metadata={"progress": text})
        os.replace(part, self.directory / STATE)
        (self.directory / PROGRESS).write_text(text + "\n")

    def resume(self) -> bool:
        """Continues a saved run of the same recipe and data; False if there is none.

        Raises:
          ValueError: the directory holds another run.
        """
        path = self.directory / STATE
        if not path.is_file():
            return False
        with safe_open(path, "pt") as opened:
            progress = json.loads(opened.metadata()["progress"])
        for name, mine in self._identity.items():
            if progress.get(name) != mine:
                raise ValueError(
                    f"{self.directory} holds a run with another {name}; give a new --output, or "
                    "--overwrite to start anew."
                )
        tensors = load_file(path)
        for prefix, module in (("network.", self.network), ("average.", self.average)):
            part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            module.load_state_dict(part)
        state = self.optimizer.state_dict()
        state["state"] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                state["state"].setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(state)
        self.step, self.history = progress["step"], progress["history"]
        self._losses = progress["losses"]
        return True


def batch_rows(step: int, count: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """Rows of one step: consecutive pieces of a permutation that is new each epoch."""
    size = min(batch_size, count)
    epoch, piece = divmod(step, count // size)
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return order[piece * size : (piece + 1) * size]


def descend(
    loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer, rate: float, clip: float
) -> None:
    """One step of the optimiser at a learning rate, with the gradient's norm clipped."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, step: int, ema_decay: float) -> None:
    """Moves the averaged weights towards the network's: faster in the first steps."""
    decay = min(ema_decay, (1.0 + step) / (10.0 + step))
    for averaged, current in zip(average.parameters(), network.parameters(), strict=True):
        averaged.lerp_(current, 1.0 - decay)


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _mixed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 2)

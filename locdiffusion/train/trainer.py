"""Trains the network: SHDD-KL loss over noise levels, averaged weights, exact resume.

All randomness of step t follows from (seed, t): a run that was stopped and resumed sees the same
batches, noise and dropout as an undisturbed one. Several processes draw the same batch and noise,
and each takes its own rows; dropout is drawn by each process separately.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.config import from_dict, to_dict
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.density.log_partition import LogPartition
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.diffusion.losses import shdd_kl
from locdiffusion.diffusion.schedules import training_sigmas
from locdiffusion.evaluate.metrics import error_summary
from locdiffusion.inference import Answerer, decode_all, log_probability, natural_parameters
from locdiffusion.model.cs_unet import CSUNet
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import great_circle_km
from locdiffusion.train.batches import Ahead, Batch, PhotosInMemory, PhotoSource
from locdiffusion.train.distributed import Processes
from locdiffusion.train.label_smoothing import scattered, smoothed_where_pure
from locdiffusion.train.recipe import TrainConfig
from locdiffusion.train.tensorboard import Scalars
from locdiffusion.train.training_state import read_state, write_state

EARLY, EARLIEST = (20, 5, 2), 5
"""Early validations: after these fractions (1/20, ...) of the steps to the first regular one, and
the earliest step for one."""


class Stopped(Exception):
    """Training was asked to stop, and its state is saved."""


@dataclass(frozen=True)
class StepInputs:
    """Inputs of a step: the b rows of its batch that this process trains on, on its device.

    Attributes:
        code: Codes of `truth`, ``(b, d)``.
        target: Codes that the loss compares with, ``(b, d)``: `code`, smoothed or averaged.
        truth: Unit vectors of the true points, ``(b, 3)``; in rows with noise they may be
            scattered.
        sigma: Noise levels or ``inf``, ``(b,)``.
        noise: Standard normal noise, ``(b, d)``.
        embeddings: Image embeddings, ``(b, E)``.
        generator: Source of the remaining randomness of the step.
    """

    code: Tensor
    target: Tensor
    truth: Tensor
    sigma: Tensor
    noise: Tensor
    embeddings: Tensor
    generator: torch.Generator


class Trainer:
    """Trains one network on embedded photos.

    Args:
        config: The recipe.
        train: Training photos in memory, or a stream of them.
        val: Validation photos.
        directory: Directory of the run's state.
        processes: This process and those it trains with; None is this process alone, on the CPU.
    """

    def __init__(
        self,
        config: TrainConfig,
        train: EmbeddedPhotos | PhotoSource,
        val: EmbeddedPhotos,
        directory: Path,
        processes: Processes | None = None,
    ) -> None:
        self.config, self.directory, self.val = config, directory, val
        self.processes = processes or Processes(torch.device("cpu"))
        self.device = self.processes.device
        torch.manual_seed(config.seed)
        self.network = CSUNet(config.model).to(self.device)
        if isinstance(train, EmbeddedPhotos):
            train = PhotosInMemory(train, config.batch_size, config.seed, self.processes.share)
        self.photos = train
        self.vectors = train.vectors
        train.standardise(self.network)
        self.average = CSUNet(config.model).to(self.device)
        self.average.load_state_dict(self.network.state_dict())
        self.average.eval().requires_grad_(False)
        degree, measures = config.model.max_degree, config.base_measure
        of_loss = measures.build(measures.training, self.vectors)
        self.partition = LogPartition(degree, config.partition, of_loss).to(self.device)
        self.base_measure = measures.for_answers(self.vectors)
        self.decoder = Decoder(degree, base_measure=self.base_measure).to(self.device)
        self.optimizer = optimizer_of(self.network, config.weight_decay)
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._joined = self.processes.joined(self.network)
        self._losses: list[float] = []  # of the steps since the last validation
        self._last: dict[str, float] = {}  # learning rate and gradient norm of the last step
        self._identity = {"config": to_dict(config), "data": [train.fingerprint, val.fingerprint]}
        # Codes and noise are computed on the CPU, ahead of the GPU.
        threads = min(8, os.cpu_count() or 1) if self.device.type == "cuda" else 0
        self._inputs = Ahead(self._make_inputs, config.steps, threads)

    def run(
        self,
        report: Callable[[dict[str, float]], None],
        should_stop: Callable[[], bool],
        save_every_s: float = math.inf,
        scalars: Scalars | None = None,
    ) -> None:
        """Trains to the end.

        Args:
            report: Function that gets the figures of each validation, in the first process.
            should_stop: Function that is asked after each step.
            save_every_s: Seconds between saved states, besides one after each validation.
            scalars: Writer that gets the figures of each step; None writes none.

        Raises:
            Stopped: `should_stop` said so; the state is saved.
        """
        config = self.config
        early = {n for n in (config.evaluate_every // part for part in EARLY) if n >= EARLIEST}
        saved = time.monotonic()
        while self.step < config.steps:
            began = time.monotonic()
            self._losses.append(self._train_step(self.step))
            self.step += 1
            if scalars:
                images = min(config.batch_size, len(self.vectors))
                rate = images / max(1e-9, time.monotonic() - began)
                figures = {"loss": self._losses[-1], **self._last, "images_per_s": rate}
                scalars.step(self.step, figures)
            due = self.step % config.evaluate_every == 0 or self.step == config.steps
            if due or self.step in early:
                self._validate(due, report, scalars)
            stop = self.processes.any(should_stop())
            if due or stop or time.monotonic() - saved >= save_every_s:
                self.save_state()
                saved = time.monotonic()
            if stop:
                raise Stopped(f"stopped after step {self.step} of {config.steps}")

    def _validate(
        self, due: bool, report: Callable[[dict[str, float]], None], scalars: Scalars | None
    ) -> None:
        """Validates in the first process; early validations do not change the run's state."""
        if self.processes.is_first:
            figures = {"step": self.step, "train_nats": float(np.mean(self._losses))}
            figures |= self.validate()
            if due:
                self.history.append(figures)
            if scalars:
                scalars.validation(self.step, figures)
            report(figures)
        if due:
            self._losses.clear()

    def validate(self, limit: int = 1000) -> dict[str, float]:
        """Measures accuracy and likelihood of the averaged network in density mode.

        Args:
            limit: Number of validation photos that are used.
        """
        natural = natural_parameters(self.average, self.val.embeddings[:limit])
        answerer = Answerer(self.decoder)
        answer = decode_all(answerer, natural)
        truth = self.val.latitude[:limit], self.val.longitude[:limit]
        summary = error_summary(great_circle_km(answer.latitude, answer.longitude, *truth))
        log_p = log_probability(answerer, natural, self.val.vectors[:limit])
        return {
            "val_nats": float(-log_p.mean()),
            "val_median_km": summary["median_km"],
            "val_within_25": summary["within"]["25"],
            "val_within_200": summary["within"]["200"],
        }

    def _make_inputs(self, step: int) -> StepInputs:
        config = self.config
        generator = torch.Generator().manual_seed(_mixed(config.seed, step))
        batch = self.photos.batch(step)
        # σ and ε for the whole batch: a row gets the same ones with any number of processes.
        sigma = training_sigmas(batch.size, config.model.dimension, config.noise, generator)
        noise = torch.randn((batch.size, config.model.dimension), generator=generator)
        own, progress = sigma[batch.rows], step / config.steps
        vectors = self._places(batch, own, progress, generator)
        # x₀ = code(y), and its smoothed version as the target of the rows at σ = ∞
        code = torch.from_numpy(encode_vectors(vectors, config.model.max_degree)).float()
        smoothing = config.smoothing.factors(config.model.max_degree, progress)
        factors = torch.from_numpy(smoothing).float()
        target = smoothed_where_pure(code, own, factors, batch.mean_code)
        return StepInputs(
            code=code.to(self.device),
            target=target.to(self.device),
            truth=torch.from_numpy(vectors).float().to(self.device),
            sigma=own.to(self.device),
            noise=noise[batch.rows].to(self.device),
            embeddings=batch.embeddings.to(self.device),
            generator=generator,
        )

    def _places(
        self, batch: Batch, sigma: Tensor, progress: float, generator: torch.Generator
    ) -> NDArray[np.float64]:
        """Draws the positions ``(b, 3)`` that are encoded: scattered ones in rows with noise."""
        smoothing = self.config.smoothing
        if not smoothing.under_noise:
            return batch.vectors
        whole = np.zeros((batch.size, 3))
        whole[batch.rows] = batch.vectors
        moved = scattered(whole, smoothing, progress, generator)[batch.rows]
        return np.where(torch.isinf(sigma)[:, None].numpy(), batch.vectors, moved)

    def _train_step(self, step: int) -> float:
        seed = _mixed(self.config.seed, step)
        torch.manual_seed(seed + 1 + self.processes.share.rank)  # dropout
        inputs = self._inputs(step)
        code, sigma = inputs.code, inputs.sigma
        # x_σ = x₀ + σε; at σ = ∞ the network does not read it
        x = code + torch.where(torch.isinf(sigma), 0.0, sigma)[:, None] * inputs.noise
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            natural = self._joined(x, sigma, inputs.embeddings)
        loss = shdd_kl(
            natural.float(), inputs.target, inputs.truth, self.partition, inputs.generator
        )
        return self._update(loss.mean(), step)

    def _update(self, loss: Tensor, step: int) -> float:
        """Takes a step of the optimiser; returns the mean loss of all processes."""
        config = self.config
        value = self.processes.mean(loss.item())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"The loss is {value} at step {step}; lower learning_rate (now "
                f"{config.learning_rate}) with --set."
            )
        rate = config.learning_rate * learning_rate_factor(step, config.steps, config.warmup)
        norm = descend(loss, self.network, self.optimizer, rate, config.gradient_clip)
        self._last = {"learning_rate": rate, "gradient_norm": float(norm)}
        follow(self.average, self.network, step, config.ema_decay)
        return value

    def save_state(self) -> None:
        """Writes the state that a resumed run needs; only the first process does."""
        if self.processes.is_first:
            progress = {"step": self.step, "history": self.history, "losses": self._losses}
            modules = {"network": self.network, "average": self.average}
            write_state(self.directory, modules, self.optimizer, progress | self._identity)

    def resume(self) -> bool:
        """Restores the state of a run of the same recipe and data.

        Returns:
            Whether the directory holds a state.

        Raises:
            ValueError: The directory holds another run.
        """
        modules = {"network": self.network, "average": self.average}
        progress = read_state(self.directory, modules, self.optimizer, self._check_identity)
        if progress is None:
            return False
        self.step, self.history = progress["step"], progress["history"]
        self._losses = progress["losses"]
        return True

    def _check_identity(self, progress: dict[str, Any]) -> None:
        same = {
            # Settings that the state does not hold have their defaults.
            "config": from_dict(TrainConfig, progress["config"]) == self.config,
            "data": progress["data"] == self._identity["data"],
        }
        for name, holds in same.items():
            if not holds:
                raise ValueError(
                    f"{self.directory} holds a run with another {name}; give a new --output, or "
                    "--overwrite to start anew."
                )

    def close(self) -> None:
        """Stops the threads that prepare the next steps."""
        self._inputs.close()


def optimizer_of(network: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """Makes AdamW, whose learning rate `descend` sets. Fused, it takes a quarter of the time."""
    return torch.optim.AdamW(network.parameters(), weight_decay=weight_decay, fused=True)


def descend(
    loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer, rate: float, clip: float
) -> Tensor:
    """Takes one step of the optimiser.

    Args:
        loss: Mean loss of the batch.
        network: Network whose parameters are trained.
        optimizer: Optimiser of these parameters.
        rate: Learning rate.
        clip: Largest norm of the gradient.

    Returns:
        Norm of the gradient before clipping.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()
    return norm


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, step: int, ema_decay: float) -> None:
    """Updates the moving average of the weights; its decay is smaller in the first steps."""
    decay = min(ema_decay, (1.0 + step) / (10.0 + step))
    for averaged, current in zip(average.parameters(), network.parameters(), strict=True):
        averaged.lerp_(current, 1.0 - decay)


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Computes the learning rate over its peak: linear warm-up, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _mixed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 2)

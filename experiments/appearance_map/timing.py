"""Times the fused step beside the head that it follows, in turns, in CPU time of one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from experiments.appearance_map.decoding import Rule, answered
from experiments.appearance_map.fused_density import FusedDensity
from experiments.appearance_map.photos import LocatedPhotos
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.cpu import torch_threads
from locdiffusion.decoding.decoder import Decoder

BATCH, TURNS = 32, 15


@dataclass(frozen=True)
class StepCost:
    """CPU time of both steps.

    Attributes:
        head_ms: Network, temperature and decoder, ms per photo; the median of all turns.
        fused_ms: Map, nodes, log Z, answer and radii, ms per photo; the median of all turns.
        ratio: Median over turns of both steps together over the head alone.
        low, high: 10 % and 90 % quantiles of that ratio.
    """

    head_ms: float
    fused_ms: float
    ratio: float
    low: float
    high: float


def time_steps(
    checkpoint: Checkpoint,
    decoder: Decoder,
    fused: FusedDensity,
    photos: LocatedPhotos,
    embeddings: np.ndarray,
    rule: Rule = Rule.BALL,
    turns: int = TURNS,
) -> StepCost:
    """Times batches of `BATCH` photos.

    Args:
        checkpoint: Checkpoint of the head.
        decoder: Its decoder.
        fused: Fitted fused density.
        photos: The photos of `embeddings`, at least a batch of them.
        embeddings: Their embeddings ``(N, E)``.
        rule: Rule of the answers.
        turns: Number of timed turns, each of one batch; one more comes first and is not counted.
    """
    if len(photos) < BATCH:
        raise ValueError(f"{len(photos)} photos to time; want at least {BATCH}.")
    head_s, fused_s = [], []
    with torch_threads(1), torch.inference_mode():
        for turn in range(turns + 1):
            rows = torch.arange(BATCH * turn, BATCH * (turn + 1)) % len(photos)
            condition = torch.from_numpy(embeddings[rows.numpy()])
            some = photos.take(rows)
            taken = [
                _cpu_s(lambda: decoder(checkpoint.denoiser.from_image(condition)[:, None])),  # noqa: B023
                _cpu_s(lambda: answered(fused, some, decoder.config.radius_km, [rule])),  # noqa: B023
            ]
            if turn:
                head_s.append(taken[0])
                fused_s.append(taken[1])
    ratios = 1.0 + np.divide(fused_s, head_s)
    low, ratio, high = np.quantile(ratios, [0.1, 0.5, 0.9]).tolist()
    head_ms, fused_ms = (1e3 * float(np.median(s)) / BATCH for s in (head_s, fused_s))
    return StepCost(head_ms, fused_ms, ratio, low, high)


def _cpu_s(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began

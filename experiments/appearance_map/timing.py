"""Times heads with and without a map, in turns, in CPU time of one thread."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from locdiffusion.calibrate.fused_fitting import FusedPart
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.cpu import torch_threads
from locdiffusion.decoding.fused_decoder import FusedDecoder

BATCH, TURNS = 32, 15


@dataclass(frozen=True)
class StepCost:
    """CPU time of both heads.

    Attributes:
        head_ms: Network, temperature and plain decoder, ms per photo; the median of all turns.
        fused_ms: The same with the decoder that has a map.
        ratio: Median over turns of the latter over the former.
        low, high: 10 % and 90 % quantiles of that ratio.
    """

    head_ms: float
    fused_ms: float
    ratio: float
    low: float
    high: float


def time_steps(
    checkpoint: Checkpoint,
    fused: FusedDecoder,
    part: FusedPart,
    embeddings: np.ndarray,
    turns: int = TURNS,
) -> StepCost:
    """Times batches of `BATCH` photos.

    Args:
        checkpoint: Checkpoint of the head.
        fused: Fitted decoder with the map.
        part: The photos of `embeddings`, at least a batch of them.
        embeddings: Their embeddings ``(N, E)``.
        turns: Number of timed turns, each of one batch; one more comes first and is not counted.
    """
    if len(part) < BATCH:
        raise ValueError(f"{len(part)} photos to time; want at least {BATCH}.")
    head_s, fused_s = [], []
    with torch_threads(1), torch.inference_mode():
        for turn in range(turns + 1):
            rows = np.arange(BATCH * turn, BATCH * (turn + 1)) % len(part)
            condition = torch.from_numpy(embeddings[rows])
            some = part.take(rows)
            began = time.process_time()
            natural = checkpoint.denoiser.from_image(condition)[:, None]
            made = time.process_time()
            fused.decoder(natural)
            plain = time.process_time()
            fused(natural, some.appearance, some.trust)
            ended = time.process_time()
            if turn:
                head_s.append(plain - began)
                fused_s.append(made - began + ended - plain)
    ratios = np.divide(fused_s, head_s)
    low, ratio, high = np.quantile(ratios, [0.1, 0.5, 0.9]).tolist()
    head_ms, fused_ms = (1e3 * float(np.median(s)) / BATCH for s in (head_s, fused_s))
    return StepCost(head_ms, fused_ms, ratio, low, high)

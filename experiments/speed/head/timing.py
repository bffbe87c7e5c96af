"""Times two calls in turns, and describes the machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Comparison:
    """Seconds per photo of two calls, turn by turn.

    Attributes:
        first, second: Seconds per photo in each turn.
    """

    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of the second divided by the median of the first."""
        return float(np.median(self.second) / np.median(self.first))

    @property
    def spread(self) -> tuple[float, float]:
        """10 % and 90 % quantiles of the ratios of single turns."""
        low, high = np.quantile(np.divide(self.second, self.first), [0.1, 0.9])
        return float(low), float(high)


def compare(
    first: Callable[[], object],
    second: Callable[[], object],
    photos: tuple[int, int] = (1, 1),
    turns: int = 7,
) -> Comparison:
    """Times two calls in turns, after one turn that is not counted.

    The order changes with each turn, so that neither always profits from the other's warm caches.

    Args:
        first: First call, the denominator of the ratio.
        second: Second call, the numerator of the ratio.
        photos: Number of photos per call.
        turns: Number of counted turns.
    """
    if turns < 1:
        raise ValueError(f"turns is {turns}; want at least 1.")
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for which in (0, 1) if turn % 2 else (1, 0):
            began = time.perf_counter()
            (first, second)[which]()
            taken = time.perf_counter() - began
            if turn:
                seconds[which].append(taken / photos[which])
    return Comparison(tuple(seconds[0]), tuple(seconds[1]))


def machine() -> dict[str, Any]:
    """Describes processor, cores, threads of torch, load of the last minute, versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()

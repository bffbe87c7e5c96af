"""Measures what decoding in child processes costs, with the image encoder that is shipped."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from experiments.speed.pipeline.trivial import jpeg
from locdiffusion.geotagger import Geotagger
from locdiffusion.photos.photo import Decoder, decoded
from locdiffusion.photos.photo_process import IsolatedDecoder

BATCH = 32


def photos_of(size: tuple[int, int], count: int, seed: int) -> list[bytes]:
    """Returns JPEGs of blurred noise."""
    rng = np.random.default_rng(seed)
    return [jpeg(rng, size) for _ in range(count)]


def measure_isolation(photos: Sequence[bytes], turns: int) -> dict[str, float]:
    """Decodes and embeds photos here and in a child, in turns.

    Returns:
        Milliseconds per photo: `wall_here`, `wall_apart`, `cpu_here`, `cpu_apart` (medians, with
        the CPU time of the child); `wall_ratio` and `cpu_ratio`, the medians of the ratios of a
        turn.
    """
    geotagger = Geotagger.load()
    apart = IsolatedDecoder()
    spent: dict[str, list[tuple[float, float]]] = {"here": [], "apart": []}
    for decode in (decoded, apart):  # what happens once
        _embed(geotagger, decode, photos[:BATCH])
    for _ in range(turns):
        for name, decode in (("here", decoded), ("apart", apart)):
            cpu, wall = _cpu_seconds(), time.perf_counter()
            _embed(geotagger, decode, photos)
            spent[name].append((time.perf_counter() - wall, _cpu_seconds() - cpu))
    found = {}
    for at, unit in enumerate(("wall", "cpu")):
        here, there = ([one[at] for one in spent[name]] for name in ("here", "apart"))
        found[f"{unit}_here"] = 1e3 * median(here) / len(photos)
        found[f"{unit}_apart"] = 1e3 * median(there) / len(photos)
        found[f"{unit}_ratio"] = median(b / a for a, b in zip(here, there, strict=True))
    return found


def _embed(geotagger: Geotagger, decode: Decoder, photos: Sequence[bytes]) -> None:
    for start in range(0, len(photos), BATCH):
        batch = photos[start : start + BATCH]
        pixels = [decode(data, geotagger.preprocess).pixels for data in batch]
        geotagger.embed(np.stack(pixels))


def _cpu_seconds() -> float:
    """CPU seconds of this process and of its children that run."""
    used = time.process_time()
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text("ascii").split():
            fields = Path(f"/proc/{child}/stat").read_text("ascii").rpartition(")")[2].split()
            used += sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return used

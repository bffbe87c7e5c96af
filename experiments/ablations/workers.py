"""Executes runs one after the other, or in several processes.

This is not part of the command's module because a started process cannot import a `__main__`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from experiments.ablations.runs import execute, write
from experiments.ablations.sampled import subset
from locdiffusion.cpu import torch_threads
from locdiffusion.model.image_encoder import load_image_encoder
from locdiffusion.photos.embedding_cache import load_photos
from locdiffusion.photos.patterns import expand_patterns

_worker: dict[str, Any] = {}


def load(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Loads training photos, cut to the limit, and validation photos by split."""
    encoder = load_image_encoder(options.encoder)

    def photos(patterns: Sequence[str]) -> Any:
        return load_photos(expand_patterns(patterns), encoder, options.embeddings)

    train = subset(photos(options.train), options.limit, 0)
    return train, {"val": photos(options.val), "val_regions": photos(options.val_regions)}


def _start(options: argparse.Namespace) -> None:
    """Prepares a worker process: one thread, and the photos."""
    torch.set_num_threads(1)
    _worker["photos"] = load(options)


def _work(run: Any, budget: Any, path: Path) -> None:
    train, splits = _worker["photos"]
    write(path, execute(run, budget, train, splits))


def finished(
    options: argparse.Namespace, todo: list[tuple[Any, Any, Path]], photos: Any
) -> Iterator[Any]:
    """Yields each run as it ends; with one job in this process, else in several."""
    if options.jobs == 1:
        _worker["photos"] = photos
        with torch_threads(1):
            for run, budget, path in todo:
                _work(run, budget, path)
                yield run
        return
    spawn = get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(options.jobs, spawn, _start, (options,)) as pool:
        jobs = {pool.submit(_work, *job): job[0] for job in todo}
        try:
            for job in as_completed(jobs):
                job.result()
                yield jobs[job]
        finally:
            pool.shutdown(cancel_futures=True)

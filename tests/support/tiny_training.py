"""A training of seconds, from memory or streamed; run as a module, in a process of its own.

    python -m support.tiny_training DIRECTORY CACHE {memory,stream} ... [--kill-at STEP]

trains below DIRECTORY/memory and DIRECTORY/stream. Under the variables that torchrun sets, several
such processes train together.
"""

from __future__ import annotations

import argparse
import os
import signal
from dataclasses import replace
from pathlib import Path

import torch

from locdiffusion.photos.embedding_cache import EmbeddedPhotos, write_embedded
from locdiffusion.train.batches import Share
from locdiffusion.train.distributed import Processes, processes
from locdiffusion.train.photo_statistics import Statistics
from locdiffusion.train.recipe import TrainConfig
from locdiffusion.train.streaming import StreamConfig, StreamedPhotos, StreamOrder
from locdiffusion.train.trainer import Trainer
from support.tiny import MODEL, PARTITION, learnable_photos

MEMORY = TrainConfig(
    name="tiny",
    encoder="tiny",
    model=MODEL,
    partition=PARTITION,
    steps=12,
    batch_size=16,
    learning_rate=3e-3,
    warmup=3,
    ema_decay=0.9,
    evaluate_every=5,
    seed=4,
)
STREAM = replace(MEMORY, stream=StreamConfig(lanes=4, buffer=32))
RECIPES = {"memory": MEMORY, "stream": STREAM}
TRAIN, VAL = learnable_photos(64, seed=1), learnable_photos(32, seed=2)
SHARDS = (15, 30, 2, 20, 13)  # 80 photos: an epoch of five steps, three buffers


def without_dropout(config: TrainConfig) -> TrainConfig:
    """Dropout is the one thing that each process draws for itself."""
    return replace(config, model=replace(config.model, dropout=0.0))


class Spied(Trainer):
    """Keeps the loss of every step."""

    kill_at = -1

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.losses: dict[int, float] = {}

    def _train_step(self, step: int) -> float:
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.losses[step] = super()._train_step(step)
        return self.losses[step]


def photos(config: TrainConfig, cache: Path, share: Share) -> EmbeddedPhotos | StreamedPhotos:
    """The training photos of a recipe; those of a stream lie in the cache."""
    if config.stream is None:
        return TRAIN
    files = [cache / f"shard-{i}.parquet" for i in range(len(SHARDS))]
    for i, (file, count) in enumerate(zip(files, SHARDS, strict=True)):
        if not file.is_file():
            write_embedded(file, learnable_photos(count, seed=10 + i))
    statistics = Statistics.of(files)
    order = StreamOrder(statistics.counts, config.batch_size, config.stream, config.seed)
    return StreamedPhotos(files, statistics, order, share)


def trainer(
    config: TrainConfig, directory: Path, cache: Path, group: Processes | None = None
) -> Spied:
    """A run that is to be resumed or begun."""
    group = group or Processes(torch.device("cpu"))
    return Spied(config, photos(config, cache, group.share), VAL, directory, group)


def train(
    config: TrainConfig, directory: Path, cache: Path, group: Processes | None = None
) -> Spied:
    """Trains to the end, from where the directory's run stands; saves after every step."""
    made = trainer(config, directory, cache, group)
    made.resume()
    made.run(lambda _: None, lambda: False, save_every_s=0.0)
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("recipes", choices=RECIPES, nargs="+")
    parser.add_argument("--kill-at", type=int, default=-1)
    parser.add_argument("--no-dropout", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    Spied.kill_at = options.kill_at
    with processes("cpu") as group:
        for name in options.recipes:
            config = RECIPES[name]
            config = without_dropout(config) if options.no_dropout else config
            train(config, options.directory / name, options.cache, group)


if __name__ == "__main__":
    main()
